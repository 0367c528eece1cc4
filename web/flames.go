package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// profileTime is how long the CPU is watched for a flame graph.
	profileTime = 300 * time.Millisecond
	// flameAge is how long a flame graph is shown before a new one is made.
	flameAge = 5 * time.Second
)

type flameGraphJSON struct {
	End  int64     `json:"endTimestamp"`
	Data flameJSON `json:"data"`
}

// flameJSON is a frame; its value counts the samples in it and in what it called.
type flameJSON struct {
	Name     string       `json:"name"`
	Value    int64        `json:"value"`
	Children []*flameJSON `json:"children"`
}

// flames are the newest flame graphs of the process, by type. Goroutine safe.
type flames struct {
	mu  sync.Mutex
	has map[string]flameGraphJSON
}

// flameGraph is of the whole process: type on_cpu is a CPU profile, off_cpu and full are where the goroutines are.
func (h *Handler) flameGraph(r *http.Request) (any, error) {
	if _, _, _, err := h.vertex(r); err != nil {
		return nil, err
	}
	kind := r.URL.Query().Get("type")
	if kind == "" {
		kind = "full"
	}
	if !slices.Contains([]string{"on_cpu", "off_cpu", "full"}, strings.ToLower(kind)) {
		return nil, badRequest("type %q: use on_cpu, off_cpu or full", kind)
	}
	return h.flames.get(r.Context(), strings.ToLower(kind))
}

func (f *flames) get(ctx context.Context, kind string) (flameGraphJSON, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if g, ok := f.has[kind]; ok && now.UnixMilli()-g.End < flameAge.Milliseconds() {
		return g, nil
	}
	var b bytes.Buffer
	var err error
	if kind == "on_cpu" {
		err = profileCPU(ctx, &b)
	} else {
		err = pprof.Lookup("goroutine").WriteTo(&b, 0)
	}
	if err != nil {
		return flameGraphJSON{}, err
	}
	root, err := readProfile(&b)
	if err != nil {
		return flameGraphJSON{}, fmt.Errorf("read profile: %w", err)
	}
	if f.has == nil {
		f.has = make(map[string]flameGraphJSON)
	}
	f.has[kind] = flameGraphJSON{End: time.Now().UnixMilli(), Data: *root}
	return f.has[kind], nil
}

func profileCPU(ctx context.Context, w io.Writer) error {
	if err := pprof.StartCPUProfile(w); err != nil {
		return fail(http.StatusServiceUnavailable, "somebody else profiles the process: %v", err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(profileTime):
	}
	pprof.StopCPUProfile()
	return nil
}

// profile is what a flame graph needs of pprof's format (profile.proto of github.com/google/pprof).
type profile struct {
	samples   []profileSample
	locations map[uint64][]uint64 // functions, the innermost first
	functions map[uint64]uint64   // index of the name
	strings   []string
}

type profileSample struct {
	locations []uint64 // the innermost first
	count     int64
}

func readProfile(r io.Reader) (*flameJSON, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	p := profile{locations: make(map[uint64][]uint64), functions: make(map[uint64]uint64)}
	err = fields(data, func(n protowire.Number, v uint64, b []byte) error {
		switch n {
		case 2:
			return p.sample(b)
		case 4:
			return p.location(b)
		case 5:
			return p.function(b)
		case 6:
			p.strings = append(p.strings, string(b))
		}
		return nil
	})
	return p.flames(), err
}

var errProfile = errors.New("malformed")

// fields calls f for each field of a message: with its number, or its bytes.
func fields(data []byte, f func(n protowire.Number, v uint64, b []byte) error) error {
	for len(data) > 0 {
		n, typ, size := protowire.ConsumeTag(data)
		if size < 0 {
			return errProfile
		}
		data = data[size:]
		var v uint64
		var b []byte
		switch typ {
		case protowire.VarintType:
			v, size = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			b, size = protowire.ConsumeBytes(data)
		default:
			size = protowire.ConsumeFieldValue(n, typ, data)
		}
		if size < 0 {
			return errProfile
		}
		data = data[size:]
		if err := f(n, v, b); err != nil {
			return err
		}
	}
	return nil
}

// numbers reads a repeated number, packed or not.
func numbers(v uint64, b []byte) []uint64 {
	if b == nil {
		return []uint64{v}
	}
	var out []uint64
	for len(b) > 0 {
		n, size := protowire.ConsumeVarint(b)
		if size < 0 {
			return out
		}
		out, b = append(out, n), b[size:]
	}
	return out
}

func (p *profile) sample(data []byte) error {
	var s profileSample
	err := fields(data, func(n protowire.Number, v uint64, b []byte) error {
		switch n {
		case 1:
			s.locations = append(s.locations, numbers(v, b)...)
		case 2:
			if values := numbers(v, b); s.count == 0 && len(values) > 0 { // the first of the values is the count
				s.count = int64(values[0])
			}
		}
		return nil
	})
	p.samples = append(p.samples, s)
	return err
}

func (p *profile) location(data []byte) error {
	var id uint64
	var functions []uint64
	err := fields(data, func(n protowire.Number, v uint64, b []byte) error {
		switch n {
		case 1:
			id = v
		case 4:
			return fields(b, func(n protowire.Number, v uint64, _ []byte) error {
				if n == 1 {
					functions = append(functions, v)
				}
				return nil
			})
		}
		return nil
	})
	p.locations[id] = functions
	return err
}

func (p *profile) function(data []byte) error {
	var id, name uint64
	err := fields(data, func(n protowire.Number, v uint64, _ []byte) error {
		switch n {
		case 1:
			id = v
		case 2:
			name = v
		}
		return nil
	})
	p.functions[id] = name
	return err
}

// flames adds up the samples from the outermost frame inwards.
func (p *profile) flames() *flameJSON {
	root := &flameJSON{Name: "root", Children: []*flameJSON{}}
	for _, s := range p.samples {
		root.Value += s.count
		at := root
		for _, l := range slices.Backward(s.locations) {
			for _, f := range slices.Backward(p.locations[l]) {
				name := "?"
				if k := p.functions[f]; k < uint64(len(p.strings)) {
					name = p.strings[k]
				}
				at = at.child(name)
				at.Value += s.count
			}
		}
	}
	return root
}

func (f *flameJSON) child(name string) *flameJSON {
	for _, c := range f.Children {
		if c.Name == name {
			return c
		}
	}
	c := &flameJSON{Name: name, Children: []*flameJSON{}}
	f.Children = append(f.Children, c)
	return c
}

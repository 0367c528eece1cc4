package web

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	profileTime = 2 * time.Second
	// flameAge is how long a flame graph is shown before a new one is made: Flink's rest.flamegraph.refresh-interval. Pages that
	// stay open keep a process from being profiled all the time.
	flameAge = time.Minute
	// sampling is the time of a flame graph that is not there yet: Flink's UI waits then.
	sampling = -3
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

// flames are the newest flame graphs of the process, by type. They are made when somebody asks, one of a type at a time, while
// nobody waits. Goroutine safe.
type flames struct {
	profile func(ctx context.Context, kind string, w io.Writer) error
	log     *slog.Logger
	ctx     context.Context // of all profiles under way
	cancel  context.CancelFunc
	all     sync.WaitGroup

	mu   sync.Mutex
	has  map[string]flameGraphJSON
	made map[string]bool // profiles under way
}

// newFlames must be closed.
func newFlames(profile func(context.Context, string, io.Writer) error, log *slog.Logger) *flames {
	f := &flames{profile: profile, log: log, has: make(map[string]flameGraphJSON), made: make(map[string]bool)}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// close ends profiles under way.
func (f *flames) close() {
	f.mu.Lock()
	f.cancel()
	f.mu.Unlock()
	f.all.Wait()
}

// flameGraph is of the whole process: type on_cpu is a CPU profile, off_cpu and full are where the goroutines are.
func (h *Handler) flameGraph(r *http.Request) (any, error) {
	if _, _, _, err := h.vertex(r); err != nil {
		return nil, err
	}
	kind := strings.ToLower(cmp.Or(r.URL.Query().Get("type"), "full"))
	if !slices.Contains([]string{"on_cpu", "off_cpu", "full"}, kind) {
		return nil, badRequest("type %q: use on_cpu, off_cpu or full", kind)
	}
	return h.flames.get(kind), nil
}

// get returns the newest flame graph, and has another one made if it is old.
func (f *flames) get(kind string) flameGraphJSON {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, ok := f.has[kind]
	if !ok {
		g = flameGraphJSON{End: sampling, Data: flameJSON{Name: "root", Children: []*flameJSON{}}}
	}
	if !f.made[kind] && f.ctx.Err() == nil && time.Now().UnixMilli()-g.End >= flameAge.Milliseconds() {
		f.made[kind] = true
		f.all.Go(func() { f.sample(kind) })
	}
	return g
}

// sample makes a flame graph. Whoever asked for it has long got an answer, so that an error can only be logged.
func (f *flames) sample(kind string) {
	var b bytes.Buffer
	err := f.profile(f.ctx, kind, &b)
	var root *flameJSON
	if err == nil {
		root, err = readProfile(&b)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made[kind] = false
	if err != nil {
		f.log.Warn("flame graph failed", "type", kind, "error", err)
		return
	}
	f.has[kind] = flameGraphJSON{End: time.Now().UnixMilli(), Data: *root}
}

// profileProcess writes a profile of a type.
func profileProcess(ctx context.Context, kind string, w io.Writer) error {
	if kind == "on_cpu" {
		return profileCPU(ctx, w)
	}
	return pprof.Lookup("goroutine").WriteTo(w, 0)
}

func profileCPU(ctx context.Context, w io.Writer) error {
	if err := pprof.StartCPUProfile(w); err != nil {
		return fmt.Errorf("profile CPU: %w", err)
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

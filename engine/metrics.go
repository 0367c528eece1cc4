package engine

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// metrics sums the monitoring infos of bundles, by URN and labels. Goroutine safe. The types and their encodings are those
// of MonitoringInfoTypeUrns in Beam's metrics.proto.
type metrics struct {
	mu        sync.Mutex
	attempted map[string]*pipepb.MonitoringInfo
	committed map[string]*pipepb.MonitoringInfo
}

// add takes the metrics of one bundle; committed says whether its effect counts.
func (m *metrics) add(infos []*pipepb.MonitoringInfo, committed bool) {
	if len(infos) == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attempted == nil {
		m.attempted = make(map[string]*pipepb.MonitoringInfo)
		m.committed = make(map[string]*pipepb.MonitoringInfo)
	}
	for _, in := range infos {
		key := metricKey(in)
		merge(m.attempted, key, in)
		if committed {
			merge(m.committed, key, in)
		}
	}
}

// snapshot returns the sums so far, in a stable order. The infos are never changed later.
func (m *metrics) snapshot() (attempted, committed []*pipepb.MonitoringInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return sorted(m.attempted), sorted(m.committed)
}

func sorted(in map[string]*pipepb.MonitoringInfo) []*pipepb.MonitoringInfo {
	keys := make([]string, 0, len(in))
	for k := range in {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]*pipepb.MonitoringInfo, len(keys))
	for i, k := range keys {
		out[i] = proto.CloneOf(in[k])
	}
	return out
}

func metricKey(in *pipepb.MonitoringInfo) string {
	labels := make([]string, 0, len(in.GetLabels()))
	for k, v := range in.GetLabels() {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	return in.GetUrn() + "\x00" + strings.Join(labels, "\x00")
}

func merge(sums map[string]*pipepb.MonitoringInfo, key string, in *pipepb.MonitoringInfo) {
	old := sums[key]
	if old == nil {
		sums[key] = proto.CloneOf(in)
		return
	}
	payload, err := mergePayload(in.GetType(), old.GetPayload(), in.GetPayload())
	if err != nil {
		payload = in.GetPayload() // not readable: the newest is worth more than nothing
	}
	old.Payload, old.StartTime = payload, in.GetStartTime()
}

// mergePayload sums two payloads of a metric type. Types without a sum keep the newer.
func mergePayload(typ string, a, b []byte) ([]byte, error) {
	switch typ {
	case "beam:metrics:sum_int64:v1":
		return mergeInts(a, b, add)
	case "beam:metrics:distribution_int64:v1":
		return mergeInts(a, b, add, add, lesser, greater)
	case "beam:metrics:sum_double:v1":
		return mergeDoubles(0, a, b, addf)
	case "beam:metrics:distribution_double:v1":
		return mergeDoubles(1, a, b, addf, math.Min, math.Max)
	case "beam:metrics:latest_int64:v1", "beam:metrics:latest_double:v1":
		ta, _, err := coder.ParseVarint(a)
		if err != nil {
			return nil, err
		}
		tb, _, err := coder.ParseVarint(b)
		if err != nil || ta > tb {
			return a, err
		}
		return b, nil
	case "beam:metrics:set_string:v1":
		return mergeStrings(a, b)
	}
	return b, nil
}

func add(a, b int64) int64     { return a + b }
func lesser(a, b int64) int64  { return min(a, b) }
func greater(a, b int64) int64 { return max(a, b) }
func addf(a, b float64) float64 {
	return a + b
}

// mergeInts merges a run of varints, one function a position.
func mergeInts(a, b []byte, fs ...func(a, b int64) int64) ([]byte, error) {
	var out []byte
	for _, f := range fs {
		va, na, err := coder.ParseVarint(a)
		if err != nil {
			return nil, err
		}
		vb, nb, err := coder.ParseVarint(b)
		if err != nil {
			return nil, err
		}
		out = coder.AppendVarint(out, f(va, vb))
		a, b = a[na:], b[nb:]
	}
	return out, nil
}

// mergeDoubles merges counts varints that add up, then big-endian doubles, one function a position.
func mergeDoubles(counts int, a, b []byte, fs ...func(a, b float64) float64) ([]byte, error) {
	var out []byte
	for range counts {
		va, na, err := coder.ParseVarint(a)
		if err != nil {
			return nil, err
		}
		vb, nb, err := coder.ParseVarint(b)
		if err != nil {
			return nil, err
		}
		out = coder.AppendVarint(out, va+vb)
		a, b = a[na:], b[nb:]
	}
	for _, f := range fs {
		if len(a) < 8 || len(b) < 8 {
			return nil, fmt.Errorf("double metric of %d and %d bytes", len(a), len(b))
		}
		va := math.Float64frombits(binary.BigEndian.Uint64(a))
		vb := math.Float64frombits(binary.BigEndian.Uint64(b))
		out = binary.BigEndian.AppendUint64(out, math.Float64bits(f(va, vb)))
		a, b = a[8:], b[8:]
	}
	return out, nil
}

// mergeStrings unites two encoded sets of strings (beam:coder:iterable:v1 of string_utf8).
func mergeStrings(a, b []byte) ([]byte, error) {
	set := make(map[string]bool)
	for _, p := range [][]byte{a, b} {
		if len(p) < 4 {
			return nil, fmt.Errorf("string set of %d bytes", len(p))
		}
		n := binary.BigEndian.Uint32(p)
		p = p[4:]
		for range n {
			s, used, err := coder.ParseBytes(p)
			if err != nil {
				return nil, err
			}
			set[string(s)] = true
			p = p[used:]
		}
	}
	all := make([]string, 0, len(set))
	for s := range set {
		all = append(all, s)
	}
	slices.Sort(all)
	out := coder.AppendCount(nil, len(all))
	for _, s := range all {
		out = coder.AppendBytes(out, []byte(s))
	}
	return out, nil
}

package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// info makes a monitoring info of labels like "NAME=words".
func info(typ string, payload []byte, labels ...string) *pipepb.MonitoringInfo {
	in := &pipepb.MonitoringInfo{Urn: "beam:metric:user:" + typ, Type: "beam:metrics:" + typ, Payload: payload, Labels: make(map[string]string)}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		in.Labels[k] = v
	}
	return in
}

func counter(v int64, labels ...string) *pipepb.MonitoringInfo {
	return info("sum_int64:v1", coder.AppendVarint(nil, v), labels...)
}

func gauge(ms, v int64, labels ...string) *pipepb.MonitoringInfo {
	return info("latest_int64:v1", coder.AppendVarint(coder.AppendVarint(nil, ms), v), labels...)
}

// render writes infos as NAME of the metric: its numbers.
func render(t *testing.T, infos []*pipepb.MonitoringInfo) string {
	t.Helper()
	var out []string
	for _, in := range infos {
		var numbers []string
		for p := in.GetPayload(); len(p) > 0; {
			v, n, err := coder.ParseVarint(p)
			if err != nil {
				t.Fatal(err)
			}
			numbers, p = append(numbers, fmt.Sprint(v)), p[n:]
		}
		out = append(out, in.GetLabels()["NAME"]+":"+strings.Join(numbers, ","))
	}
	return strings.Join(out, " ")
}

func TestMetrics(t *testing.T) {
	type step struct {
		infos     []*pipepb.MonitoringInfo
		committed bool
	}
	tests := []struct {
		name                 string
		steps                []step
		attempted, committed string
	}{
		{"nothing", nil, "", ""},
		{"committed ones are attempted too", []step{
			{[]*pipepb.MonitoringInfo{counter(1, "NAME=a"), counter(5, "NAME=b")}, true},
			{[]*pipepb.MonitoringInfo{counter(2, "NAME=a")}, true},
		}, "a:3 b:5", "a:3 b:5"},
		{"abandoned between commits", []step{
			{[]*pipepb.MonitoringInfo{counter(1, "NAME=a"), gauge(100, 7, "NAME=g")}, true},
			{[]*pipepb.MonitoringInfo{counter(2, "NAME=a"), gauge(300, 8, "NAME=g")}, false},
			{[]*pipepb.MonitoringInfo{counter(4, "NAME=a"), gauge(200, 9, "NAME=g")}, true},
			{[]*pipepb.MonitoringInfo{counter(8, "NAME=a")}, false},
		}, "g:300,8 a:15", "g:200,9 a:5"},
		{"abandoned first", []step{
			{[]*pipepb.MonitoringInfo{counter(2, "NAME=a")}, false},
			{[]*pipepb.MonitoringInfo{counter(1, "NAME=a")}, true},
		}, "a:3", "a:1"},
		{"never committed", []step{{[]*pipepb.MonitoringInfo{counter(2, "NAME=a")}, false}}, "a:2", ""},
		{"labels keep series apart", []step{{[]*pipepb.MonitoringInfo{
			counter(1, "NAME=a", "PTRANSFORM=x"), counter(2, "NAME=a", "PTRANSFORM=y"), counter(4, "NAME=a"),
			counter(8, "PTRANSFORM=x", "NAME=a"), counter(16, "NAME=x", "PTRANSFORM=a"),
			counter(32, "NAME=s", "STATUS=ok"), counter(64, "NAME=s", "STATUS=not_found"), counter(128, "STATUS=ok", "NAME=s"),
		}, true}}, "a:4 a:9 a:2 s:64 s:160 x:16", "a:4 a:9 a:2 s:64 s:160 x:16"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var m metrics
			for _, s := range test.steps {
				if err := m.add(s.infos, s.committed); err != nil {
					t.Fatal(err)
				}
			}
			attempted, committed := m.snapshot()
			if got := render(t, attempted); got != test.attempted {
				t.Errorf("attempted: got %q, want %q", got, test.attempted)
			}
			if got := render(t, committed); got != test.committed {
				t.Errorf("committed: got %q, want %q", got, test.committed)
			}
		})
	}
}

// A snapshot stays as it was, and the metrics do not depend on what they were given.
func TestMetricsAreCopied(t *testing.T) {
	var m metrics
	in := counter(1, "NAME=a")
	if err := m.add([]*pipepb.MonitoringInfo{in}, true); err != nil {
		t.Fatal(err)
	}
	in.Payload[0], in.Labels["NAME"] = 99, "changed"
	before, _ := m.snapshot()
	if err := m.add([]*pipepb.MonitoringInfo{counter(1, "NAME=a")}, true); err != nil {
		t.Fatal(err)
	}
	after, _ := m.snapshot()
	if got := render(t, slices.Concat(before, after)); got != "a:1 a:2" {
		t.Errorf("got %q, want a:1 a:2", got)
	}
}

// An unreadable payload is left out, not the rest of its bundle, and reported once.
func TestMetricsUnreadable(t *testing.T) {
	var m metrics
	bad := info("sum_int64:v1", nil, "NAME=a")
	for i := range 3 {
		err := m.add([]*pipepb.MonitoringInfo{bad, counter(1, "NAME=b")}, i != 1)
		if i == 0 {
			want := "add up metric beam:metric:user:sum_int64:v1 map[NAME:a]: encoded value is cut short"
			if !errors.Is(err, coder.ErrShort) || err.Error() != want {
				t.Errorf("got the error %q, want %q", err, want)
			}
		} else if err != nil {
			t.Errorf("got the error %q again", err)
		}
	}
	attempted, committed := m.snapshot()
	if got := render(t, attempted) + "; " + render(t, committed); got != "b:3; b:2" {
		t.Errorf("got %q, want b:3; b:2", got)
	}
	if err := m.add([]*pipepb.MonitoringInfo{counter(7, "NAME=a")}, true); err != nil {
		t.Fatal(err)
	}
	if _, committed := m.snapshot(); render(t, committed) != "a:7 b:2" {
		t.Errorf("got %q, want a:7 b:2: later payloads count", render(t, committed))
	}
}

// What one bundle of a stage of a few transforms reports: the SDK makes the infos anew each time.
func bundleInfos() []*pipepb.MonitoringInfo {
	var infos []*pipepb.MonitoringInfo
	distribution := []byte{2, 10, 3, 7}
	for i := range 5 {
		transform := fmt.Sprintf("PTRANSFORM=some/composite/transform-%d", i)
		infos = append(infos,
			counter(1, transform, "NAMESPACE=example", "NAME=words"),
			counter(100, fmt.Sprintf("PCOLLECTION=pc-%d", i)),
			info("distribution_int64:v1", distribution, transform, "NAMESPACE=example", "NAME=sizes"),
			gauge(1, 2, transform))
	}
	return infos
}

func BenchmarkMetricsAdd(b *testing.B) {
	var m metrics
	infos := bundleInfos()
	b.ReportAllocs()
	for b.Loop() {
		if err := m.add(infos, true); err != nil {
			b.Fatal(err)
		}
	}
}

func TestMetricsAddDoesNotAllocate(t *testing.T) {
	var m metrics
	infos := bundleInfos()
	if n := testing.AllocsPerRun(100, func() { _ = m.add(infos, true) }); n != 0 {
		t.Errorf("a bundle of known metrics takes %v allocations", n)
	}
}

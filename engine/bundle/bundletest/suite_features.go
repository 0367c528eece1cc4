package bundletest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

func metricsReported(t *testing.T, w Worker) {
	p := Compile(t, []string{""}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, &counting{}, in) })
	for range 2 { // each bundle reports its own, not a running total
		b, _, _ := p.Bundle("a", "bb", "ccc", "dddd")
		infos := mustRun(t, w, b).Metrics
		user := map[string]string{"NAMESPACE": "bundletest", "PTRANSFORM": p.Transforms["bundletest.counting"]}
		same(t, "counter", payload(infos, "beam:metric:user:sum_int64:v1", user, "seen"), "[4]")
		same(t, "distribution", payload(infos, "beam:metric:user:distribution_int64:v1", user, "length"), "[4 10 1 4]")
		if g := payload(infos, "beam:metric:user:latest_int64:v1", user, "last"); len(g) != 2 || g[1] != 4 {
			t.Errorf("gauge: got %v, want a time and 4", g)
		}
		for id := range p.Descriptor.Pcollections {
			if !strings.HasPrefix(id, "n") {
				continue
			}
			got := payload(infos, "beam:metric:element_count:v1", map[string]string{"PCOLLECTION": id}, "")
			if got != nil && got[0] != 4 {
				t.Errorf("element count of %s: %v", id, got)
			}
		}
		out := strings.TrimPrefix(p.Outputs[0], "sink_")
		same(t, "element count", payload(infos, "beam:metric:element_count:v1", map[string]string{"PCOLLECTION": out}, ""), "[4]")
	}
}

// payload returns the varints of the info with that urn, labels and name; nil when there is none.
func payload(infos []*pipepb.MonitoringInfo, urn string, labels map[string]string, name string) []int64 {
	for _, m := range infos {
		if m.Urn != urn || m.Labels["NAME"] != name {
			continue
		}
		matches := true
		for k, v := range labels {
			matches = matches && m.Labels[k] == v
		}
		if !matches {
			continue
		}
		var out []int64
		for b := m.Payload; len(b) > 0; {
			v, n := protowire.ConsumeVarint(b)
			out, b = append(out, int64(v)), b[n:]
		}
		return out
	}
	return nil
}

func states(t *testing.T, w Worker) {
	p := Compile(t, kvs, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, newStateful(), in) })
	b, sink, state := p.Bundle(KV{"x", int64(7)}, KV{"y", int64(8)}, KV{"x", int64(70)}, KV{"x", int64(0)})
	mustRun(t, w, b)
	same(t, "output", p.Output(sink, 0), "[x last=number 70 all=[7 70] total=77 times=[7 70] seen=[number 7 number 70]]")

	// The state of one bundle is there for the next one.
	b, sink, _ = p.Bundle(KV{"y", int64(0)}, KV{"x", int64(0)})
	b.State = state
	mustRun(t, w, b)
	same(t, "output", p.Output(sink, 0), "[y last=number 8 all=[8] total=8 times=[8] seen=[number 8] "+
		"x last= all=[] total=77 times=[7 70] seen=[number 7 number 70]]")
}

func timersSet(t *testing.T, w Worker) {
	p := Compile(t, kvs, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, newAlarm(), in) })
	wake := p.Timers[0]
	b, sink, state := p.Bundle(KV{"x", int64(5)}, KV{"y", int64(6)}, KV{"x", int64(9)}, KV{"y", int64(0)})
	mustRun(t, w, b)
	// Only the last setting of each timer counts: x at 9 s, y cleared.
	got := string(sink.TimerBytes(wake))
	set := string(p.Timer("x", "", time.Unix(9, 0)))
	if !strings.Contains(got, set) || !strings.Contains(got, "\x01y") || len(got) >= 2*len(set) {
		t.Errorf("timers set:\n got %q\nwant %q and the cleared one of y", got, set)
	}

	b, sink, _ = p.Bundle()
	b.State = state
	b.Timers = []bundle.FiredTimers{{TimerFamily: wake, Data: p.Timer("x", "", time.Unix(9, 0))}}
	mustRun(t, w, b)
	same(t, "output", p.Output(sink, 0), "[x woke: wake sum=9@9000]")
}

func sideInputs(t *testing.T, w Worker) {
	var all, byKey beam.PCollection
	p := Compile(t, func(s beam.Scope) beam.PCollection {
		all, byKey = beam.Create(s, "a"), kvs(s)
		return beam.Create(s, "b")
	}, func(s beam.Scope, in beam.PCollection) {
		beam.ParDo(s, withSides, in, beam.SideInput{Input: all}, beam.SideInput{Input: byKey})
	})
	b, sink, state := p.Bundle("x", "y", "z")
	state.Put("i1/", []byte("\x05first\x06second\x05third"))
	state.Put("i2/\x01x", []byte("\x01\x02\x03\x04\x05\x06\x07"))
	state.Put("i2/\x01z", []byte("\x09"))
	mustRun(t, w, b)
	same(t, "output", p.Output(sink, 0), "[x in first,second,third has 1,2,3,4,5,6,7 y in first,second,third has z in first,second,third has 9]")
}

// started runs a bundle that stops at the gate, and returns when it is there.
func started(t *testing.T, w Worker, b *bundle.Bundle, g *gate) (result func() *bundle.Result) {
	t.Helper()
	type end struct {
		r   *bundle.Result
		err error
	}
	done := make(chan end, 1)
	go func() {
		r, err := w.Run(context.Background(), b)
		done <- end{r, err}
	}()
	select {
	case <-g.arrived:
	case e := <-done:
		t.Fatalf("the bundle ended before its gate: %v, %v", e.r, e.err)
	}
	return func() *bundle.Result {
		t.Helper()
		close(g.open)
		e := <-done
		if e.err != nil {
			t.Fatalf("Run: %v", e.err)
		}
		return e.r
	}
}

func splitElements(t *testing.T, w Worker) {
	p := Compile(t, []string{""}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, &gated{}, in) })
	g := newGate("wait split")
	b, sink, _ := p.Bundle("0", "1", "wait split", "3", "4", "5", "6", "7", "8", "9")
	if s, _ := w.Split(t.Context(), b, 0.5); s != nil {
		t.Errorf("Split before the bundle runs: %v", s)
	}
	result := started(t, w, b, g)

	pr, err := w.Progress(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if pr != nil && pr.Consumed != -1 && pr.Consumed != 3 {
		t.Errorf("progress at the third element: %d", pr.Consumed)
	}
	s, err := w.Split(t.Context(), b, 0.5)
	if err != nil || s == nil {
		t.Fatalf("Split: %v, %v", s, err)
	}
	if s.FirstResidual != s.LastPrimary+1 || s.FirstResidual < 4 || s.FirstResidual > 8 || len(s.Residuals)+len(s.Primaries) > 0 {
		t.Errorf("split of elements 2.5 to 10 in halves: %+v", s)
	}
	result()
	want := []string{"0", "1", "wait split", "3", "4", "5", "6", "7", "8", "9"}[:s.FirstResidual]
	same(t, "output", p.Output(sink, 0), want)
	if s, err := w.Split(t.Context(), b, 0.5); s != nil || err != nil {
		t.Errorf("Split after the bundle: %v, %v", s, err)
	}
}

// sized makes an input element of a splittable DoFn: the restriction [from, to) of elem.
func sized(elem string, from, to int64) KV {
	return KV{KV{elem, KV{restriction(from, to), false}}, float64(to - from)}
}

func splitRestriction(t *testing.T, w Worker) {
	p := Compile(t, []string{""}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, &counter{}, in) })
	g := newGate("wait restriction")
	b, sink, _ := p.Bundle(sized("x", 0, 2), sized("wait restriction", 0, 100), sized("y", 0, 2))
	result := started(t, w, b, g)
	s, err := w.Split(t.Context(), b, 0)
	if err != nil || s == nil {
		t.Fatalf("Split: %v, %v", s, err)
	}
	if s.LastPrimary != 0 || s.FirstResidual != 2 || len(s.Primaries) != 1 || len(s.Residuals) != 1 {
		t.Fatalf("split within element 1: %+v", s)
	}
	same(t, "primary", p.Input(s.Primaries[0].Element), "wait restriction:{0 1}:false:1")
	same(t, "residual", p.Input(s.Residuals[0].Application.Element), "wait restriction:{1 100}:false:99")
	result()
	same(t, "output", p.Output(sink, 0), "[x0 x1 wait restriction0]")
}

func selfCheckpoint(t *testing.T, w Worker) {
	p := Compile(t, []string{""}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, &counter{}, in) })
	b, sink, _ := p.Bundle(sized("pause", 3, 9), sized("z", 1, 3), sized("pause", 4, 5))
	r := mustRun(t, w, b)
	same(t, "output", p.Output(sink, 0), "[pause3 z1 z2 pause4]")
	if len(r.Residuals) != 1 {
		t.Fatalf("residuals: %v", r.Residuals)
	}
	a := r.Residuals[0]
	same(t, "residual", p.Input(a.Application.Element), "pause:{4 9}:false:5")
	same(t, "delay", a.RequestedTimeDelay.AsDuration(), 7*time.Second)
	same(t, "transform", a.Application.TransformId, p.Transforms["bundletest.counter"])
}

func finalize(t *testing.T, w Worker) {
	// The Go SDK's harness forgets finalizers of a program after the first that it ran (2.77): one round for each program.
	for range 2 {
		Finalizers(t, w, 1)
	}
	p := Compile(t, []string{""}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, &finalizing{}, in) })
	b, _, _ := p.Bundle("fails")
	mustRun(t, w, b)
	if err := w.Finalize(t.Context(), b); err == nil {
		t.Error("Finalize: no error although a finalizer failed")
	}
}

// Finalizers runs bundles of one program that register finalizers, and finalizes them, so many rounds.
func Finalizers(t *testing.T, w Worker, rounds int) {
	t.Helper()
	p := Compile(t, []string{""}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, &finalizing{}, in) })
	recorded("finalized a")
	for range rounds {
		first, _, _ := p.Bundle("a", "b")
		second, _, _ := p.Bundle("c")
		for _, b := range []*bundle.Bundle{first, second} {
			if !mustRun(t, w, b).RequiresFinalization {
				t.Error("the bundle does not ask for finalization")
			}
		}
		same(t, "finalized before it was told", recorded("finalized a"), 0)
		for _, b := range []*bundle.Bundle{second, first} {
			if err := w.Finalize(t.Context(), b); err != nil {
				t.Errorf("Finalize: %v", err)
			}
		}
		same(t, "finalized", []int{recorded("finalized a"), recorded("finalized b"), recorded("finalized c")}, "[1 1 1]")
	}
}

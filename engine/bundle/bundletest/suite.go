package bundletest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// Worker is what is under test: engine.Worker.
type Worker interface {
	ID() string
	Run(ctx context.Context, b *bundle.Bundle) (*bundle.Result, error)
	Split(ctx context.Context, b *bundle.Bundle, fraction float64) (*bundle.Split, error)
	Progress(ctx context.Context, b *bundle.Bundle) (*bundle.Progress, error)
	Finalize(ctx context.Context, b *bundle.Bundle) error
}

// Run runs the suite. newWorker makes a worker for one test and closes it when the test ends.
func Run(t *testing.T, newWorker func(t *testing.T) Worker) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, w Worker)
	}{
		{"Elements", elements},
		{"Outputs", outputs},
		{"Large", large},
		{"Empty", empty},
		{"Lifecycle", lifecycles},
		{"Grouped", grouped},
		{"GroupedFromState", groupedFromState},
		{"UserErrors", userErrors},
		{"Metrics", metricsReported},
		{"State", states},
		{"Timers", timersSet},
		{"SideInputs", sideInputs},
		{"SplitElements", splitElements},
		{"SplitRestriction", splitRestriction},
		{"SelfCheckpoint", selfCheckpoint},
		{"Finalize", finalize},
		{"Cancel", cancel},
		{"Concurrent", concurrent},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, newWorker(t)) })
	}
}

// bundles makes bundle ids unique in the process.
var bundles atomic.Int64 //nolint:gochecknoglobals // a counter for the whole process

// Bundle makes a bundle of elements in blocks of three, with an empty Sink and State.
func (p *Program) Bundle(elems ...any) (*bundle.Bundle, *Sink, *State) {
	p.tb.Helper()
	sink, state := &Sink{}, &State{}
	return &bundle.Bundle{
		ID:      "b" + strconv.FormatInt(bundles.Add(1), 10),
		Program: p.Program,
		Input:   p.Blocks(3, elems...),
		State:   state,
		Sink:    sink,
	}, sink, state
}

func mustRun(t *testing.T, w Worker, b *bundle.Bundle) *bundle.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := w.Run(ctx, b)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	return r
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

func elements(t *testing.T, w Worker) {
	p := Compile(t, []string{""}, func(s beam.Scope, in beam.PCollection) {
		beam.ParDo(s, upper, beam.ParDo(s, words, in))
	})
	b, sink, _ := p.Bundle("a rose", "is", At{Elem: "a rose", Ms: 1500}, "", "is it", "not")
	r := mustRun(t, w, b)
	same(t, "output", p.Output(sink, 0), "[A ROSE IS A@1500 ROSE@1500 IS IT NOT]")
	if len(r.Residuals) > 0 || r.RequiresFinalization {
		t.Errorf("result of a plain bundle: %+v", r)
	}

	kv := Compile(t, kvs, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, scale, in) })
	for range 3 { // bundles of one program use its set up DoFns again
		b, sink, _ = kv.Bundle(KV{"x", int64(1)}, KV{"y", int64(-2)})
		mustRun(t, w, b)
		same(t, "output", kv.Output(sink, 0), "[x!:10 y!:-20]")
	}
}

// kvs makes a PCollection of KV<string, int64>.
func kvs(s beam.Scope) beam.PCollection {
	return beam.ParDo(s, makeKV, beam.Create(s, ""))
}

func outputs(t *testing.T, w Worker) {
	p := Compile(t, []int64{0}, func(s beam.Scope, in beam.PCollection) { beam.ParDo2(s, oddEven, in) })
	b, sink, _ := p.Bundle(int64(1), int64(2), int64(3), int64(4), int64(5))
	mustRun(t, w, b)
	same(t, "odd", p.Output(sink, 0), "[1 3 5]")
	same(t, "even", p.Output(sink, 1), "[2 4]")
}

func large(t *testing.T, w Worker) {
	p := Compile(t, [][]byte{{}}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, evenBytes, in) })
	var elems []any
	var want []string
	for i := range 40 {
		e := strings.Repeat(string(rune('a'+i%26)), 10_000*i)
		elems, want = append(elems, []byte(e)), append(want, e)
	}
	b, sink, _ := p.Bundle(elems...)
	mustRun(t, w, b)
	if got := p.Output(sink, 0); !slices.Equal(got, want) {
		t.Errorf("large elements: got %d of %d, or other bytes", len(got), len(want))
	}
}

func empty(t *testing.T, w Worker) {
	p := Compile(t, []string{""}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, upper, in) })
	b, sink, _ := p.Bundle()
	mustRun(t, w, b)
	same(t, "output", p.Output(sink, 0), "[]")
}

func lifecycles(t *testing.T, w Worker) {
	recorded("setup")
	p := Compile(t, []string{""}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, &lifecycle{}, in) })
	for _, n := range []int{2, 0, 5} {
		b, sink, _ := p.Bundle(slices.Repeat([]any{"e"}, n)...)
		mustRun(t, w, b)
		same(t, "output", p.Output(sink, 0), fmt.Sprintf("[saw %d]", n))
	}
	same(t, "setups of three bundles in a row", recorded("setup"), 1)
}

// groups makes a PCollection of KV<string, iterable<int64>>.
func groups(s beam.Scope) beam.PCollection { return beam.GroupByKey(s, kvs(s)) }

func grouped(t *testing.T, w Worker) {
	p := Compile(t, groups, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, sum, in) })
	b, sink, _ := p.Bundle(Grouped{K: "x", V: []int64{1, 2, 3}}, Grouped{K: "y"}, Grouped{K: "z", V: []int64{40}})
	mustRun(t, w, b)
	same(t, "output", p.Output(sink, 0), "[x:6 y:0 z:40]")
}

func groupedFromState(t *testing.T, w Worker) {
	p := Compile(t, groups, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, sum, in) })
	b, sink, state := p.Bundle(Grouped{K: "x", V: []int64{1}, Token: "rest"}, Grouped{K: "y", V: []int64{7}})
	state.Put("runner/rest", []byte("\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d"))
	mustRun(t, w, b)
	same(t, "output", p.Output(sink, 0), "[x:91 y:7]")
}

func userErrors(t *testing.T, w Worker) {
	p := Compile(t, []string{""}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, failOn, in) })
	for in, want := range map[string]string{
		"error": "no such thing as error",
		"panic": "a broken invariant",
		"nil":   "assignment to entry in nil map",
	} {
		b, _, _ := p.Bundle("good", in, "never seen")
		r, err := w.Run(context.Background(), b)
		var user *bundle.UserError
		if !errors.As(err, &user) {
			t.Errorf("%s: result %v, error %v: want a *bundle.UserError", in, r, err)
			continue
		}
		for _, want := range []string{want, "bundletest.failOn"} {
			if !strings.Contains(user.Message, want) {
				t.Errorf("%s: the message does not say %q:\n%s", in, want, user.Message)
			}
		}
		b, sink, _ := p.Bundle("good") // the worker goes on
		mustRun(t, w, b)
		same(t, "output", p.Output(sink, 0), "[good]")
	}
}

func cancel(t *testing.T, w Worker) {
	p := Compile(t, []string{""}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, &gated{}, in) })
	g := newGate("wait cancel")
	b, _, _ := p.Bundle("a", "wait cancel", "b", "c")
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-g.arrived
		cancel()
		time.Sleep(10 * time.Millisecond) // the worker may notice before the DoFn goes on
		close(g.open)
	}()
	r, err := w.Run(ctx, b)
	if r != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("Run with a cancelled context: result %v, error %v: want none, and the context's error", r, err)
	}
}

func concurrent(t *testing.T, w Worker) {
	p := Compile(t, []string{""}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, &gated{}, in) })
	g := newGate("wait concurrent")
	const n = 4
	done := make(chan error, n)
	var sinks []*Sink
	for range n {
		b, sink, _ := p.Bundle("wait concurrent", "b")
		sinks = append(sinks, sink)
		go func() {
			_, err := w.Run(context.Background(), b)
			done <- err
		}()
	}
	for range n {
		<-g.arrived // all of them, before any may go on
	}
	close(g.open)
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, s := range sinks {
		same(t, "output", p.Output(s, 0), "[wait concurrent b]")
	}
}

package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window/trigger"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/teststream"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

func init() {
	beam.RegisterType(reflect.TypeFor[gated]())
}

// gated lets elements through, but calls its gate for each: DoFns and their test have only memory in common.
type gated struct{ Gate string }

func (f *gated) ProcessElement(k string, v int64, emit func(string, int64)) {
	if g, ok := gates.Load(f.Gate); !ok || g.(func(string, int64) bool)(k, v) {
		emit(k, v)
	}
}

var gates sync.Map // func(k, v) (passes bool), by name

// newGate makes a gate of a test.
func newGate(t *testing.T, f func(k string, v int64) bool) *gated {
	gates.Store(t.Name(), f)
	t.Cleanup(func() { gates.Delete(t.Name()) })
	return &gated{t.Name()}
}

func until(what func() bool) bool {
	for range 50_000 {
		if what() {
			return true
		}
		time.Sleep(100 * time.Microsecond)
	}
	return false
}

func keyGroup(k string, groups int) int {
	return coder.KeyGroup(coder.AppendBytes(nil, []byte(k)), groups)
}

// The watermark rises while a GroupByKey is still firing, in many bundles, what was due before: nothing may be skipped.
func TestWatermarkRisesWhileWindowsFire(t *testing.T) {
	c := calm()
	c.Groups, c.Elements, c.Bytes = 4, 1, 1
	p, s := beam.NewPipelineWithRoot()
	f := &origin{}
	var want []string
	last := ""
	var byGroup [4]int
	for i := range 400 {
		k := fmt.Sprintf("k%d", i)
		g := keyGroup(k, c.Groups)
		if g == c.Groups-1 {
			if last != "" {
				continue
			}
			last = k
		}
		byGroup[g]++
		f.Elems = append(f.Elems, datum{K: k, V: 0, TS: 0}, datum{K: k, V: 1, TS: 10})
		want = append(want, show(k, 0))
		if k != last {
			want = append(want, show(k, 1))
		}
	}
	r := newRig(t, c)
	// The second window of the last key keeps the watermark from its end, until the first window has fired in the first
	// key group.
	gate := newGate(t, func(k string, v int64) bool {
		if k != last || v == 0 {
			return true
		}
		if !until(func() bool { return len(r.outs()) > byGroup[0] }) {
			t.Error("the first window does not fire")
		}
		return false
	})
	col := beam.WindowInto(s, window.NewFixedWindows(10*time.Millisecond), beam.ParDo(s, f, beam.Impulse(s)))
	col = beam.ParDo(s, &ungroup{Op: "each"}, beam.GroupByKey(s, col))
	col = beam.ParDo(s, &ungroup{Op: "each"}, beam.GroupByKey(s, beam.ParDo(s, gate, col)))
	sink(s, "sink", beam.ParDo(s, show, col))
	st, err := end(t, r.submit(t, "job", marshal(t, p), goOnly(), false))
	r.close(t)
	if d := differ(r.values(), want); d != "" {
		t.Errorf("job ended %v (%v):\n%s", st, err, d)
	}
}

// An element that completes a pane releases the hold of the pane's first element: the watermark must not pass before the pane
// is there, though the state is committed an instant earlier.
func TestPaneDoesNotFollowTheWatermark(t *testing.T) {
	const n = 1000
	c := teststream.NewConfig()
	var want []string
	for i := range int64(n) {
		must(c.AddElements(7*i, fmt.Sprintf("k%d=%d", i, i)))
		want = append(want, show(fmt.Sprintf("k%d", i), i), show(fmt.Sprintf("k%d", i), -i))
	}
	must(c.AdvanceWatermark(10_000))
	var second []string
	for i := range int64(n) {
		second = append(second, fmt.Sprintf("k%d=%d", i, -i))
	}
	must(c.AddElementList(20_000, second))
	must(c.AdvanceWatermarkToInfinity())
	p, s := beam.NewPipelineWithRoot()
	col := beam.WindowInto(s, window.NewGlobalWindows(), beam.ParDo(s, &parse{}, teststream.Create(s, c)),
		beam.Trigger(trigger.Repeat(trigger.AfterCount(2))), beam.PanesDiscard())
	col = beam.ParDo(s, &ungroup{Op: "each"}, beam.GroupByKey(s, col))
	col = beam.WindowInto(s, window.NewFixedWindows(7*time.Millisecond), col, beam.Trigger(trigger.Default()))
	sink(s, "sink", beam.ParDo(s, show, beam.ParDo(s, &ungroup{Op: "each"}, beam.GroupByKey(s, col))))
	pb := marshal(t, p)
	for _, ws := range pb.GetComponents().GetWindowingStrategies() {
		ws.OutputTime = pipepb.OutputTime_EARLIEST_IN_PANE
	}
	cond := calm()
	cond.Slots, cond.Elements, cond.DeclaredStream = 4, 1, true
	var got []string
	for _, o := range execute(t, cond, pb) {
		got = append(got, o.Value)
	}
	if d := differ(got, want); d != "" {
		t.Errorf("late panes were dropped:\n%s", d)
	}
}

// late makes a sink that takes its time over some bundles: the next ones could overtake them.
type late struct{ native.Sink }

func (s late) Send(ctx context.Context, blocks []*flow.Block) (native.Sent, error) {
	dawdle()
	return s.Sink.Send(ctx, blocks)
}

// lateExactly is late and transactional.
type lateExactly struct{ native.Transactional }

func (s lateExactly) Stage(ctx context.Context, blocks []*flow.Block) (native.Staged, error) {
	dawdle()
	return s.Transactional.Stage(ctx, blocks)
}

func dawdle() {
	if rand.IntN(3) == 0 {
		time.Sleep(300 * time.Microsecond)
	}
}

func checkSequence(t *testing.T, got []out, n int) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("%d elements came, want %d", len(got), n)
	}
	for i, o := range got {
		if want := show("k", int64(i)); o.Value != want {
			t.Fatalf("element %d is %s, want %s", i, o.Value, want)
		}
	}
}

// A sink writes what comes in the order in which it comes, whatever the slots and whichever bundle is ready first.
func TestSinksKeepOrder(t *testing.T) {
	const n = 500
	f := &origin{}
	for i := range int64(n) {
		f.Elems = append(f.Elems, datum{K: "k", V: i, TS: i})
	}
	c := calm()
	c.Slots, c.Elements = 4, 1
	t.Run("at least once", func(t *testing.T) {
		p, s := beam.NewPipelineWithRoot()
		sink(s, "sink", beam.ParDo(s, show, beam.ParDo(s, f, beam.Impulse(s))))
		r := newRig(t, c, func(cfg *engine.Config) {
			open := cfg.Sinks[testSinkURN]
			cfg.Sinks[testSinkURN] = func(ctx context.Context, cfg native.SinkConfig) (native.Sink, error) {
				s, err := open(ctx, cfg)
				return late{s}, err
			}
		})
		st, err := end(t, r.submit(t, "job", marshal(t, p), goOnly(), false))
		r.close(t)
		if err != nil {
			t.Fatalf("job ended %v: %v", st, err)
		}
		checkSequence(t, r.outs(), n)
	})
	t.Run("exactly once", func(t *testing.T) {
		w := newWorld(t, counted(0, 1, 1), 1)
		defer w.close()
		p, s := beam.NewPipelineWithRoot()
		exactly(s, "sink", beam.ParDo(s, show, beam.ParDo(s, f, beam.Impulse(s))))
		l := calmLife()
		l.conditions = c
		finishIn(t, w, l, specOf(marshal(t, p), goOnly()), func(cfg *engine.Config) {
			open := cfg.Sinks[testExactURN]
			cfg.Sinks[testExactURN] = func(ctx context.Context, cfg native.SinkConfig) (native.Sink, error) {
				s, err := open(ctx, cfg)
				if err != nil {
					return nil, err
				}
				return lateExactly{s.(native.Transactional)}, nil
			}
		})
		checkSequence(t, w.broker.outs(), n)
	})
}

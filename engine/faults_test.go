package engine_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/teststream"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/goexec"
)

// elusive workers are lost before they can be had.
type elusive struct {
	goWorkers
	left atomic.Int64
}

func (w *elusive) Worker(ctx context.Context, slot int) (engine.Worker, error) {
	if w.left.Add(-1) >= 0 {
		return nil, fmt.Errorf("connect: %w", bundle.ErrWorkerLost)
	}
	return w.goWorkers.Worker(ctx, slot)
}

// A worker may be lost before a bundle was made for it.
func TestWorkerLostBeforeItsBundle(t *testing.T) {
	p, s := beam.NewPipelineWithRoot()
	sink(s, "sink", beam.ParDo(s, show, beam.ParDo(s, &origin{[]datum{{K: "a", V: 1}}}, beam.Impulse(s))))
	r := newRig(t, calm())
	w := &elusive{goWorkers: goWorkers{goexec.New(goexec.Config{})}}
	w.left.Store(3)
	st, err := end(t, r.submit(t, "job", marshal(t, p), workersOf(w), false))
	r.close(t)
	if got := strings.Join(r.values(), " "); st != jobpb.JobState_DONE || got != "a=1" {
		t.Errorf("job ended %v (%v) with %q, want a=1", st, err, got)
	}
}

// A side input that comes from where the main input comes from: the producer must be able to go on, though nobody takes the
// main input yet and the pool is full.
func TestSideInputOfSameUpstream(t *testing.T) {
	for name, ws := range map[string]*window.Fn{
		"global": window.NewGlobalWindows(),
		"fixed":  window.NewFixedWindows(time.Minute),
	} {
		t.Run(name, func(t *testing.T) {
			const pad = 10_000
			n := 300 // each of them reads all of the others
			if testing.Short() {
				n = 60
			}
			p, s := beam.NewPipelineWithRoot()
			f := &origin{}
			for i := range int64(n) {
				f.Elems = append(f.Elems, datum{K: "k", V: i, TS: i})
			}
			col := beam.WindowInto(s, ws, beam.ParDo(s, f, beam.Impulse(s)))
			col = beam.ParDo(s, &ungroup{Op: "each"}, beam.GroupByKey(s, beam.ParDo(s, &mapper{Op: "rekey", N: 7}, col)))
			// One bundle of few elements makes more than the pool takes.
			col = beam.ParDo(s, &mapper{Op: "grow", N: pad}, beam.Reshuffle(s, col))
			col = beam.ParDo(s, &addAll{}, col, beam.SideInput{Input: col})
			sink(s, "sink", beam.ParDo(s, &tally{}, col))
			c := calm()
			c.Slots, c.Elements, c.Bytes, c.Pool = 2, 10, 100_000, 64<<10
			r := newRig(t, c)
			st, err := end(t, r.submit(t, "job", marshal(t, p), goOnly(), false))
			r.close(t)
			if got := len(r.values()); st != jobpb.JobState_DONE || got != n {
				t.Errorf("job ended %v with %d elements, want %d: %v", st, got, n, err)
			}
		})
	}
}

// An element that is too late for one of its windows is not processed there, though it is in the others.
func TestLateInOneOfItsWindows(t *testing.T) {
	c := teststream.NewConfig()
	must(c.AdvanceWatermark(52))
	must(c.AddElements(15, "b=9"))
	must(c.AdvanceWatermarkToInfinity())
	p, s := beam.NewPipelineWithRoot()
	col := beam.WindowInto(s, window.NewSlidingWindows(33*time.Millisecond, 64*time.Millisecond), beam.ParDo(s, &parse{}, teststream.Create(s, c)))
	f := newHoard(0)
	f.Only = true
	sink(s, "sink", beam.ParDo(s, show, beam.ParDo(s, f, col)))
	got := execute(t, calm(), marshal(t, p))
	if d := differ(texts(got), []string{"sink: b=9 @63 [0,64)"}); d != "" {
		t.Errorf("differs from what is wanted:\n%s", d)
	}
}

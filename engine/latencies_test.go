package engine_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window/trigger"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// hasLatency are the names of the stages that have measured the latency of their input, with their sources.
func hasLatency(job *engine.Job) map[string][]string {
	out := make(map[string][]string)
	for _, l := range job.Latencies("") {
		out[l.Stage] = append(out[l.Stage], l.Source)
	}
	return out
}

// stageOf is the stage whose name has all parts.
func stageOf(t *testing.T, job *engine.Job, parts ...string) string {
	t.Helper()
	var found []string
	for _, s := range job.Overview().Stages {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(s.Name, p) }) {
			found = append(found, s.Name)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%v: stages %q, want one", parts, found)
	}
	return found[0]
}

// TestMarkers: a marker passes from the source through a stage of user code and through a GroupByKey that fires in the bundle
// that brings the elements, with the instant when the record entered; it does not wait in windows.
func TestMarkers(t *testing.T) {
	const delay = 40 * time.Millisecond
	c := calm()
	c.Slots, c.Elements = 2, 1 // a marker for each element
	l := counted(60, 2, 4)
	l.open = true
	r := newRig(t, c, func(cfg *engine.Config) {
		cfg.Sources = map[string]native.SourceFactory{testLogURN: sourceOf(l, &gate{}, 100, time.Millisecond)}
	})
	var slept atomic.Bool
	p, s := beam.NewPipelineWithRoot()
	slow := newGate(t, func(string, int64) bool {
		if slept.CompareAndSwap(false, true) {
			time.Sleep(delay)
		}
		return true
	})
	in := beam.WindowInto(s, window.NewFixedWindows(windowMs*time.Millisecond), beam.ParDo(s.Scope("enter"), slow, beam.ParDo(s.Scope("enter"), &parse{}, readLog(s, false))))
	sums := beam.GroupByKey(s.Scope("windowed"), in)
	sink(s, "sums", beam.ParDo(s.Scope("total"), show, beam.ParDo(s.Scope("total"), &ungroup{Op: "sum"}, sums)))
	each := beam.GroupByKey(s.Scope("triggered"), beam.WindowInto(s, window.NewGlobalWindows(), in, beam.Trigger(trigger.Repeat(trigger.AfterCount(1))), beam.PanesDiscard()))
	sink(s, "each", beam.ParDo(s.Scope("one"), show, beam.ParDo(s.Scope("one"), &ungroup{Op: "each"}, each)))

	job := r.submit(t, "job", marshal(t, p), goOnly(), true)
	count := func(sink string) (n int) {
		for _, o := range r.outs() {
			if o.Sink == sink {
				n++
			}
		}
		return n
	}
	// The watermark of the log is at 59: the window up to 40 has fired, for each of 4 keys.
	if !until(func() bool {
		return count("each") == 60 && count("sums") == 4 && len(job.Latencies(stageOf(t, job, "each"))) > 0
	}) {
		t.Errorf("%d and %d outputs", count("each"), count("sums"))
	}
	got := hasLatency(job)
	for _, name := range []string{"enter", "windowed", "triggered", "one"} {
		stage := stageOf(t, job, name)
		if sources := got[stage]; len(sources) != 1 || sources[0] != stageOf(t, job, "log") {
			t.Errorf("%s has latencies from %q, want them from the log", stage, sources)
		}
	}
	for _, name := range []string{"total", "log"} {
		if sources := got[stageOf(t, job, name)]; len(sources) > 0 {
			t.Errorf("%s has latencies from %q, want none", name, sources)
		}
	}
	for _, name := range []string{"enter", "one"} {
		for _, of := range job.Latencies(stageOf(t, job, name)) {
			total := int64(0)
			for _, slot := range of.Slots {
				total += slot.Count
			}
			if of.Total.Max < delay || of.Total.Max > of.Sum || of.Total.Count != of.Observed || total != of.Observed || len(of.Slots) != 2 {
				t.Errorf("%s: %+v, want at least one of %v, and the sum of the slots", name, of, delay)
			}
		}
	}
	l.close()
	wantState(t, job, jobpb.JobState_DONE)
	if n := len(job.Latencies("")); n > 0 {
		t.Errorf("an ended job has %d latencies", n)
	}
	r.close(t)
}

// TestMarkersOfSplittable: what an unbounded splittable DoFn reads enters the job there and not at the Impulse, which is long
// ago. The stages before it end while it goes on.
func TestMarkersOfSplittable(t *testing.T) {
	began := time.Now()
	r := newRig(t, calm())
	p, s := beam.NewPipelineWithRoot()
	start := beam.ParDo(s, &origin{Elems: []datum{{K: "k"}}}, beam.Impulse(s))
	col := beam.Reshuffle(s.Scope("behind"), beam.ParDo(s.Scope("read"), &endless{}, start))
	sink(s, "sink", beam.ParDo(s.Scope("last"), &tally{}, col))
	job := r.submit(t, "job", marshal(t, p), goOnly(), true)
	if !until(func() bool { return len(r.outs()) > 100 }) {
		t.Errorf("%d outputs", len(r.outs()))
	}
	read := stageOf(t, job, "read")
	got := job.Latencies(stageOf(t, job, "last"))
	if len(got) != 1 || got[0].Source != read || got[0].Observed < 2 {
		t.Errorf("latencies of the last stage: %+v, want some from %s", got, read)
	}
	for _, s := range job.Overview().Stages {
		if over := strings.Contains(s.Name, "Impulse") || strings.Contains(s.Name, "origin"); over != (s.Ended.After(began) && s.Ended.Before(time.Now())) || over == s.Ended.IsZero() {
			t.Errorf("%s ended at %v", s.Name, s.Ended)
		}
	}
	job.Cancel()
	wantState(t, job, jobpb.JobState_CANCELLED)
	r.close(t)
}

package engine

import (
	"sync"
	"time"

	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/latency"
)

// Latency tells how long records took from the stage where they entered the job to a stage's commits. It is measured by the
// markers of blocks, as DESIGN.md has it: one value a bundle, of the oldest record behind it. Values are gone when the job
// ends or goes back to a checkpoint.
type Latency struct {
	Source, Stage string // names of stages
	// Total is of all slots, Slots by slot; both of the last one to two minutes.
	Total latency.Distribution
	Slots []latency.Distribution
	// Observed and Sum are of all values since the execution began.
	Observed int64
	Sum      time.Duration
}

// maxLatencySources bounds the sources that a stage keeps values of: the first ones that it meets.
const maxLatencySources = 16

// latencies are what a stage has measured. Goroutine safe.
type latencies struct {
	mu      sync.Mutex // guards the rest
	sources []sourceLatency
}

type sourceLatency struct {
	source int32                // stage.number
	slots  []*latency.Histogram // nil: no bundle of the slot had a marker of the source
}

// of returns the histogram of a source and a slot; nil if there are too many sources. REQUIRES: l.mu.
func (l *latencies) of(source int32, slot int) *latency.Histogram {
	var s *sourceLatency
	for k := range l.sources {
		if l.sources[k].source == source {
			s = &l.sources[k]
		}
	}
	if s == nil {
		if len(l.sources) == maxLatencySources {
			return nil
		}
		l.sources = append(l.sources, sourceLatency{source: source})
		s = &l.sources[len(l.sources)-1]
	}
	for len(s.slots) <= slot {
		s.slots = append(s.slots, nil)
	}
	if s.slots[slot] == nil {
		s.slots[slot] = new(latency.Histogram)
	}
	return s.slots[slot]
}

// record takes the marker of a bundle that was committed.
func (l *latencies) record(slot int, m flow.Marker) {
	if m.Entered == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.of(m.Source, slot); h != nil {
		now := time.Now()
		h.Record(now, m.Age(now))
	}
}

// measured is the marker whose age is the latency of a work that is being committed. Roots that run no user code measure
// nothing, as Flink's sources do not. REQUIRES: x.mu, w.blocks are there.
func (w *work) measured() flow.Marker {
	if w.stage.in == nil || len(w.blocks) == 0 { // of what was put off, others will tell
		return flow.Marker{}
	}
	return w.out.marker
}

// latencies returns what a stage has measured, one for each source.
func (s *stage) latencies(slots int) []Latency {
	l := &s.latency
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	out := make([]Latency, 0, len(l.sources))
	for _, of := range l.sources {
		o := Latency{Source: s.x.stages[of.source-1].name, Stage: s.name, Slots: make([]latency.Distribution, slots)}
		var all []*latency.Histogram
		for slot, h := range of.slots {
			if h == nil {
				continue
			}
			all = append(all, h)
			n, sum := h.Total()
			o.Observed, o.Sum = o.Observed+n, o.Sum+sum
			if slot < slots { // there may have been more
				o.Slots[slot] = latency.Lately(now, h)
			}
		}
		o.Total = latency.Lately(now, all...)
		out = append(out, o)
	}
	return out
}

// Latencies returns the latencies of the stage with that name, or of all stages if it is ""; none unless the job runs.
func (j *Job) Latencies(stage string) []Latency {
	x := j.running()
	if x == nil {
		return nil
	}
	slots := j.Slots()
	var out []Latency
	for _, s := range x.stages {
		if stage == "" || s.name == stage {
			out = append(out, s.latencies(slots)...)
		}
	}
	return out
}

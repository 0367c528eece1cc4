package web

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Latency tells how long records took from the stage where they entered the job to another stage's commits: one value a
// bundle, of the oldest record behind it. Records that waited in windows or state are not among them.
type Latency struct {
	Source, Stage string // names of stages
	// Total is of all subtasks, Slots by subtask; of the last minutes.
	Total Durations
	Slots []Durations
	// Observed and Sum are of all values since the job was started or went back.
	Observed int64
	Sum      time.Duration
}

// Durations tells how durations are spread. If Count is 0 nothing else is known.
type Durations struct {
	Count                              int64
	Min, Max, Mean                     time.Duration
	P50, P75, P90, P95, P98, P99, P999 time.Duration
}

// maxLatencies bounds the subtasks of a job whose latencies the REST API tells, each with ten values.
const maxLatencies = 500

// latencyPrefix is what the names of latencies begin with.
const latencyPrefix = "latency."

// latencyMetrics are the latencies by Flink's names, in ms. Ids of operators are those of vertices. Of too many there are all
// stages, but not all subtasks.
func latencyMetrics(all []Latency) []measure {
	type subtask struct {
		name string
		slot int
		Durations
	}
	var some []subtask
	for _, l := range all {
		name := latencyPrefix + "source_id." + HexID(l.Source) + ".operator_id." + HexID(l.Stage) + ".operator_subtask_index."
		for slot, d := range l.Slots {
			if d.Count > 0 {
				some = append(some, subtask{name + strconv.Itoa(slot) + ".latency_", slot, d})
			}
		}
	}
	slices.SortStableFunc(some, func(a, b subtask) int { return cmp.Compare(a.slot, b.slot) })
	var out []measure
	for _, s := range some[:min(len(some), maxLatencies)] {
		for _, v := range []struct {
			name string
			d    time.Duration
		}{
			{"min", s.Min}, {"max", s.Max}, {"mean", s.Mean}, {"median", s.P50}, {"p75", s.P75}, {"p90", s.P90}, {"p95", s.P95},
			{"p98", s.P98}, {"p99", s.P99}, {"p999", s.P999},
		} {
			out = append(out, measure{s.name + v.name, number(inMs(v.d))})
		}
	}
	return out
}

// inMs rounds to a thousandth.
func inMs(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// asksLatency reports whether a call for a job's metrics wants latencies, too: they are many.
func asksLatency(r *http.Request) bool {
	get := list(r, "get")
	return len(get) == 0 || slices.ContainsFunc(get, func(name string) bool { return strings.HasPrefix(name, latencyPrefix) })
}

// latencies returns the latencies of a job as metrics, at most metricsAge old.
func (h *Handler) latencies(j Job, i Info) []measure {
	s := h.snapshots.of(i.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := newEpoch(i); !s.latencies.serves(e, metricsAge) {
		s.latencies = latencySnapshot{e, latencyMetrics(j.Latencies(""))}
	}
	return s.latencies.all
}

// latencyJSON is how long records take from a source to the stage that is shown.
type latencyJSON struct {
	Source linkJSON `json:"source"`
	P50    float64  `json:"p50"` // ms
	P99    float64  `json:"p99"` // ms
}

// liveLatencies are those of a stage, the slowest first; none of sources that brought nothing lately.
func liveLatencies(all []Latency) []latencyJSON {
	out := []latencyJSON{}
	for _, l := range all {
		if l.Total.Count > 0 {
			out = append(out, latencyJSON{linkJSON{ID: HexID(l.Source), Name: l.Source}, inMs(l.Total.P50), inMs(l.Total.P99)})
		}
	}
	slices.SortStableFunc(out, func(a, b latencyJSON) int { return cmp.Compare(b.P99, a.P99) })
	return out
}

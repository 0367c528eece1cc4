package web

import (
	"slices"
	"time"
)

// stageView is one stage of a job.
type stageView struct {
	ofJob
	vertex   string
	subtasks recent
}

// liveStageJSON is what of a stage does not change while the job runs.
type liveStageJSON struct {
	T           string     `json:"t"`
	ID          string     `json:"id"`
	Name        string     `json:"name"`
	Kind        string     `json:"kind"`
	Environment string     `json:"environment,omitempty"`
	Transforms  []string   `json:"transforms"` // unique names
	Inputs      []linkJSON `json:"inputs"`
	Outputs     []linkJSON `json:"outputs"`
	// Of a stage that has finished, ms since the epoch and ms.
	Ended int64 `json:"ended,omitempty"`
	Took  int64 `json:"took,omitempty"`
}

// linkJSON is a neighbour of a stage.
type linkJSON struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Keyed bool   `json:"keyed,omitempty"`
}

// figuresJSON are the present figures of a stage: the row of the stage, and one of each subtask.
type figuresJSON struct {
	T         string   `json:"t"`
	Row       numRow   `json:"row"`
	Bundles   int64    `json:"bundles"`
	Splits    int64    `json:"splits"`
	StateSize maybe    `json:"state"` // bytes of keys and values
	Subtasks  []numRow `json:"subtasks"`

	Latency []latencyJSON `json:"latency"`
}

// subtaskRow of a slot: records in and out a second; busy and back-pressured shares; records and bytes that wait; records
// outside; running bundles; records in and out so far.
func subtaskRow(t Subtask, r Rates) numRow {
	return numRow{
		r.RecordsIn, r.RecordsOut, r.Busy, r.BackPressured, float64(t.QueuedRecords), float64(t.QueuedBytes), float64(known(t.Backlog)),
		float64(t.Running), float64(t.RecordsIn), float64(t.RecordsOut),
	}
}

func (v *stageView) update(now time.Time) error {
	l, err := v.look(now)
	if err != nil {
		return err
	}
	j, i, stages := l.job, l.info, l.stages
	k := slices.IndexFunc(stages, func(s Stage) bool { return HexID(s.Name) == v.vertex })
	if k < 0 {
		return missing("Job %s has no stage %s: its pipeline has changed", i.Name, v.vertex)
	}
	s := stages[k]
	size := maybe(unknown())
	if n, ok := j.StateSize(s.Name); ok {
		size = known(n)
	}
	figures := figuresJSON{
		T: "figures", Row: row(s, l.rates[k]), Bundles: s.Bundles, Splits: s.Splits, StateSize: size,
		Subtasks: []numRow{}, Latency: liveLatencies(j.Latencies(s.Name)),
	}
	for n, r := range v.subtaskRates(i, stages, k, now) {
		figures.Subtasks = append(figures.Subtasks, subtaskRow(s.Subtasks[n], r))
	}
	harnesses := v.h.harnesses([]Job{j})
	return v.set(clock(now), l.shown, liveStage(j, i, stages, k, now), figures, v.h.history.stage(i.ID, s.Name),
		harnessesJSON{T: "harnesses", List: slices.DeleteFunc(harnesses, func(h liveHarnessJSON) bool { return h.Environment != s.Environment })})
}

// subtaskRates are those of a stage's slots.
func (v *stageView) subtaskRates(i Info, stages []Stage, k int, now time.Time) []Rates {
	s := stages[k]
	if _, ended := i.end(); ended {
		return make([]Rates, len(s.Subtasks))
	}
	counters := make([]Counters, len(s.Subtasks))
	for n, t := range s.Subtasks {
		counters[n] = t.Counters
	}
	if out, ok := v.subtasks.rates(i, counters, 1, now); ok {
		return out
	}
	return v.h.meter.rates(i, stages, now)[k].subtasks
}

func liveStage(j Job, i Info, stages []Stage, k int, now time.Time) liveStageJSON {
	s := stages[k]
	out := liveStageJSON{
		T: "stage", ID: HexID(s.Name), Name: s.Name, Kind: s.Kind, Environment: s.Environment,
		Transforms: []string{}, Inputs: []linkJSON{}, Outputs: []linkJSON{},
	}
	if s.finished() {
		_, out.Ended, out.Took = s.times(i, now)
	}
	for _, id := range s.Transforms {
		out.Transforms = append(out.Transforms, j.Transform(id))
	}
	for _, in := range s.Inputs {
		out.Inputs = append(out.Inputs, linkJSON{HexID(in.Stage), in.Stage, in.Keyed})
	}
	for _, other := range stages {
		for _, in := range other.Inputs {
			if in.Stage == s.Name {
				out.Outputs = append(out.Outputs, linkJSON{HexID(other.Name), other.Name, in.Keyed})
			}
		}
	}
	return out
}

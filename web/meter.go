package web

import (
	"sync"
	"time"
)

const (
	// sampleInterval is the time between two samples of a job's counters.
	sampleInterval = 5 * time.Second
	// minSample: whoever asks earlier than that gets the rates of the last sample.
	minSample = 4 * time.Second
	// rateWindow is what rates are averages over, if there are samples of that age.
	rateWindow = 30 * time.Second
	// maxSamples bounds the samples of a job.
	maxSamples = 8
)

// meter makes rates of counters. It keeps samples of each job, the oldest about as old as rateWindow. Goroutine safe.
type meter struct {
	mu   sync.Mutex
	jobs map[string]*jobMeter
}

// jobMeter are the samples of a job, oldest first.
type jobMeter struct {
	restarts, slots int // samples of other numbers tell nothing
	samples         []sample
}

// sample are all counters of a job at an instant, by stage and subtask, then the stage's total.
type sample struct {
	at     time.Time
	stages map[string][]Counters
}

// Rates are a subtask's or a stage's averages over the last half minute, or since the job began.
type Rates struct {
	RecordsIn, RecordsOut float64 // per second
	BytesIn, BytesOut     float64 // per second
	// Shares of the time: of each slot's if it is a stage's. They sum up to 1.
	Busy, BackPressured, Idle float64
}

// stageRates are the rates of a stage and of its subtasks.
type stageRates struct {
	total    Rates
	subtasks []Rates
}

func newMeter() *meter { return &meter{jobs: make(map[string]*jobMeter)} }

// keep forgets all other jobs.
func (m *meter) keep(ids map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.jobs {
		if !ids[id] {
			delete(m.jobs, id)
		}
	}
}

// sample takes a sample, unless there is one that is young enough.
func (m *meter) sample(i Info, stages []Stage, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.take(i, stages, now)
}

// take REQUIRES: m.mu.
func (m *meter) take(i Info, stages []Stage, now time.Time) *jobMeter {
	j := m.jobs[i.ID]
	if j == nil || j.restarts != i.Restarts || j.slots != i.Slots {
		j = &jobMeter{restarts: i.Restarts, slots: i.Slots}
		m.jobs[i.ID] = j
	}
	if n := len(j.samples); n > 0 && now.Sub(j.samples[n-1].at) < minSample {
		return j
	}
	s := sample{at: now, stages: make(map[string][]Counters, len(stages))}
	for _, st := range stages {
		s.stages[st.Name] = st.counters()
	}
	j.samples = append(j.samples, s)
	for len(j.samples) > 2 && (now.Sub(j.samples[1].at) >= rateWindow || len(j.samples) > maxSamples) {
		j.samples = j.samples[1:]
	}
	return j
}

// counters are those of all subtasks, and last the total.
func (s Stage) counters() []Counters {
	out := make([]Counters, 0, len(s.Subtasks)+1)
	for _, t := range s.Subtasks {
		out = append(out, t.Counters)
	}
	return append(out, s.total())
}

// total are the counters of the stage as a whole, with the times of all subtasks.
func (s Stage) total() Counters {
	total := s.Total
	total.Busy, total.BackPressured = 0, 0
	for _, t := range s.Subtasks {
		total.Busy += t.Busy
		total.BackPressured += t.BackPressured
	}
	return total
}

// rates returns the rates of stages as of now, in their order. A job that has ended has none.
func (m *meter) rates(i Info, stages []Stage, now time.Time) []stageRates {
	out := make([]stageRates, len(stages))
	if _, ended := i.end(); ended {
		for k, s := range stages {
			out[k].subtasks = make([]Rates, len(s.Subtasks))
		}
		return out
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	first := m.take(i, stages, now).samples[0]
	for k, s := range stages {
		out[k] = first.rates(i, s, now)
	}
	return out
}

// rate returns the rates of one of the stages. The others are for a sample, which is of the whole job.
func (m *meter) rate(i Info, stages []Stage, s Stage, now time.Time) stageRates {
	if _, ended := i.end(); ended {
		return stageRates{subtasks: make([]Rates, len(s.Subtasks))}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.take(i, stages, now).samples[0].rates(i, s, now)
}

// rates of a stage since the sample.
func (f sample) rates(i Info, s Stage, now time.Time) stageRates {
	var out stageRates
	old, at := f.stages[s.Name], f.at
	counters := s.counters()
	if len(old) != len(counters) || now.Sub(at) < minSample {
		old, at = make([]Counters, len(counters)), i.running(now)
	}
	n := len(counters) - 1
	for t, c := range counters[:n] {
		out.subtasks = append(out.subtasks, rates(old[t], c, now.Sub(at), 1))
	}
	out.total = rates(old[n], counters[n], now.Sub(at), n)
	return out
}

// running is since when the counters have counted.
func (i Info) running(now time.Time) time.Time {
	since := i.start()
	for _, c := range i.Changes {
		if flinkState(c.State) == "RUNNING" {
			since = c.At
		}
	}
	if !since.Before(now) {
		return now.Add(-time.Millisecond)
	}
	return since
}

// rates of what happened between two moments in so many slots.
func rates(old, now Counters, d time.Duration, slots int) Rates {
	s := max(d, time.Millisecond).Seconds()
	per := func(a, b int64) float64 { return float64(max(0, b-a)) / s }
	share := func(a, b time.Duration) float64 {
		return min(1, max(0, (b-a).Seconds())/s/float64(max(1, slots)))
	}
	r := Rates{
		RecordsIn: per(old.RecordsIn, now.RecordsIn), RecordsOut: per(old.RecordsOut, now.RecordsOut),
		BytesIn: per(old.BytesIn, now.BytesIn), BytesOut: per(old.BytesOut, now.BytesOut),
		Busy: share(old.Busy, now.Busy),
	}
	r.BackPressured = min(share(old.BackPressured, now.BackPressured), 1-r.Busy)
	r.Idle = 1 - r.Busy - r.BackPressured
	return r
}

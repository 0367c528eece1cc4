package web

import (
	"math"
	"sync"
	"time"
)

const (
	// historyStep is the time between two points of the charts, historyPoints their number: 15 minutes.
	historyStep   = 10 * time.Second
	historyPoints = 90
	// maxHistories bounds the stages of all jobs that have a history: a stage takes 3 KB.
	maxHistories = 600
)

// Series of a stage's history.
const (
	seriesIn = iota // records a second
	seriesOut
	seriesBytesIn // a second
	seriesBytesOut
	seriesBusy // share of the time, 0 to 1
	seriesBackPressured
	seriesQueued  // records that wait for the stage
	seriesLag     // ms that the output watermark is behind
	seriesBacklog // records outside
	stageSeries   // how many there are
)

// Series of a job's and of the process's history.
const (
	seriesRate   = iota // records a second through the busiest stage
	seriesJobLag        // ms, the largest
	seriesJobBackPressured
	jobSeries
)

const (
	seriesResident = iota // bytes
	seriesHeap
	seriesPool
	seriesState
	seriesCPU // CPUs in use
	processSeries
)

// ring are the newest points of several series. The zero value of its points is not used.
type ring struct {
	width int
	n     int       // points so far
	data  []float32 // historyPoints rows of width, as far as they are in use
}

func (r *ring) add(values ...float64) {
	row := make([]float32, r.width)
	for k, v := range values {
		row[k] = float32(v)
	}
	if r.data == nil {
		r.data = make([]float32, 0, historyPoints*r.width)
	}
	if r.n < historyPoints {
		r.data = append(r.data, row...)
	} else {
		copy(r.data[r.n%historyPoints*r.width:], row)
	}
	r.n++
}

// series returns one series, oldest point first.
func (r *ring) series(k int) numRow {
	count := min(r.n, historyPoints)
	out := make(numRow, 0, count)
	for i := r.n - count; i < r.n; i++ {
		out = append(out, float64(r.data[i%historyPoints*r.width+k]))
	}
	return out
}

// history remembers the last 15 minutes of jobs that run, whether or not somebody looks. Goroutine safe.
type history struct {
	mu      sync.Mutex
	last    time.Time // of the newest points
	jobs    map[string]*jobHistory
	order   []string // of jobs, oldest first
	process ring
	cpu     int64 // ms of CPU used when the newest point was taken
}

type jobHistory struct {
	ended  bool
	last   time.Time
	whole  ring
	stages map[string]*ring
}

func newHistory() *history {
	return &history{jobs: make(map[string]*jobHistory), process: ring{width: processSeries}}
}

// due reports whether it is time for new points, and if so takes the time.
func (h *history) due(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Sub(h.last) < historyStep-sampleInterval/2 {
		return false
	}
	h.last = now
	return true
}

// add takes the points of a job that runs.
func (h *history) add(i Info, stages []Stage, rates []stageRates, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	j := h.jobs[i.ID]
	if j == nil {
		j = &jobHistory{whole: ring{width: jobSeries}, stages: make(map[string]*ring)}
		h.jobs[i.ID] = j
		h.order = append(h.order, i.ID)
	}
	j.last = now
	total := make([]Rates, len(rates))
	for k, s := range stages {
		total[k] = rates[k].total
		r := j.stages[s.Name]
		if r == nil {
			if !h.room() {
				continue
			}
			r = &ring{width: stageSeries}
			j.stages[s.Name] = r
		}
		t := total[k]
		queued, backlog := s.waiting()
		r.add(t.RecordsIn, t.RecordsOut, t.BytesIn, t.BytesOut, t.Busy, t.BackPressured, float64(queued), s.lag(now), float64(known(backlog)))
	}
	j.whole.add(busiest(total), jobLag(stages, now), mostBackPressured(total))
}

// room reports whether one more stage can have a history, and makes room if ended jobs can be forgotten. REQUIRES: h.mu.
func (h *history) room() bool {
	used := 0
	for _, j := range h.jobs {
		used += len(j.stages)
	}
	for _, id := range h.order {
		if j := h.jobs[id]; used >= maxHistories && j != nil && j.ended {
			used -= len(j.stages)
			delete(h.jobs, id)
		}
	}
	return used < maxHistories
}

// keep tells which jobs there are, and whether they have ended. It forgets all others.
func (h *history) keep(ended map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var order []string
	for _, id := range h.order {
		e, known := ended[id]
		j := h.jobs[id]
		if !known || j == nil {
			delete(h.jobs, id)
			continue
		}
		j.ended = e
		order = append(order, id)
	}
	h.order = order
}

// addProcess takes a point of the process.
func (h *history) addProcess(m Memory, g goMemory) {
	h.mu.Lock()
	defer h.mu.Unlock()
	cpu := unknown()
	if h.process.n > 0 {
		cpu = float64(g.cpuMillis-h.cpu) / float64(historyStep.Milliseconds())
	}
	h.cpu = g.cpuMillis
	h.process.add(float64(known(m.Resident)), float64(g.heapUsed), float64(m.PoolUsed), float64(m.state()), cpu)
}

// historyJSON are series, all of the same length.
type historyJSON struct {
	T      string            `json:"t"`
	Step   int64             `json:"step"` // ms
	End    int64             `json:"end"`  // time of the newest points
	Series map[string]numRow `json:"series"`
}

// names of the series, in their order.
func stageSeriesNames() []string {
	return []string{"in", "out", "bytesIn", "bytesOut", "busy", "bp", "queued", "lag", "backlog"}
}

func jobSeriesNames() []string { return []string{"rate", "lag", "bp"} }

func processSeriesNames() []string { return []string{"resident", "heap", "pool", "state", "cpu"} }

func (r *ring) json(end time.Time, names []string) historyJSON {
	out := historyJSON{T: "history", Step: historyStep.Milliseconds(), End: end.UnixMilli(), Series: make(map[string]numRow)}
	for k, name := range names {
		out.Series[name] = r.series(k)
	}
	return out
}

// stage returns the history of a stage; without points if there is none.
func (h *history) stage(job, name string) historyJSON {
	h.mu.Lock()
	defer h.mu.Unlock()
	if j := h.jobs[job]; j != nil && j.stages[name] != nil {
		return j.stages[name].json(j.last, stageSeriesNames())
	}
	return (&ring{width: stageSeries}).json(h.last, stageSeriesNames())
}

// job returns the history of a job as a whole.
func (h *history) job(id string) historyJSON {
	h.mu.Lock()
	defer h.mu.Unlock()
	if j := h.jobs[id]; j != nil {
		return j.whole.json(j.last, jobSeriesNames())
	}
	return (&ring{width: jobSeries}).json(h.last, jobSeriesNames())
}

func (h *history) all() historyJSON {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.process.json(h.last, processSeriesNames())
}

// waiting are the records that wait for a stage, and those that its sources know to be waiting outside; -1: not known.
func (s Stage) waiting() (queued, backlog int64) {
	backlog = -1
	for _, t := range s.Subtasks {
		queued += t.QueuedRecords
		if t.Backlog >= 0 {
			backlog = max(backlog, 0) + t.Backlog
		}
	}
	return queued, backlog
}

// lag is how many ms a stage's output watermark is behind the clock; NaN: it says nothing of that.
func (s Stage) lag(now time.Time) float64 {
	if s.OutputWatermark == MinWatermark || s.OutputWatermark == MaxWatermark {
		return unknown()
	}
	return math.Max(0, float64(now.UnixMilli()-s.OutputWatermark))
}

// busiest is the rate of the stage that most records go into or out of: what a job as a whole is said to do.
func busiest(rates []Rates) float64 {
	most := 0.0
	for _, r := range rates {
		most = max(most, r.RecordsIn, r.RecordsOut)
	}
	return most
}

func mostBackPressured(rates []Rates) float64 {
	most := 0.0
	for _, r := range rates {
		most = max(most, r.BackPressured)
	}
	return most
}

// jobLag is the greatest lag of a stage; NaN: there is none.
func jobLag(stages []Stage, now time.Time) float64 {
	most := unknown()
	for _, s := range stages {
		if l := s.lag(now); !math.IsNaN(l) && !(l <= most) {
			most = l
		}
	}
	return most
}

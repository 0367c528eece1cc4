package web

import (
	"encoding/json"
	"hash/maphash"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
)

// clockJSON is the first line of each update: the server's time, which ages are told by.
type clockJSON struct {
	T   string `json:"t"`
	Now int64  `json:"now"`
}

func clock(now time.Time) clockJSON { return clockJSON{"now", now.UnixMilli()} }

// liveJobJSON is what the UI shows of a job everywhere. Times are ms since the epoch, durations ms.
type liveJobJSON struct {
	T              string              `json:"t"`
	ID             string              `json:"id"` // its own
	Hex            string              `json:"hex"`
	Name           string              `json:"name"`
	State          string              `json:"state"` // as Flink names it
	Draining       bool                `json:"draining,omitempty"`
	Streaming      bool                `json:"streaming"`
	Start          int64               `json:"start"`
	End            int64               `json:"end"` // -1: not yet
	Slots          int                 `json:"slots"`
	MaxParallelism int                 `json:"max"`
	Stages         int                 `json:"stages"`
	Restarts       int                 `json:"restarts"`
	Failures       int                 `json:"failures"`
	Error          string              `json:"error,omitempty"` // gist of the newest failure
	Rate           maybe               `json:"rate"`            // records a second through the busiest stage
	Lag            maybe               `json:"lag"`             // of the watermark that is furthest behind
	BackPressured  maybe               `json:"bp"`              // share of the time, of the stage with the greatest one
	Queued         int64               `json:"queued"`          // bytes between stages
	Backlog        maybe               `json:"backlog"`         // records that wait outside
	Checkpointing  bool                `json:"checkpointing"`
	Checkpoint     *liveCheckpointJSON `json:"cp"` // newest complete one
	History        numRow              `json:"history,omitempty"`
}

// jobJSON tells of a job; stages and rates are in the same order.
func (h *Handler) liveJob(j Job, i Info, stages []Stage, rates []Rates, now time.Time) liveJobJSON {
	start, end, _ := times(i, now)
	failures := j.Failures()
	out := liveJobJSON{
		T: "job", ID: i.ID, Hex: HexID(i.ID), Name: i.Name, State: flinkState(i.state()), Draining: i.draining(), Streaming: i.Streaming,
		Start: start, End: end, Slots: i.Slots, MaxParallelism: i.MaxParallelism, Stages: len(stages), Restarts: i.Restarts,
		Failures: len(failures), Rate: maybe(busiest(rates)), BackPressured: maybe(mostBackPressured(rates)), Lag: maybe(unknown()),
		Backlog: maybe(unknown()),
	}
	if end < 0 {
		out.Lag = maybe(jobLag(stages, now))
		for _, s := range stages {
			if _, b := s.waiting(); b >= 0 {
				out.Backlog = maybe(max(0, float64(b)) + zero(float64(out.Backlog)))
			}
			for _, t := range s.Subtasks {
				out.Queued += t.QueuedBytes
			}
		}
	}
	if n := len(failures); n > 0 {
		out.Error = gist(failures[n-1].Text)
	}
	cp := j.Checkpoints()
	out.Checkpointing = cp.Enabled
	if c := cp.newest(); c != nil {
		out.Checkpoint = new(liveCheckpoint(*c))
	}
	return out
}

// gist is the line of an error that says most: of a traceback the last one that is not indented, else the first one.
func gist(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, l := range slices.Backward(lines[1:]) {
		if strings.TrimSpace(l) != "" && !strings.HasPrefix(l, " ") && !strings.HasPrefix(l, "\t") {
			return l
		}
	}
	return lines[0]
}

// zero is v, or 0 if it is unknown.
func zero(v float64) float64 {
	if math.IsNaN(v) {
		return 0
	}
	return v
}

// draining: the job stops when everything on its way is done.
func (i Info) draining() bool {
	return i.state().String() == "DRAINING"
}

// liveRates are those of the last seconds if r has seen the job before, else those that REST tells. A job that has ended
// has none.
func (h *Handler) liveRates(r *recent, i Info, stages []Stage, now time.Time) []Rates {
	if _, ended := i.end(); ended {
		return make([]Rates, len(stages))
	}
	if out, ok := r.rates(i, totals(stages), i.Slots, now); ok {
		return out
	}
	out := make([]Rates, len(stages))
	for k, s := range h.meter.rates(i, stages, now) {
		out[k] = s.total
	}
	return out
}

// ofJob is what the views of one job share. Not goroutine safe, as views are.
type ofJob struct {
	parts
	h      *Handler
	id     string // the job's own id or the hex one
	recent recent
}

// jobLook is a job at a moment. Stages and rates are in the same order.
type jobLook struct {
	job    Job
	info   Info
	stages []Stage
	rates  []Rates
	shown  liveJobJSON
}

func (v *ofJob) look(now time.Time) (jobLook, error) {
	j := v.h.find(v.id)
	if j == nil {
		return jobLook{}, missing("Job %s not found: it has ended long ago, or belongs to another server", v.id)
	}
	l := jobLook{job: j, info: j.Info(), stages: j.Stages()}
	l.rates = v.h.liveRates(&v.recent, l.info, l.stages, now)
	l.shown = v.h.liveJob(j, l.info, l.stages, l.rates, now)
	return l, nil
}

// jobsView is the list of jobs.
type jobsView struct {
	parts
	h      *Handler
	recent map[string]*recent
}

type jobsJSON struct {
	T         string        `json:"t"`
	Slots     int           `json:"slots"`
	FreeSlots int           `json:"free"`
	Resident  maybe         `json:"resident"`
	Limit     int64         `json:"limit"`
	Jobs      []liveJobJSON `json:"jobs"` // newest first
}

func (v *jobsView) update(now time.Time) error {
	m, _ := v.h.memory()
	out := jobsJSON{T: "jobs", Resident: known(m.Resident), Limit: m.Limit, Jobs: []liveJobJSON{}}
	out.Slots, out.FreeSlots = v.h.slots()
	seen := make(map[string]*recent)
	for _, j := range slices.Backward(v.h.Cluster.Jobs()) {
		i, stages := j.Info(), j.Stages()
		r := v.recent[i.ID]
		if r == nil {
			r = &recent{}
		}
		seen[i.ID] = r
		one := v.h.liveJob(j, i, stages, v.h.liveRates(r, i, stages, now), now)
		one.History = v.h.history.job(i.ID).Series["rate"]
		out.Jobs = append(out.Jobs, one)
	}
	v.recent = seen
	return v.set(clock(now), out)
}

// jobView is one job with its graph.
type jobView struct {
	ofJob
	shape maphash.Hash // of the stages that graph tells of
	graph line
}

// graphJSON is what of a job's graph does not change while it runs. Inputs are indexes of stages.
type graphJSON struct {
	T      string           `json:"t"`
	Stages []graphStageJSON `json:"stages"`
}

type graphStageJSON struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Kind       string `json:"kind"`
	Inputs     []int  `json:"in"`
	Keyed      bool   `json:"keyed,omitempty"`
	Harness    bool   `json:"harness,omitempty"`
	Transforms int    `json:"n"`
}

// rowsJSON are the figures of all stages, in the order of the graph.
type rowsJSON struct {
	T    string  `json:"t"`
	Rows numRows `json:"rows"`
}

// row of a stage: records in and out, bytes in and out a second; shares of busy and back-pressured time; input and output
// watermark (null: none yet; maxTime: no more to come); records and bytes that wait; records outside (null: not known);
// running bundles; failed bundles; dropped late records; records in and out so far; whether it has finished.
func row(s Stage, r Rates) numRow {
	queued, backlog := s.waiting()
	bytes, running, finished := int64(0), 0, 0.0
	for _, t := range s.Subtasks {
		bytes += t.QueuedBytes
		running += t.Running
	}
	if s.finished() {
		finished = 1
	}
	return numRow{
		r.RecordsIn, r.RecordsOut, r.BytesIn, r.BytesOut, r.Busy, r.BackPressured, instant(s.InputWatermark), instant(s.OutputWatermark),
		float64(queued), float64(bytes), float64(known(backlog)), float64(running), float64(s.FailedBundles), float64(s.DroppedLate),
		float64(s.Total.RecordsIn), float64(s.Total.RecordsOut), finished,
	}
}

// maxTime stands for the watermark after which nothing comes: JavaScript's last day.
const maxTime = 8.64e15

// instant is a watermark in ms.
func instant(ms int64) float64 {
	switch ms {
	case MinWatermark:
		return unknown()
	case MaxWatermark:
		return maxTime
	default:
		return float64(ms)
	}
}

func (v *jobView) update(now time.Time) error {
	l, err := v.look(now)
	if err != nil {
		return err
	}
	rows := rowsJSON{T: "rows"}
	for k, s := range l.stages {
		rows.Rows = append(rows.Rows, row(s, l.rates[k]))
	}
	drawn, err := v.drawn(l.stages)
	if err != nil {
		return err
	}
	return v.set(clock(now), l.shown, drawn, rows, v.h.history.job(l.info.ID))
}

// drawn is the graph's line. It is made again only for stages of another shape: of a large job it is the largest line by far.
func (v *jobView) drawn(stages []Stage) (line, error) {
	before := v.shape.Sum64()
	v.shape.Reset()
	for _, s := range stages {
		maphash.WriteComparable(&v.shape, struct {
			name, kind         string
			harness            bool
			transforms, inputs int
		}{s.Name, s.Kind, s.Environment != "", len(s.Transforms), len(s.Inputs)})
		for _, in := range s.Inputs {
			maphash.WriteComparable(&v.shape, in)
		}
	}
	if v.graph != nil && v.shape.Sum64() == before {
		return v.graph, nil
	}
	var err error
	v.graph, err = json.Marshal(graph(stages))
	return v.graph, err
}

func graph(stages []Stage) graphJSON {
	index := make(map[string]int, len(stages))
	for k, s := range stages {
		index[s.Name] = k
	}
	out := graphJSON{T: "graph", Stages: []graphStageJSON{}}
	for _, s := range stages {
		g := graphStageJSON{
			ID: HexID(s.Name), Name: s.Name, Kind: s.Kind, Inputs: []int{}, Harness: s.Environment != "", Transforms: len(s.Transforms),
		}
		for _, in := range s.Inputs {
			if k, ok := index[in.Stage]; ok {
				g.Inputs = append(g.Inputs, k)
				g.Keyed = g.Keyed || in.Keyed
			}
		}
		out.Stages = append(out.Stages, g)
	}
	return out
}

// checkpointsView is the history of a job's checkpoints, with the job.
type checkpointsView struct{ ofJob }

type liveCheckpointJSON struct {
	ID        int64  `json:"id"`
	Status    string `json:"status"`
	Start     int64  `json:"start"`
	End       int64  `json:"end"`   // -1: not yet
	Pause     maybe  `json:"pause"` // ms
	Size      int64  `json:"size"`
	Uploaded  int64  `json:"up"`
	InFlight  int    `json:"inflight"`
	Bytes     int64  `json:"bytes"` // in flight
	Savepoint string `json:"savepoint,omitempty"`
	Error     string `json:"error,omitempty"`
	Restored  int64  `json:"restored,omitempty"`
}

func liveCheckpoint(c Checkpoint) liveCheckpointJSON {
	out := liveCheckpointJSON{
		ID: c.ID, Status: c.Status, Start: c.Started.UnixMilli(), End: -1, Pause: maybe(float64(c.Pause) / float64(time.Millisecond)),
		Size: c.Size, Uploaded: c.Uploaded, InFlight: c.InFlight, Bytes: c.InFlightBytes, Savepoint: c.Savepoint, Error: c.Error,
	}
	if !c.Ended.IsZero() {
		out.End = c.Ended.UnixMilli()
	}
	if !c.Restored.IsZero() {
		out.Restored = c.Restored.UnixMilli()
	}
	return out
}

type liveCheckpointsJSON struct {
	T          string               `json:"t"`
	Enabled    bool                 `json:"enabled"`
	Location   string               `json:"location"`
	Interval   int64                `json:"interval"` // ms
	Restored   int64                `json:"restored"`
	Total      int64                `json:"total"`
	InProgress int64                `json:"inProgress"`
	Completed  int64                `json:"completed"`
	Failed     int64                `json:"failed"`
	From       *liveCheckpointJSON  `json:"from"` // the one the job began from
	List       []liveCheckpointJSON `json:"list"` // newest first
}

func (v *checkpointsView) update(now time.Time) error {
	l, err := v.look(now)
	if err != nil {
		return err
	}
	c := l.job.Checkpoints()
	out := liveCheckpointsJSON{
		T: "checkpoints", Enabled: c.Enabled, Location: c.Location, Interval: c.Interval.Milliseconds(), Restored: c.Restored, Total: c.Total,
		InProgress: c.InProgress, Completed: c.Completed, Failed: c.Failed, List: []liveCheckpointJSON{},
	}
	if c.LatestRestored != nil {
		out.From = new(liveCheckpoint(*c.LatestRestored))
	}
	for _, one := range c.History {
		out.List = append(out.List, liveCheckpoint(one))
	}
	return v.set(clock(now), l.shown, out)
}

// errorsView is what made a job fail or restart, with the states that it went through.
type errorsView struct{ ofJob }

type liveErrorsJSON struct {
	T       string           `json:"t"`
	List    []liveErrorJSON  `json:"list"`    // newest first
	Changes []liveChangeJSON `json:"changes"` // oldest first
}

type liveErrorJSON struct {
	At   int64  `json:"at"`
	Text string `json:"text"`
}

type liveChangeJSON struct {
	At    int64  `json:"at"`
	State string `json:"state"` // as Beam names it
}

func (v *errorsView) update(now time.Time) error {
	l, err := v.look(now)
	if err != nil {
		return err
	}
	out := liveErrorsJSON{T: "errors", List: []liveErrorJSON{}}
	for _, f := range slices.Backward(l.job.Failures()) {
		out.List = append(out.List, liveErrorJSON{f.At.UnixMilli(), f.Text})
	}
	for _, c := range l.info.Changes {
		out.Changes = append(out.Changes, liveChangeJSON{c.At.UnixMilli(), c.State.String()})
	}
	return v.set(clock(now), l.shown, out)
}

// liveRoutes are the views by path.
func (h *Handler) liveRoutes() map[string]func(*http.Request) view {
	job := func(r *http.Request) ofJob { return ofJob{h: h, id: chi.URLParam(r, "job")} }
	return map[string]func(*http.Request) view{
		"/ui/live/jobs":                       func(*http.Request) view { return &jobsView{h: h} },
		"/ui/live/jobs/{job}":                 func(r *http.Request) view { return &jobView{ofJob: job(r)} },
		"/ui/live/jobs/{job}/checkpoints":     func(r *http.Request) view { return &checkpointsView{job(r)} },
		"/ui/live/jobs/{job}/errors":          func(r *http.Request) view { return &errorsView{job(r)} },
		"/ui/live/jobs/{job}/harnesses":       func(r *http.Request) view { return &harnessesView{ofJob: job(r)} },
		"/ui/live/jobs/{job}/stages/{vertex}": func(r *http.Request) view { return &stageView{ofJob: job(r), vertex: chi.URLParam(r, "vertex")} },
		"/ui/live/harnesses":                  func(*http.Request) view { return &harnessesView{ofJob: ofJob{h: h}} },
		"/ui/live/memory":                     func(*http.Request) view { return &memoryView{h: h} },
		"/ui/live/logs":                       func(*http.Request) view { return &logsView{h: h} },
	}
}

package web

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
)

// taskManagerID is the one TaskManager, which is this process.
const taskManagerID = "tinyrunner"

type vertexDetailsJSON struct {
	ID             string         `json:"id"`
	Name           string         `json:"name"`
	Parallelism    int            `json:"parallelism"`
	MaxParallelism int            `json:"maxParallelism"`
	Now            int64          `json:"now"`
	Subtasks       []subtaskJSON  `json:"subtasks"`
	Aggregated     aggregatedJSON `json:"aggregated"`
}

type subtaskJSON struct {
	Subtask        int              `json:"subtask"`
	Status         string           `json:"status"`
	Attempt        int              `json:"attempt"`
	Host           string           `json:"host"`
	Endpoint       string           `json:"endpoint"`
	StartTime      int64            `json:"start-time"`
	EndTime        int64            `json:"end-time"`
	Duration       int64            `json:"duration"`
	Metrics        ioJSON           `json:"metrics"`
	TaskManagerID  string           `json:"taskmanager-id"`
	StatusDuration map[string]int64 `json:"status-duration"`
	OldStartTime   int64            `json:"start_time"`
}

// aggregatedJSON are statistics over subtasks.
type aggregatedJSON struct {
	Metrics        map[string]spreadJSON `json:"metrics"`
	StatusDuration map[string]spreadJSON `json:"status-duration"`
}

// spreadJSON tells how values are spread.
type spreadJSON struct {
	Min    int64 `json:"min"`
	Max    int64 `json:"max"`
	Avg    int64 `json:"avg"`
	Sum    int64 `json:"sum"`
	Median int64 `json:"median"`
	P25    int64 `json:"p25"`
	P75    int64 `json:"p75"`
	P95    int64 `json:"p95"`
}

func spread(values []int64) spreadJSON {
	if len(values) == 0 {
		return spreadJSON{}
	}
	v := slices.Sorted(slices.Values(values))
	out := spreadJSON{Min: v[0], Max: v[len(v)-1]}
	for _, n := range v {
		out.Sum += n
	}
	out.Avg = out.Sum / int64(len(v))
	out.Median, out.P25, out.P75, out.P95 = rank(v, 0.5), rank(v, 0.25), rank(v, 0.75), rank(v, 0.95)
	return out
}

// rank is the nearest-rank percentile of sorted values.
func rank(sorted []int64, p float64) int64 {
	return sorted[max(0, int(math.Ceil(p*float64(len(sorted))))-1)]
}

// newSubtask shows a subtask, which lives as long as its stage.
func (h *Handler) newSubtask(i Info, s Stage, k int, now time.Time) subtaskJSON {
	start, end, duration := s.times(i, now)
	spent := make(map[string]int64)
	for _, m := range []string{"CREATED", "SCHEDULED", "DEPLOYING", "INITIALIZING", "RUNNING"} {
		spent[m] = 0
	}
	running := i.running(now).UnixMilli()
	if len(i.Changes) > 1 {
		spent["INITIALIZING"] = min(running-start, duration)
		spent["RUNNING"] = duration - spent["INITIALIZING"]
	} else {
		spent["INITIALIZING"] = duration
	}
	return subtaskJSON{
		Subtask: k, Status: taskState(i, s), Attempt: i.Restarts, Host: h.host(), Endpoint: h.endpoint(),
		StartTime: start, EndTime: end, Duration: duration, OldStartTime: start, TaskManagerID: taskManagerID, StatusDuration: spent,
		Metrics: newIO(s.subtask(k).Counters, time.Duration(duration)*time.Millisecond, 1),
	}
}

// subtask is empty if the stage has not begun to run.
func (s Stage) subtask(k int) Subtask {
	if k < len(s.Subtasks) {
		return s.Subtasks[k]
	}
	return Subtask{Backlog: -1}
}

func (h *Handler) newSubtasks(i Info, s Stage, now time.Time) ([]subtaskJSON, aggregatedJSON) {
	out := []subtaskJSON{}
	sums := make(map[string][]int64)
	spent := make(map[string][]int64)
	for k := range i.Slots {
		t := h.newSubtask(i, s, k, now)
		out = append(out, t)
		for name, v := range map[string]int64{
			"read-bytes": t.Metrics.ReadBytes, "write-bytes": t.Metrics.WriteBytes, "read-records": t.Metrics.ReadRecords,
			"write-records": t.Metrics.WriteRecords, "accumulated-backpressured-time": t.Metrics.BackPressured,
			"accumulated-idle-time": t.Metrics.Idle, "accumulated-busy-time": t.Metrics.Busy,
		} {
			sums[name] = append(sums[name], v)
		}
		for state, d := range t.StatusDuration {
			spent[state] = append(spent[state], d)
		}
	}
	agg := aggregatedJSON{Metrics: make(map[string]spreadJSON), StatusDuration: make(map[string]spreadJSON)}
	for name, v := range sums {
		agg.Metrics[name] = spread(v)
	}
	for name, v := range spent {
		agg.StatusDuration[name] = spread(v)
	}
	return out, agg
}

func (h *Handler) vertexDetails(r *http.Request) (any, error) {
	_, i, s, err := h.vertex(r)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	subtasks, agg := h.newSubtasks(i, s, now)
	return vertexDetailsJSON{
		ID: HexID(s.Name), Name: s.Name, Parallelism: i.Slots, MaxParallelism: i.MaxParallelism, Now: now.UnixMilli(),
		Subtasks: subtasks, Aggregated: agg,
	}, nil
}

type vertexTaskManagersJSON struct {
	ID           string                  `json:"id"`
	Name         string                  `json:"name"`
	Now          int64                   `json:"now"`
	TaskManagers []vertexTaskManagerJSON `json:"taskmanagers"`
}

type vertexTaskManagerJSON struct {
	Host          string         `json:"host"`
	Endpoint      string         `json:"endpoint"`
	Status        string         `json:"status"`
	StartTime     int64          `json:"start-time"`
	EndTime       int64          `json:"end-time"`
	Duration      int64          `json:"duration"`
	Metrics       ioJSON         `json:"metrics"`
	StatusCounts  map[string]int `json:"status-counts"`
	TaskManagerID string         `json:"taskmanager-id"`
	Aggregated    aggregatedJSON `json:"aggregated"`
}

func (h *Handler) vertexTaskManagers(r *http.Request) (any, error) {
	_, i, s, err := h.vertex(r)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	v := newVertex(i, s, now)
	_, agg := h.newSubtasks(i, s, now)
	return vertexTaskManagersJSON{ID: v.ID, Name: s.Name, Now: now.UnixMilli(), TaskManagers: []vertexTaskManagerJSON{{
		Host: h.endpoint(), Endpoint: h.endpoint(), Status: v.Status, StartTime: v.StartTime, EndTime: v.EndTime, Duration: v.Duration,
		Metrics: v.Metrics, StatusCounts: tasks(i, s, i.Slots), TaskManagerID: taskManagerID, Aggregated: agg,
	}}}, nil
}

// subtaskOf finds the subtask of a request's path.
func (h *Handler) subtaskOf(r *http.Request) (Job, Info, Stage, int, error) {
	j, i, s, err := h.vertex(r)
	if err != nil {
		return nil, Info{}, Stage{}, 0, err
	}
	k, err := strconv.Atoi(chi.URLParam(r, "subtask"))
	if err != nil || k < 0 {
		return nil, Info{}, Stage{}, 0, badRequest("%q is no index of a subtask", chi.URLParam(r, "subtask"))
	}
	if k >= i.Slots {
		return nil, Info{}, Stage{}, 0, missing("Subtask %d not found: vertex %s has %d", k, HexID(s.Name), i.Slots)
	}
	return j, i, s, k, nil
}

func (h *Handler) subtask(r *http.Request) (any, error) {
	_, i, s, k, err := h.subtaskOf(r)
	if err != nil {
		return nil, err
	}
	return h.newSubtask(i, s, k, time.Now()), nil
}

// attempt checks the attempt of a request's path: only the present one is remembered.
func attempt(r *http.Request, i Info) error {
	n, err := strconv.Atoi(chi.URLParam(r, "attempt"))
	if err != nil || n < 0 {
		return badRequest("%q is no number of an attempt", chi.URLParam(r, "attempt"))
	}
	if n != i.Restarts {
		return missing("Attempt %d not found: the present one is %d, and only that is remembered", n, i.Restarts)
	}
	return nil
}

func (h *Handler) subtaskAttempt(r *http.Request) (any, error) {
	_, i, s, k, err := h.subtaskOf(r)
	if err != nil {
		return nil, err
	}
	if err := attempt(r, i); err != nil {
		return nil, err
	}
	return h.newSubtask(i, s, k, time.Now()), nil
}

type subtaskTimesJSON struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Now      int64             `json:"now"`
	Subtasks []subtaskTimeJSON `json:"subtasks"`
}

type subtaskTimeJSON struct {
	Subtask    int              `json:"subtask"`
	Host       string           `json:"host"`
	Endpoint   string           `json:"endpoint"`
	Duration   int64            `json:"duration"`
	Timestamps map[string]int64 `json:"timestamps"`
}

func (h *Handler) subtaskTimes(r *http.Request) (any, error) {
	_, i, s, err := h.vertex(r)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	_, end, duration := s.times(i, now)
	out := subtaskTimesJSON{ID: HexID(s.Name), Name: s.Name, Now: now.UnixMilli(), Subtasks: []subtaskTimeJSON{}}
	for k := range i.Slots {
		at := make(map[string]int64)
		for _, state := range taskStates() {
			at[state] = 0
		}
		for _, state := range []string{"CREATED", "SCHEDULED", "DEPLOYING", "INITIALIZING"} {
			at[state] = i.start().UnixMilli()
		}
		if len(i.Changes) > 1 {
			at["RUNNING"] = i.running(now).UnixMilli()
		}
		if end >= 0 {
			at[taskState(i, s)] = end
		}
		out.Subtasks = append(out.Subtasks, subtaskTimeJSON{Subtask: k, Host: h.host(), Endpoint: h.endpoint(), Duration: duration, Timestamps: at})
	}
	return out, nil
}

type backPressureJSON struct {
	Status   string                    `json:"status"`
	Level    string                    `json:"backpressureLevel"`
	OldLevel string                    `json:"backpressure-level"`
	End      int64                     `json:"end-timestamp"`
	Subtasks []subtaskBackPressureJSON `json:"subtasks"`
}

type subtaskBackPressureJSON struct {
	Subtask  int    `json:"subtask"`
	Attempt  int    `json:"attempt-number"`
	Level    string `json:"backpressureLevel"`
	OldLevel string `json:"backpressure-level"`
	Ratio    ratio  `json:"ratio"`
	Idle     ratio  `json:"idleRatio"`
	Busy     ratio  `json:"busyRatio"`
}

// level names a back pressure as Flink does.
func level(share float64) string {
	switch {
	case share <= 0.1:
		return "ok"
	case share <= 0.5:
		return "low"
	default:
		return "high"
	}
}

func (h *Handler) backPressure(r *http.Request) (any, error) {
	j, i, s, err := h.vertex(r)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	rates := h.stageRates(j, i, s, now)
	out := backPressureJSON{Status: "ok", End: now.UnixMilli(), Subtasks: []subtaskBackPressureJSON{}}
	worst := 0.0
	for k, t := range rates.subtasks {
		l := level(t.BackPressured)
		worst = max(worst, t.BackPressured)
		out.Subtasks = append(out.Subtasks, subtaskBackPressureJSON{
			Subtask: k, Attempt: i.Restarts, Level: l, OldLevel: l, Ratio: share(t.BackPressured), Idle: share(t.Idle), Busy: share(t.Busy),
		})
	}
	out.Level = level(worst)
	out.OldLevel = out.Level
	return out, nil
}

// share rounds to a thousandth.
func share(f float64) ratio { return ratio(math.Round(f*1000) / 1000) }

// stageRates are the present rates of one stage of a job.
func (h *Handler) stageRates(j Job, i Info, s Stage, now time.Time) stageRates {
	return h.meter.rate(i, h.stages(j, i).all, s, now)
}

// subtaskMetrics are the metrics of each subtask of a request's vertex.
func (h *Handler) subtaskMetrics(r *http.Request) ([][]measure, error) {
	j, i, s, err := h.vertex(r)
	if err != nil {
		return nil, err
	}
	rates := h.stageRates(j, i, s, time.Now())
	var out [][]measure
	for k := range min(len(s.Subtasks), len(rates.subtasks)) {
		out = append(out, taskMetrics(s, s.Subtasks[k], rates.subtasks[k]))
	}
	return out, nil
}

func (h *Handler) vertexMetrics(r *http.Request) (any, error) {
	all, err := h.subtaskMetrics(r)
	if err != nil {
		return nil, err
	}
	var flat []measure
	for k, ms := range all {
		for _, m := range ms {
			flat = append(flat, measure{strconv.Itoa(k) + "." + m.id, m.value})
		}
	}
	return metrics(r, flat), nil
}

func (h *Handler) vertexSubtaskMetrics(r *http.Request) (any, error) {
	all, err := h.subtaskMetrics(r)
	if err != nil {
		return nil, err
	}
	only, err := indexes(r, "subtasks")
	if err != nil {
		return nil, err
	}
	if only != nil {
		var some [][]measure
		for k, ms := range all {
			if only[k] {
				some = append(some, ms)
			}
		}
		all = some
	}
	return aggregate(r, all)
}

// indexes reads ranges like 0,2-4; nil: all.
func indexes(r *http.Request, name string) (map[int]bool, error) {
	parts := list(r, name)
	if len(parts) == 0 {
		return nil, nil
	}
	out := make(map[int]bool)
	for _, p := range parts {
		m := indexRange.FindStringSubmatch(p)
		if m == nil {
			return nil, badRequest("%s: %q is no index or range of indexes, like 0 or 2-4", name, p)
		}
		from, _ := strconv.Atoi(m[1])
		to := from
		if m[2] != "" {
			to, _ = strconv.Atoi(m[2])
		}
		for k := from; k <= to; k++ {
			out[k] = true
		}
	}
	return out, nil
}

func (h *Handler) oneSubtaskMetrics(r *http.Request) (any, error) {
	_, _, _, k, err := h.subtaskOf(r)
	if err != nil {
		return nil, err
	}
	all, err := h.subtaskMetrics(r)
	if err != nil {
		return nil, err
	}
	if k >= len(all) {
		return []metricJSON{}, nil
	}
	return metrics(r, all[k]), nil
}

func (h *Handler) watermarks(r *http.Request) (any, error) {
	_, _, s, err := h.vertex(r)
	if err != nil {
		return nil, err
	}
	out := []metricJSON{}
	if len(s.Inputs) > 0 {
		for k := range s.Subtasks {
			out = append(out, metricJSON{ID: strconv.Itoa(k) + ".currentInputWatermark", Value: count(s.InputWatermark)})
		}
	}
	return out, nil
}

func (h *Handler) operatorMetrics(r *http.Request) (any, error) {
	if _, _, _, err := h.vertex(r); err != nil {
		return nil, err
	}
	return metrics(r, nil), nil
}

func (h *Handler) jobMetrics(r *http.Request) (any, error) {
	j, i, err := h.job(r)
	if err != nil {
		return nil, err
	}
	all := jobMetrics(i, j.Checkpoints(), time.Now())
	if asksLatency(r) {
		all = append(all, h.latencies(j, i)...)
	}
	return metrics(r, all), nil
}

// allJobMetrics aggregates over all jobs, or those that the parameter jobs names; not latencies, which mean something in one job
// only.
func (h *Handler) allJobMetrics(r *http.Request) (any, error) {
	only := list(r, "jobs")
	for _, id := range only {
		if !isHexID(id) {
			return nil, badRequest("jobs: %q is no job id: it has 32 hex digits", id)
		}
	}
	var all [][]measure
	for _, j := range h.Cluster.Jobs() {
		i := j.Info()
		if len(only) == 0 || slices.Contains(only, HexID(i.ID)) {
			all = append(all, jobMetrics(i, j.Checkpoints(), time.Now()))
		}
	}
	return aggregate(r, all)
}

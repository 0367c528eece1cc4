package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"strings"
)

// jobView is a job as job and top show it.
type jobView struct {
	jobAnswer
	Restarts    number            `json:"restarts"`
	Checkpoints checkpointsAnswer `json:"checkpoints"`
	Stages      []stageView       `json:"stages"`
}

// stageView are a stage's figures of the moment. Shares are milliseconds in a second.
type stageView struct {
	Name      string `json:"name"`
	State     string `json:"state"`
	RateIn    number `json:"records_in_per_second"`
	RateOut   number `json:"records_out_per_second"`
	Busy      number `json:"busy_ms_per_second"`
	Blocked   number `json:"back_pressured_ms_per_second"`
	Queued    number `json:"queued_records"`
	Pending   number `json:"pending_records"`
	Watermark number `json:"output_watermark_ms"`
}

// view asks for a job and its first stages; less than 0: all.
func (c *client) view(ctx context.Context, id string, stages int) (v jobView, err error) {
	path := "/jobs/" + id
	if err := c.get(ctx, path, &v.jobAnswer); err != nil {
		return v, err
	}
	if err := c.get(ctx, path+"/checkpoints", &v.Checkpoints); err != nil {
		return v, err
	}
	m, err := c.metrics(ctx, path+"/metrics", "numRestarts")
	if err != nil {
		return v, err
	}
	v.Restarts = m["numRestarts"]
	roots := v.roots()
	for k, x := range v.Vertices {
		if k == stages {
			break
		}
		s, err := c.stage(ctx, id, x, roots[x.ID])
		if err != nil {
			return v, err
		}
		v.Stages = append(v.Stages, s)
	}
	return v, nil
}

// stage asks for the figures of one stage; a root may know what waits outside, under a name of its own.
func (c *client) stage(ctx context.Context, job string, v vertexAnswer, root bool) (stageView, error) {
	const in, out, busy, blocked = "numRecordsInPerSecond", "numRecordsOutPerSecond", "busyTimeMsPerSecond", "backPressuredTimeMsPerSecond"
	const queued, watermark = "buffers.inputQueueLength", "currentOutputWatermark"
	nan := number(math.NaN())
	s := stageView{
		Name: v.Name, State: v.State, Pending: nan, Watermark: nan, Busy: nan, Blocked: nan,
		RateIn: nan, RateOut: nan, Queued: nan,
	}
	names := []string{in, out, busy, blocked, queued, watermark}
	pending := ""
	if root {
		known, err := c.aggregates(ctx, job, v.ID)
		if err != nil {
			return s, err
		}
		for name := range known {
			if strings.HasSuffix(name, ".pendingRecords") {
				pending = name
				names = append(names, name)
			}
		}
	}
	m, err := c.aggregates(ctx, job, v.ID, names...)
	if err != nil || len(m) == 0 { // it does not run yet
		return s, err
	}
	s.RateIn, s.RateOut, s.Queued = m[in].Sum, m[out].Sum, m[queued].Sum
	s.Busy, s.Blocked, s.Watermark = m[busy].Avg, m[blocked].Avg, m[watermark].Min
	if pending != "" {
		s.Pending = m[pending].Sum
	}
	return s, nil
}

// roots are the ids of the stages that read from no other.
func (v jobView) roots() map[string]bool {
	out := make(map[string]bool)
	for _, n := range v.Plan.Nodes {
		out[n.ID] = len(n.Inputs) == 0
	}
	return out
}

// slots are the same for all stages.
func (v jobView) slots() int {
	n := 0
	for _, x := range v.Vertices {
		n = max(n, x.Parallelism)
	}
	return n
}

// facts are what there is to say about the job as a whole.
func (v jobView) facts() [][]string {
	rows := [][]string{
		{"job", v.ID},
		{"name", cell(v.Name)},
		{"state", fmt.Sprintf("%s, %s, since %s (%s)", v.State, strings.ToLower(v.Type), instant(v.Started), span(v.Duration))},
		{"slots", fmt.Sprintf("%d of at most %d", v.slots(), v.MaxParallelism)},
		{"restarts", quantity(float64(v.Restarts))},
		{"checkpoints", fmt.Sprintf("%d complete, %d failed", v.Checkpoints.Counts.Completed, v.Checkpoints.Counts.Failed)},
	}
	latest := v.Checkpoints.Latest
	if c := latest.Completed; c != nil {
		rows = append(rows, []string{"", fmt.Sprintf("last: %d, %s ago, %s in %s", c.ID, span(max(0, v.Now-c.At)), byteCount(float64(c.Size)), span(c.Duration))})
	}
	if c := latest.Savepoint; c != nil {
		rows = append(rows, []string{"", "last savepoint: " + cell(c.Path)})
	}
	if c := latest.Failed; c != nil {
		rows = append(rows, []string{"", fmt.Sprintf("last failure: %s ago, %s", span(max(0, v.Now-c.FailedAt)), cell(cmp.Or(c.Failure, "not known why")))})
	}
	return rows
}

// stageRows are the stages with a heading.
func (v jobView) stageRows() [][]string {
	rows := [][]string{{"STAGE", "STATE", "IN/S", "OUT/S", "BUSY", "BLOCKED", "QUEUED", "PENDING", "LAG"}}
	for _, s := range v.Stages {
		rows = append(rows, []string{
			cell(s.Name), s.State, quantity(float64(s.RateIn)), quantity(float64(s.RateOut)), percent(float64(s.Busy)), percent(float64(s.Blocked)),
			quantity(float64(s.Queued)), quantity(float64(s.Pending)), lag(v.Now, float64(s.Watermark)),
		})
	}
	return rows
}

func (v jobView) table(w io.Writer) error {
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return table(w, v.stageRows())
}

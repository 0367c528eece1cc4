package web

import (
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

func (h *Handler) overview(*http.Request) (any, error) {
	o := overviewJSON{TaskManagers: 1, FlinkVersion: flinkVersion, FlinkCommit: h.Revision}
	o.SlotsTotal, o.SlotsAvailable = h.slots()
	for _, j := range h.Cluster.Jobs() {
		switch flinkState(j.Info().state()) {
		case "FINISHED":
			o.JobsFinished++
		case "CANCELED":
			o.JobsCancelled++
		case "FAILED":
			o.JobsFailed++
		case "SUSPENDED":
		default:
			o.JobsRunning++
		}
	}
	return o, nil
}

// slots counts the slots of the process, and those that no running job uses. Jobs share slots; one that was given more than
// the process has by itself makes it have more.
func (h *Handler) slots() (total, available int) {
	total = h.Cluster.Slots()
	used := 0
	for _, j := range h.Cluster.Jobs() {
		if i := j.Info(); !terminal(flinkState(i.state())) {
			used = max(used, i.Slots)
		}
	}
	total = max(total, used)
	return total, total - used
}

func (h *Handler) config(*http.Request) (any, error) {
	zone, offset := time.Now().Zone()
	return configJSON{
		RefreshInterval: refresh, TimezoneName: zone, TimezoneOffset: offset * 1000,
		FlinkVersion: flinkVersion, FlinkRevision: h.Revision,
		Features: map[string]bool{
			"web-submit": !h.ReadOnly && h.JarDir != "", "web-cancel": !h.ReadOnly, "web-rescale": !h.ReadOnly, "web-history": false,
		},
	}, nil
}

func (h *Handler) jobIDs(*http.Request) (any, error) {
	ids := []jobIDJSON{}
	for _, j := range h.Cluster.Jobs() {
		i := j.Info()
		ids = append(ids, jobIDJSON{ID: HexID(i.ID), Status: flinkState(i.state())})
	}
	return jobIDsJSON{ids}, nil
}

func (h *Handler) jobsOverview(*http.Request) (any, error) {
	now := time.Now()
	list := []jobSummaryJSON{}
	for _, j := range h.Cluster.Jobs() {
		i := j.Info()
		start, end, duration := times(i, now)
		tasks := counts(i, h.stages(j, i).all, strings.ToLower)
		total := 0
		for _, n := range tasks {
			total += n
		}
		tasks["total"] = total
		list = append(list, jobSummaryJSON{
			JID: HexID(i.ID), Name: i.Name, StartTime: start, EndTime: end, Duration: duration, State: flinkState(i.state()),
			LastModification: i.Changes[len(i.Changes)-1].At.UnixMilli(), Tasks: tasks,
		})
	}
	return jobSummariesJSON{list}, nil
}

// times returns start, end (-1: not yet) and duration of a job.
func times(i Info, now time.Time) (start, end, duration int64) {
	start = i.start().UnixMilli()
	if at, ended := i.end(); ended {
		end = at.UnixMilli()
		return start, end, end - start
	}
	return start, -1, now.UnixMilli() - start
}

// times returns start, end (-1: not yet) and duration of a stage, which begins with its job and ends with it, or has finished
// before. A job that was resumed has a start that may be later than the end of a stage: then that is the end, too.
func (s Stage) times(i Info, now time.Time) (start, end, duration int64) {
	start, end, duration = times(i, now)
	if s.finished() && s.Ended.UnixMilli() < start+duration {
		end = max(start, s.Ended.UnixMilli())
		duration = end - start
	}
	return start, end, duration
}

// counts counts tasks by state; name spells a state as the answer wants it.
func counts(i Info, stages []Stage, name func(string) string) map[string]int {
	m := make(map[string]int)
	for _, s := range taskStates() {
		m[name(s)] = 0
	}
	for _, s := range stages {
		m[name(taskState(i, s))] += i.Slots
	}
	return m
}

func (h *Handler) jobDetails(r *http.Request) (any, error) {
	j, i, err := h.job(r)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	stages := h.stages(j, i).all
	start, end, duration := times(i, now)
	out := jobJSON{
		JID: HexID(i.ID), Name: i.Name, State: flinkState(i.state()), JobType: jobType(i),
		StartTime: start, EndTime: end, Duration: duration, MaxParallelism: i.MaxParallelism, Now: now.UnixMilli(),
		Timestamps: timestamps(i), Vertices: []vertexJSON{}, StatusCounts: make(map[string]int), Plan: newPlan(i, stages),
	}
	for _, s := range taskStates() {
		out.StatusCounts[s] = 0
	}
	for _, s := range stages {
		out.StatusCounts[taskState(i, s)]++
		out.Vertices = append(out.Vertices, newVertex(i, s, now))
	}
	return out, nil
}

func jobType(i Info) string {
	if i.Streaming {
		return "STREAMING"
	}
	return "BATCH"
}

// timestamps are when the job first was in each of Flink's states; 0: never.
func timestamps(i Info) map[string]int64 {
	out := make(map[string]int64)
	for _, s := range jobStates() {
		out[s] = 0
	}
	for _, c := range i.Changes {
		if s := flinkState(c.State); out[s] == 0 {
			out[s] = c.At.UnixMilli()
		}
	}
	return out
}

func newVertex(i Info, s Stage, now time.Time) vertexJSON {
	start, end, duration := s.times(i, now)
	counters := s.counters()
	return vertexJSON{
		ID: HexID(s.Name), SlotSharingGroupID: HexID(i.ID), Name: s.Name, MaxParallelism: i.MaxParallelism,
		Parallelism: i.Slots, Status: taskState(i, s), StartTime: start, EndTime: end, Duration: duration, Tasks: tasks(i, s, i.Slots),
		Metrics: newIO(counters[len(counters)-1], time.Duration(duration)*time.Millisecond, i.Slots),
	}
}

// tasks says that n subtasks are in the state of the stage.
func tasks(i Info, s Stage, n int) map[string]int {
	out := make(map[string]int)
	for _, state := range taskStates() {
		out[state] = 0
	}
	out[taskState(i, s)] = n
	return out
}

// newPlan has names as HTML, as Flink's have them: its UI draws them as that.
func newPlan(i Info, stages []Stage) planJSON {
	p := planJSON{JID: HexID(i.ID), Name: i.Name, Type: jobType(i), Nodes: []nodeJSON{}}
	for _, s := range stages {
		n := nodeJSON{ID: HexID(s.Name), Parallelism: i.Slots, Operator: s.Kind, Description: html.EscapeString(s.Name), OptimizerProperties: map[string]any{}}
		for k, in := range s.Inputs {
			e := edgeJSON{Num: k, ID: HexID(in.Stage), ShipStrategy: "REBALANCE", Exchange: "pipelined_bounded"}
			if in.Keyed {
				e.ShipStrategy = "HASH"
			}
			n.Inputs = append(n.Inputs, e)
		}
		p.Nodes = append(p.Nodes, n)
	}
	return p
}

func (h *Handler) jobPlan(r *http.Request) (any, error) {
	j, i, err := h.job(r)
	if err != nil {
		return nil, err
	}
	return jobPlanJSON{newPlan(i, h.stages(j, i).all)}, nil
}

func (h *Handler) jobStatus(r *http.Request) (any, error) {
	_, i, err := h.job(r)
	if err != nil {
		return nil, err
	}
	return statusJSON{flinkState(i.state())}, nil
}

// jobConfig shows the pipeline options, but no secrets: values of options whose name sounds like one are left out.
func (h *Handler) jobConfig(r *http.Request) (any, error) {
	j, i, err := h.job(r)
	if err != nil {
		return nil, err
	}
	user := make(map[string]string)
	for name, v := range j.Options().GetFields() {
		name = strings.TrimSuffix(strings.TrimPrefix(name, "beam:option:"), ":v1")
		value := v.GetStringValue()
		if value == "" {
			value = fmt.Sprint(v.AsInterface())
		}
		if secret(name) {
			value = "******"
		}
		user[name] = value
	}
	mode := "PIPELINED"
	return jobConfigJSON{JID: HexID(i.ID), Name: i.Name, ExecutionConfig: executionConfigJSON{
		Mode: mode, RestartStrategy: "back to the last checkpoint when a sink has lost its writes, else fail",
		Parallelism: i.Slots, UserConfig: user,
	}}, nil
}

// secret reports whether a setting of that name had better not be shown.
func secret(name string) bool {
	name = strings.ToLower(name)
	for _, part := range []string{"password", "secret", "token", "credential", "apikey", "api_key", "access_key", "private"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// stageOfError finds the stage that an error of the engine names.
var stageOfError = regexp.MustCompile(`(?m)\bstage ([^\n]*?): `)

// exceptions shows what ended executions of the job, newest first.
func (h *Handler) exceptions(r *http.Request) (any, error) {
	j, _, err := h.job(r)
	if err != nil {
		return nil, err
	}
	limit, err := positive(r, "maxExceptions", 20)
	if err != nil {
		return nil, err
	}
	failures := h.failures(j)
	out := exceptionsJSON{All: []exceptionJSON{}, History: exceptionHistoryJSON{Entries: []exceptionEntryJSON{}}}
	out.Truncated = len(failures) > limit
	out.History.Truncated = out.Truncated
	for k := len(failures) - 1; k >= 0 && len(failures)-k <= limit; k-- {
		f := failures[k]
		at := f.At.UnixMilli()
		if out.RootException == nil && !isRescaling(f) {
			out.RootException, out.Timestamp = &f.Text, &at
		}
		e := exceptionEntryJSON{
			Name: exceptionName(f.Text), Stacktrace: f.Text, Timestamp: at, FailureLabels: map[string]string{},
			Concurrent: []exceptionEntryJSON{},
		}
		plain := exceptionJSON{Exception: f.Text, Timestamp: at}
		if m := stageOfError.FindStringSubmatch(f.Text); m != nil {
			id := taskManagerID
			e.Task, e.TaskManagerID = &m[1], &id
			plain.Task, plain.TaskManagerID = &m[1], &id
		}
		out.All = append(out.All, plain)
		out.History.Entries = append(out.History.Entries, e)
	}
	return out, nil
}

// exceptionName is the line that says what happened: the last one of a Python traceback that looks like it, else the first.
func exceptionName(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if strings.Contains(text, "Traceback (most recent call last)") {
		for k := len(lines) - 1; k > 0; k-- {
			if pythonError.MatchString(lines[k]) {
				return lines[k]
			}
		}
	}
	return lines[0]
}

var pythonError = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*(Error|Exception|Exit|Interrupt|Warning)?: `)

func (h *Handler) executionResult(r *http.Request) (any, error) {
	j, i, err := h.job(r)
	if err != nil {
		return nil, err
	}
	start, end, duration := times(i, time.Now())
	if end < start {
		return executionResultJSON{Status: queueStatusJSON{"IN_PROGRESS"}}, nil
	}
	result := &jobResultJSON{ID: HexID(i.ID), Accumulators: map[string]string{}, NetRuntime: duration}
	switch flinkState(i.state()) {
	case "FINISHED":
		result.ApplicationStatus = "SUCCEEDED"
	case "CANCELED":
		result.ApplicationStatus = "CANCELED"
	case "FAILED":
		result.ApplicationStatus = "FAILED"
		text := "the job failed"
		if f := j.Failures(); len(f) > 0 {
			text = f[len(f)-1].Text
		}
		result.FailureCause = newCause(text)
	default:
		result.ApplicationStatus = "UNKNOWN"
	}
	return executionResultJSON{Status: queueStatusJSON{"COMPLETED"}, Result: result}, nil
}

// positive reads a number from the query.
func positive(r *http.Request, name string, otherwise int) (int, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0, badRequest("%s %q is no number", name, v)
	}
	return n, nil
}

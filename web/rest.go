package web

import (
	"time"
)

// The JSON shapes of Flink's REST API. Times and durations are milliseconds; -1 is "not yet".

type overviewJSON struct {
	TaskManagers   int    `json:"taskmanagers"`
	SlotsTotal     int    `json:"slots-total"`
	SlotsAvailable int    `json:"slots-available"`
	JobsRunning    int    `json:"jobs-running"`
	JobsFinished   int    `json:"jobs-finished"`
	JobsCancelled  int    `json:"jobs-cancelled"`
	JobsFailed     int    `json:"jobs-failed"`
	FlinkVersion   string `json:"flink-version"`
	FlinkCommit    string `json:"flink-commit"`
}

type configJSON struct {
	RefreshInterval int             `json:"refresh-interval"`
	TimezoneName    string          `json:"timezone-name"`
	TimezoneOffset  int             `json:"timezone-offset"`
	FlinkVersion    string          `json:"flink-version"`
	FlinkRevision   string          `json:"flink-revision"`
	Features        map[string]bool `json:"features"`
}

type jobIDJSON struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}

type jobSummaryJSON struct {
	JID              string         `json:"jid"`
	Name             string         `json:"name"`
	StartTime        int64          `json:"start-time"`
	EndTime          int64          `json:"end-time"`
	Duration         int64          `json:"duration"`
	State            string         `json:"state"`
	LastModification int64          `json:"last-modification"`
	Tasks            map[string]int `json:"tasks"`
}

type jobJSON struct {
	JID            string           `json:"jid"`
	Name           string           `json:"name"`
	IsStoppable    bool             `json:"isStoppable"`
	State          string           `json:"state"`
	JobType        string           `json:"job-type"`
	StartTime      int64            `json:"start-time"`
	EndTime        int64            `json:"end-time"`
	Duration       int64            `json:"duration"`
	MaxParallelism int              `json:"maxParallelism"`
	Now            int64            `json:"now"`
	Timestamps     map[string]int64 `json:"timestamps"`
	Vertices       []vertexJSON     `json:"vertices"`
	StatusCounts   map[string]int   `json:"status-counts"`
	Plan           planJSON         `json:"plan"`
}

type vertexJSON struct {
	ID                 string         `json:"id"`
	SlotSharingGroupID string         `json:"slotSharingGroupId"`
	Name               string         `json:"name"`
	MaxParallelism     int            `json:"maxParallelism"`
	Parallelism        int            `json:"parallelism"`
	Status             string         `json:"status"`
	StartTime          int64          `json:"start-time"`
	EndTime            int64          `json:"end-time"`
	Duration           int64          `json:"duration"`
	Tasks              map[string]int `json:"tasks"`
	Metrics            ioJSON         `json:"metrics"`
}

// ioJSON are a vertex's sums. Idle is the time in which a slot ran no bundle of the stage; waiting for room in an output
// queue is part of it, and not yet told apart.
type ioJSON struct {
	ReadBytes            int64 `json:"read-bytes"`
	ReadBytesComplete    bool  `json:"read-bytes-complete"`
	WriteBytes           int64 `json:"write-bytes"`
	WriteBytesComplete   bool  `json:"write-bytes-complete"`
	ReadRecords          int64 `json:"read-records"`
	ReadRecordsComplete  bool  `json:"read-records-complete"`
	WriteRecords         int64 `json:"write-records"`
	WriteRecordsComplete bool  `json:"write-records-complete"`
	BackPressured        int64 `json:"accumulated-backpressured-time"`
	Idle                 int64 `json:"accumulated-idle-time"`
	Busy                 int64 `json:"accumulated-busy-time"`
}

type planJSON struct {
	JID   string     `json:"jid"`
	Name  string     `json:"name"`
	Type  string     `json:"type"`
	Nodes []nodeJSON `json:"nodes"`
}

type nodeJSON struct {
	ID                  string         `json:"id"`
	Parallelism         int            `json:"parallelism"`
	Operator            string         `json:"operator"`
	OperatorStrategy    string         `json:"operator_strategy"`
	Description         string         `json:"description"`
	Inputs              []edgeJSON     `json:"inputs,omitempty"`
	OptimizerProperties map[string]any `json:"optimizer_properties"`
}

type edgeJSON struct {
	Num          int    `json:"num"`
	ID           string `json:"id"`
	ShipStrategy string `json:"ship_strategy"`
	Exchange     string `json:"exchange"`
}

// jobStates are Flink's JobStatus values, all of which a job's timestamps name.
func jobStates() []string {
	return []string{"INITIALIZING", "CREATED", "RUNNING", "FAILING", "FAILED", "CANCELLING", "CANCELED", "FINISHED", "RESTARTING",
		"SUSPENDED", "RECONCILING"}
}

// taskStates are Flink's ExecutionState values.
func taskStates() []string {
	return []string{"CREATED", "SCHEDULED", "DEPLOYING", "INITIALIZING", "RUNNING", "FINISHED", "CANCELING", "CANCELED", "FAILED", "RECONCILING"}
}

// times returns start, end (-1: not yet) and duration of a job.
func times(j Job, now time.Time) (start, end, duration int64) {
	start = j.start().UnixMilli()
	if at, ended := j.end(); ended {
		end = at.UnixMilli()
		return start, end, end - start
	}
	return start, -1, now.UnixMilli() - start
}

// counts counts tasks by state; name spells a state as the answer wants it.
func counts(j Job, slots int, name func(string) string) map[string]int {
	m := make(map[string]int)
	for _, s := range taskStates() {
		m[name(s)] = 0
	}
	for _, s := range j.Stages {
		m[name(taskState(j, s))] += slots
	}
	return m
}

func jobDetails(j Job, slots int, now time.Time) jobJSON {
	start, end, duration := times(j, now)
	out := jobJSON{
		JID: hexID(j.ID), Name: j.Name, State: flinkState(j.state()), JobType: "BATCH",
		StartTime: start, EndTime: end, Duration: duration, MaxParallelism: j.MaxParallelism, Now: now.UnixMilli(),
		Timestamps: make(map[string]int64), Vertices: []vertexJSON{}, StatusCounts: make(map[string]int),
	}
	if j.Streaming {
		out.JobType = "STREAMING"
	}
	for _, s := range jobStates() {
		out.Timestamps[s] = 0
	}
	for _, c := range j.Changes {
		if s := flinkState(c.State); out.Timestamps[s] == 0 {
			out.Timestamps[s] = c.At.UnixMilli()
		}
	}
	for _, s := range taskStates() {
		out.StatusCounts[s] = 0
	}
	for _, s := range j.Stages {
		out.StatusCounts[taskState(j, s)]++
		out.Vertices = append(out.Vertices, vertex(j, s, slots, now))
	}
	out.Plan = jobPlan(j, slots, out.JobType)
	return out
}

func vertex(j Job, s Stage, slots int, now time.Time) vertexJSON {
	start, end, duration := times(j, now)
	tasks := make(map[string]int)
	for _, state := range taskStates() {
		tasks[state] = 0
	}
	tasks[taskState(j, s)] = slots
	busy := s.Busy.Milliseconds()
	return vertexJSON{
		ID: hexID(s.Name), SlotSharingGroupID: hexID(j.ID), Name: s.Name,
		MaxParallelism: j.MaxParallelism, Parallelism: slots, Status: taskState(j, s),
		StartTime: start, EndTime: end, Duration: duration, Tasks: tasks,
		Metrics: ioJSON{
			ReadBytes: s.BytesIn, ReadBytesComplete: true, WriteBytes: s.BytesOut, WriteBytesComplete: true,
			ReadRecords: s.ElementsIn, ReadRecordsComplete: true, WriteRecords: s.ElementsOut, WriteRecordsComplete: true,
			Idle: max(0, duration*int64(slots)-busy), Busy: busy,
		},
	}
}

func jobPlan(j Job, slots int, jobType string) planJSON {
	p := planJSON{JID: hexID(j.ID), Name: j.Name, Type: jobType, Nodes: []nodeJSON{}}
	for _, s := range j.Stages {
		n := nodeJSON{ID: hexID(s.Name), Parallelism: slots, Description: s.Name, OptimizerProperties: map[string]any{}}
		for i, in := range s.Inputs {
			e := edgeJSON{Num: i, ID: hexID(in.Stage), ShipStrategy: "REBALANCE", Exchange: "pipelined_bounded"}
			if in.Keyed {
				e.ShipStrategy = "HASH"
			}
			n.Inputs = append(n.Inputs, e)
		}
		p.Nodes = append(p.Nodes, n)
	}
	return p
}

package web

import (
	"bytes"
	"encoding/json"
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

type jobIDsJSON struct {
	Jobs []jobIDJSON `json:"jobs"`
}

type jobSummariesJSON struct {
	Jobs []jobSummaryJSON `json:"jobs"`
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

// ioJSON are the sums of a vertex or of a subtask.
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

// newIO makes sums of counters over a duration in so many slots: what is neither busy nor back pressured is idle.
func newIO(c Counters, d time.Duration, slots int) ioJSON {
	return ioJSON{
		ReadBytes: c.BytesIn, ReadBytesComplete: true, WriteBytes: c.BytesOut, WriteBytesComplete: true,
		ReadRecords: c.RecordsIn, ReadRecordsComplete: true, WriteRecords: c.RecordsOut, WriteRecordsComplete: true,
		BackPressured: c.BackPressured.Milliseconds(), Busy: c.Busy.Milliseconds(),
		Idle: max(0, (time.Duration(slots)*d - c.Busy - c.BackPressured).Milliseconds()),
	}
}

type planJSON struct {
	JID   string     `json:"jid"`
	Name  string     `json:"name"`
	Type  string     `json:"type"`
	Nodes []nodeJSON `json:"nodes"`
}

type jobPlanJSON struct {
	Plan planJSON `json:"plan"`
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

type statusJSON struct {
	Status string `json:"status"`
}

type jobConfigJSON struct {
	JID             string              `json:"jid"`
	Name            string              `json:"name"`
	ExecutionConfig executionConfigJSON `json:"execution-config"`
}

type executionConfigJSON struct {
	Mode            string            `json:"execution-mode"`
	RestartStrategy string            `json:"restart-strategy"`
	Parallelism     int               `json:"job-parallelism"`
	ObjectReuse     bool              `json:"object-reuse-mode"`
	UserConfig      map[string]string `json:"user-config"`
}

type exceptionsJSON struct {
	RootException *string              `json:"root-exception"`
	Timestamp     *int64               `json:"timestamp"`
	All           []exceptionJSON      `json:"all-exceptions"`
	Truncated     bool                 `json:"truncated"`
	History       exceptionHistoryJSON `json:"exceptionHistory"`
}

type exceptionJSON struct {
	Exception     string  `json:"exception"`
	Task          *string `json:"task"`
	Location      *string `json:"location"`
	Endpoint      *string `json:"endpoint"`
	Timestamp     int64   `json:"timestamp"`
	TaskManagerID *string `json:"taskManagerId"`
}

type exceptionHistoryJSON struct {
	Entries   []exceptionEntryJSON `json:"entries"`
	Truncated bool                 `json:"truncated"`
}

type exceptionEntryJSON struct {
	Name          string               `json:"exceptionName"`
	Stacktrace    string               `json:"stacktrace"`
	Timestamp     int64                `json:"timestamp"`
	FailureLabels map[string]string    `json:"failureLabels"`
	Task          *string              `json:"taskName"`
	Location      *string              `json:"location"`
	Endpoint      *string              `json:"endpoint"`
	TaskManagerID *string              `json:"taskManagerId"`
	Concurrent    []exceptionEntryJSON `json:"concurrentExceptions"`
}

type executionResultJSON struct {
	Status queueStatusJSON `json:"status"`
	Result *jobResultJSON  `json:"job-execution-result,omitempty"`
}

type queueStatusJSON struct {
	ID string `json:"id"`
}

type jobResultJSON struct {
	ID                string            `json:"id"`
	ApplicationStatus string            `json:"application-status"`
	Accumulators      map[string]string `json:"accumulator-results"`
	NetRuntime        int64             `json:"net-runtime"`
	FailureCause      *causeJSON        `json:"failure-cause,omitempty"`
}

// causeJSON is an exception as Flink's Java clients read it: they fail without serialized-throwable.
type causeJSON struct {
	Class      string `json:"class"`
	StackTrace string `json:"stack-trace"`
	Serialized string `json:"serialized-throwable"`
}

type accumulatorsJSON struct {
	Job        []accumulatorJSON `json:"job-accumulators"`
	User       []accumulatorJSON `json:"user-task-accumulators"`
	Serialized map[string]string `json:"serialized-user-task-accumulators"`
}

type accumulatorJSON struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Value string `json:"value"`
}

// ordered is a JSON object whose fields have an order that means something.
type ordered[T any] struct {
	names  []string
	values map[string]T
}

// MarshalJSON writes the fields in their order.
func (o ordered[T]) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for k, name := range o.names {
		if k > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(o.values[name])
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// jobStates are Flink's JobStatus values, all of which a job's timestamps name.
func jobStates() []string {
	return []string{
		"INITIALIZING", "CREATED", "RUNNING", "FAILING", "FAILED", "CANCELLING", "CANCELED", "FINISHED", "RESTARTING",
		"SUSPENDED", "RECONCILING",
	}
}

// taskStates are Flink's ExecutionState values.
func taskStates() []string {
	return []string{"CREATED", "SCHEDULED", "DEPLOYING", "INITIALIZING", "RUNNING", "FINISHED", "CANCELING", "CANCELED", "FAILED", "RECONCILING"}
}

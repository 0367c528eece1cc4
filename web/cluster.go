package web

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// Cluster is what there is to show and to steer. Its methods are called from any goroutine and return copies.
type Cluster interface {
	// Slots is the number of bundles of one stage that may run at once, unless the job says otherwise.
	Slots() int
	// Jobs returns all jobs that are running or remembered, oldest first.
	Jobs() []Job
	// Memory tells where the memory of the process is.
	Memory() Memory
	// Settings are the process's configuration, by name. Secrets are not among them.
	Settings() map[string]string
	// Ready is nil when jobs can be taken: those of an earlier process go on and the stores can be reached.
	Ready(ctx context.Context) error
	// Submit starts a job and returns its id. The files that its artifacts name may be removed when it returns. Errors are the
	// client's: pipelines that cannot run, savepoints that cannot be restored.
	Submit(ctx context.Context, s Submission) (id string, err error)
	// Shutdown ends the process as SIGTERM does: jobs with checkpoints are suspended. It does not wait.
	Shutdown()
	// DisposeSavepoint removes a savepoint.
	DisposeSavepoint(ctx context.Context, location string) error
	// Stored are the jobs in the store of the checkpoints, by identity; none if there is no store.
	Stored(ctx context.Context) ([]StoredJob, error)
	// Forget removes what the store holds of a job, but for savepoints. It fails with a ConflictError if the job runs or, unless
	// forced, may be running elsewhere. It may be repeated.
	Forget(ctx context.Context, identity string, force bool) (Forgotten, error)
}

// Submission is a pipeline to run.
type Submission struct {
	Name     string
	Pipeline *pipepb.Pipeline // its artifacts are files of this machine
	Options  *structpb.Struct // may be nil

	// Savepoint is where the savepoint lies that the job begins with; "": none. Then Pipeline may be nil: it is the savepoint's
	// own.
	Savepoint        string
	AllowNonRestored bool // drop what of it the pipeline has no place for
	// JobName is what the job is called whatever its options say; "": as they say. SavedName: as the savepoint's job, if JobName
	// is "".
	JobName   string
	SavedName bool
}

// Memory are the parts of the process's memory that Go's runtime does not tell apart, in bytes; -1: not known.
type Memory struct {
	Limit                  int64 // what the process aims to stay below
	PoolLimit, PoolUsed    int64 // elements between stages
	PoolSpilled            int64 // elements between stages in files
	CacheLimit, CacheInUse int64 // blocks of the state, read from files; the limit covers memtables, too
	MemTables              int64 // what the state holds of writes that are not in files yet
	StateOutsideGo         bool  // cache and memtables are no part of Go's heap: the program was built with cgo
	Resident               int64 // of the process, with all that follows
	ResidentFile           int64 // its pages of files: the program itself
}

// state is what blocks and memtables of the state take; unknown if that is not known.
func (m Memory) state() maybe {
	if m.CacheInUse < 0 {
		return maybe(unknown())
	}
	return maybe(m.CacheInUse + m.MemTables)
}

// Job is a job of the cluster. Its methods are called from any goroutine and return copies.
type Job interface {
	// ID is the job's own id.
	ID() string
	Info() Info
	// Stages are its stages in topological order: producers before consumers.
	Stages() []Stage
	// Transform returns the unique name of the transform with an id; the id if there is none.
	Transform(id string) string
	// Metrics returns the monitoring infos of all bundles, and of those that were committed.
	Metrics() (attempted, committed []*pipepb.MonitoringInfo)
	// Options are the pipeline options as they were submitted; may be nil.
	Options() *structpb.Struct
	Failures() []Failure
	Checkpoints() Checkpoints
	// Harnesses are the places for SDK harnesses; none if the job does not run, or its code is linked in.
	Harnesses() []Harness
	// StateSize tells the bytes of keys and values of the stage's state, estimated if it is large; false: not known yet, or the job
	// does not run.
	StateSize(stage string) (int64, bool)
	// Latencies are those to a stage, or to all stages if it is ""; none unless the job runs.
	Latencies(stage string) []Latency

	// Cancel ends the job at once. It does not wait.
	Cancel()
	// Checkpoint makes a checkpoint and waits until it is complete. With a location it is also copied there.
	Checkpoint(ctx context.Context, savepoint string) (id int64, err error)
	// Stop ends the job with a savepoint at the location and waits for the end. With drain, everything is processed before.
	Stop(ctx context.Context, savepoint string, drain bool) error
	// Rescale changes the number of slots and waits until it is done.
	Rescale(ctx context.Context, slots int) error
}

// Info is what is known of a job without a look at its stages.
type Info struct {
	ID, Name       string
	Streaming      bool
	MaxParallelism int
	Slots          int
	Restarts       int // how often it went back to a checkpoint
	// Changes are the states the job went through and when, oldest first; at least one.
	Changes []Change
}

// Change is the moment a job entered a state.
type Change struct {
	State jobpb.JobState_Enum
	At    time.Time
}

// Failure is an error that ended the job, or made it go back to its last checkpoint.
type Failure struct {
	At time.Time
	// Text is the error, with the traceback of the user's code if it comes from there.
	Text string
}

// Stage is a snapshot of one stage. Counters are of committed bundles since the job was started or went back.
type Stage struct {
	Name   string // unique in the job
	Kind   string
	Inputs []Input // the stages whose output this one reads
	// Transforms are the ids of its transforms in the pipeline.
	Transforms []string
	// Environment is the id of the environment whose harnesses run the stage; "": the runner does.
	Environment string
	// Ended is when the stage had finished: it has nothing to do and never will have. Zero: it has not.
	Ended                           time.Time
	InputWatermark, OutputWatermark int64 // ms since the epoch; MinWatermark, MaxWatermark
	Total                           Counters
	Bundles, FailedBundles          int64
	Splits, DroppedLate             int64
	// Subtasks, by slot. They may sum up to less than Total when the job was rescaled.
	Subtasks []Subtask
}

func (s Stage) finished() bool { return !s.Ended.IsZero() }

// Watermarks that stand for no time.
const (
	MinWatermark = -1 << 63 // nothing known yet
	MaxWatermark = 1<<63 - 1
)

// Counters count records and time.
type Counters struct {
	RecordsIn, RecordsOut int64
	BytesIn, BytesOut     int64
	Busy, BackPressured   time.Duration
}

// Subtask is one slot of a stage.
type Subtask struct {
	Counters
	QueuedRecords, QueuedBytes int64
	Running                    int   // bundles
	Backlog                    int64 // records that a source knows to be waiting outside; -1: not known
}

// Input is an edge between stages.
type Input struct {
	Stage string
	Keyed bool // elements go where their key belongs
}

// Checkpoints are a job's checkpoints.
type Checkpoints struct {
	Enabled                                        bool
	Location                                       string
	Interval                                       time.Duration
	Restored, Total, InProgress, Completed, Failed int64
	History                                        []Checkpoint // newest first
	LatestRestored                                 *Checkpoint
}

// newest returns the newest complete checkpoint; nil: there is none.
func (c Checkpoints) newest() *Checkpoint {
	if k := slices.IndexFunc(c.History, func(p Checkpoint) bool { return p.Status == "COMPLETED" }); k >= 0 {
		return &c.History[k]
	}
	return nil
}

// Checkpoint is a checkpoint or savepoint.
type Checkpoint struct {
	ID             int64
	Status         string // IN_PROGRESS, COMPLETED, FAILED
	Started, Ended time.Time
	Restored       time.Time // of the one that the job began from
	Pause          time.Duration
	Size, Uploaded int64 // bytes: of all files, of those that the store did not have
	InFlight       int   // elements between stages
	InFlightBytes  int64 // of these
	// Stages are the parts of the stages; none before it is complete, and of what an earlier process made.
	Stages    []StageCheckpoint
	Savepoint string
	Error     string
}

// StageCheckpoint is the part of a stage in a checkpoint.
type StageCheckpoint struct {
	Stage    string
	State    int64 // bytes of its state as of Job.StateSize, maybe of an earlier checkpoint; -1: not known
	InFlight int64 // bytes of elements on their way to the stage
}

// stage is the part of a stage; false: not known.
func (c Checkpoint) stage(name string) (StageCheckpoint, bool) {
	k := slices.IndexFunc(c.Stages, func(s StageCheckpoint) bool { return s.Stage == name })
	if k < 0 {
		return StageCheckpoint{}, false
	}
	return c.Stages[k], true
}

// Harness is a place for an SDK harness of a job.
type Harness struct {
	Environment string // its id in the pipeline
	From        string // where harnesses come from: "EXTERNAL at localhost:50000"
	Index       int    // of the place, within the environment
	Worker      string // id of the one that is connected; "": none is
	PID         int    // of the process that was started for it; 0: it is not a child of this process
	Resident    int64  // bytes of that process and its children; -1: not known
	// Since is when it connected, LastCall when it last gave a sign of life.
	Since, LastCall time.Time
	Running         int   // bundles
	Bundles         int64 // that it has answered
	Restarts        int   // how many connected ones were lost in this place
	Tries           int   // how often one was asked for since the last one was connected
	Error           string
}

// HexID makes an id of 32 hex digits of a name or of a job's own id, as Flink's clients want them: all of REST calls things by it.
func HexID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16])
}

func (i Info) state() jobpb.JobState_Enum { return i.Changes[len(i.Changes)-1].State }

func (i Info) start() time.Time { return i.Changes[0].At }

// end returns when the job ended, and whether it has.
func (i Info) end() (time.Time, bool) {
	last := i.Changes[len(i.Changes)-1]
	return last.At, terminal(flinkState(last.State))
}

// flinkState names a Beam job state as Flink's JobStatus does.
func flinkState(s jobpb.JobState_Enum) string {
	switch s {
	case jobpb.JobState_RUNNING, jobpb.JobState_DRAINING, jobpb.JobState_UPDATING:
		return "RUNNING"
	case jobpb.JobState_DONE, jobpb.JobState_DRAINED, jobpb.JobState_UPDATED:
		return "FINISHED"
	case jobpb.JobState_FAILED:
		return "FAILED"
	case jobpb.JobState_CANCELLING:
		return "CANCELLING"
	case jobpb.JobState_CANCELLED:
		return "CANCELED"
	case jobpb.JobState_STOPPED:
		return "SUSPENDED"
	default:
		return "INITIALIZING"
	}
}

func terminal(state string) bool {
	return state == "FINISHED" || state == "FAILED" || state == "CANCELED" || state == "SUSPENDED"
}

// taskState is the state of a stage, as Flink's ExecutionState names it.
func taskState(i Info, s Stage) string {
	switch state := flinkState(i.state()); {
	case state == "FINISHED", s.finished():
		return "FINISHED"
	case state == "FAILED", state == "SUSPENDED": // the job took its stages with it
		return "CANCELED"
	case state == "CANCELLING":
		return "CANCELING"
	default:
		return state
	}
}

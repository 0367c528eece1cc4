package web

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// Cluster is what there is to show. Its methods are called from any goroutine and return copies.
type Cluster interface {
	// Slots is the number of bundles of one stage that may run at once.
	Slots() int
	// Jobs returns all jobs that are running or remembered, oldest first.
	Jobs() []Job
	// Pool tells of the memory of elements between stages.
	Pool() Pool
}

// Pool is the state of the buffer pool, in bytes.
type Pool struct {
	Limit   int64 // what may be in memory
	Used    int64 // what is in memory
	Spilled int64 // what is in files
}

// Job is a snapshot of a job.
type Job struct {
	ID, Name       string
	Streaming      bool
	MaxParallelism int
	// Changes are the states the job went through and when, oldest first; at least one.
	Changes []Change
	Stages  []Stage
}

// Change is the moment a job entered a state.
type Change struct {
	State jobpb.JobState_Enum
	At    time.Time
}

// Stage is a snapshot of one stage. Counters are of committed bundles.
type Stage struct {
	Name string // unique in the job
	// Inputs are the stages whose output this one reads.
	Inputs []Input
	// Finished: the stage has nothing to do and never will have.
	Finished               bool
	ElementsIn, BytesIn    int64
	ElementsOut, BytesOut  int64
	Busy                   time.Duration // sum over bundles, which may run in parallel
	QueuedElements, Active int
}

// Input is an edge between stages.
type Input struct {
	Stage string
	Keyed bool // elements go where their key belongs
}

// hexID makes an id of 32 hex digits of a name, as Flink's clients want them.
func hexID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16])
}

func (j Job) state() jobpb.JobState_Enum { return j.Changes[len(j.Changes)-1].State }

func (j Job) start() time.Time { return j.Changes[0].At }

// end returns when the job ended, and whether it has.
func (j Job) end() (time.Time, bool) {
	last := j.Changes[len(j.Changes)-1]
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
	default:
		return "INITIALIZING"
	}
}

func terminal(state string) bool {
	return state == "FINISHED" || state == "FAILED" || state == "CANCELED"
}

// taskState is the state of a stage, as Flink's ExecutionState names it.
func taskState(j Job, s Stage) string {
	switch state := flinkState(j.state()); {
	case state == "FINISHED", s.Finished:
		return "FINISHED"
	case state == "FAILED": // the job took its stages with it
		return "CANCELED"
	case state == "CANCELLING":
		return "CANCELING"
	default:
		return state
	}
}

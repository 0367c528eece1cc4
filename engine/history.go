package engine

import (
	"slices"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint"
)

// CheckpointStatus is how far a checkpoint has come.
type CheckpointStatus string

// The statuses, named as in Flink's REST API.
const (
	CheckpointInProgress CheckpointStatus = "IN_PROGRESS"
	CheckpointCompleted  CheckpointStatus = "COMPLETED"
	CheckpointFailed     CheckpointStatus = "FAILED"
)

// CheckpointInfo tells of one checkpoint or savepoint, for people and monitoring.
type CheckpointInfo struct {
	ID      int64
	Trigger checkpoint.Trigger
	Status  CheckpointStatus
	Started time.Time
	Ended   time.Time // zero while in progress
	// Pause is how long commits waited for the cut.
	Pause time.Duration
	// Size is the bytes of all its files, Uploaded of those that the store did not have.
	Size, Uploaded int64
	// InFlight is the number of elements on their way between stages, InFlightBytes their size.
	InFlight      int
	InFlightBytes int64
	// Stages are the parts of a completed one, in topological order. They must not be changed.
	Stages []StageCheckpoint
	// Savepoint is where the savepoint lies that was made of it; "" if none was.
	Savepoint string
	Error     string // of a failed one; of one in progress: why it was tried again

	Restored    time.Time // set on the one that the job began from
	RestoreTook time.Duration
}

// StageCheckpoint is the part of a stage in a checkpoint.
type StageCheckpoint struct {
	Name string // of the stage
	// State is the bytes of the stage's state, as of Job.StateSize; -1: not known yet. It may be of an earlier checkpoint.
	State int64
	// InFlight is the bytes of elements on their way to the stage.
	InFlight int64
}

// CheckpointCounts count checkpoints since the process took over the job.
type CheckpointCounts struct {
	Restored, Total, InProgress, Completed, Failed int64
}

// CheckpointStats are a job's checkpoints.
type CheckpointStats struct {
	Enabled  bool
	Interval time.Duration
	Counts   CheckpointCounts
	// Newest first, at most maxHistory.
	History []CheckpointInfo
	// Latest that was restored; nil: none.
	LatestRestored *CheckpointInfo
}

// maxHistory is how many checkpoints are remembered.
const maxHistory = 100

// checkpoints is the history of a job's checkpoints.
type checkpoints struct {
	counts CheckpointCounts
	list   []CheckpointInfo // oldest first
	latest *CheckpointInfo  // restored
}

func (c *checkpoints) restored(i CheckpointInfo) {
	c.counts.Restored++
	c.latest = &i
}

func (c *checkpoints) begin(i CheckpointInfo) {
	c.counts.Total++
	c.counts.InProgress++
	if len(c.list) >= maxHistory {
		c.list = slices.Delete(c.list, 0, 1)
	}
	c.list = append(c.list, i)
}

// update changes the newest one.
func (c *checkpoints) update(f func(i *CheckpointInfo)) {
	if len(c.list) == 0 {
		return
	}
	i := &c.list[len(c.list)-1]
	f(i)
	if i.Status == CheckpointInProgress || !i.Ended.IsZero() {
		return
	}
	i.Ended = time.Now()
	c.counts.InProgress--
	if i.Status == CheckpointCompleted {
		c.counts.Completed++
	} else {
		c.counts.Failed++
	}
}

func (c *checkpoints) stats() CheckpointStats {
	s := CheckpointStats{Counts: c.counts, History: slices.Clone(c.list), LatestRestored: c.latest}
	slices.Reverse(s.History)
	return s
}

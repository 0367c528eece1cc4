package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint"
)

// QuietTime is how long the newest entry of a job in the store must have been there for the job not to be taken for running
// elsewhere, at least; if checkpoints are rare, twice the time between two.
const QuietTime = 10 * time.Minute

// RunningError refuses to forget a job that runs here.
type RunningError struct{ Identity string }

func (e *RunningError) Error() string {
	return fmt.Sprintf("job %s is running: stop or cancel it first", e.Identity)
}

// Stored lists the jobs in the checkpoint store, also those that have ended.
func (c *Cluster) Stored(ctx context.Context) ([]checkpoint.JobEntry, error) {
	if c.cfg.Checkpoints == nil {
		return nil, nil
	}
	return checkpoint.Jobs(ctx, c.cfg.Checkpoints.Bucket, c.cfg.Checkpoints.Prefix)
}

// Runs reports whether a job of that identity runs here.
func (c *Cluster) Runs(identity string) bool { return lives(c.Jobs(), identity) }

// lives reports whether one of the jobs has that identity and has not ended.
func lives(jobs []*Job, identity string) bool {
	return slices.ContainsFunc(jobs, func(j *Job) bool { return j.identity == identity && !j.Ended() })
}

// Forget removes what the store and the local disk hold of the job of that identity, so that nothing goes on with it and its
// name is free; savepoints stay. It fails with a RunningError, or, unless forced, a checkpoint.BusyError if another process
// may be running the job. It may be repeated.
func (c *Cluster) Forget(ctx context.Context, identity string, force bool) (checkpoint.Forgotten, error) {
	if c.cfg.Checkpoints == nil {
		return checkpoint.Forgotten{}, errors.New("forget job: this server makes no checkpoints")
	}
	c.taking.Lock() // a job that is being resumed has a claim already, and is not among the jobs yet
	defer c.taking.Unlock()
	if c.Runs(identity) {
		return checkpoint.Forgotten{}, &RunningError{Identity: identity}
	}
	cfg := c.cfg.Checkpoints
	quiet := max(QuietTime, 2*cfg.Interval)
	if force {
		quiet = 0
	}
	f, err := checkpoint.Forget(ctx, checkpoint.Config{
		Bucket: cfg.Bucket, Prefix: cfg.Prefix, Job: identity, Owner: checkpoint.NewOwner(time.Now()), Unfenced: cfg.Unfenced, Logger: c.log,
	}, quiet)
	if err != nil {
		return f, err
	}
	return f, c.clearDisk(identity)
}

// clearDisk removes what a job that does not run has on the local disk. One that begins meanwhile keeps it.
func (c *Cluster) clearDisk(identity string) error {
	c.mu.Lock() // no job begins
	defer c.mu.Unlock()
	if lives(c.order, identity) {
		return nil
	}
	if err := os.RemoveAll(jobDir(c.cfg.DataDir, identity)); err != nil {
		return fmt.Errorf("remove files of a forgotten job: %w", err)
	}
	return nil
}

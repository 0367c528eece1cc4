package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/engine/plan"
	"github.com/tinyrunner/tinyrunner/state"
)

// Resumable lists the jobs in the checkpoint store that have not ended.
func (c *Cluster) Resumable(ctx context.Context) ([]checkpoint.JobEntry, error) {
	if c.cfg.Checkpoints == nil {
		return nil, nil
	}
	all, err := checkpoint.Jobs(ctx, c.cfg.Checkpoints.Bucket, c.cfg.Checkpoints.Prefix)
	if err != nil {
		return nil, err
	}
	var jobs []checkpoint.JobEntry
	for _, e := range all {
		if !e.Ended {
			jobs = append(jobs, e)
		}
	}
	return jobs, nil
}

// ResumeError says that what the store holds of a job is no job that this program can run.
type ResumeError struct {
	Job string // name
	Err error
}

func (e *ResumeError) Error() string { return fmt.Sprintf("resume job %s: %v", e.Job, e.Err) }
func (e *ResumeError) Unwrap() error { return e.Err }

// Resume takes over a job that Resumable has named and goes on with it from its newest checkpoint. prepare completes what the
// store knows: how to open environments, and where artifacts now lie.
func (c *Cluster) Resume(ctx context.Context, e checkpoint.JobEntry, prepare func(*JobSpec) error) (*Job, error) {
	c.taking.Lock()
	defer c.taking.Unlock()
	if c.Runs(e.Job) { // to claim it would fence it
		return nil, fmt.Errorf("resume job %s: it is running here", e.Name)
	}
	log := c.log.With("job", e.JobID)
	store, err := claim(ctx, *c.cfg.Checkpoints, e.Job, checkpoint.Record{}, log)
	if err != nil {
		return nil, fmt.Errorf("resume job %s: %w", e.Name, err)
	}
	dir := filepath.Join(jobDir(c.cfg.DataDir, e.Job), "own")
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("resume job %s: %w", e.Name, err)
	}
	rec, err := store.FetchJob(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("resume job %s: %w", e.Name, err)
	}
	spec, err := specOf(rec)
	if err == nil {
		err = prepare(&spec)
	}
	var p *plan.Plan
	if err == nil {
		p, err = c.compile(spec.ID, spec.Pipeline)
	}
	if err != nil {
		return nil, &ResumeError{Job: e.Name, Err: err}
	}
	j := newJob(spec, p, c.log)
	j.identity, j.claimed = e.Job, store
	j.setSlots(c.cfg.Slots)
	return j, c.admit(j)
}

// specOf reads what a job's own files say.
func specOf(rec checkpoint.Record) (JobSpec, error) {
	spec := JobSpec{ID: rec.JobID, Name: rec.JobName, Files: rec.Files}
	for _, f := range rec.Files {
		if f.Role != checkpoint.RolePipeline && f.Role != checkpoint.RoleOptions {
			continue
		}
		data, err := os.ReadFile(f.Local)
		if err != nil {
			return spec, fmt.Errorf("read %s: %w", f.Role, err)
		}
		if f.Role == checkpoint.RolePipeline {
			spec.Pipeline = new(pipepb.Pipeline)
			err = proto.Unmarshal(data, spec.Pipeline)
		} else {
			spec.Options = new(structpb.Struct)
			err = protojson.Unmarshal(data, spec.Options)
		}
		if err != nil {
			return spec, fmt.Errorf("read %s: %w", f.Role, err)
		}
	}
	if spec.Pipeline == nil {
		return spec, errors.New("the store has no pipeline of it")
	}
	return spec, nil
}

// restore loads the snapshot beside the state, and refuses one that holds more than the pipeline has a place for.
func (x *execution) restore(dir string) error {
	missing, err := x.load(dir)
	if err != nil {
		return err
	}
	unused, err := x.db.UnusedCells()
	if err != nil {
		return fmt.Errorf("look for state that is not used: %w", err)
	}
	for _, name := range unused {
		missing = append(missing, fmt.Sprintf("state %q", strings.ReplaceAll(name, "\x00", "/")))
	}
	if len(missing) == 0 {
		return nil
	}
	if !x.job.spec.AllowNonRestored {
		return &NotRestoredError{What: missing}
	}
	for _, name := range unused {
		if err := x.dropCell(name); err != nil {
			return fmt.Errorf("drop state %q: %w", name, err)
		}
	}
	x.job.warn(fmt.Sprintf("dropped, because the pipeline has no place for it: %v", missing))
	return nil
}

// dropCell deletes all that a cell of the state holds, so that nobody asks for it again: its entries, and its timers.
func (x *execution) dropCell(name string) error {
	cell, err := x.db.Cell(name)
	if err != nil {
		return err
	}
	for g := range uint16(x.cfg.MaxParallelism) {
		tx := x.db.Begin()
		err := tx.DeletePrefix(g, cell, nil)
		for _, d := range []state.Domain{state.EventTime, state.ProcessingTime} {
			for t, terr := range x.db.DueTimers(cell, d, g, g+1, math.MaxInt64) {
				if err = errors.Join(err, terr); err == nil {
					err = tx.ClearTimer(t.ID())
				}
			}
		}
		if err != nil {
			tx.Discard()
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
	}
	return nil
}

// replays: the job has a TestStream. It stands for the world, and so has nothing that a checkpoint could go back to.
func (j *Job) replays() bool {
	for _, s := range j.plan.Stages {
		if s.Kind == plan.TestStream {
			return true
		}
	}
	return false
}

// keepsFiles reports whether what the job has in the store and on this disk outlives its end, because the job may be
// resumed: it was suspended, taken over, or it is a streaming job that failed.
func (j *Job) keepsFiles(err error) bool {
	if j.identity == "" {
		return false
	}
	var fenced *checkpoint.FencedError
	switch {
	case errors.As(err, &fenced), errors.Is(err, errClosed):
		return true
	case errors.Is(err, errStopped):
		return j.isSuspended()
	case err == nil, errors.Is(err, errCancelled):
		return false
	}
	return j.unbounded()
}

// unbounded: the job has a PCollection without end.
func (j *Job) unbounded() bool {
	for _, pc := range j.plan.Pipeline.GetComponents().GetPcollections() {
		if pc.GetIsBounded() == pipepb.IsBounded_UNBOUNDED {
			return true
		}
	}
	return false
}

func (j *Job) setSuspended() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.suspended = true
}

func (j *Job) isSuspended() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.suspended
}

func (j *Job) setDurable(d *durable) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.durable = d
}

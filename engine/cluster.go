package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/engine/plan"
	"github.com/tinyrunner/tinyrunner/state"
)

// maxEndedJobs is how many ended jobs a cluster remembers, so that a long-lived process does not grow with its history.
const maxEndedJobs = 100

// Cluster is a process's mini-cluster: jobs share its memory budget and otherwise know nothing of each other. Goroutine safe.
type Cluster struct {
	cfg Config
	log *slog.Logger

	ownCache bool // the cache was made here

	ctx        context.Context // ends when the cluster has closed; jobs run under it
	cancel     context.CancelFunc
	closing    context.Context // ends when the cluster begins to close
	beginClose context.CancelFunc
	runs       sync.WaitGroup // one for each job that has not released everything
	taking     sync.Mutex     // held while a job of the store is resumed or forgotten; before mu

	mu     sync.Mutex // guards the rest
	closed bool
	jobs   map[string]*Job
	order  []*Job // by submission
}

// New makes a cluster. Its data directory is created if need be.
func New(cfg Config) (*Cluster, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(cfg.DataDir, "jobs"), 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	own := cfg.Cache == nil
	if own {
		cfg.Cache = state.NewCache(64 << 20)
	}
	c := &Cluster{cfg: cfg, log: cfg.Logger, ownCache: own, jobs: make(map[string]*Job)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.closing, c.beginClose = context.WithCancel(context.Background())
	return c, nil
}

// Slots is the number of bundles of one stage that may run at once.
func (c *Cluster) Slots() int { return c.cfg.Slots }

// Check reports whether the pipeline could be run, without running it: an error names the transform and the reason.
func (c *Cluster) Check(p *pipepb.Pipeline) error {
	_, err := c.compile("check", p)
	return err
}

func (c *Cluster) compile(id string, p *pipepb.Pipeline) (*plan.Plan, error) {
	return plan.Compile(p, plan.Options{Job: id, Native: func(urn string) (plan.Kind, bool) {
		if _, ok := c.cfg.Sources[urn]; ok {
			return plan.Source, true
		}
		_, ok := c.cfg.Sinks[urn]
		return plan.Sink, ok
	}})
}

// Submit plans a job and starts it. The job goes on when ctx ends; errors concern the pipeline or the id.
func (c *Cluster) Submit(spec JobSpec) (*Job, error) {
	if spec.ID == "" || spec.Pipeline == nil || spec.Open == nil {
		return nil, errors.New("submit job: ID, Pipeline and Open are required")
	}
	p, err := c.compile(spec.ID, spec.Pipeline)
	if err != nil {
		return nil, fmt.Errorf("plan job %s: %w", spec.ID, err)
	}
	j := newJob(spec, p, c.log)
	j.setSlots(c.cfg.Slots)
	return j, c.admit(j)
}

// admit starts a job.
func (c *Cluster) admit(j *Job) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	spec := j.spec
	if c.closed {
		return errors.New("submit job: the cluster is shutting down")
	}
	if _, taken := c.jobs[spec.ID]; taken {
		return fmt.Errorf("submit job: there is a job %s already", spec.ID)
	}
	if j.identity == "" && c.cfg.Checkpoints != nil && !j.replays() {
		j.identity = c.identity(spec)
	}
	c.jobs[spec.ID] = j
	c.order = append(c.order, j)
	c.forgetOldest()
	ctx, cancel := context.WithCancelCause(c.ctx)
	j.cancelRun = cancel
	c.runs.Add(1)
	go func() {
		defer c.runs.Done()
		c.run(ctx, j)
		cancel(nil)
	}()
	return nil
}

// identity names the checkpoints of a job: after the job, because whoever submits it again means the same one. A second job
// of that name that runs at the same time is another. REQUIRES: c.mu.
func (c *Cluster) identity(spec JobSpec) string {
	id := checkpoint.Identity(spec.Name)
	if !lives(c.order, id) {
		return id
	}
	other := checkpoint.Identity(spec.Name + "~" + spec.ID)
	c.log.Warn("a job of this name is running; the checkpoints of the new one go elsewhere", "name", spec.Name, "checkpoints", other)
	return other
}

// run owns the job from start to end.
func (c *Cluster) run(ctx context.Context, j *Job) {
	var drained bool
	var err error
	dir := filepath.Join(c.cfg.DataDir, "jobs", j.ID())
	if j.identity != "" {
		dir = jobDir(c.cfg.DataDir, j.identity)
		drained, err = c.runDurable(ctx, j)
	} else {
		drained, err = c.execute(ctx, j, dir, nil)
	}
	if j.keepsFiles(err) {
		dir = filepath.Join(dir, "run")
	}
	if err := os.RemoveAll(dir); err != nil {
		j.log.Warn("remove job directory", "error", err)
	}
	j.finish(err, drained)
	if c.cfg.Ended != nil {
		c.cfg.Ended(j)
	}
	if !c.busy() {
		debug.FreeOSMemory() // a process that waits for its next job should be small
	}
}

// execute runs the job once, on the state in dir. d is nil for a job without checkpoints.
func (c *Cluster) execute(ctx context.Context, j *Job, dir string, d *durable) (drained bool, err error) {
	db, err := state.Open(dir, state.Options{Cache: c.cfg.Cache, FS: c.cfg.FS, Logger: j.log})
	if err != nil {
		return false, fmt.Errorf("open state of job %s: %w", j.ID(), err)
	}
	cfg := c.cfg
	cfg.Slots = j.Slots()
	x, err := newExecution(cfg, j, db)
	if err == nil && d != nil {
		x.durable, x.coord = d, newCoordinator(x, d)
		err = x.restore(d.runDir())
	}
	if err == nil {
		err = x.run(ctx)
	} else {
		x.close()
	}
	return x.wasDrained(), errors.Join(err, db.Close())
}

// runDurable runs a job that makes checkpoints, and removes them when nothing of it will be resumed.
func (c *Cluster) runDurable(ctx context.Context, j *Job) (drained bool, err error) {
	d, err := openDurable(ctx, c.cfg, j)
	if err != nil {
		return false, err
	}
	j.setDurable(d)
	drained, restored, err := c.runAgain(ctx, j, d)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, errStopped) {
		err = cause // whatever it was that the end has interrupted
	}
	switch {
	case errors.Is(err, errStopped) && j.isSuspended(), j.keepsFiles(err):
	case err == nil, errors.Is(err, errStopped):
		d.end(c.closing, "finished")
	case errors.Is(err, errCancelled):
		d.end(c.closing, "cancelled")
	case restored: // else the next process may be able to
		d.end(c.closing, "failed")
	}
	return drained, err
}

// runAgain runs the job from its newest checkpoint, again and again as long as it ends because a sink has lost what it wrote
// since the last one.
func (c *Cluster) runAgain(ctx context.Context, j *Job, d *durable) (drained, restored bool, err error) {
	for try := 0; ; try++ {
		began := time.Now()
		if err := d.restorePatiently(ctx); err != nil {
			return false, false, err
		}
		drained, err = c.execute(ctx, j, d.stateDir(), d)
		if !restarts(err) || ctx.Err() != nil {
			return drained, true, err
		}
		if time.Since(began) > time.Minute {
			try = 0
		}
		j.failed(err)
		j.warn(fmt.Sprintf("going back to the last complete checkpoint: %v", err))
		if !pause(ctx, backoff(try)) {
			return drained, true, err
		}
	}
}

// busy reports whether some job has not ended.
func (c *Cluster) busy() bool {
	return slices.ContainsFunc(c.Jobs(), func(j *Job) bool { return !j.Ended() })
}

// forgetOldest drops the oldest ended jobs beyond maxEndedJobs. REQUIRES: c.mu.
func (c *Cluster) forgetOldest() {
	ended := 0
	for _, j := range c.order {
		if j.Ended() {
			ended++
		}
	}
	c.order = slices.DeleteFunc(c.order, func(j *Job) bool {
		if ended <= maxEndedJobs || !j.Ended() {
			return false
		}
		ended--
		delete(c.jobs, j.ID())
		return true
	})
}

// Job finds a job by id.
func (c *Cluster) Job(id string) (*Job, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	j, ok := c.jobs[id]
	return j, ok
}

// Jobs returns the jobs, oldest first. Of the ended ones only the newest are remembered.
func (c *Cluster) Jobs() []*Job {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.order)
}

// Close cancels all jobs and waits until they have released everything. Those that make checkpoints stay in the store, to be
// resumed.
func (c *Cluster) Close() error {
	c.mu.Lock()
	c.closed = true
	c.beginClose()
	jobs := slices.Collect(maps.Values(c.jobs))
	c.mu.Unlock()
	for _, j := range jobs {
		j.cancel(errClosed)
	}
	c.runs.Wait()
	c.cancel()
	if c.ownCache {
		c.cfg.Cache.Close()
	}
	return nil
}

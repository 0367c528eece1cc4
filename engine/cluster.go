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

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

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

	ctx    context.Context // ends when the cluster closes; jobs run under it
	cancel context.CancelFunc
	runs   sync.WaitGroup // one for each job that has not released everything

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
	ctx, cancel := context.WithCancel(context.Background())
	return &Cluster{cfg: cfg, log: cfg.Logger, ownCache: own, ctx: ctx, cancel: cancel, jobs: make(map[string]*Job)}, nil
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

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("submit job: the cluster is shutting down")
	}
	if _, taken := c.jobs[spec.ID]; taken {
		return nil, fmt.Errorf("submit job: there is a job %s already", spec.ID)
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
	return j, nil
}

// run owns the job from start to end.
func (c *Cluster) run(ctx context.Context, j *Job) {
	dir := filepath.Join(c.cfg.DataDir, "jobs", j.ID())
	drained, err := func() (bool, error) {
		db, err := state.Open(dir, state.Options{Cache: c.cfg.Cache, Logger: j.log})
		if err != nil {
			return false, fmt.Errorf("open state of job %s: %w", j.ID(), err)
		}
		x, err := newExecution(c.cfg, j, db)
		if err == nil {
			err = x.run(ctx)
		}
		return x.wasDrained(), errors.Join(err, db.Close())
	}()
	if err := os.RemoveAll(dir); err != nil {
		j.log.Warn("remove job directory", "error", err)
	}
	j.finish(err, drained)
	if !c.busy() {
		debug.FreeOSMemory() // a process that waits for its next job should be small
	}
}

// busy reports whether some job has not ended.
func (c *Cluster) busy() bool {
	return slices.ContainsFunc(c.Jobs(), func(j *Job) bool { return !terminal(j.State()) })
}

// forgetOldest drops the oldest ended jobs beyond maxEndedJobs. REQUIRES: c.mu.
func (c *Cluster) forgetOldest() {
	ended := 0
	for _, j := range c.order {
		if terminal(j.State()) {
			ended++
		}
	}
	c.order = slices.DeleteFunc(c.order, func(j *Job) bool {
		if ended <= maxEndedJobs || !terminal(j.State()) {
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

// Close cancels all jobs and waits until they have released everything.
func (c *Cluster) Close() error {
	c.mu.Lock()
	c.closed = true
	jobs := slices.Collect(maps.Values(c.jobs))
	c.mu.Unlock()
	for _, j := range jobs {
		j.Cancel()
	}
	c.runs.Wait()
	c.cancel()
	if c.ownCache {
		c.cfg.Cache.Close()
	}
	return nil
}

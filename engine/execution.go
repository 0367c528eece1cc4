package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/tinyrunner/tinyrunner/engine/plan"
	"github.com/tinyrunner/tinyrunner/state"
)

// execution is one run of a job: its stages, the queues between them, and the scheduler.
//
// The goroutine that calls run is the scheduler: it starts one goroutine for each piece of work and waits for all of them
// before it returns. Everything that stages share is guarded by mu; work runs without it and takes it to commit.
type execution struct {
	cfg  Config
	job  *Job
	db   *state.DB
	log  *slog.Logger
	envs map[string]Workers
	now  func() time.Time // TestStream replaces the clock

	stages []*stage // topological order: producers before consumers
	colls  map[string]*collection

	sizes   *stageSizes
	durable *durable     // nil: the job lives and dies with the process
	coord   *coordinator // makes its checkpoints; set before the first work

	wake  chan struct{} // capacity 1: something changed, look again
	ended chan struct{} // closed when run returns
	works sync.WaitGroup
	// cut is held for reading by each commit: who holds it for writing sees no commit half done.
	cut sync.RWMutex

	mu         sync.Mutex // guards the rest, and the fields of stages that say so
	inflight   int        // work that counts against maxInflight
	nextID     int64
	finalizers []*work // bundles to be finalized after the next checkpoint
	failed     error
	draining   bool
	stopping   *stop
	saving     *stop // the savepoint that a drained job ends with
	rescaling  *rescale
	rescales   int           // so far
	test       *testStreamOp // the job's TestStream, if it has one
	cancel     context.CancelCauseFunc
}

// newExecution builds the runtime of the job's plan. The execution it returns is never nil.
func newExecution(cfg Config, j *Job, db *state.DB) (*execution, error) {
	x := &execution{
		cfg: cfg, job: j, db: db, log: j.log, now: time.Now, envs: make(map[string]Workers),
		colls: make(map[string]*collection), wake: make(chan struct{}, 1), ended: make(chan struct{}), draining: j.spec.Draining,
	}
	for id, pc := range j.plan.Collections {
		c, err := newCollection(pc)
		if err != nil {
			return x, fmt.Errorf("prepare PCollection %s: %w", pc.UniqueName, err)
		}
		x.colls[id] = c
	}
	for _, ps := range j.plan.Stages {
		if err := x.addStage(ps); err != nil {
			return x, fmt.Errorf("prepare stage %s: %w", ps.Name, err)
		}
	}
	x.sizes = newStageSizes(x)
	return x, nil
}

// run executes the job until everything is processed, an error, or the end of ctx.
func (x *execution) run(ctx context.Context) error {
	ctx, x.cancel = context.WithCancelCause(ctx)
	defer x.cancel(nil)
	defer close(x.ended)
	defer x.close()
	if err := x.open(ctx); err != nil {
		return err
	}
	defer x.coordinate(ctx)()
	x.job.start(x)
	splitter := time.NewTicker(splitInterval)
	defer splitter.Stop()
	for {
		x.applyRescale(ctx)
		x.mu.Lock()
		x.advance()
		x.dispatch(ctx)
		done, err := x.settled(ctx)
		stopping := x.quiet()
		next, ok := x.nextWake()
		x.mu.Unlock()
		if stopping != nil {
			done, err = x.halt(ctx, stopping)
		}
		if done {
			x.works.Wait()
			return errors.Join(err, x.lastCheckpoint(err))
		}
		if err := x.sleep(ctx, next, ok, splitter.C); err != nil {
			x.fail(err)
		}
	}
}

// settled reports whether the run is over: finished, or failed with no more work in flight. REQUIRES: x.mu.
func (x *execution) settled(ctx context.Context) (bool, error) {
	if x.active() > 0 {
		return false, nil
	}
	if x.failed != nil {
		return true, x.failed
	}
	if err := context.Cause(ctx); err != nil {
		return true, err
	}
	for _, s := range x.stages {
		if !s.finished() {
			return x.stalled()
		}
	}
	return true, nil
}

// stalled is asked when nothing runs and the job is not finished. If nothing can ever happen again it says so rather than
// wait for ever: that is a defect of the runner, and its report must say where. REQUIRES: x.mu.
func (x *execution) stalled() (bool, error) {
	if more, err := x.replay(); more || err != nil {
		return err != nil, err
	}
	if _, ok := x.nextWake(); ok || x.reading() || x.stopping != nil || x.rescaling != nil || x.awaitsCheckpoint() {
		return false, nil
	}
	var stuck []string
	for _, s := range x.stages {
		if !s.finished() {
			stuck = append(stuck, fmt.Sprintf("%s (input watermark %d, queued %d)", s.name, s.inputWM, s.queued()))
		}
	}
	return true, fmt.Errorf("the job stalled: nothing runs and nothing is due; waiting: %s", strings.Join(stuck, "; "))
}

// reading reports that a source may still bring something. REQUIRES: x.mu.
func (x *execution) reading() bool {
	for _, s := range x.stages {
		if _, ok := s.op.(*sourceOp); ok && !s.op.idle() {
			return true
		}
	}
	return false
}

// sleep waits for a reason to look again. The error is the context's cause.
func (x *execution) sleep(ctx context.Context, next time.Time, timed bool, split <-chan time.Time) error {
	var due <-chan time.Time
	if timed && x.test == nil {
		t := time.NewTimer(next.Sub(x.now()))
		defer t.Stop()
		due = t.C
	}
	done := ctx.Done()
	x.mu.Lock()
	if x.failed != nil {
		done = nil // cancelled already: only wait for the work to end
	}
	x.mu.Unlock()
	select {
	case <-x.wake:
	case <-due:
	case <-split:
		x.splitLongest(ctx)
	case <-done:
		return context.Cause(ctx)
	}
	return nil
}

// kick wakes the scheduler.
func (x *execution) kick() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// fail ends the run with the first error it is given.
func (x *execution) fail(err error) {
	x.mu.Lock()
	if x.failed == nil {
		x.failed = err
	}
	x.mu.Unlock()
	x.cancel(err)
	x.kick()
}

// dispatch starts all work that may start, the stages at the end of the pipeline first so that queues drain. REQUIRES: x.mu.
func (x *execution) dispatch(ctx context.Context) {
	if x.failed != nil || x.stopping != nil || x.rescaling != nil || ctx.Err() != nil {
		return
	}
	for i := len(x.stages) - 1; i >= 0; i-- {
		s := x.stages[i]
		full := false
		for slot := range s.busy {
			if s.busy[slot] || x.inflight >= x.maxInflight() && !s.op.waits() {
				continue
			}
			if full = !x.admitted(s); full {
				break
			}
			if w := s.op.next(slot); w != nil {
				x.start(ctx, w)
			}
		}
		s.throttle(full)
	}
}

// maxInflight bounds the bundles that run at once, all stages together: each holds memory outside the pool.
func (x *execution) maxInflight() int { return 2*x.cfg.Slots + 2 }

// admitted reports whether the queues behind a stage have room. A queue whose consumer waits for a side input takes
// everything (it spills): its producer may be the one that the side input comes from. REQUIRES: x.mu.
func (x *execution) admitted(s *stage) bool {
	full := x.cfg.Pool.Over(1)
	for _, c := range s.outs {
		for _, t := range c.consumers {
			if t.waiting || t.blockedBytes() > 0 {
				continue
			}
			if size := t.queuedBytes(); size >= t.highWater() || full && size > 0 {
				return false
			}
		}
	}
	return true
}

// nextWake is the next instant at which something becomes due by the clock. REQUIRES: x.mu.
func (x *execution) nextWake() (time.Time, bool) {
	var next time.Time
	for _, s := range x.stages {
		if t, ok := s.nextDue(); ok && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next, !next.IsZero()
}

// open starts what the stages need: workers of environments, sources, sinks.
func (x *execution) open(ctx context.Context) error {
	for _, s := range x.stages {
		if s.plan != nil && s.plan.Kind == plan.User {
			if err := x.openEnvironment(ctx, s.plan.Environment); err != nil {
				return err
			}
		}
		if err := s.op.open(ctx); err != nil {
			return fmt.Errorf("open stage %s: %w", s.name, err)
		}
	}
	return nil
}

func (x *execution) openEnvironment(ctx context.Context, id string) error {
	if _, ok := x.envs[id]; ok {
		return nil
	}
	env := x.job.plan.Pipeline.GetComponents().GetEnvironments()[id]
	w, err := x.job.spec.Open(ctx, id, env)
	if err != nil {
		return fmt.Errorf("open environment %s: %w", id, err)
	}
	x.envs[id] = w
	return nil
}

// close releases everything; all work has ended.
func (x *execution) close() {
	x.works.Wait()
	var errs []error
	for _, s := range x.stages {
		errs = append(errs, s.op.close())
	}
	x.clearQueues()
	for _, w := range x.envs {
		errs = append(errs, w.Close())
	}
	if err := errors.Join(errs...); err != nil {
		x.log.Warn("close job", "error", err)
	}
}

// clearQueues gives back what was on its way.
func (x *execution) clearQueues() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.stages {
		for i, q := range s.queues {
			q.Clear()
			s.blocked[i].Clear()
			s.unstable[i].Clear()
		}
		s.truncated.Clear()
		for _, d := range s.delayed {
			d.block.Release()
		}
		s.delayed = nil
	}
}

// drain stops sources and truncates restrictions from now on.
func (x *execution) drain() {
	x.mu.Lock()
	x.draining = true
	for _, s := range x.stages {
		s.dirty = true
		for i := range s.delayed {
			s.delayed[i].due = time.Time{} // nothing waits any more
		}
	}
	x.hastenWorks()
	x.mu.Unlock()
	x.kick()
}

func (x *execution) wasDrained() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.draining && !x.job.spec.Draining
}

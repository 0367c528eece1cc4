package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/engine/native"
	"github.com/tinyrunner/tinyrunner/state"
)

// coordinator makes the checkpoints of one execution, one after the other:
//
//	cut        between two commits: everything of one instant
//	prepare    sinks flush the transactions that the cut ended
//	save       files are uploaded, and the checkpoint is published: from here on it is complete
//	commit     sinks commit, finalizers run, stable input is released, sources tell how far they are
//	retire     old checkpoints are removed
//
// A cut is pursued until it is complete: what it has ended cannot be added to the next one. While the store is away the job
// goes on, and what it does belongs to the next checkpoint.
type coordinator struct {
	x *execution
	d *durable

	wake chan struct{} // capacity 1: a request

	mu       sync.Mutex // guards the rest
	requests []*checkpointRequest
	busy     bool
	closed   bool
}

// checkpointRequest is somebody's wish for a checkpoint.
type checkpointRequest struct {
	trigger  checkpoint.Trigger
	location string // of a savepoint; "": none
	done     chan struct{}
	// valid once done is closed:
	info CheckpointInfo
	err  error
}

func newCoordinator(x *execution, d *durable) *coordinator {
	return &coordinator{x: x, d: d, wake: make(chan struct{}, 1)}
}

var errEnded = errors.New("the job has ended")

// request asks for a checkpoint. Whoever asks may wait for done.
func (c *coordinator) request(trigger checkpoint.Trigger, location string) *checkpointRequest {
	r := &checkpointRequest{trigger: trigger, location: location, done: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		r.err = errEnded
		close(r.done)
		return r
	}
	c.requests = append(c.requests, r)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return r
}

// hurry asks for a checkpoint that nobody waits for, unless one is on its way.
func (c *coordinator) hurry() {
	c.mu.Lock()
	waiting := c.busy || len(c.requests) > 0
	c.mu.Unlock()
	if !waiting {
		c.request(checkpoint.Periodic, "")
	}
}

// run makes checkpoints until ctx ends.
func (c *coordinator) run(ctx context.Context) {
	defer c.close()
	tick := time.NewTicker(c.d.cfg.Interval)
	defer tick.Stop()
	var sweep sync.WaitGroup
	defer sweep.Wait()
	sweep.Go(func() { c.d.sweep(ctx) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.wake:
		}
		if err := c.serve(ctx, c.take()); err != nil {
			if ctx.Err() == nil {
				c.x.fail(err)
			}
			return // what was cut can neither be completed nor be added to another checkpoint
		}
		c.mu.Lock()
		c.busy = false
		c.mu.Unlock()
		c.x.kick()
	}
}

// serve makes a checkpoint for each request, up to the first error, which is also the answer to those that remain.
func (c *coordinator) serve(ctx context.Context, requests []*checkpointRequest) error {
	var fatal error
	for _, r := range requests {
		if fatal == nil {
			fatal = c.checkpoint(ctx, r)
		}
		r.err = errors.Join(r.err, fatal)
		close(r.done)
	}
	return fatal
}

// take takes the requests. The tick makes one of its own when nobody else wants anything.
func (c *coordinator) take() []*checkpointRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	rs := c.requests
	c.requests, c.busy = nil, true
	if len(rs) == 0 {
		rs = []*checkpointRequest{{trigger: checkpoint.Periodic, done: make(chan struct{})}}
	}
	return rs
}

func (c *coordinator) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, r := range c.requests {
		r.err = errEnded
		close(r.done)
	}
	c.requests = nil
}

// cutting is a checkpoint on its way.
type cutting struct {
	id        int64
	dir       string
	shared    []string // what is not in dir, but in the directory of all cuts; sorted
	snap      *snapshot
	sinks     []*sinkOp
	prepared  []native.Prepared
	finalize  []*work
	positions map[*sourceOp]map[int][]byte
	stable    map[*stage][]int // elements by queue that were there
	pause     time.Duration
	tokens    []checkpoint.Participant
	elements  int   // on their way
	bytes     int64 // of these
	slots     int
}

// checkpoint makes one. The error is fatal for the execution, unless ctx has ended.
func (c *coordinator) checkpoint(ctx context.Context, r *checkpointRequest) error {
	d := c.d
	id := d.nextID
	d.nextID++
	d.started(CheckpointInfo{ID: id, Trigger: r.trigger, Status: CheckpointInProgress, Started: time.Now()})
	cut, err := c.cut(ctx, id)
	if err != nil {
		d.update(func(i *CheckpointInfo) { i.Status, i.Error = CheckpointFailed, err.Error() })
		d.job.warn(fmt.Sprintf("checkpoint %d failed, the job goes on: %v", id, err))
		r.info = d.newest()
		if errors.Is(err, native.ErrRestart) || errors.Is(err, native.ErrFenced) {
			return err
		}
		r.err = err
		return nil
	}
	d.update(func(i *CheckpointInfo) { i.Pause, i.InFlight, i.InFlightBytes = cut.pause, cut.elements, cut.bytes })
	m, err := c.complete(ctx, cut, r.trigger)
	if errors.Is(context.Cause(ctx), errCancelled) && err != nil {
		cut.abort()
	}
	if err != nil {
		d.update(func(i *CheckpointInfo) { i.Status, i.Error = CheckpointFailed, err.Error() })
		return fmt.Errorf("checkpoint %d: %w", id, err)
	}
	sizes, err := c.x.sizes.all()
	if err != nil {
		d.log.Warn("a checkpoint does not tell the sizes of stages", "checkpoint", id, "error", err)
	}
	d.update(func(i *CheckpointInfo) {
		i.Status, i.Size, i.Uploaded, i.Stages = CheckpointCompleted, m.Bytes, m.Uploaded, cut.parts(sizes)
	})
	if err := c.finish(ctx, cut); err != nil {
		return fmt.Errorf("checkpoint %d: %w", id, err)
	}
	// Not before: readers wait for what the sinks commit, and need no savepoint for that.
	if r.location != "" {
		if err := d.savepoint(ctx, cut, m, r); err != nil {
			d.job.warn(fmt.Sprintf("savepoint %s failed: %v", r.location, err))
			r.info = d.newest()
			r.err = err
		}
	}
	d.tidy(ctx, cut)
	r.info = d.newest()
	return nil
}

// cut takes everything of one instant, and waits until the state of that instant is in files.
func (c *coordinator) cut(ctx context.Context, id int64) (*cutting, error) {
	cut := &cutting{id: id, dir: c.d.cutDir(id), positions: make(map[*sourceOp]map[int][]byte), stable: make(map[*stage][]int)}
	if err := os.RemoveAll(cut.dir); err != nil {
		return nil, fmt.Errorf("clear %s: %w", cut.dir, err)
	}
	pool := filepath.Join(c.d.sharedDir(), stateSubdir)
	for _, dir := range []string{cut.dir, pool} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make %s: %w", dir, err)
		}
	}
	if err := c.x.db.PrepareCut(); err != nil {
		return nil, err
	}
	point, err := c.instant(cut)
	if err != nil {
		return nil, err
	}
	cut.elements, cut.bytes = cut.snap.measure()
	names, err := point.Finish(ctx, filepath.Join(cut.dir, stateSubdir), pool)
	if err == nil {
		for _, n := range names {
			cut.shared = append(cut.shared, path.Join(stateSubdir, n))
		}
		return cut, nil
	}
	cut.snap.release()
	if len(cut.sinks) > 0 { // their transactions have ended: there is no way back but the last checkpoint
		return nil, fmt.Errorf("%w: %w", native.ErrRestart, err)
	}
	c.x.mu.Lock()
	c.x.finalizers = append(cut.finalize, c.x.finalizers...)
	c.x.mu.Unlock()
	return nil, err
}

// instant takes what is to be in the cut between two commits, which wait meanwhile: nothing here may wait for others.
func (c *coordinator) instant(cut *cutting) (_ *state.CutPoint, err error) {
	x := c.x
	began := time.Now()
	x.cut.Lock()
	defer x.cut.Unlock()
	point, err := x.db.BeginCut()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			point.Abandon()
		}
	}()
	x.mu.Lock()
	defer x.mu.Unlock()
	if cut.snap, err = x.snapshot(); err != nil {
		return nil, err
	}
	cut.slots = x.cfg.Slots
	for _, s := range x.stages {
		if err := cut.take(s); err != nil {
			cut.snap.release()
			return nil, err
		}
	}
	cut.finalize, x.finalizers = x.finalizers, nil
	cut.pause = time.Since(began)
	return point, nil
}

// take takes what a stage has outside of the snapshot. REQUIRES: execution.mu.
func (cut *cutting) take(s *stage) error {
	switch op := s.op.(type) {
	case *sinkOp:
		if op.exact == nil {
			break
		}
		p, err := op.exact.Cut(cut.id)
		if err != nil { // other sinks may have ended their transactions: there is no way back but the last checkpoint
			return fmt.Errorf("%w: cut sink %s: %w", native.ErrRestart, s.name, err)
		}
		cut.sinks, cut.prepared = append(cut.sinks, op), append(cut.prepared, p)
	case *sourceOp:
		cut.positions[op] = op.takePositions()
	}
	if s.plan != nil && s.plan.StableInput {
		cut.stable[s] = s.unstableCounts()
	}
	return nil
}

// abort ends the transactions of a checkpoint that nobody will ever go back to, so that readers need not wait for their
// time-out.
func (cut *cutting) abort() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for i, p := range cut.prepared {
		if err := p.Abort(ctx); err != nil {
			cut.sinks[i].s.x.log.Warn("abort the transaction of a cancelled job", "sink", cut.sinks[i].s.name, "error", err)
		}
	}
}

// complete brings a cut into the store, and tries until it is there.
func (c *coordinator) complete(ctx context.Context, cut *cutting, trigger checkpoint.Trigger) (*checkpoint.Manifest, error) {
	defer cut.snap.release()
	written := false
	for try := 0; ; try++ {
		m, err := func() (*checkpoint.Manifest, error) {
			if !written {
				if err := cut.snap.write(cut.dir); err != nil {
					return nil, err
				}
				cut.snap.release()
				written = true
			}
			if err := cut.prepare(ctx); err != nil {
				return nil, err
			}
			return c.save(ctx, cut, trigger)
		}()
		if err == nil || ctx.Err() != nil {
			return m, err
		}
		var fenced *checkpoint.FencedError
		if errors.As(err, &fenced) || errors.Is(err, native.ErrRestart) || errors.Is(err, native.ErrFenced) {
			return nil, err
		}
		c.d.update(func(i *CheckpointInfo) { i.Error = err.Error() })
		c.d.log.Warn("checkpoint is not complete, trying again", "checkpoint", cut.id, "try", try+1, "error", err)
		if !pause(ctx, backoff(try)) {
			return nil, ctx.Err()
		}
	}
}

// backoff grows from about 100 ms to about 5 s.
func backoff(try int) time.Duration {
	d := min(100*time.Millisecond<<min(try, 6), 5*time.Second)
	return d/2 + rand.N(d)
}

// pause waits; false: ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// prepare waits until all sinks have flushed what belongs to the cut.
func (cut *cutting) prepare(ctx context.Context) error {
	if len(cut.tokens) == len(cut.sinks) {
		return nil
	}
	tokens := make([]checkpoint.Participant, len(cut.sinks))
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range cut.prepared {
		g.Go(func() error {
			token, err := p.Prepare(ctx)
			if err != nil {
				return fmt.Errorf("prepare sink %s: %w", cut.sinks[i].s.name, err)
			}
			tokens[i] = checkpoint.Participant{Name: cut.sinks[i].s.name, Token: token}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	cut.tokens = tokens
	return nil
}

// manifestMeta is what the engine adds to a manifest, for people.
type manifestMeta struct {
	Elements int           `json:"elements"` // on their way
	Pause    time.Duration `json:"pause_ns"`
}

func (c *coordinator) save(ctx context.Context, cut *cutting, trigger checkpoint.Trigger) (*checkpoint.Manifest, error) {
	meta, err := json.Marshal(manifestMeta{Elements: cut.elements, Pause: cut.pause})
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	// An earlier try may have been published without an answer.
	if m, err := c.d.store.Settle(ctx); m != nil || err != nil {
		return m, err
	}
	m, _, err := c.d.store.Save(ctx, c.d.cutOf(cut, trigger, meta), nil)
	return m, err
}

// finish does what had to wait until the checkpoint was complete.
func (c *coordinator) finish(ctx context.Context, cut *cutting) error {
	for i, p := range cut.prepared {
		for try := 0; ; try++ {
			err := p.Commit(ctx)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, native.ErrFenced) || errors.Is(err, native.ErrLost) || errors.Is(err, native.ErrRestart) {
				return fmt.Errorf("commit sink %s: %w", cut.sinks[i].s.name, err)
			}
			c.d.log.Warn("commit of a complete checkpoint failed, trying again", "sink", cut.sinks[i].s.name, "error", err)
			if !pause(ctx, backoff(try)) {
				return ctx.Err()
			}
		}
	}
	for _, w := range cut.finalize {
		c.x.finalize(w)
	}
	for op, shards := range cut.positions {
		op.committed(shards)
	}
	c.x.mu.Lock()
	for s, counts := range cut.stable {
		s.stabilize(counts)
	}
	c.x.mu.Unlock()
	c.x.kick()
	return nil
}

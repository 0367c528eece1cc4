package engine

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/state"
)

// work is one bundle: a transaction from start to commit. The goroutine that runs it owns it; the fields said to be
// mu-guarded are shared under execution.mu.
type work struct {
	id    string
	stage *stage
	slot  int
	kind  workKind
	// truncated: the input's restrictions have been truncated; what comes back goes to the stage's truncated queue.
	truncated bool
	started   time.Time
	upTo      int64 // the input watermark at the start, or the processing time for processing time timers
	outputWM  int64 // the stage's output watermark at the start

	tx  *state.Tx // begun when first needed
	out *outputs
	// result of user code; nil for native work
	result *bundle.Result
	worker Worker
	bundle *bundle.Bundle
	// onCommit runs under execution.mu together with the rest of the commit.
	onCommit []func()
	dropped  int64
	extra    []*flow.Block // elements that come from the state: released, never queued again
	seq      int64         // number of the work in the execution

	// mu-guarded:
	blocks     []*flow.Block // input; after a split only the part the work keeps
	minInput   int64         // least timestamp of the input
	hold       int64         // the stage's output watermark stays below
	checkpoint bool          // asked to give back what it has not done
	running    bool          // in the worker: may be split
	splitting  bool
	splits     int
	// splitters are the split requests under way: the commit waits for them, since a split narrows the work.
	splitters sync.WaitGroup
}

type workKind int

const (
	elements   workKind = iota // process blocks
	truncation                 // process blocks with the stage's truncate program
	eventTimers
	processingTimers
	windows // fire windows of a GroupByKey
	rooted  // a root emits
)

// take makes the work that processes the next queued elements of a slot, or nil. REQUIRES: x.mu.
func (s *stage) take(slot int, q *flow.Queue, maxElements int) *work {
	if q.Len() == 0 {
		return nil
	}
	w := s.newWork(slot, elements)
	w.blocks = q.Take(maxElements, s.x.cfg.MaxBundleBytes)
	for _, b := range w.blocks {
		w.minInput = min(w.minInput, b.MinTimestamp())
	}
	return w
}

// newWork REQUIRES: x.mu.
func (s *stage) newWork(slot int, kind workKind) *work {
	s.x.nextID++
	w := &work{
		seq:   s.x.nextID,
		id:    s.x.job.spec.ID + "-" + strconv.FormatInt(s.x.nextID, 10),
		stage: s, slot: slot, kind: kind, minInput: coder.MaxTimestamp, hold: coder.MaxTimestamp,
	}
	w.out = newOutputs(s)
	return w
}

// start runs a work in a goroutine of its own. REQUIRES: x.mu.
func (x *execution) start(ctx context.Context, w *work) {
	s := w.stage
	s.busy[w.slot] = true
	s.active[w] = true
	w.started = time.Now()
	if !s.op.waits() {
		x.inflight++
	}
	x.works.Add(1)
	go func() {
		defer x.works.Done()
		err := s.op.run(ctx, w)
		if err == nil {
			err = x.commit(w)
		}
		if err != nil {
			x.abandon(ctx, w, err)
		}
		x.kick()
	}()
}

// begin returns the work's transaction.
func (w *work) begin() *state.Tx {
	if w.tx == nil {
		w.tx = w.stage.x.db.Begin()
	}
	return w.tx
}

// commit applies the whole effect of a work, or, on error, nothing.
func (x *execution) commit(w *work) error {
	emitted, err := w.out.finish()
	if err != nil {
		return fmt.Errorf("stage output of %s: %w", w.stage.name, err)
	}
	residuals, err := w.residuals()
	if err != nil {
		w.out.discard()
		return err
	}
	x.cut.RLock()
	defer x.cut.RUnlock()
	if w.tx != nil {
		if err := w.tx.Commit(); err != nil {
			for _, r := range residuals {
				r.block.Release()
			}
			return fmt.Errorf("commit state of %s: %w", w.stage.name, err)
		}
	}
	x.mu.Lock()
	for _, e := range emitted {
		e.deliver()
	}
	w.stage.giveBack(residuals)
	for _, f := range w.onCommit {
		f()
	}
	w.account(emitted)
	x.release(w)
	x.mu.Unlock()
	if w.result != nil {
		x.count(w, true)
		if w.result.RequiresFinalization {
			x.finalize(w)
		}
	}
	return nil
}

// count adds the bundle's metrics to the job's.
func (x *execution) count(w *work, committed bool) {
	if err := x.job.metrics.add(w.result.Metrics, committed); err != nil {
		x.log.Warn("metrics left out", "stage", w.stage.name, "error", err)
	}
}

// finalize tells the worker that the bundle's effect is safe. Best effort, as the model has it.
func (x *execution) finalize(w *work) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.worker.Finalize(ctx, w.bundle); err != nil {
		x.log.Warn("finalize bundle", "stage", w.stage.name, "error", err)
	}
}

// account updates the stage's statistics. REQUIRES: x.mu.
func (w *work) account(emitted []*emission) {
	st := &w.stage.stats
	st.Bundles++
	st.Busy += time.Since(w.started)
	st.Dropped += w.dropped
	for _, b := range w.blocks {
		st.ElementsIn += int64(b.Len())
		st.BytesIn += b.Size()
	}
	for _, e := range emitted {
		st.ElementsOut += e.elements
		st.BytesOut += e.bytes
		e.coll.written += e.elements
	}
}

// release ends the work's hold on its stage: input blocks are let go. REQUIRES: x.mu.
func (x *execution) release(w *work) {
	s := w.stage
	for _, b := range w.blocks {
		b.Release()
	}
	for _, b := range w.extra {
		b.Release()
	}
	w.blocks, w.extra = nil, nil
	delete(s.active, w)
	s.busy[w.slot] = false
	s.dirty = true
	if !s.op.waits() {
		x.inflight--
	}
}

// abandon drops everything a failed work did. Its input goes back to the front of the queue; a lost worker is no reason to
// fail the job, anything else is.
func (x *execution) abandon(ctx context.Context, w *work, err error) {
	w.out.discard()
	if w.tx != nil {
		w.tx.Discard()
	}
	lost := errors.Is(err, bundle.ErrWorkerLost)
	x.mu.Lock()
	s := w.stage
	blocks := w.blocks
	w.blocks = nil
	w.queue().PushFront(blocks...)
	if u, ok := s.op.(*userOp); ok {
		u.generation[w.slot]++
	}
	s.stats.Failures++
	x.release(w)
	x.mu.Unlock()
	if w.result != nil {
		x.count(w, false)
	}
	switch {
	case ctx.Err() != nil:
	case lost:
		x.log.Warn("bundle lost its worker and runs again", "stage", s.name, "bundle", w.id, "error", err)
	default:
		x.fail(fmt.Errorf("stage %s: %w", s.name, err))
	}
}

// residual is work given back by a splittable DoFn.
type residual struct {
	block     *flow.Block
	due       time.Time // zero: now
	truncated bool
}

// residuals turns the result's residual roots into blocks of the stage's input.
func (w *work) residuals() ([]residual, error) {
	if w.result == nil {
		return nil, nil
	}
	return w.stage.residualsOf(w.result.Residuals, w.truncated)
}

func (s *stage) residualsOf(roots []*fnpb.DelayedBundleApplication, truncated bool) ([]residual, error) {
	var rs []residual
	for _, root := range roots {
		app := root.GetApplication()
		if app.GetTransformId() != s.plan.Transforms[0] {
			return nil, fmt.Errorf("residual of transform %s in stage %s: only its first transform %s can have residuals", app.GetTransformId(), s.name, s.plan.Transforms[0])
		}
		wm := coder.MaxTimestamp
		if len(app.GetOutputWatermarks()) == 0 {
			wm = coder.MinTimestamp
		}
		for _, t := range app.GetOutputWatermarks() {
			wm = min(wm, max(t.AsTime().UnixMilli(), coder.MinTimestamp))
		}
		block, err := s.x.blockOf(app.GetElement(), wm)
		if err != nil {
			return nil, fmt.Errorf("queue residual of %s: %w", s.name, err)
		}
		r := residual{block: block, truncated: truncated}
		if d := root.GetRequestedTimeDelay().AsDuration(); d > 0 {
			r.due = s.x.now().Add(d)
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// blockOf makes a block of one element.
func (x *execution) blockOf(elem []byte, ts int64) (*flow.Block, error) {
	b := x.cfg.Pool.NewBuilder()
	if err := b.Append(elem, ts); err != nil {
		return nil, err
	}
	blocks, err := b.Finish()
	if err != nil {
		return nil, err
	}
	return blocks[0], nil
}

// giveBack queues residuals. REQUIRES: x.mu.
func (s *stage) giveBack(rs []residual) {
	for _, r := range rs {
		switch {
		case !r.due.IsZero() && !s.x.draining:
			heap.Push(&s.delayed, delayedBlock{due: r.due, block: r.block, truncated: r.truncated})
		case r.truncated:
			s.truncated.Push(r.block)
		default:
			s.queues[0].Push(r.block)
		}
	}
	s.dirty = s.dirty || len(rs) > 0
}

// queue is where the work's input came from. REQUIRES: execution.mu.
func (w *work) queue() *flow.Queue {
	if w.truncated {
		return &w.stage.truncated
	}
	return w.stage.queue(w.slot)
}

// splitInterval is how often long bundles are looked at.
const splitInterval = 100 * time.Millisecond

// splitLongest asks long-running bundles to give back work: unbounded ones after MaxBundleTime, so that they commit; bounded
// ones when slots of the stage have nothing to do.
func (x *execution) splitLongest(ctx context.Context) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.stages {
		if s.plan == nil || s.keyed {
			continue
		}
		idle := slices.Contains(s.busy, false) && s.queued() == 0
		for w := range s.active {
			if !w.running || w.splitting {
				continue
			}
			age := time.Since(w.started)
			fraction := 0.5
			switch {
			case s.plan.Splittable && w.checkpoint, s.op.waits() && age >= x.cfg.MaxBundleTime:
				fraction = 0
			case !idle || age < x.cfg.MaxBundleTime<<min(w.splits, 6):
				continue
			}
			w.splitting = true
			w.splitters.Add(1)
			go func() {
				defer w.splitters.Done()
				x.split(ctx, w, fraction)
				x.kick()
			}()
		}
	}
}

// split asks the worker and narrows the work to what it keeps. The rest is queued at once: should the work fail later, only
// the part it kept runs again.
func (x *execution) split(ctx context.Context, w *work, fraction float64) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	sp, err := w.worker.Split(ctx, w.bundle, fraction)
	if err != nil {
		x.log.Debug("split bundle", "stage", w.stage.name, "error", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	w.splitting = false
	w.splits++
	if sp == nil || err != nil {
		return
	}
	if err := w.narrow(sp); err != nil {
		x.failed = errors.Join(x.failed, err)
		x.cancel(err)
	}
}

// narrow applies a split to a work that has not been committed. REQUIRES: x.mu.
func (w *work) narrow(sp *bundle.Split) error {
	s := w.stage
	rs, err := s.residualsOf(sp.Residuals, w.truncated)
	if err != nil {
		return err
	}
	keep, rest, err := cutBlocks(w.blocks, sp)
	if err != nil {
		return fmt.Errorf("split bundle of %s: %w", s.name, err)
	}
	for _, p := range sp.Primaries {
		b, err := s.x.blockOf(p.GetElement(), w.minInput)
		if err != nil {
			return fmt.Errorf("split bundle of %s: %w", s.name, err)
		}
		keep = append(keep, b)
	}
	for _, b := range w.blocks {
		b.Release()
	}
	w.blocks = keep
	w.queue().PushFront(rest...)
	s.giveBack(rs)
	s.stats.Splits++
	return nil
}

// cutBlocks returns the elements that a split work keeps whole and those it gave back whole.
func cutBlocks(blocks []*flow.Block, sp *bundle.Split) (keep, rest []*flow.Block, err error) {
	if sp.FirstResidual < 0 {
		for _, b := range blocks {
			b.Retain()
		}
		return slices.Clone(blocks), nil, nil
	}
	at := 0
	for _, b := range blocks {
		n := b.Len()
		if keep, err = appendSlice(keep, b, 0, min(n, int(sp.LastPrimary)+1-at)); err != nil {
			return nil, nil, err
		}
		if rest, err = appendSlice(rest, b, max(0, int(sp.FirstResidual)-at), n); err != nil {
			return nil, nil, err
		}
		at += n
	}
	return keep, rest, nil
}

func appendSlice(to []*flow.Block, b *flow.Block, from, end int) ([]*flow.Block, error) {
	if from >= end {
		return to, nil
	}
	piece, err := b.Slice(from, end)
	if err != nil {
		return to, err
	}
	return append(to, piece), nil
}

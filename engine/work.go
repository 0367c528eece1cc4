package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

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
	throttled time.Duration // of the stage, at the start
	upTo      int64         // the input watermark at the start, or the processing time for processing time timers
	outputWM  int64         // the stage's output watermark at the start

	tx  *state.Tx // begun when first needed
	out *outputs
	// result of user code; nil for native work
	result *bundle.Result
	worker Worker
	bundle *bundle.Bundle
	// onCommit runs under execution.mu together with the rest of the commit, onAbandon when there is none.
	onCommit  []func()
	onAbandon []func()
	dropped   int64
	extra     []*flow.Block // elements that come from the state: released, never queued again
	seq       int64         // number of the work in the execution
	fired     int           // timers in the bundle

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
	w.blocks = q.Take(maxElements, s.bundleBytes())
	for _, b := range w.blocks {
		w.minInput = min(w.minInput, b.MinTimestamp())
	}
	w.out.continues(flow.Oldest(w.blocks))
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
	w.throttled = s.usage.throttledTime(w.started)
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
		w.holdEmitted(emitted)
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
	slot, marker := w.slot%x.cfg.Slots, w.measured()
	x.release(w)
	x.mu.Unlock()
	w.stage.latency.record(slot, marker)
	if w.result != nil {
		x.count(w, true)
		if w.result.RequiresFinalization {
			x.finalizeLater(w)
		}
	}
	return nil
}

// holdEmitted keeps the stage's output watermark from passing what is emitted, from before the state's holds go until it is
// delivered: an element that completes a pane releases the hold of the pane's first one.
func (w *work) holdEmitted(emitted []*emission) {
	if !w.stage.hasOwner {
		return
	}
	least := coder.MaxTimestamp
	for _, e := range emitted {
		least = min(least, e.minTimestamp())
	}
	x := w.stage.x
	x.mu.Lock()
	defer x.mu.Unlock()
	w.hold = min(w.hold, least)
}

// count adds the bundle's metrics to the job's.
func (x *execution) count(w *work, committed bool) {
	if err := x.job.metrics.add(w.result.Metrics, committed); err != nil {
		x.log.Warn("metrics left out", "stage", w.stage.name, "error", err)
	}
}

// finalizeLater finalizes the bundle when its effect is safe: with the next checkpoint, if there are any. REQUIRES: x.cut is
// held for reading.
func (x *execution) finalizeLater(w *work) {
	if x.coord == nil {
		x.finalize(w)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.finalizers = append(x.finalizers, w)
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
	w.stage.used(w, emitted, true)
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
	for _, f := range w.onAbandon {
		f()
	}
	if w.tx != nil {
		w.tx.Discard()
	}
	lost := errors.Is(err, bundle.ErrWorkerLost)
	x.mu.Lock()
	s := w.stage
	s.used(w, nil, false)
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

// queue is where the work's input came from. REQUIRES: execution.mu.
func (w *work) queue() *flow.Queue {
	if w.truncated {
		return &w.stage.truncated
	}
	return w.stage.queue(w.slot)
}

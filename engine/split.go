package engine

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
)

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
			case w.checkpoint, s.op.waits() && age >= x.cfg.MaxBundleTime:
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
	marker := flow.Oldest(w.blocks)
	rs, err := s.residualsOf(sp.Residuals, w.truncated, marker)
	if err != nil {
		return err
	}
	keep, rest, err := cutBlocks(w.blocks, sp)
	if err != nil {
		return fmt.Errorf("split bundle of %s: %w", s.name, err)
	}
	for _, p := range sp.Primaries {
		b, err := s.x.blockOf(p.GetElement(), w.minInput, marker)
		if err != nil {
			return fmt.Errorf("split bundle of %s: %w", s.name, err)
		}
		keep = append(keep, b)
	}
	for _, b := range w.blocks {
		b.Release()
	}
	w.blocks = keep
	w.checkpoint = false
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
	return w.stage.residualsOf(w.result.Residuals, w.truncated, flow.Oldest(w.blocks))
}

func (s *stage) residualsOf(roots []*fnpb.DelayedBundleApplication, truncated bool, marker flow.Marker) ([]residual, error) {
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
		block, err := s.x.blockOf(app.GetElement(), wm, marker)
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

// blockOf makes a block of one element, with a marker.
func (x *execution) blockOf(elem []byte, ts int64, m flow.Marker) (*flow.Block, error) {
	b := x.cfg.Pool.NewBuilder()
	b.Mark(m)
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

package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tinyrunner/tinyrunner/engine/flow"
)

// rescale is the wish to run with another number of slots.
type rescale struct {
	slots int
	begun bool // nobody can take it back any more; guarded by execution.mu
	done  chan struct{}
	err   error // valid once done is closed
}

// rescale changes the number of slots: the bundles under way end, key groups and what waits for them move, and the job goes
// on. Nothing goes back to a checkpoint.
func (x *execution) rescale(ctx context.Context, slots int) error {
	if slots < 1 || slots > x.cfg.MaxParallelism {
		return fmt.Errorf("%d slots: use 1 to %d, the number of key groups", slots, x.cfg.MaxParallelism)
	}
	r := &rescale{slots: slots, done: make(chan struct{})}
	x.mu.Lock()
	if x.rescaling != nil || x.stopping != nil {
		x.mu.Unlock()
		return errors.New("the job is being rescaled or stopped already")
	}
	x.rescaling = r
	x.hastenWorks()
	x.mu.Unlock()
	x.kick()
	select {
	case <-r.done:
		return r.err
	case <-x.ended:
		return errEnded
	case <-ctx.Done():
		x.mu.Lock()
		if x.rescaling == r && !r.begun {
			x.rescaling = nil
		}
		x.mu.Unlock()
		x.kick()
		return fmt.Errorf("bundles under way have not ended: %w", ctx.Err())
	}
}

// hastenWorks asks the bundles under way to give back what they have not done. REQUIRES: x.mu.
func (x *execution) hastenWorks() {
	for _, s := range x.stages {
		for w := range s.active {
			w.checkpoint = true
		}
	}
}

// applyRescale carries the wish out if no bundle is under way. It is called by the scheduler.
func (x *execution) applyRescale(ctx context.Context) {
	x.mu.Lock()
	r := x.rescaling
	if r == nil || x.failed != nil || x.active() > 0 {
		x.mu.Unlock()
		return
	}
	r.begun = true
	began := time.Now()
	old := x.cfg.Slots
	r.err = x.setSlots(r.slots)
	x.mu.Unlock()
	if r.err == nil {
		r.err = x.reopenSources(ctx)
	}
	x.mu.Lock()
	x.rescaling = nil
	x.mu.Unlock()
	if r.err != nil {
		x.fail(fmt.Errorf("rescale from %d to %d slots: %w", old, r.slots, r.err))
	} else {
		x.job.setSlots(r.slots)
		x.log.Info("rescaled", "from_slots", old, "to_slots", r.slots, "duration", time.Since(began).Round(time.Microsecond))
	}
	close(r.done)
	x.kick()
}

// active counts the works under way. REQUIRES: x.mu.
func (x *execution) active() int {
	n := 0
	for _, s := range x.stages {
		n += len(s.active)
	}
	return n
}

// scaler is an operator with something by slot.
type scaler interface {
	// scale makes it fit the execution's new number of slots. REQUIRES: execution.mu, no work of it is under way.
	scale()
}

// setSlots moves everything that lies by slot. REQUIRES: x.mu, no work is under way.
func (x *execution) setSlots(slots int) error {
	x.cfg.Slots = slots
	x.rescales++
	for _, s := range x.stages {
		n := slots
		if s.unbounded() {
			n = max(n, unboundedBundles)
		}
		s.busy = make([]bool, n)
		if op, ok := s.op.(scaler); ok {
			op.scale()
		}
		if s.keyed {
			if err := s.spread(); err != nil {
				return fmt.Errorf("move elements of stage %s: %w", s.name, err)
			}
		}
		s.dirty = true
	}
	return nil
}

// spread makes a queue for each slot and moves the elements to where their keys now belong, their order kept. What waited
// for side inputs looks again. REQUIRES: x.mu.
func (s *stage) spread() error {
	old := s.queues
	blocked, unstable := s.blocked, s.unstable
	s.queues, s.blocked, s.unstable = newQueues(s.x.cfg.Slots), newQueues(s.x.cfg.Slots), newQueues(s.x.cfg.Slots)
	for i := range old {
		for _, q := range []*flow.Queue{blocked[i], old[i]} {
			if err := s.move(q, s.queues); err != nil {
				return err
			}
		}
		if err := s.move(unstable[i], s.unstable); err != nil {
			return err
		}
	}
	return nil
}

func newQueues(n int) []*flow.Queue {
	qs := make([]*flow.Queue, n)
	for i := range qs {
		qs[i] = &flow.Queue{}
	}
	return qs
}

// move empties a queue into the queues of the slots that its elements belong to. REQUIRES: x.mu.
func (s *stage) move(from *flow.Queue, to []*flow.Queue) error {
	defer from.Clear()
	for b := range from.All() {
		data, err := b.Data()
		if err != nil {
			return err
		}
		blocks, err := s.bySlot(data, b.MinTimestamp(), b.Marker())
		if err != nil {
			return err
		}
		for slot, bs := range blocks {
			to[slot].Push(bs...)
		}
	}
	return nil
}

func (o *userOp) scale() { o.generation = make([]int, len(o.s.busy)) }

func (o *groupOp) scale() {
	if o.simple != nil {
		o.simple.scale()
	}
}

// scale lets every slot look for windows of all ends, from the beginning: what was fired is gone from the state.
func (g *simpleGroup) scale() {
	all := g.allEnds()
	*g = *newSimpleGroup(g.o)
	for i := range g.ends {
		g.ends[i] = append([]int64(nil), all...)
	}
}

func (o *sourceOp) scale() {
	wm := o.least()
	n := o.s.x.cfg.Slots
	o.wm, o.done, o.backlog = make([]int64, n), make([]bool, n), make([]int64, n)
	for i := range o.wm {
		o.wm[i] = wm
	}
	o.moved = make(map[int][]byte)
}

// reopenSources opens sources anew from their positions: what they read is spread over the new slots.
func (x *execution) reopenSources(ctx context.Context) error {
	for _, s := range x.stages {
		o, ok := s.op.(*sourceOp)
		if !ok {
			continue
		}
		if err := o.close(); err != nil {
			return fmt.Errorf("close source %s: %w", s.name, err)
		}
		if err := o.open(ctx); err != nil {
			return fmt.Errorf("open source %s: %w", s.name, err)
		}
	}
	return nil
}

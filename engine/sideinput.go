package engine

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/plan"
	"github.com/tinyrunner/tinyrunner/engine/userstate"
	"github.com/tinyrunner/tinyrunner/engine/window"
)

const multimapPattern = "beam:side_input:multimap:v1"

// sideInput is a PCollection that the bundles of a stage may look into. A stage of its own writes it into the state; elements
// whose windows need more of it than is there yet wait.
type sideInput struct {
	spec plan.SideInput
	op   *sideOp
}

// sideInput finds or makes the writer of a side input of s.
func (x *execution) sideInput(s *stage, spec plan.SideInput) (*sideInput, error) {
	c := x.colls[spec.Collection]
	if c == nil {
		return nil, fmt.Errorf("PCollection %s is not in the plan", spec.Collection)
	}
	for _, t := range c.consumers {
		if op, ok := t.op.(*sideOp); ok && op.pattern == spec.AccessPattern {
			op.readers = append(op.readers, s)
			return &sideInput{spec: spec, op: op}, nil
		}
	}
	w := &stage{x: x, name: c.UniqueName + "/side input " + spec.AccessPattern}
	cell, err := x.db.Cell("side\x00" + c.UniqueName + "\x00" + spec.AccessPattern)
	if err != nil {
		return nil, err
	}
	store := &userstate.SideInput{Cell: cell}
	if spec.AccessPattern == multimapPattern {
		store.KV = c.Coder.Elem()
	}
	op := &sideOp{s: w, pattern: spec.AccessPattern, store: store, readers: []*stage{s}}
	if op.mapping, err = window.NewSideMapping(c.Windowing); err != nil {
		return nil, err
	}
	op.triggered = c.Windowing.GetTrigger() != nil && c.Windowing.GetTrigger().GetDefault() == nil
	w.op = op
	x.link(w, spec.Collection)
	return &sideInput{spec: spec, op: op}, nil
}

// sideOp writes a PCollection into the state, by window.
type sideOp struct {
	base
	s       *stage
	pattern string
	store   *userstate.SideInput
	mapping window.SideMapping
	readers []*stage
	// triggered: in the global window it may be read as soon as a pane is there, since it may never be complete.
	triggered bool
	// guarded by execution.mu:
	version int64 // counts writes: a reader's cache token
	moves   int64 // counts rises of the watermark
}

// save keeps whether anything was written, which a reader of a triggered side input waits for.
func (o *sideOp) save() (any, error)              { return o.version, nil }
func (o *sideOp) load(data json.RawMessage) error { return json.Unmarshal(data, &o.version) }

func (o *sideOp) next(slot int) *work {
	if slot != 0 {
		return nil // one writer: values keep their order
	}
	return o.s.take(slot, o.s.queue(slot), o.s.x.cfg.MaxBundleElements)
}

func (o *sideOp) run(_ context.Context, w *work) error {
	tx := w.begin()
	in := o.s.in.Coder
	err := eachElement(w.blocks, func(elem []byte) error {
		h, err := in.ParseHeader(elem)
		if err != nil {
			return err
		}
		for win := range in.EachWindow(h) {
			if err := o.store.Append(tx, win, elem[h.ValueOffset:]); err != nil {
				return err
			}
		}
		return nil
	})
	w.onCommit = append(w.onCommit, func() {
		o.version++
		o.release()
	})
	return err
}

// release lets the readers look again at the elements that waited. REQUIRES: execution.mu.
func (o *sideOp) release() {
	for _, s := range o.readers {
		s.unblock()
	}
}

// unblock queues again what waited for side inputs. REQUIRES: execution.mu.
func (s *stage) unblock() {
	for slot, q := range s.blocked {
		for q.Len() > 0 {
			s.queues[slot].PushFront(q.Take(q.Len(), q.Size()+1)...)
		}
	}
}

// complete: nothing will ever be added. REQUIRES: execution.mu.
func (o *sideOp) complete() bool {
	return o.s.inputWM >= coder.MaxTimestamp && o.s.queued() == 0 && len(o.s.active) == 0
}

// ready reports whether an element may be processed whose main window ends at mainEnd. REQUIRES: execution.mu.
func (in *sideInput) ready(mainEnd int64) bool {
	if in.op.complete() {
		return true
	}
	_, end, known := in.op.mapping.Map(mainEnd)
	if known && end == coder.EndOfGlobalWindow && in.op.triggered {
		return in.op.version > 0
	}
	return known && end < in.op.s.inputWM
}

// sideVersions changes whenever a side input may have become ready. REQUIRES: execution.mu.
func (o *userOp) sideVersions() int64 {
	var n int64
	for _, in := range o.sides {
		n += in.op.version + in.op.moves
	}
	return n
}

// sidesReady reports whether it makes sense to look at queued elements: side inputs in the global window must be there for
// any of them. REQUIRES: execution.mu.
func (o *userOp) sidesReady() bool {
	for _, in := range o.sides {
		if _, end, _ := in.op.mapping.Map(coder.MinTimestamp); end == coder.EndOfGlobalWindow && !in.ready(coder.MinTimestamp) {
			return false
		}
	}
	return true
}

// holdBack takes the elements out of the work that have to wait for their side inputs.
func (o *userOp) holdBack(w *work) error {
	x := o.s.x
	x.mu.Lock()
	before := o.sideVersions()
	x.mu.Unlock()
	ready := make(map[int64]bool) // by end of the main window
	slot := 0
	if o.s.keyed {
		slot = w.slot
	}
	return w.sift(func(end int64) verdict {
		r, known := ready[end]
		if !known {
			x.mu.Lock()
			r = true
			for _, in := range o.sides {
				r = r && in.ready(end)
			}
			x.mu.Unlock()
			ready[end] = r
		}
		if r {
			return process
		}
		return postpone
	}, func(wait []*flow.Block) {
		o.s.blocked[slot].Push(wait...)
		if before != o.sideVersions() {
			o.s.unblock() // something came between the look and now
		}
	})
}

package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/window"
	"github.com/tinyrunner/tinyrunner/state"
)

// groupOp is the native GroupByKey. Values wait in bags in the state, keyed by window and key; package window decides when
// a pane fires. The windows that most pipelines have need none of that: see simpleGroup.
type groupOp struct {
	base
	s        *stage
	grouping *window.Grouping
	simple   *simpleGroup // nil: the general case
	cells    struct{ record, buffer state.Cell }
	value    *coder.Coder
	merger   *sdkMerger // nil unless the SDK merges the windows
}

func (o *groupOp) open(ctx context.Context) error {
	if o.merger == nil {
		return nil
	}
	o.merger.ctx = ctx
	return o.s.x.openEnvironment(ctx, o.s.plan.Windowing.GetEnvironmentId())
}

func newGroupOp(s *stage) (operator, error) {
	in := s.x.colls[s.plan.Input]
	o := &groupOp{s: s, value: in.Coder.Elem().Component(1)}
	comps := s.x.job.plan.Pipeline.GetComponents()
	env := comps.GetEnvironments()[s.plan.Windowing.GetEnvironmentId()]
	var merger window.Merger
	if s.plan.MergeWindows != nil {
		m, err := newMerger(s)
		if err != nil {
			return nil, err
		}
		o.merger, merger = m, m
	}
	g, err := window.Compile(window.ForSDK(s.plan.Windowing, env), in.Coder.Window(), merger)
	if err != nil {
		return nil, err
	}
	o.grouping = g.ForInput(in.Bounded, s.x.job.streaming())
	for name, cell := range map[string]*state.Cell{"record": &o.cells.record, "buffer": &o.cells.buffer} {
		if *cell, err = s.x.db.Cell(s.plan.Owner + "\x00" + name); err != nil {
			return nil, err
		}
	}
	if g.Simple() {
		o.simple = newSimpleGroup(o)
	}
	return o, nil
}

func (o *groupOp) hold() int64 {
	if o.simple != nil {
		return o.simple.hold()
	}
	return coder.MaxTimestamp
}

func (o *groupOp) save() (any, error) {
	if o.simple == nil {
		return nil, nil
	}
	return o.simple.allEnds(), nil
}

func (o *groupOp) load(data json.RawMessage) error {
	if o.simple == nil {
		return nil
	}
	return o.simple.load(data)
}

func (o *groupOp) idle() bool { return o.simple == nil || o.simple.hold() == coder.MaxTimestamp }

func (o *groupOp) next(slot int) *work {
	s := o.s
	if o.simple != nil {
		if o.simple.due(slot) {
			return s.firing(slot, windows, s.inputWM)
		}
	} else if w := s.dueTimers(slot); w != nil {
		return w
	}
	w := s.take(slot, s.queue(slot), s.x.cfg.MaxBundleElements)
	if w != nil {
		w.upTo = s.inputWM
		w.outputWM = s.outputWM
	}
	return w
}

// firing makes a work without input that fires timers or windows up to a time. Until it has committed the stage's output
// watermark stays: what it emits is not late. REQUIRES: x.mu.
func (s *stage) firing(slot int, kind workKind, upTo int64) *work {
	w := s.newWork(slot, kind)
	w.upTo, w.hold, w.outputWM = upTo, s.outputWM, s.outputWM
	return w
}

// dueTimers makes the work that fires the timers of a slot that are due, or nil. REQUIRES: x.mu.
func (s *stage) dueTimers(slot int) *work {
	g0, g1 := s.x.groups(slot)
	if t, ok := s.x.db.NextTimer(s.owner, state.EventTime, g0, g1); ok && t <= s.inputWM {
		return s.firing(slot, eventTimers, s.inputWM)
	}
	now := s.x.now().UnixMilli()
	if t, ok := s.x.db.NextTimer(s.owner, state.ProcessingTime, g0, g1); ok && t <= now {
		return s.firing(slot, processingTimers, now)
	}
	return nil
}

func (o *groupOp) run(ctx context.Context, w *work) error {
	switch {
	case w.kind == windows:
		return o.simple.fire(w)
	case w.kind == elements && o.simple != nil:
		return o.simple.add(w)
	case w.kind == elements:
		return o.add(w)
	}
	return o.fireTimers(w)
}

// add gives a bundle's elements to the windows, key by key.
func (o *groupOp) add(w *work) error {
	byKey := make(map[string][]window.Element)
	var keys []string
	err := o.s.eachKV(w.blocks, func(h coder.Header, key, value, _ []byte) error {
		batch, known := byKey[string(key)]
		if !known {
			keys = append(keys, string(key))
		}
		byKey[string(key)] = append(batch, window.Element{NumWindows: h.NumWindows, Windows: h.Windows, Timestamp: h.Timestamp, Value: value})
		return nil
	})
	if err != nil {
		return err
	}
	c := o.context(w)
	if o.s.in.Bounded {
		c.inputWM = coder.MinTimestamp // nothing of a bounded input is late
	}
	for _, key := range keys {
		c.setKey([]byte(key))
		if err := o.grouping.Elements(c, byKey[key]); err != nil {
			return err
		}
	}
	return nil
}

// fireTimers fires the window timers that are due, until the work is large enough.
func (o *groupOp) fireTimers(w *work) error {
	c := o.context(w)
	g0, g1 := o.s.x.groups(w.slot)
	domain := state.EventTime
	if w.kind == processingTimers {
		domain = state.ProcessingTime
	}
	fired := 0
	for t, err := range o.s.x.db.DueTimers(o.s.owner, domain, g0, g1, w.upTo) {
		if err != nil {
			return fmt.Errorf("read timers: %w", err)
		}
		if fired++; fired > maxTimers || w.out.size() > o.s.x.cfg.MaxBundleBytes {
			break
		}
		if err := c.tx.ClearTimer(t.ID()); err != nil {
			return err
		}
		c.setKey(t.Key)
		if err := o.grouping.Timer(c, t.Window, window.Domain(t.Family[0]-'0'), t.Fire); err != nil {
			return err
		}
	}
	return nil
}

// keyContext is window.Context over a bundle's transaction, for one key after the other.
type keyContext struct {
	o        *groupOp
	w        *work
	tx       *state.Tx
	now      int64
	key      []byte
	group    uint16
	scratch  []byte
	elem     []byte
	inputWM  int64
	outputWM int64
}

func (o *groupOp) context(w *work) *keyContext {
	x := o.s.x
	x.mu.Lock()
	now, wm := x.now().UnixMilli(), o.s.inputWM
	x.mu.Unlock()
	return &keyContext{o: o, w: w, tx: w.begin(), now: now, inputWM: wm, outputWM: w.outputWM}
}

func (c *keyContext) setKey(key []byte) {
	c.key = append(c.key[:0], key...)
	c.group = uint16(coder.KeyGroup(key, c.o.s.x.cfg.MaxParallelism))
}

// suffix is where a slot of the key is in a cell; valid until the next call.
func (c *keyContext) suffix(slot []byte) []byte {
	c.scratch = state.AppendComponent(c.scratch[:0], c.key)
	c.scratch = state.AppendComponent(c.scratch, slot)
	return c.scratch
}

func (c *keyContext) Get(slot []byte) ([]byte, error) {
	v, _, err := c.tx.Get(c.group, c.o.cells.record, c.suffix(slot))
	return v, err
}

func (c *keyContext) Set(slot, v []byte) error {
	return c.tx.Set(c.group, c.o.cells.record, c.suffix(slot), v)
}

func (c *keyContext) Delete(slot []byte) error {
	return c.tx.Delete(c.group, c.o.cells.record, c.suffix(slot))
}

func (c *keyContext) Append(slot, value []byte) error {
	return c.tx.Append(c.group, c.o.cells.buffer, c.suffix(slot), value)
}

func (c *keyContext) ClearBuffer(slot []byte) error {
	return c.tx.DeletePrefix(c.group, c.o.cells.buffer, c.suffix(slot))
}

// timerDomain maps the window package's clocks to those of timers; synchronized processing time is processing time, since
// there is one process.
func timerDomain(d window.Domain) state.Domain {
	if d == window.EventTime {
		return state.EventTime
	}
	return state.ProcessingTime
}

func (c *keyContext) timerKey(slot []byte, d window.Domain) state.TimerKey {
	return state.TimerKey{Group: c.group, Owner: c.o.s.owner, Key: c.key, Window: slot, Family: string('0' + rune(d))}
}

func (c *keyContext) SetTimer(slot []byte, d window.Domain, fire int64) error {
	k := c.timerKey(slot, d)
	return c.tx.SetTimer(state.Timer{
		Group: k.Group, Owner: k.Owner, Domain: timerDomain(d), Family: k.Family, Key: k.Key, Window: k.Window,
		Fire: fire, Hold: state.NoHold,
	})
}

func (c *keyContext) ClearTimer(slot []byte, d window.Domain) error {
	return c.tx.ClearTimer(c.timerKey(slot, d))
}

func (c *keyContext) SetHold(slot []byte, ts int64) error {
	return c.tx.SetHold(c.o.s.owner, c.group, c.key, slot, ts)
}

func (c *keyContext) ClearHold(slot []byte) error {
	return c.tx.ClearHold(c.o.s.owner, c.group, c.key, slot)
}

func (c *keyContext) Drop(n int)                        { c.w.dropped += int64(n) }
func (c *keyContext) Watermark() int64                  { return c.inputWM }
func (c *keyContext) OutputWatermark() int64            { return c.outputWM }
func (c *keyContext) ProcessingTime() int64             { return c.now }
func (c *keyContext) SynchronizedProcessingTime() int64 { return c.now }

// Emit emits the key with the values of the pane.
func (c *keyContext) Emit(f window.Firing) error {
	e := coder.AppendHeader(c.elem[:0], f.Timestamp, 1, f.Window, f.Pane)
	e = append(e, c.key...)
	e = coder.AppendCount(e, int(f.Count))
	for _, slot := range f.Buffers {
		prefix := bytes.Clone(c.suffix(slot))
		for kv, err := range c.tx.ScanPrefix(c.group, c.o.cells.buffer, prefix) {
			if err != nil {
				return fmt.Errorf("read values: %w", err)
			}
			e = append(e, kv.Value...)
		}
		if f.Clear {
			if err := c.tx.DeletePrefix(c.group, c.o.cells.buffer, prefix); err != nil {
				return err
			}
		}
	}
	c.elem = e
	return c.w.out.emit(e, f.Timestamp, c.key)
}

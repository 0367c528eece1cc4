package engine

import (
	"errors"
	"fmt"
	"time"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
)

// outputs collects what one bundle emits: elements by output, routed to the slots of the consumers, and timers. It is the
// bundle.Sink of the bundle. Calls come one at a time.
type outputs struct {
	stage *stage
	// marker is that of all that is emitted. Where records enter the job it has not entered before the first of them.
	marker flow.Marker
	ports  []*emission
	timers map[bundle.TimerFamily]*timerStream
}

// emission is what a bundle emits into one collection.
type emission struct {
	out       *outputs
	coll      *collection
	truncated *stage          // set: goes back into this stage's own input, as truncated
	tail      []byte          // of an element that the last chunk cut
	plain     *flow.Builder   // for consumers that are not keyed
	slots     []*flow.Builder // by slot, for keyed consumers
	elements  int64
	bytes     int64

	plainBlocks []*flow.Block
	slotBlocks  [][]*flow.Block
}

// timerStream is what a bundle sets and clears in one timer family.
type timerStream struct {
	coder *coder.TimerCoder
	tail  []byte
	set   []coder.Timer
}

func newOutputs(s *stage) *outputs {
	o := &outputs{stage: s}
	if s.enters {
		o.marker.Source = s.number
	}
	for _, c := range s.outs {
		o.ports = append(o.ports, &emission{out: o, coll: c})
	}
	return o
}

// continues sets the marker of the bundle's input, unless records enter the job here.
func (o *outputs) continues(m flow.Marker) {
	if !o.stage.enters {
		o.marker = m
	}
}

// builder makes a builder for an element that is about to be emitted.
func (o *outputs) builder() *flow.Builder {
	if o.marker.Source != 0 && o.marker.Entered == 0 {
		o.marker.Entered = time.Now().UnixNano()
	}
	b := o.stage.x.cfg.Pool.NewBuilder()
	b.Mark(o.marker)
	return b
}

// size is how many bytes were emitted.
func (o *outputs) size() int64 {
	var n int64
	for _, e := range o.ports {
		n += e.bytes
	}
	return n
}

// emit takes an element of a native stage: it goes to each output.
func (o *outputs) emit(elem []byte, ts int64, key []byte) error {
	for _, e := range o.ports {
		if err := e.add(elem, ts, key); err != nil {
			return err
		}
	}
	return nil
}

// Data implements bundle.Sink.
func (o *outputs) Data(output int, data []byte) error {
	if output < 0 || output >= len(o.ports) {
		return fmt.Errorf("stage %s has no output %d", o.stage.name, output)
	}
	return o.ports[output].data(data)
}

// Timers implements bundle.Sink.
func (o *outputs) Timers(f bundle.TimerFamily, data []byte) error {
	t := o.timers[f]
	if t == nil {
		c := o.stage.plan.TimerCoders[f]
		if c == nil {
			return fmt.Errorf("stage %s has no timer family %s of transform %s", o.stage.name, f.Family, f.Transform)
		}
		if o.timers == nil {
			o.timers = make(map[bundle.TimerFamily]*timerStream)
		}
		t = &timerStream{coder: c}
		o.timers[f] = t
	}
	// Parsed timers alias the bytes: keep a copy of the whole.
	t.tail = append(t.tail, data...)
	for len(t.tail) > 0 {
		tm, n, err := t.coder.Parse(t.tail)
		if errors.Is(err, coder.ErrShort) {
			// The rest moves to a fresh buffer so that appending cannot touch parsed timers.
			t.tail = append([]byte(nil), t.tail...)
			return nil
		}
		if err != nil {
			return fmt.Errorf("timer of stage %s, family %s: %w", o.stage.name, f.Family, err)
		}
		t.set = append(t.set, tm)
		t.tail = t.tail[n:]
	}
	t.tail = nil
	return nil
}

// data takes the next bytes of the output's stream.
func (e *emission) data(data []byte) error {
	if len(e.tail) > 0 {
		e.tail = append(e.tail, data...)
		data = e.tail
	}
	for len(data) > 0 {
		n, err := e.coll.Coder.Skip(data)
		if errors.Is(err, coder.ErrShort) {
			break
		}
		if err == nil {
			err = e.element(data[:n])
		}
		if err != nil {
			return fmt.Errorf("element %d of PCollection %s: %w", e.elements, e.coll.UniqueName, err)
		}
		data = data[n:]
	}
	e.tail = append(e.tail[:0], data...)
	return nil
}

// element takes one whole element.
func (e *emission) element(elem []byte) error {
	if !e.coll.keyed {
		ts, err := coder.ParseTimestamp(elem)
		if err != nil {
			return err
		}
		return e.add(elem, ts, nil)
	}
	h, err := e.coll.Coder.ParseHeader(elem)
	if err != nil {
		return err
	}
	key, _, _, err := coder.SplitKV(e.coll.Coder.Elem(), elem[h.ValueOffset:])
	if err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	return e.add(elem, h.Timestamp, key)
}

// add routes an element with a known timestamp and, if the collection has keyed consumers, key.
func (e *emission) add(elem []byte, ts int64, key []byte) error {
	e.elements++
	e.bytes += int64(len(elem))
	if e.coll.plain {
		if e.plain == nil {
			e.plain = e.out.builder()
		}
		if err := e.plain.Append(elem, ts); err != nil {
			return err
		}
	}
	if !e.coll.keyed {
		return nil
	}
	if e.slots == nil {
		e.slots = make([]*flow.Builder, e.out.stage.x.cfg.Slots)
	}
	slot, _ := e.out.stage.x.slotOf(key)
	if e.slots[slot] == nil {
		e.slots[slot] = e.out.builder()
	}
	return e.slots[slot].Append(elem, ts)
}

// emitBlocks takes the elements of a builder for each output, with its marker. Where no consumer is keyed the blocks are taken
// as they are.
func (o *outputs) emitBlocks(b *flow.Builder) error {
	blocks, err := b.Finish()
	if err != nil {
		return err
	}
	o.marker = flow.Oldest(blocks)
	defer func() {
		for _, k := range blocks {
			k.Release()
		}
	}()
	for _, e := range o.ports {
		if e.coll.keyed {
			if err := eachElement(blocks, e.element); err != nil {
				return err
			}
			continue
		}
		for _, k := range blocks {
			k.Retain()
			e.elements += int64(k.Len())
			e.bytes += k.Size()
		}
		e.plainBlocks = append(e.plainBlocks, blocks...)
	}
	return nil
}

// finish closes all streams and returns what is to be delivered at the commit. On error nothing is left.
func (o *outputs) finish() ([]*emission, error) {
	for _, e := range o.ports {
		if err := e.finish(); err != nil {
			o.discard()
			return nil, err
		}
	}
	return o.ports, nil
}

func (e *emission) finish() (err error) {
	if len(e.tail) > 0 {
		return fmt.Errorf("PCollection %s: the bundle ended within an element (%d bytes left)", e.coll.UniqueName, len(e.tail))
	}
	if e.plain != nil {
		blocks, err := e.plain.Finish()
		if err != nil {
			return err
		}
		e.plainBlocks = append(e.plainBlocks, blocks...)
	}
	e.slotBlocks = make([][]*flow.Block, len(e.slots))
	for i, b := range e.slots {
		if b == nil {
			continue
		}
		if e.slotBlocks[i], err = b.Finish(); err != nil {
			return err
		}
	}
	return nil
}

// minTimestamp is the least of all elements, coder.MaxTimestamp if there are none.
func (e *emission) minTimestamp() int64 {
	least := coder.MaxTimestamp
	for _, b := range e.plainBlocks {
		least = min(least, b.MinTimestamp())
	}
	for _, blocks := range e.slotBlocks {
		for _, b := range blocks {
			least = min(least, b.MinTimestamp())
		}
	}
	return least
}

// deliver appends the blocks to the queues of the consumers. REQUIRES: execution.mu.
func (e *emission) deliver() {
	if e.truncated != nil {
		push(&e.truncated.truncated, e.plainBlocks)
	}
	for _, t := range e.coll.consumers {
		if !t.keyed {
			push(t.entry(0), e.plainBlocks)
		} else {
			for i, blocks := range e.slotBlocks {
				push(t.entry(i), blocks)
			}
		}
		if e.elements > 0 {
			t.dirty = true
		}
	}
	e.release()
}

func push(q *flow.Queue, blocks []*flow.Block) {
	for _, b := range blocks {
		b.Retain()
		q.Push(b)
	}
}

// release drops the emission's references to its blocks.
func (e *emission) release() {
	for _, b := range e.plainBlocks {
		b.Release()
	}
	for _, blocks := range e.slotBlocks {
		for _, b := range blocks {
			b.Release()
		}
	}
	e.plainBlocks, e.slotBlocks = nil, nil
}

// discard drops everything that was emitted.
func (o *outputs) discard() {
	for _, e := range o.ports {
		e.release()
		if e.plain != nil {
			e.plain.Discard()
		}
		for _, b := range e.slots {
			if b != nil {
				b.Discard()
			}
		}
	}
}

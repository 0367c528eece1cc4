package window

import (
	"bytes"
	"fmt"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// Elements adds a batch of elements of c's key, in order, and fires what becomes ready. elems and what they point to are not kept.
func (g *Grouping) Elements(c Context, elems []Element) error {
	r := g.run(c)
	if g.merger != nil {
		if err := r.mergeFor(elems); err != nil {
			return fmt.Errorf("merge windows: %w", err)
		}
	}
	for i := range elems {
		for window := range g.wc.Each(elems[i].NumWindows, elems[i].Windows) {
			if err := r.element(window, &elems[i]); err != nil {
				return fmt.Errorf("group element: %w", err)
			}
		}
	}
	for _, rec := range r.records {
		if rec.fresh == 0 || !rec.dirty {
			continue
		}
		if ready := g.trigger.root.ready(r.now(rec), &rec.state); ready.ready {
			if err := r.fire(rec, ready, false); err != nil {
				return fmt.Errorf("group elements: %w", err)
			}
		}
	}
	if err := r.flush(); err != nil {
		return fmt.Errorf("group elements: %w", err)
	}
	return nil
}

// Element is Elements for one element.
func (g *Grouping) Element(c Context, elem Element) error { return g.Elements(c, []Element{elem}) }

// Timer handles a timer that is due and that the engine has removed: it fires the window's trigger if it is ready, and ends the
// window when it has expired. Timers of windows that are gone are ignored.
func (g *Grouping) Timer(c Context, slot []byte, d Domain, fire int64) error {
	if err := g.timer(c, slot, d, fire); err != nil {
		return fmt.Errorf("fire %v timer of window: %w", d, err)
	}
	return nil
}

func (g *Grouping) timer(c Context, slot []byte, d Domain, fire int64) error {
	if d >= domains {
		return fmt.Errorf("unknown time domain %d", d)
	}
	r := g.run(c)
	r.advance(d, fire)
	rec, err := r.bySlot(slot)
	if rec == nil || err != nil {
		return err
	}
	if rec.timers[d] != unset && rec.timers[d] <= fire {
		rec.timers[d] = unset
	}
	rec.dirty = true
	expired := r.watermark > expiry(rec.end, g.lateness)
	if !rec.closed {
		ready := g.trigger.root.ready(r.now(rec), &rec.state)
		if ready.ready || expired {
			if err := r.fire(rec, ready, expired); err != nil {
				return err
			}
		}
	}
	if expired {
		if err := r.forget(rec); err != nil {
			return err
		}
	}
	return r.flush()
}

// run is one call of Elements or Timer.
type run struct {
	g *Grouping
	c Context

	watermark, outputWatermark, processing, synchronized int64

	records []*record          // those loaded; when windows merge, all that are open or closed
	index   map[string]*record // records by window, once there are many

	cell    cell               // when windows merge
	renamed map[string]*record // when windows merge: where the windows of the batch have gone

	scratch [][]byte
}

func (g *Grouping) run(c Context) *run {
	return &run{
		g: g, c: c,
		watermark: c.Watermark(), outputWatermark: c.OutputWatermark(),
		processing: c.ProcessingTime(), synchronized: c.SynchronizedProcessingTime(),
	}
}

// advance makes sure that a timer is not before its own time.
func (r *run) advance(d Domain, fire int64) {
	switch d {
	case EventTime:
		r.watermark = max(r.watermark, fire)
	case ProcessingTime:
		r.processing = max(r.processing, fire)
	case SynchronizedProcessingTime:
		r.synchronized = max(r.synchronized, fire)
	}
}

func (r *run) now(rec *record) now {
	return now{watermark: r.watermark, processing: r.processing, synchronized: r.synchronized, end: rec.end}
}

// element adds an element to one of its windows.
func (r *run) element(window []byte, elem *Element) error {
	end, err := r.g.End(window)
	if err != nil {
		return err
	}
	if r.watermark > expiry(end, r.g.lateness) {
		r.c.Drop(1)
		return nil
	}
	rec, err := r.byWindow(window, end)
	if err != nil {
		return err
	}
	if rec.closed {
		r.c.Drop(1)
		return nil
	}
	rec.dirty = true
	rec.fresh++
	rec.total++
	r.combine(rec, elem.Timestamp)
	if err := r.c.Append(rec.slot, elem.Value); err != nil {
		return fmt.Errorf("buffer value: %w", err)
	}
	t, now := r.g.trigger, r.now(rec)
	if rec.state.bit(t.root.finished) {
		return nil // kept for the last pane
	}
	t.root.element(now, &rec.state, t.merging)
	if !t.byElement || r.g.perBatch {
		return nil
	}
	if ready := t.root.ready(now, &rec.state); ready.ready && ready.byElement {
		return r.fire(rec, ready, false)
	}
	return nil
}

// combine takes an element's timestamp into the pane's, unless the output watermark has passed it or the window has ended: then it
// can hold nothing back any more.
func (r *run) combine(rec *record, ts int64) {
	if r.g.output == pipepb.OutputTime_END_OF_WINDOW {
		ts = rec.end
	}
	ts = min(ts, rec.end)
	if ts < r.outputWatermark || r.watermark > rec.end {
		return
	}
	switch {
	case rec.output == unset:
		rec.output = ts
	case r.g.output == pipepb.OutputTime_EARLIEST_IN_PANE:
		rec.output = min(rec.output, ts)
	default:
		rec.output = max(rec.output, ts)
	}
}

// fire emits a pane if it is due, and moves the trigger on. last: the window has expired, whether the trigger is ready or not.
func (r *run) fire(rec *record, ready readiness, last bool) error {
	g := r.g
	if ready.ready {
		g.trigger.root.fire(r.now(rec), &rec.state, g.trigger.merging)
	}
	last = last || !g.keeps && rec.state.bit(g.trigger.root.finished)
	timing := r.timing(rec)
	firing := Firing{
		Window:    rec.window,
		Timestamp: rec.end,
		Pane:      coder.Pane{First: rec.index == 0, Last: last, Timing: timing, Index: rec.index, NonSpeculativeIndex: rec.nonEarly},
		Count:     rec.total,
		Clear:     last || !g.accumulating,
	}
	if rec.output != unset {
		firing.Timestamp = rec.output
	}
	if timing == coder.Early {
		firing.Pane.NonSpeculativeIndex = -1
	}
	due := rec.fresh > 0 || timing == coder.OnTime && ready.onTime && g.onTimePane || last && g.closingPane
	rec.dirty = true
	rec.fresh, rec.output = 0, unset
	if due {
		rec.index++
		if timing != coder.Early {
			rec.nonEarly++
		}
		r.scratch = append(append(r.scratch[:0], rec.slot), rec.more...)
		firing.Buffers = r.scratch
		if err := r.c.Emit(firing); err != nil {
			return fmt.Errorf("emit pane: %w", err)
		}
	} else if firing.Clear {
		if err := r.clearBuffers(rec); err != nil {
			return err
		}
	}
	if firing.Clear {
		rec.total, rec.more = 0, nil
	}
	rec.closed = last
	return nil
}

// timing follows Beam: EARLY panes, then one ON_TIME pane if it can still be on time downstream, then LATE ones.
func (r *run) timing(rec *record) coder.Timing {
	switch {
	case rec.nonEarly > 0 || rec.end < r.outputWatermark:
		return coder.Late
	case r.watermark <= rec.end:
		return coder.Early
	}
	return coder.OnTime
}

func (r *run) clearBuffers(rec *record) error {
	if rec.total == 0 {
		return nil
	}
	for _, slot := range append([][]byte{rec.slot}, rec.more...) {
		if err := r.c.ClearBuffer(slot); err != nil {
			return fmt.Errorf("clear buffer: %w", err)
		}
	}
	return nil
}

// settle sets the window's timers and its hold as they have to be.
func (r *run) settle(rec *record) error {
	fire := addSat(r.wake(rec), 1)
	if err := r.setTimer(rec, EventTime, fire); err != nil {
		return err
	}
	if !rec.closed && !rec.state.bit(r.g.trigger.root.finished) {
		for _, d := range [...]Domain{ProcessingTime, SynchronizedProcessingTime} {
			if fire, ok := r.g.trigger.nextTimer(d, r.now(rec), &rec.state); ok {
				if err := r.setTimer(rec, d, fire); err != nil {
					return err
				}
			}
		}
	} else if err := r.clearTimers(rec, ProcessingTime, SynchronizedProcessingTime); err != nil {
		return err
	}
	return r.settleHold(rec)
}

// wake is the next event time that the window waits for the watermark to pass.
func (r *run) wake(rec *record) int64 {
	if r.g.trigger.onTime && !rec.closed && r.watermark <= rec.end {
		return rec.end
	}
	return expiry(rec.end, r.g.lateness)
}

// setTimer sets a timer unless an earlier one is there, which will set it.
func (r *run) setTimer(rec *record, d Domain, fire int64) error {
	if old := rec.timers[d]; old != unset && old <= fire {
		return nil
	}
	rec.timers[d] = fire
	if err := r.c.SetTimer(rec.slot, d, fire); err != nil {
		return fmt.Errorf("set %v timer: %w", d, err)
	}
	return nil
}

func (r *run) clearTimers(rec *record, ds ...Domain) error {
	for _, d := range ds {
		if rec.timers[d] == unset {
			continue
		}
		rec.timers[d] = unset
		if err := r.c.ClearTimer(rec.slot, d); err != nil {
			return fmt.Errorf("clear %v timer: %w", d, err)
		}
	}
	return nil
}

func (r *run) settleHold(rec *record) error {
	want, old := r.hold(rec), rec.hold
	if want == old {
		return nil
	}
	// A hold that may go, or move on, does no harm as long as the watermark cannot pass it without waking us.
	wake := rec.timers[EventTime]
	if old != unset && (want == unset || want > old) && !rec.closed && wake != unset && wake <= addSat(old, 1) {
		return nil
	}
	if want == unset {
		return r.clearHold(rec)
	}
	rec.hold = want
	if err := r.c.SetHold(rec.slot, want); err != nil {
		return fmt.Errorf("set hold: %w", err)
	}
	return nil
}

// hold is where the window needs the output watermark to wait; unset if nowhere. The pane of elements that were on time must be on
// time downstream. One of late elements must at least not be dropped there, and so must an empty pane that is still to come.
func (r *run) hold(rec *record) int64 {
	switch {
	case rec.closed:
		return unset
	case rec.output != unset:
		return rec.output
	case rec.fresh > 0:
		return r.wake(rec)
	case r.g.onTimePane && r.g.trigger.onTime && rec.nonEarly == 0 && r.watermark <= rec.end:
		return rec.end
	case r.g.closingPane:
		return expiry(rec.end, r.g.lateness)
	}
	return unset
}

func (r *run) clearHold(rec *record) error {
	if rec.hold == unset {
		return nil
	}
	rec.hold = unset
	if err := r.c.ClearHold(rec.slot); err != nil {
		return fmt.Errorf("clear hold: %w", err)
	}
	return nil
}

// forget removes all traces of a window that has expired.
func (r *run) forget(rec *record) error {
	if err := r.release(rec); err != nil {
		return err
	}
	if r.g.merger != nil {
		r.records = slices.DeleteFunc(r.records, func(other *record) bool { return other == rec })
		r.cell.dirty = true
		return nil
	}
	r.records = nil
	if err := r.c.Delete(rec.slot); err != nil {
		return fmt.Errorf("delete window state: %w", err)
	}
	return nil
}

// release gives up a record's timers and hold.
func (r *run) release(rec *record) error {
	if err := r.clearTimers(rec, EventTime, ProcessingTime, SynchronizedProcessingTime); err != nil {
		return err
	}
	return r.clearHold(rec)
}

// byWindow returns the record of an element's window, a new one if there is none.
func (r *run) byWindow(window []byte, end int64) (*record, error) {
	if r.g.merger != nil {
		return r.mergedInto(window, end), nil
	}
	if rec := r.loaded(window); rec != nil {
		return rec, nil
	}
	rec, err := r.load(window, end)
	if err != nil {
		return nil, err
	}
	if rec == nil {
		rec = newRecord(r.g.trigger, window, window, end)
	}
	r.add(rec)
	return rec, nil
}

// many is the number of windows from which on they are found by a map.
const many = 8

func (r *run) loaded(window []byte) *record {
	if r.index != nil {
		return r.index[string(window)]
	}
	for _, rec := range r.records {
		if bytes.Equal(rec.window, window) {
			return rec
		}
	}
	return nil
}

func (r *run) add(rec *record) {
	r.records = append(r.records, rec)
	switch {
	case r.index != nil:
		r.index[string(rec.window)] = rec
	case len(r.records) > many:
		r.index = make(map[string]*record, 2*many)
		for _, rec := range r.records {
			r.index[string(rec.window)] = rec
		}
	}
}

// load reads the record of a window that does not merge; nil if there is none.
func (r *run) load(window []byte, end int64) (*record, error) {
	b, err := r.c.Get(window)
	if b == nil || err != nil {
		return nil, err
	}
	rec := newRecord(r.g.trigger, window, window, end)
	d := &decoder{b: b}
	d.header(r.g.trigger)
	rec.decode(d)
	if err := d.done(); err != nil {
		return nil, fmt.Errorf("read window state: %w", err)
	}
	return rec, nil
}

// bySlot returns the record that a timer belongs to; nil if there is none any more.
func (r *run) bySlot(slot []byte) (*record, error) {
	if r.g.merger != nil {
		return r.mergedSlot(slot)
	}
	end, err := r.g.End(slot)
	if err != nil {
		return nil, err
	}
	rec, err := r.load(slot, end)
	if rec != nil {
		r.add(rec)
	}
	return rec, err
}

// flush writes back what has changed.
func (r *run) flush() error {
	var buf []byte
	for _, rec := range r.records {
		if !rec.dirty {
			continue
		}
		if err := r.settle(rec); err != nil {
			return err
		}
		if r.g.merger != nil {
			r.cell.dirty = true
			continue
		}
		buf = rec.appendTo(appendHeader(buf[:0], r.g.trigger))
		if err := r.c.Set(rec.slot, buf); err != nil {
			return fmt.Errorf("write window state: %w", err)
		}
	}
	if r.g.merger != nil {
		return r.flushCell()
	}
	return nil
}

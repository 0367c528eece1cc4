package window

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// cell is what is stored for a key whose windows merge, beside its records.
type cell struct {
	slots  uint64 // numbers given to slots so far
	stored bool
	dirty  bool
}

// readCell loads all records of the key.
func (r *run) readCell() error {
	b, err := r.c.Get(nil)
	if b == nil || err != nil {
		return err
	}
	r.cell.stored = true
	if r.records, r.cell.slots, err = r.g.decodeCell(bytes.Clone(b)); err != nil {
		return fmt.Errorf("read window state: %w", err)
	}
	return nil
}

// decodeCell reads what flushCell wrote. The records alias b.
func (g *Grouping) decodeCell(b []byte) (records []*record, slots uint64, err error) {
	d := &decoder{b: b}
	d.header(g.trigger)
	slots = d.uvarint()
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		window := d.bytes()
		if d.err != nil {
			break
		}
		end, err := g.End(window)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", errRecord, err)
		}
		rec := newRecord(g.trigger, window, d.slot(), end)
		for m := d.uvarint(); m > 0 && d.err == nil; m-- {
			rec.more = append(rec.more, d.slot())
		}
		rec.decode(d)
		records = append(records, rec)
	}
	return records, slots, d.done()
}

// slot reads a numbered slot. Its name is the number's encoding.
func (d *decoder) slot() []byte {
	b := d.b
	d.uvarint()
	n := len(b) - len(d.b)
	if d.err != nil {
		return nil
	}
	return b[:n:n]
}

// flushCell writes the key's cell, or deletes it after the last window.
func (r *run) flushCell() error {
	if !r.cell.dirty {
		return nil
	}
	if len(r.records) == 0 {
		if !r.cell.stored {
			return nil
		}
		if err := r.c.Delete(nil); err != nil {
			return fmt.Errorf("delete window state: %w", err)
		}
		return nil
	}
	if err := r.c.Set(nil, r.g.appendCell(nil, r.records, r.cell.slots)); err != nil {
		return fmt.Errorf("write window state: %w", err)
	}
	return nil
}

func (g *Grouping) appendCell(dst []byte, records []*record, slots uint64) []byte {
	dst = appendHeader(dst, g.trigger)
	dst = binary.AppendUvarint(dst, slots)
	dst = binary.AppendUvarint(dst, uint64(len(records)))
	for _, rec := range records {
		dst = binary.AppendUvarint(dst, uint64(len(rec.window)))
		dst = append(dst, rec.window...)
		dst = append(dst, rec.slot...)
		dst = binary.AppendUvarint(dst, uint64(len(rec.more)))
		for _, slot := range rec.more {
			dst = append(dst, slot...)
		}
		dst = rec.appendTo(dst)
	}
	return dst
}

// newSlot numbers a slot.
func (r *run) newSlot() []byte {
	r.cell.slots++
	return binary.AppendUvarint(nil, r.cell.slots)
}

// mergedSlot returns the record that has a slot; nil if there is none any more.
func (r *run) mergedSlot(slot []byte) (*record, error) {
	if err := r.readCell(); err != nil {
		return nil, err
	}
	for _, rec := range r.records {
		if bytes.Equal(rec.slot, slot) {
			return rec, nil
		}
	}
	return nil, nil
}

// mergedInto returns the record that an element's window has become part of.
func (r *run) mergedInto(window []byte, end int64) *record {
	if rec := r.renamed[string(window)]; rec != nil {
		return rec
	}
	rec := newRecord(r.g.trigger, window, r.newSlot(), end)
	r.records = append(r.records, rec)
	r.renamed[string(window)] = rec
	return rec
}

// mergeFor loads the key's windows and merges those of the batch with them. Afterwards mergedInto knows where each has gone.
func (r *run) mergeFor(elems []Element) error {
	if err := r.readCell(); err != nil {
		return err
	}
	r.renamed = make(map[string]*record, len(r.records)+1)
	var all [][]byte // the open windows, and the new ones
	for _, rec := range r.records {
		r.renamed[string(rec.window)] = rec
		if !rec.closed {
			all = append(all, rec.window)
		}
	}
	open := len(all)
	for i := range elems {
		for window := range r.g.wc.Each(elems[i].NumWindows, elems[i].Windows) {
			end, err := r.g.End(window)
			if err != nil {
				return err
			}
			if _, known := r.renamed[string(window)]; known || r.watermark > expiry(end, r.g.lateness) {
				continue
			}
			r.renamed[string(window)] = nil
			all = append(all, window)
		}
	}
	if len(all) == open {
		return nil
	}
	merges, err := r.g.merger.Merge(all)
	if err != nil {
		return err
	}
	return r.apply(all, merges)
}

// merging is a Merge with the records it is about.
type merging struct {
	Merge
	sources []*record // of Originals that were known
	old     *record   // of Into, if known
	result  *record
}

// apply carries out merges of the windows all.
func (r *run) apply(all [][]byte, merges []Merge) error {
	todo, err := r.resolve(all, merges)
	if err != nil {
		return err
	}
	gone := make(map[*record]bool)
	for i := range todo {
		if todo[i].result, err = r.applyOne(&todo[i], gone); err != nil {
			return err
		}
		r.renamed[string(todo[i].Into)] = todo[i].result
	}
	for _, m := range todo {
		for _, window := range m.Originals {
			r.renamed[string(window)] = m.result
		}
	}
	if len(gone) > 0 {
		r.cell.dirty = true
		r.records = slices.DeleteFunc(r.records, func(rec *record) bool { return gone[rec] })
	}
	return nil
}

// resolve checks what a WindowFn of the user returned, and finds the records.
func (r *run) resolve(all [][]byte, merges []Merge) ([]merging, error) {
	free := make(map[string]bool, len(all)) // windows that no merge has taken yet
	for _, window := range all {
		free[string(window)] = true
	}
	todo := make([]merging, len(merges))
	for i, m := range merges {
		todo[i] = merging{Merge: m, old: r.renamed[string(m.Into)]}
		for _, window := range m.Originals {
			if !free[string(window)] {
				return nil, fmt.Errorf("window %x is not one to merge, or is merged twice: correct the WindowFn's merge", window)
			}
			free[string(window)] = false
			if rec := r.renamed[string(window)]; rec != nil {
				todo[i].sources = append(todo[i].sources, rec)
			}
		}
	}
	into := make(map[string]bool, len(merges))
	for _, m := range todo {
		if into[string(m.Into)] || free[string(m.Into)] && m.old != nil {
			return nil, fmt.Errorf("window %x is the result of a merge that it is not part of: correct the WindowFn's merge", m.Into)
		}
		into[string(m.Into)] = true
	}
	return todo, nil
}

// applyOne merges the records of m's windows, and returns the result. Records that are no more go to gone.
func (r *run) applyOne(m *merging, gone map[*record]bool) (*record, error) {
	end, err := r.g.End(m.Into)
	if err != nil {
		return nil, err
	}
	if m.old != nil && m.old.closed {
		if len(m.sources) == 0 {
			return m.old, nil // its elements will be dropped
		}
		gone[m.old] = true
		if err := r.release(m.old); err != nil {
			return nil, err
		}
	}
	if len(m.sources) == 0 {
		rec := newRecord(r.g.trigger, m.Into, r.newSlot(), end)
		r.records = append(r.records, rec)
		return rec, nil
	}
	keep := m.sources[0]
	if slices.Contains(m.sources, m.old) {
		if keep = m.old; len(m.sources) == 1 {
			return keep, nil
		}
	} else { // a window that was not there before has had no panes
		keep.window, keep.end, keep.index, keep.nonEarly = m.Into, end, 0, 0
	}
	return keep, r.absorb(keep, m.sources, gone)
}

// absorb makes keep, which is one of the sources and already has its new window, the union of all.
func (r *run) absorb(keep *record, sources []*record, gone map[*record]bool) error {
	states := make([]*triggerState, len(sources))
	for i, rec := range sources {
		states[i] = &rec.state
	}
	t := r.g.trigger
	merged := newTriggerState(t)
	t.root.merge(r.now(keep), &merged, states)
	if merged.bit(t.root.finished) { // all sources were open: the merged window is too
		t.root.reset(&merged)
	}
	for _, rec := range sources {
		if rec == keep {
			continue
		}
		gone[rec] = true
		keep.fresh += rec.fresh
		keep.total += rec.total
		keep.output = r.mergeOutput(keep.output, rec.output)
		if rec.total > 0 {
			keep.more = append(append(keep.more, rec.slot), rec.more...)
		}
		if err := r.release(rec); err != nil {
			return err
		}
	}
	if keep.output != unset && r.g.output == pipepb.OutputTime_END_OF_WINDOW {
		keep.output = unset
		r.combine(keep, keep.end)
	}
	keep.state, keep.dirty = merged, true
	return nil
}

func (r *run) mergeOutput(a, b int64) int64 {
	switch {
	case a == unset:
		return b
	case b == unset:
		return a
	case r.g.output == pipepb.OutputTime_EARLIEST_IN_PANE:
		return min(a, b)
	}
	return max(a, b)
}

// sessions merges intervals that overlap (beam:window_fn:session_windows:v1).
type sessions struct{}

var _ Merger = sessions{}

func (sessions) Merge(windows [][]byte) ([]Merge, error) {
	type interval struct {
		start, end int64
		window     []byte
	}
	all := make([]interval, len(windows))
	for i, window := range windows {
		start, end, _, err := coder.ParseInterval(window)
		if err != nil {
			return nil, fmt.Errorf("read session window: %w", err)
		}
		all[i] = interval{start, end, window}
	}
	slices.SortFunc(all, func(a, b interval) int { return cmp.Compare(a.start, b.start) })
	var merges []Merge
	for len(all) > 0 {
		n, end := 1, all[0].end
		for n < len(all) && all[n].start < end {
			end = max(end, all[n].end)
			n++
		}
		if n > 1 {
			m := Merge{Into: coder.AppendInterval(nil, all[0].start, end)}
			for _, session := range all[:n] {
				m.Originals = append(m.Originals, session.window)
			}
			merges = append(merges, m)
		}
		all = all[n:]
	}
	return merges, nil
}

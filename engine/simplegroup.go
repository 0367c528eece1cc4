package engine

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/window"
	"github.com/tinyrunner/tinyrunner/state"
)

// simpleGroup groups by key in windows that fire once, when the watermark passes their end (window.Grouping.Simple): all of
// batch and most of streaming. An element costs one blind append. Values are ordered by
//
//	end of window · window · key
//
// within each key group, so that what is due is one contiguous range to read and to delete: no timer and no hold per key.
type simpleGroup struct {
	o *groupOp
	// ends are the ends of windows that have values, by slot, ascending; guarded by execution.mu.
	ends [][]int64
	// cursor is how far a slot has fired, touched by the slot's work only.
	cursor []fireCursor
}

// fireCursor is where a pass over a slot's groups goes on: everything before was emitted and deleted. The pass ends with
// the time it began with, whatever the watermark does meanwhile: groups behind the cursor are not looked at again.
type fireCursor struct {
	upTo   int64
	group  uint16
	suffix []byte
}

func newSimpleGroup(o *groupOp) *simpleGroup {
	n := o.s.x.cfg.Slots
	return &simpleGroup{o: o, ends: make([][]int64, n), cursor: make([]fireCursor, n)}
}

// hold is the earliest end of a window that has not fired.
func (g *simpleGroup) hold() int64 {
	h := coder.MaxTimestamp
	for _, ends := range g.ends {
		if len(ends) > 0 {
			h = min(h, ends[0])
		}
	}
	return h
}

// allEnds are the ends of windows that have values, of all slots. REQUIRES: execution.mu.
func (g *simpleGroup) allEnds() []int64 {
	var all []int64
	for _, ends := range g.ends {
		all = append(all, ends...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// load gives all ends to every slot: the slots may have changed, and to fire a window without values costs little.
func (g *simpleGroup) load(data json.RawMessage) error {
	var all []int64
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	for i := range g.ends {
		g.ends[i] = slices.Clone(all)
	}
	return nil
}

func (g *simpleGroup) due(slot int) bool {
	return len(g.ends[slot]) > 0 && g.ends[slot][0] < g.o.s.inputWM
}

// add appends the values of a bundle's elements. Elements of windows that have ended are late and dropped. A bounded input
// loses nothing: its late elements make one more pane at the end of the input.
func (g *simpleGroup) add(w *work) error {
	in := g.o.s.in.Coder
	tx := w.begin()
	ends := make(map[int64]bool)
	var prefix []byte
	err := g.o.s.eachKV(w.blocks, func(h coder.Header, key, value, _ []byte) error {
		group := uint16(coder.KeyGroup(key, g.o.s.x.cfg.MaxParallelism))
		for win := range in.EachWindow(h) {
			end, err := window.End(in.Window(), win)
			if err != nil {
				return err
			}
			if end < w.upTo {
				if !g.o.s.in.Bounded {
					w.dropped++
					continue
				}
				end = coder.EndOfGlobalWindow // it waits for all other late ones
			}
			ends[end] = true
			prefix = appendEnd(prefix[:0], end)
			prefix = state.AppendComponent(prefix, win)
			prefix = state.AppendComponent(prefix, key)
			if err := tx.Append(group, g.o.cells.buffer, prefix, value); err != nil {
				return err
			}
		}
		return nil
	})
	w.onCommit = append(w.onCommit, func() {
		for end := range ends {
			if i, found := slices.BinarySearch(g.ends[w.slot], end); !found {
				g.ends[w.slot] = slices.Insert(g.ends[w.slot], i, end)
			}
		}
	})
	return err
}

// appendEnd appends a time so that byte order is time order.
func appendEnd(dst []byte, ms int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(ms)^1<<63)
}

// fire emits windows that ended before w.upTo, in the order they lie, until the work is large enough.
func (g *simpleGroup) fire(w *work) error {
	g0, g1 := g.o.s.x.groups(w.slot)
	at := g.cursor[w.slot]
	if at.suffix == nil {
		at = fireCursor{upTo: w.upTo, group: g0, suffix: appendEnd(nil, coder.MinTimestamp)}
	}
	w.upTo = at.upTo
	f := firing{g: g, w: w, tx: w.begin()}
	for at.group < g1 {
		next, err := f.group(at)
		if err != nil {
			return err
		}
		if next != nil {
			w.onCommit = append(w.onCommit, func() { g.cursor[w.slot] = fireCursor{at.upTo, at.group, next} })
			return nil
		}
		at = fireCursor{upTo: at.upTo, group: at.group + 1, suffix: appendEnd(nil, coder.MinTimestamp)}
	}
	w.onCommit = append(w.onCommit, func() {
		g.cursor[w.slot] = fireCursor{}
		i, _ := slices.BinarySearch(g.ends[w.slot], w.upTo)
		g.ends[w.slot] = slices.Delete(g.ends[w.slot], 0, i)
	})
	return nil
}

// firing emits the groups of a range of one work.
type firing struct {
	g      *simpleGroup
	w      *work
	tx     *state.Tx
	prefix []byte // of the key being collected: end, window, key
	values []byte
	count  int
	elem   []byte
}

// group emits what is due in a key group from a cursor on, and deletes it. It returns where to go on when the work is large
// enough, nil when the group has nothing more.
func (f *firing) group(at fireCursor) (next []byte, err error) {
	cell, hi := f.g.o.cells.buffer, appendEnd(nil, f.w.upTo)
	f.prefix = f.prefix[:0]
	found := false
	for kv, err := range f.tx.Scan(at.group, cell, at.suffix, hi) {
		if err != nil {
			return nil, fmt.Errorf("read values: %w", err)
		}
		prefix := kv.Suffix[:len(kv.Suffix)-8] // without the chunk's sequence
		if !found || !bytes.Equal(prefix, f.prefix) {
			if err := f.emit(); err != nil {
				return nil, err
			}
			if f.w.out.size() >= f.g.o.s.x.cfg.MaxBundleBytes {
				next = bytes.Clone(prefix)
				break
			}
			f.prefix = append(f.prefix[:0], prefix...)
			found = true
		}
		if err := f.collect(kv.Value); err != nil {
			return nil, err
		}
	}
	if next == nil {
		if err := f.emit(); err != nil {
			return nil, err
		}
		next, hi = nil, appendEnd(nil, f.w.upTo)
	} else {
		hi = next
	}
	if found {
		err = f.tx.DeleteRange(at.group, cell, at.suffix, hi)
	}
	return next, err
}

// collect adds a chunk of values to the group.
func (f *firing) collect(values []byte) error {
	for rest := values; len(rest) > 0; {
		n, err := f.g.o.value.Skip(rest)
		if err != nil {
			return fmt.Errorf("read value: %w", err)
		}
		rest = rest[n:]
		f.count++
	}
	f.values = append(f.values, values...)
	return nil
}

// emit outputs the group that was collected, if any.
func (f *firing) emit() error {
	if f.count == 0 {
		return nil
	}
	end := int64(binary.BigEndian.Uint64(f.prefix) ^ 1<<63)
	win, rest, ok := state.CutComponent(f.prefix[8:])
	key, _, ok2 := state.CutComponent(rest)
	if !ok || !ok2 {
		return fmt.Errorf("group key %x is corrupt", f.prefix)
	}
	if end == coder.EndOfGlobalWindow { // or late
		var err error
		if end, err = window.End(f.g.o.s.in.Coder.Window(), win); err != nil {
			return err
		}
	}
	f.elem = coder.AppendHeader(f.elem[:0], end, 1, win, coder.Pane{First: true, Last: true, Timing: coder.OnTime})
	f.elem = append(f.elem, key...)
	f.elem = coder.AppendCount(f.elem, f.count)
	f.elem = append(f.elem, f.values...)
	f.values, f.count = f.values[:0], 0
	return f.w.out.emit(f.elem, end, key)
}

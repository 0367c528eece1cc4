package window

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// unset marks a time that is not there.
const unset = math.MinInt64

// recordVersion is the first byte of every cell. Another layout takes another number, and reads this one.
const recordVersion = 1

// errRecord says that a cell is not one that this package wrote.
var errRecord = errors.New("malformed window state")

// triggerState is the state of a trigger tree in one window.
type triggerState struct {
	bits  []uint64
	cells []int64
}

func newTriggerState(t *trigger) triggerState {
	return triggerState{bits: make([]uint64, (t.bits+63)/64), cells: make([]int64, t.cells)}
}

func (s *triggerState) bit(i int) bool { return s.bits[i/64]&(1<<(i%64)) != 0 }
func (s *triggerState) set(i int)      { s.bits[i/64] |= 1 << (i % 64) }
func (s *triggerState) clear(i int)    { s.bits[i/64] &^= 1 << (i % 64) }

// packTarget makes a cell of a time, such that 0 stays free to say that there is none.
func packTarget(ms int64) int64 {
	if ms >= 0 {
		return addSat(ms, 1)
	}
	return ms
}

func unpackTarget(cell int64) (ms int64, set bool) {
	if cell > 0 {
		return cell - 1, true
	}
	return cell, cell < 0
}

// record is what is known of one window of the key.
type record struct {
	window []byte // encoded
	end    int64  // see End
	slot   []byte // of the buffer, the timers and the hold; and of the cell, when windows do not merge

	// more are further slots with buffers, taken over from windows that were merged into this one.
	more [][]byte

	closed bool // the trigger has finished: only slot, timers and this are left
	state  triggerState

	index    int64 // panes so far
	nonEarly int64 // panes so far that were not EARLY
	fresh    int64 // elements since the last pane
	total    int64 // elements in the buffers
	output   int64 // combined timestamp of the fresh elements that are not late; unset if there are none

	hold   int64          // as set in the Context; unset if not
	timers [domains]int64 // as set in the Context; unset if not

	dirty bool // the cell is not as it should be
}

func newRecord(t *trigger, window, slot []byte, end int64) *record {
	return &record{
		window: window, end: end, slot: slot,
		state:  newTriggerState(t),
		output: unset, hold: unset, timers: [domains]int64{unset, unset, unset},
	}
}

const (
	flagClosed = 1 << iota
	flagOutput
	flagHold
	flagTimer // one per domain, from here
)

// appendTo appends the record's encoding: one byte of flags, then varints. Event times are relative to the window's end, so that
// most take a byte or two.
func (r *record) appendTo(dst []byte) []byte {
	flags := byte(0)
	if r.closed {
		flags |= flagClosed
	}
	if r.output != unset {
		flags |= flagOutput
	}
	if r.hold != unset {
		flags |= flagHold
	}
	for d, fire := range r.timers {
		if fire != unset {
			flags |= flagTimer << d
		}
	}
	dst = append(dst, flags)
	if r.output != unset {
		dst = binary.AppendVarint(dst, r.output-r.end)
	}
	if r.hold != unset {
		dst = binary.AppendVarint(dst, r.hold-r.end)
	}
	for d, fire := range r.timers {
		if fire == unset {
			continue
		}
		if Domain(d) == EventTime {
			fire -= r.end
		}
		dst = binary.AppendVarint(dst, fire)
	}
	if r.closed {
		return dst
	}
	for _, n := range [...]int64{r.index, r.nonEarly, r.fresh, r.total} {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	for _, word := range r.state.bits {
		dst = binary.AppendUvarint(dst, word)
	}
	for _, cell := range r.state.cells {
		dst = binary.AppendVarint(dst, cell)
	}
	return dst
}

// decode reads what appendTo wrote into a new record.
func (r *record) decode(d *decoder) {
	flags := d.byte()
	r.closed = flags&flagClosed != 0
	if flags&flagOutput != 0 {
		r.output = r.end + d.varint()
	}
	if flags&flagHold != 0 {
		r.hold = r.end + d.varint()
	}
	for i := range r.timers {
		if flags&(flagTimer<<i) == 0 {
			continue
		}
		if r.timers[i] = d.varint(); Domain(i) == EventTime {
			r.timers[i] += r.end
		}
	}
	if r.closed {
		return
	}
	for _, n := range [...]*int64{&r.index, &r.nonEarly, &r.fresh, &r.total} {
		*n = d.count()
	}
	for i := range r.state.bits {
		r.state.bits[i] = d.uvarint()
	}
	for i := range r.state.cells {
		r.state.cells[i] = d.varint()
	}
}

// decoder reads varints; the first failure sticks.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = errRecord
	}
	d.b = nil
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count is a uvarint that fits an int64.
func (d *decoder) count() int64 {
	v := d.uvarint()
	if v > math.MaxInt64 {
		d.fail()
		return 0
	}
	return int64(v)
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// header reads a cell's first bytes: the version and the shape of the trigger, which a changed pipeline may not have any more.
func (d *decoder) header(t *trigger) {
	if version := d.byte(); d.err == nil && version != recordVersion {
		d.err = fmt.Errorf("window state has version %d, this program reads %d: use the program that wrote it, or a newer one", version, recordVersion)
		return
	}
	bits, cells := d.uvarint(), d.uvarint()
	if d.err == nil && (bits != uint64(t.bits) || cells != uint64(t.cells)) {
		d.err = errors.New("window state was written under another trigger: restore with the trigger it had, or without state")
	}
}

func appendHeader(dst []byte, t *trigger) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, uint64(t.bits))
	return binary.AppendUvarint(dst, uint64(t.cells))
}

// done is the error of the whole cell.
func (d *decoder) done() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail()
	}
	return d.err
}

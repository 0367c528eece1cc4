package window

import (
	"fmt"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// Domain is the clock that a timer waits for.
type Domain byte

const (
	// EventTime timers are due when the input watermark has reached their time.
	EventTime Domain = iota
	// ProcessingTime timers are due when the stage's processing time has reached their time.
	ProcessingTime
	// SynchronizedProcessingTime timers are due when the synchronized processing time has reached their time: the minimum of
	// the processing times of all upstream work that is still under way. In one process it may be the processing time.
	SynchronizedProcessingTime

	domains = 3
)

// String names the domain as Beam does.
func (d Domain) String() string {
	switch d {
	case EventTime:
		return "event time"
	case ProcessingTime:
		return "processing time"
	case SynchronizedProcessingTime:
		return "synchronized processing time"
	}
	return fmt.Sprintf("Domain(%d)", byte(d))
}

// Context is one key as the logic sees it. The engine implements it over the bundle's transaction, so that all of a call's
// effects are committed together or not at all.
//
// A slot is an opaque byte string, unique within the key, that names a cell, a buffer, a hold and one timer per domain: the
// window's encoding (which is empty for the global window), or for merging windows a short number. Slots, values and v belong to
// the caller of the method: an implementation that keeps them copies them. Reads see the writes made before them. The clocks must
// not change during a call of Grouping.Elements or Grouping.Timer. An error ends the call and is returned wrapped; the
// transaction must then be discarded.
type Context interface {
	// Get returns the slot's cell; nil if it is not set. The result is read before the next method is called.
	Get(slot []byte) ([]byte, error)
	// Set replaces the slot's cell.
	Set(slot, v []byte) error
	// Delete removes the slot's cell.
	Delete(slot []byte) error

	// Append adds a value to the slot's buffer.
	Append(slot, value []byte) error
	// ClearBuffer empties the slot's buffer.
	ClearBuffer(slot []byte) error

	// SetTimer sets, or moves, the slot's only timer of a domain. fire is in ms. When it is due the engine removes it and
	// calls Grouping.Timer. Timers of the event time domain do not hold the output watermark.
	SetTimer(slot []byte, d Domain, fire int64) error
	// ClearTimer removes the timer, if it is set.
	ClearTimer(slot []byte, d Domain) error
	// SetHold sets, or moves, the slot's only hold: the output watermark does not pass ts (ms) until it is moved or cleared.
	SetHold(slot []byte, ts int64) error
	// ClearHold removes the hold, if it is set.
	ClearHold(slot []byte) error

	// Emit outputs a pane: the key with an iterable over the pane's buffers.
	Emit(f Firing) error
	// Drop counts n elements (one per window they were in) that came after their window expired or was closed.
	Drop(n int)

	// Watermark is the stage's input watermark in ms, the real one even in a call for an earlier timer: one jump of the
	// watermark over the end and the expiry of a window gives one pane.
	Watermark() int64
	// OutputWatermark is what the stage last promised downstream, in ms. It is at most Watermark. When an event time timer is
	// due, the engine calls Timer before it lets the output watermark follow the input watermark.
	OutputWatermark() int64
	// ProcessingTime is the stage's clock in ms.
	ProcessingTime() int64
	// SynchronizedProcessingTime is at most ProcessingTime, in ms.
	SynchronizedProcessingTime() int64
}

// Firing is one pane. Its slices are valid during Context.Emit only.
type Firing struct {
	// Window is the encoded window of the pane.
	Window []byte
	// Timestamp of the output element, ms, as the strategy's output time says.
	Timestamp int64
	Pane      coder.Pane
	// Buffers are the slots whose buffers, in this order, are the pane's values. They hold Count values together, which the
	// logic counted itself: 0 for an empty pane.
	Buffers [][]byte
	Count   int64
	// Clear tells that the buffers are to be emptied once they were read; there is no ClearBuffer for them.
	Clear bool
}

// Element is one element of the input.
type Element struct {
	// NumWindows and Windows are the element's encoded windows, concatenated (coder.Header).
	NumWindows int
	Windows    []byte
	// Timestamp in ms.
	Timestamp int64
	// Value is the encoded value, without the key.
	Value []byte
}

// Merger merges windows of a custom WindowFn, by running it in its SDK (beam:transform:merge_windows:v1).
type Merger interface {
	// Merge is given all windows of a key that are open, encoded, without duplicates. Windows that are in no Merge stay as they
	// are.
	Merge(windows [][]byte) ([]Merge, error)
}

// Merge says that the windows Originals become the window Into, which may be one of them. Encoded windows.
type Merge struct {
	Originals [][]byte
	Into      []byte
}

package coder

import (
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// Timer is a timer that user code set or cleared, or that fired (beam:coder:timer:v1). Its family and time domain are
// those of the stream that it came on.
type Timer struct {
	Key        []byte // encoded, nested
	Tag        string // the dynamic timer tag; "" for plain timers
	NumWindows int
	Windows    []byte // encoded windows, concatenated
	// Clear: the timer is to be cleared. The fields below are then not encoded.
	Clear bool
	// Fire is the time to fire at, in the timer's time domain; Hold the event time that the output watermark may not pass
	// before. Both ms.
	Fire, Hold int64
	Pane       Pane
}

// TimerCoder reads and writes timers. It is immutable.
type TimerCoder struct {
	key    *Coder
	window *WindowCoder
}

// NewTimerCoder returns the coder of timers with the given keys and windows.
func NewTimerCoder(key *Coder, w *WindowCoder) *TimerCoder { return &TimerCoder{key: key, window: w} }

// CompileTimer compiles the coder id, which must be a beam:coder:timer:v1.
func CompileTimer(components *pipepb.Components, id string) (*TimerCoder, error) {
	c, err := Compile(components, id)
	if err != nil {
		return nil, err
	}
	if c.kind != timer {
		return nil, fmt.Errorf("coder %s is a %s, want %s", id, c.urn, URNTimer)
	}
	return NewTimerCoder(c.components[0], c.window), nil
}

// Key returns the coder of the keys.
func (t *TimerCoder) Key() *Coder { return t.key }

// Window returns the coder of the windows.
func (t *TimerCoder) Window() *WindowCoder { return t.window }

// Parse reads the timer at the beginning of b and returns it with its length. The timer aliases b but for its tag.
func (t *TimerCoder) Parse(b []byte) (Timer, int, error) {
	raw, n, err := parseTimer(t.key, t.window, b)
	if err != nil {
		return Timer{}, 0, err
	}
	raw.Tag = string(raw.tag)
	return raw.Timer, n, nil
}

// rawTimer is a Timer whose tag is not a string yet.
type rawTimer struct {
	Timer
	tag []byte
}

func parseTimer(key *Coder, w *WindowCoder, b []byte) (rawTimer, int, error) {
	var t rawTimer
	at, err := key.Skip(b)
	if err != nil {
		return t, 0, err
	}
	t.Key = b[:at:at]
	tag, n, err := ParseBytes(b[at:])
	if err != nil {
		return t, 0, err
	}
	t.tag, at = tag, at+n
	count, n, err := w.parse(b[at:])
	if err != nil {
		return t, 0, err
	}
	t.NumWindows, t.Windows, at = count, b[at+countSize:at+n:at+n], at+n
	if len(b) == at {
		return t, 0, ErrShort
	}
	if b[at] > 1 {
		return t, 0, fmt.Errorf("clear bit %#x of a timer: %w", b[at], ErrMalformed)
	}
	t.Clear, at = b[at] == 1, at+1
	if t.Clear {
		return t, at, nil
	}
	if len(b) < at+2*timestampSize {
		return t, 0, ErrShort
	}
	t.Fire, t.Hold, at = timestamp(b[at:]), timestamp(b[at+timestampSize:]), at+2*timestampSize
	t.Pane, n, err = ParsePane(b[at:])
	if err != nil {
		return t, 0, err
	}
	return t, at + n, nil
}

// Append appends an encoded timer.
func (t *TimerCoder) Append(dst []byte, tm Timer) []byte {
	dst = append(dst, tm.Key...)
	dst = append(AppendVarint(dst, int64(len(tm.Tag))), tm.Tag...)
	dst = appendWindows(dst, tm.NumWindows, tm.Windows)
	if tm.Clear {
		return append(dst, 1)
	}
	dst = AppendTimestamp(append(dst, 0), tm.Fire)
	return AppendPane(AppendTimestamp(dst, tm.Hold), tm.Pane)
}

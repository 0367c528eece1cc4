package coder

import (
	"fmt"
	"iter"
	"math"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// WindowCoder reads encoded windows. It is immutable.
type WindowCoder struct {
	coder *Coder
}

// CompileWindow compiles the coder id as a window coder.
func CompileWindow(components *pipepb.Components, id string) (*WindowCoder, error) {
	c, err := Compile(components, id)
	if err != nil {
		return nil, err
	}
	return NewWindowCoder(c)
}

// NewWindowCoder returns the reader of c's windows. c is a global, interval or custom window coder, or a length prefix
// before any coder; of a coder unknown behind its length prefix MaxTimestamp fails.
func NewWindowCoder(c *Coder) (*WindowCoder, error) {
	switch {
	case c.kind == globalWindow, c.kind == intervalWindow, c.kind == customWindow, c.urn == URNLengthPrefix:
		return &WindowCoder{coder: c}, nil
	}
	return nil, fmt.Errorf("coder %s (%s) does not encode windows: enclose it in %s", c.id, c.urn, URNCustomWindow)
}

// GlobalWindow returns the coder of the global window, which takes no bytes.
func GlobalWindow() *WindowCoder {
	return &WindowCoder{coder: &Coder{urn: URNGlobalWindow, kind: globalWindow, size: 0}}
}

// IntervalWindow returns the coder of intervals of time.
func IntervalWindow() *WindowCoder {
	return &WindowCoder{coder: &Coder{urn: URNIntervalWindow, kind: intervalWindow, size: -1}}
}

// Coder returns the coder of one window.
func (w *WindowCoder) Coder() *Coder { return w.coder }

// Skip returns the length of the window at the beginning of b.
func (w *WindowCoder) Skip(b []byte) (int, error) { return w.coder.Skip(b) }

// MaxTimestamp returns the last event time, ms, that belongs to the encoded window b.
func (w *WindowCoder) MaxTimestamp(b []byte) (int64, error) { return w.coder.maxTimestamp(b) }

func (c *Coder) maxTimestamp(b []byte) (int64, error) {
	switch c.kind {
	case globalWindow:
		return EndOfGlobalWindow, nil
	case intervalWindow:
		end, err := ParseTimestamp(b)
		if err != nil {
			return 0, err
		}
		if end == math.MinInt64 {
			return end, nil
		}
		return end - 1, nil
	case customWindow:
		return ParseTimestamp(b)
	case prefixed:
		if len(c.components) == 1 && c.components[0].kind != opaque {
			inner, _, err := ParseBytes(b)
			if err != nil {
				return 0, err
			}
			return c.components[0].maxTimestamp(inner)
		}
	}
	return 0, fmt.Errorf("end of a window of coder %s (%s): the runner cannot read it: enclose the coder in %s",
		c.id, c.urn, URNCustomWindow)
}

// Each yields every window of a concatenation of windows that has been parsed: Header.Windows, Timer.Windows. n is their
// number. Each stops at the first window that cannot be read; there is none in what a parser of this package returned.
func (w *WindowCoder) Each(n int, windows []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for range n {
			size, err := w.coder.Skip(windows)
			if err != nil || !yield(windows[:size:size]) {
				return
			}
			windows = windows[size:]
		}
	}
}

// parse reads the windows of an element: their count and, at[from:to], themselves.
func (w *WindowCoder) parse(b []byte) (n, to int, err error) {
	n, err = parseCount(b)
	if err != nil {
		return 0, 0, err
	}
	// Windows are a set: there is one global window. Without this a few bytes could claim 2^31 of them.
	if n == chunked || w.coder.size == 0 && n > 1 {
		return 0, 0, fmt.Errorf("count %d of windows: %w", n, ErrMalformed)
	}
	size, err := w.coder.skipN(int64(n), b[countSize:])
	if err != nil {
		return 0, 0, err
	}
	return n, countSize + size, nil
}

// skipInterval skips an interval window: its end and, as a varint, its length.
func skipInterval(b []byte) (int, error) {
	if len(b) < timestampSize {
		return 0, ErrShort
	}
	_, n, err := ParseVarint(b[timestampSize:])
	if err != nil {
		return 0, err
	}
	return timestampSize + n, nil
}

// ParseInterval reads an interval window [start, end), ms, and returns its length in bytes.
func ParseInterval(b []byte) (start, end int64, n int, err error) {
	if len(b) < timestampSize {
		return 0, 0, 0, ErrShort
	}
	end = timestamp(b)
	span, n, err := ParseVarint(b[timestampSize:])
	if err != nil {
		return 0, 0, 0, err
	}
	return end - span, end, timestampSize + n, nil
}

// AppendInterval appends the interval window [start, end), ms.
func AppendInterval(dst []byte, start, end int64) []byte {
	return AppendVarint(AppendTimestamp(dst, end), end-start)
}

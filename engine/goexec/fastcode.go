package goexec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/coder"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/typex"
)

// Codings are Beam's standard ones (beam_runner_api.proto, StandardCoders): a windowed value is its timestamp (8 bytes,
// big endian, shifted so that bytes sort as numbers), the number of its windows (4 bytes), the windows, its pane and its
// value. Values that have no scalar below take exec's own coders.

var (
	errShort = errors.New("the element ends too early")
	errLong  = errors.New("bytes are left over")
)

// noFiring is the coded pane of elements that no trigger fired: nearly all.
const noFiring = 0x0f

// scalar codes one kind of simple value. decode copies what it takes from b; append reports values of another type.
type scalar struct {
	decode func(b []byte) (v any, n int, err error)
	append func(dst []byte, v any) (_ []byte, ok bool)
}

// scalarOf returns the scalar of a coder; ok is false when it has none.
func scalarOf(c *coder.Coder) (s scalar, ok bool) {
	switch c.Kind {
	case coder.Bytes:
		return scalar{decodeBytes, appendBytes}, true
	case coder.String:
		return scalar{decodeString, appendString}, true
	case coder.VarInt:
		return scalar{decodeVarint, appendVarint}, true
	case coder.Double:
		return scalar{decodeDouble, appendDouble}, true
	}
	return scalar{}, false
}

// cutPrefixed returns the bytes behind a length prefix, and the length of both.
func cutPrefixed(b []byte) ([]byte, int, error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, 0, errShort
	}
	end := n + int(size)
	return b[n:end], end, nil
}

func decodeBytes(b []byte) (any, int, error) {
	v, n, err := cutPrefixed(b)
	if err != nil {
		return nil, 0, err
	}
	return append(make([]byte, 0, len(v)), v...), n, nil // a copy: a DoFn may keep it
}

func decodeString(b []byte) (any, int, error) {
	v, n, err := cutPrefixed(b)
	if err != nil {
		return nil, 0, err
	}
	return string(v), n, nil
}

func decodeVarint(b []byte) (any, int, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return nil, 0, errShort
	}
	return int64(v), n, nil
}

func decodeDouble(b []byte) (any, int, error) {
	if len(b) < 8 {
		return nil, 0, errShort
	}
	return math.Float64frombits(binary.BigEndian.Uint64(b)), 8, nil
}

func appendBytes(dst []byte, v any) ([]byte, bool) {
	x, ok := v.([]byte)
	return append(binary.AppendUvarint(dst, uint64(len(x))), x...), ok
}

func appendString(dst []byte, v any) ([]byte, bool) {
	x, ok := v.(string)
	return append(binary.AppendUvarint(dst, uint64(len(x))), x...), ok
}

func appendVarint(dst []byte, v any) ([]byte, bool) {
	x, ok := v.(int64)
	return binary.AppendUvarint(dst, uint64(x)), ok
}

func appendDouble(dst []byte, v any) ([]byte, bool) {
	x, ok := v.(float64)
	return binary.BigEndian.AppendUint64(dst, math.Float64bits(x)), ok
}

// decoder decodes windowed values of one coder. One goroutine.
type decoder struct {
	key, value scalar // value only of a KV, key only when the element is one or a scalar
	kv, simple bool
	generic    exec.ElementDecoder
	reader     bytes.Reader // of generic

	interval bool
	raw      []byte // the last windows, coded and decoded: elements come in runs of the same
	windows  []typex.Window
}

func newDecoder(c *coder.Coder) *decoder {
	e := coder.SkipW(c)
	d := &decoder{interval: c.Window.Kind == coder.IntervalWindow, generic: exec.MakeElementDecoder(e)}
	d.key, d.value, d.kv, d.simple = scalars(e)
	return d
}

// scalars returns how to code an element that is a scalar or a KV of two.
func scalars(e *coder.Coder) (key, value scalar, kv, simple bool) {
	if !coder.IsKV(e) {
		key, simple = scalarOf(e)
		return key, scalar{}, false, simple
	}
	key, ok1 := scalarOf(e.Components[0])
	value, ok2 := scalarOf(e.Components[1])
	return key, value, true, ok1 && ok2
}

// decode decodes one whole windowed value.
func (d *decoder) decode(b []byte, v *exec.FullValue) error {
	if len(b) < 13 {
		return errShort
	}
	ts := typex.EventTime(binary.BigEndian.Uint64(b) ^ 1<<63)
	n, err := d.decodeWindows(b[8:])
	if err != nil {
		return err
	}
	b = b[8+n:]
	if len(b) == 0 {
		return errShort
	}
	pane := typex.PaneInfo{Timing: typex.PaneUnknown, IsFirst: true, IsLast: true}
	if b[0] == noFiring {
		b = b[1:]
	} else {
		d.reader.Reset(b)
		if pane, err = coder.DecodePane(&d.reader); err != nil {
			return fmt.Errorf("decode pane: %w", err)
		}
		b = b[len(b)-d.reader.Len():]
	}
	if err := d.decodeValue(b, v); err != nil {
		return err
	}
	v.Timestamp, v.Windows, v.Pane = ts, d.windows, pane
	return nil
}

// decodeWindows sets d.windows and returns how many bytes they took, their number included.
func (d *decoder) decodeWindows(b []byte) (int, error) {
	if len(d.raw) > 0 && bytes.HasPrefix(b, d.raw) {
		return len(d.raw), nil
	}
	count := binary.BigEndian.Uint32(b)
	n := 4
	if !d.interval { // global windows take no bytes
		d.raw, d.windows = append(d.raw[:0], b[:n]...), window.SingleGlobalWindow
		return n, nil
	}
	if uint64(count)*9 > uint64(len(b)) {
		return 0, errShort
	}
	d.windows = make([]typex.Window, count) // new ones: nodes may still hold the last
	for i := range d.windows {
		if len(b)-n < 9 {
			return 0, errShort
		}
		end := mtime.Time(binary.BigEndian.Uint64(b[n:]) ^ 1<<63)
		span, m := binary.Uvarint(b[n+8:])
		if m <= 0 {
			return 0, errShort
		}
		d.windows[i] = window.IntervalWindow{Start: end - mtime.Time(span), End: end}
		n += 8 + m
	}
	d.raw = append(d.raw[:0], b[:n]...)
	return n, nil
}

func (d *decoder) decodeValue(b []byte, v *exec.FullValue) (err error) {
	*v = exec.FullValue{}
	if !d.simple {
		d.reader.Reset(b)
		if err := d.generic.DecodeTo(&d.reader, v); err != nil {
			return err
		}
		if d.reader.Len() > 0 {
			return errLong
		}
		return nil
	}
	var n, m int
	if v.Elm, n, err = d.key.decode(b); err != nil {
		return err
	}
	if d.kv {
		if v.Elm2, m, err = d.value.decode(b[n:]); err != nil {
			return err
		}
	}
	if n+m != len(b) {
		return errLong
	}
	return nil
}

// encoder encodes windowed values of one coder. One goroutine.
type encoder struct {
	key, value scalar
	kv, simple bool
	generic    exec.ElementEncoder
	windows    exec.WindowEncoder
	global     bool
	out        appendWriter // of generic
}

func newEncoder(c *coder.Coder) *encoder {
	e := coder.SkipW(c)
	k := &encoder{
		generic: exec.MakeElementEncoder(e),
		windows: exec.MakeWindowEncoder(c.Window),
		global:  c.Window.Kind == coder.GlobalWindow,
	}
	k.key, k.value, k.kv, k.simple = scalars(e)
	return k
}

// append appends the coded v to dst. After an error dst's own bytes are as they were.
func (e *encoder) append(dst []byte, v *exec.FullValue) ([]byte, error) {
	dst = binary.BigEndian.AppendUint64(dst, uint64(v.Timestamp)^1<<63)
	dst, err := e.appendWindows(dst, v.Windows)
	if err != nil {
		return nil, err
	}
	if v.Pane == (typex.PaneInfo{Timing: typex.PaneUnknown, IsFirst: true, IsLast: true}) {
		dst = append(dst, noFiring)
	} else {
		e.out = dst
		if err := coder.EncodePane(v.Pane, &e.out); err != nil {
			return nil, err
		}
		dst = e.out
	}
	if e.simple {
		from := len(dst)
		if dst, ok := e.appendScalars(dst, v); ok {
			return dst, nil
		}
		dst = dst[:from] // exec's coder says what is wrong with the type
	}
	e.out = dst
	err = e.generic.Encode(v, &e.out)
	return e.out, err
}

func (e *encoder) appendWindows(dst []byte, ws []typex.Window) ([]byte, error) {
	if e.global {
		return append(dst, 0, 0, 0, 1), nil
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(ws)))
	for _, w := range ws {
		iw, ok := w.(window.IntervalWindow)
		if !ok {
			return nil, fmt.Errorf("window %v is a %T: want an interval window", w, w)
		}
		dst = binary.BigEndian.AppendUint64(dst, uint64(iw.End)^1<<63)
		dst = binary.AppendUvarint(dst, uint64(iw.End.Milliseconds()-iw.Start.Milliseconds()))
	}
	return dst, nil
}

func (e *encoder) appendScalars(dst []byte, v *exec.FullValue) (_ []byte, ok bool) {
	dst, ok = e.key.append(dst, v.Elm)
	if !ok || !e.kv {
		return dst, ok
	}
	return e.value.append(dst, v.Elm2)
}

// appendWriter is a slice as an io.Writer.
type appendWriter []byte

func (w *appendWriter) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}

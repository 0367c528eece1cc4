package coder

import (
	"fmt"
	"iter"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// WindowedValue reads the elements of a PCollection (beam:coder:windowed_value:v1): timestamp, windows, pane, value.
// It is immutable.
type WindowedValue struct {
	elem   *Coder
	window *WindowCoder
}

// NewWindowedValue returns the reader of elements with the given value and windows.
func NewWindowedValue(elem *Coder, w *WindowCoder) *WindowedValue {
	return &WindowedValue{elem: elem, window: w}
}

// CompileWindowedValue compiles the coder id, which must be a beam:coder:windowed_value:v1.
func CompileWindowedValue(components *pipepb.Components, id string) (*WindowedValue, error) {
	c, err := Compile(components, id)
	if err != nil {
		return nil, err
	}
	if c.kind != windowedValue {
		return nil, fmt.Errorf("coder %s is a %s, want %s", id, c.urn, URNWindowedValue)
	}
	return NewWindowedValue(c.components[0], c.window), nil
}

// Elem returns the coder of the value.
func (w *WindowedValue) Elem() *Coder { return w.elem }

// Window returns the coder of the windows.
func (w *WindowedValue) Window() *WindowCoder { return w.window }

// Header is what stands before the value of an element. Its slices alias the element.
type Header struct {
	Timestamp  int64 // event time, ms
	NumWindows int
	Windows    []byte // encoded windows, concatenated
	Pane       Pane
	// PaneBytes are the encoded pane and the metadata behind it, if any: with AppendRawHeader both go on unchanged.
	// Metadata (Elements.ElementMetadata, length-prefixed, marked in the pane) comes from SDKs with the capability
	// beam:protocol:element_metadata:v1.
	PaneBytes []byte
	// ValueOffset is where the value begins in the element.
	ValueOffset int
}

// ParseHeader reads the header of the element at the beginning of b.
func (w *WindowedValue) ParseHeader(b []byte) (Header, error) {
	if len(b) < timestampSize {
		return Header{}, ErrShort
	}
	at := timestampSize
	n, size, err := w.window.parse(b[at:])
	if err != nil {
		return Header{}, err
	}
	from := at + countSize
	at += size
	pane, size, err := parseElementPane(b[at:])
	if err != nil {
		return Header{}, err
	}
	return Header{
		Timestamp:   timestamp(b),
		NumWindows:  n,
		Windows:     b[from:at:at],
		Pane:        pane,
		PaneBytes:   b[at : at+size : at+size],
		ValueOffset: at + size,
	}, nil
}

// parseElementPane reads a pane and skips the metadata behind it.
func parseElementPane(b []byte) (Pane, int, error) {
	pane, at, err := ParsePane(b)
	if err != nil || b[0]&paneMetadata == 0 {
		return pane, at, err
	}
	_, n, err := ParseBytes(b[at:])
	return pane, at + n, err
}

// Skip returns the length of the element at the beginning of b.
func (w *WindowedValue) Skip(b []byte) (int, error) {
	n, err := skipHeader(w.window, b)
	if err != nil {
		return 0, err
	}
	m, err := w.elem.Skip(b[n:])
	if err != nil {
		return 0, err
	}
	return n + m, nil
}

func skipHeader(w *WindowCoder, b []byte) (int, error) {
	if len(b) < timestampSize {
		return 0, ErrShort
	}
	at := timestampSize
	_, n, err := w.parse(b[at:])
	if err != nil {
		return 0, err
	}
	at += n
	_, n, err = parseElementPane(b[at:])
	if err != nil {
		return 0, err
	}
	return at + n, nil
}

// EachWindow yields the encoded windows of an element.
func (w *WindowedValue) EachWindow(h Header) iter.Seq[[]byte] {
	return w.window.Each(h.NumWindows, h.Windows)
}

// AppendHeader appends the header of an element at event time ts, ms, in numWindows encoded windows, concatenated. The
// encoded value follows.
func AppendHeader(dst []byte, ts int64, numWindows int, windows []byte, pane Pane) []byte {
	return AppendPane(appendWindows(AppendTimestamp(dst, ts), numWindows, windows), pane)
}

// AppendRawHeader is AppendHeader with a pane that is already encoded, such as Header.PaneBytes.
func AppendRawHeader(dst []byte, ts int64, numWindows int, windows, pane []byte) []byte {
	return append(appendWindows(AppendTimestamp(dst, ts), numWindows, windows), pane...)
}

func appendWindows(dst []byte, n int, windows []byte) []byte {
	return append(AppendCount(dst, n), windows...)
}

package coder

import "fmt"

// Timing says how a pane lies to the watermark. The values are those on the wire.
type Timing uint8

// The timings.
const (
	Early  Timing = iota // before the watermark passed the window's end
	OnTime               // when it passed
	Late                 // after it passed
	// Unknown is the timing of elements that no trigger has fired.
	Unknown
)

func (t Timing) String() string {
	switch t {
	case Early:
		return "EARLY"
	case OnTime:
		return "ON_TIME"
	case Late:
		return "LATE"
	case Unknown:
		return "UNKNOWN"
	}
	return fmt.Sprintf("Timing(%d)", uint8(t))
}

// Pane tells which firing of its window an element comes from.
type Pane struct {
	First, Last bool
	Timing      Timing
	// Index counts the firings of the window from 0, NonSpeculativeIndex those that were not early; -1 in early panes.
	Index, NonSpeculativeIndex int64
}

// NoFiring is the pane of an element that has not been grouped.
func NoFiring() Pane { return Pane{First: true, Last: true, Timing: Unknown} }

// The first byte of a pane: what follows it (4 bits, of which the highest is Beam's mark for metadata, see Header), its
// timing (2 bits), last, first.
const (
	paneFirst    = 0x01
	paneLast     = 0x02
	paneTiming   = 2 // shift
	paneOneIndex = 0x10
	paneIndices  = 0x20
	paneMetadata = 0x80
)

// ParsePane reads a pane and returns it with its length.
func ParsePane(b []byte) (Pane, int, error) {
	if len(b) == 0 {
		return Pane{}, 0, ErrShort
	}
	p := Pane{
		First:  b[0]&paneFirst != 0,
		Last:   b[0]&paneLast != 0,
		Timing: Timing(b[0] >> paneTiming & 3),
	}
	form := b[0] &^ paneMetadata & 0xf0
	if form > paneIndices {
		return Pane{}, 0, fmt.Errorf("first byte %#x of a pane: %w", b[0], ErrMalformed)
	}
	at := 1
	if form >= paneOneIndex {
		v, n, err := ParseVarint(b[at:])
		if err != nil {
			return Pane{}, 0, err
		}
		p.Index, at = v, at+n
	}
	if form == paneIndices {
		v, n, err := ParseVarint(b[at:])
		if err != nil {
			return Pane{}, 0, err
		}
		p.NonSpeculativeIndex, at = v, at+n
	} else {
		p.NonSpeculativeIndex = p.Index
		if p.Timing == Early {
			p.NonSpeculativeIndex = -1
		}
	}
	return p, at, nil
}

// AppendPane appends a pane in the shortest of its encodings, as the SDKs do. The indices of a pane of unknown timing are
// not encoded.
func AppendPane(dst []byte, p Pane) []byte {
	head := byte(p.Timing&3) << paneTiming
	if p.First {
		head |= paneFirst
	}
	if p.Last {
		head |= paneLast
	}
	switch {
	case p.Timing == Unknown, p.Index == 0 && p.NonSpeculativeIndex == 0:
		return append(dst, head)
	case p.Timing == Early, p.Index == p.NonSpeculativeIndex:
		return AppendVarint(append(dst, head|paneOneIndex), p.Index)
	}
	return AppendVarint(AppendVarint(append(dst, head|paneIndices), p.Index), p.NonSpeculativeIndex)
}

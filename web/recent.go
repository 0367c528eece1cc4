package web

import (
	"encoding/json"
	"math"
	"strconv"
	"time"
)

const (
	// recentLooks and recentWindow are what live rates are averages over: shorter than those of REST, so that people see what
	// they have just done.
	recentLooks  = 6
	recentWindow = 10 * time.Second
)

// recent makes rates of the newest looks at a list of counters. Not goroutine safe.
type recent struct {
	restarts, slots int
	looks           []look // oldest first
}

type look struct {
	at       time.Time
	counters []Counters
}

// rates takes a look. Counters are of so many slots each. false: this is the first look that can be compared.
func (r *recent) rates(i Info, counters []Counters, slots int, now time.Time) ([]Rates, bool) {
	n := len(r.looks)
	if n > 0 && (r.restarts != i.Restarts || r.slots != i.Slots || len(r.looks[n-1].counters) != len(counters)) {
		r.looks = nil
	}
	r.restarts, r.slots = i.Restarts, i.Slots
	r.looks = append(r.looks, look{now, counters})
	for len(r.looks) > recentLooks || len(r.looks) > 2 && now.Sub(r.looks[1].at) >= recentWindow {
		r.looks = r.looks[1:]
	}
	first := r.looks[0]
	d := now.Sub(first.at)
	if d <= 0 {
		return nil, false
	}
	out := make([]Rates, len(counters))
	for k, c := range counters {
		out[k] = rates(first.counters[k], c, d, slots)
	}
	return out, true
}

// totals are the stages' counters as a whole.
func totals(stages []Stage) []Counters {
	out := make([]Counters, len(stages))
	for k, s := range stages {
		out[k] = s.total()
	}
	return out
}

// numRow are a row of numbers: whole ones as they are, others with four digits; what is no number is null.
type numRow []float64

// MarshalJSON writes an array.
func (r numRow) MarshalJSON() ([]byte, error) { return r.append(make([]byte, 0, 8*len(r)+2)), nil }

func (r numRow) append(out []byte) []byte {
	out = append(out, '[')
	for k, v := range r {
		if k > 0 {
			out = append(out, ',')
		}
		out = appendNumber(out, v)
	}
	return append(out, ']')
}

// numRows are rows, of a page with many.
type numRows []numRow

// MarshalJSON writes an array of arrays; null if there is none.
func (r numRows) MarshalJSON() ([]byte, error) {
	if r == nil {
		return []byte("null"), nil
	}
	out := append(make([]byte, 0, 48*len(r)+2), '[')
	for k, row := range r {
		if k > 0 {
			out = append(out, ',')
		}
		out = row.append(out)
	}
	return append(out, ']'), nil
}

func appendNumber(out []byte, v float64) []byte {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return append(out, "null"...)
	case v == math.Trunc(v) && math.Abs(v) < 1<<53:
		return strconv.AppendInt(out, int64(v), 10)
	default:
		return strconv.AppendFloat(out, v, 'g', 4, 64)
	}
}

// maybe is a number that may be unknown: NaN is null.
type maybe float64

// MarshalJSON writes a number or null.
func (v maybe) MarshalJSON() ([]byte, error) { return appendNumber(nil, float64(v)), nil }

var (
	_ json.Marshaler = numRow(nil)
	_ json.Marshaler = numRows(nil)
	_ json.Marshaler = maybe(0)
)

// unknown is shown where nothing is known.
func unknown() float64 { return math.NaN() }

// known is n, or unknown if it is negative.
func known(n int64) maybe {
	if n < 0 {
		return maybe(unknown())
	}
	return maybe(n)
}

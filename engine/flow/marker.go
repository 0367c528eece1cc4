package flow

import "time"

// Marker tells where and when the oldest record behind a block entered the job, for measuring latency. It is no part of the
// elements: it does not outlive the process. The zero value is none.
type Marker struct {
	// Source numbers the stage at which the record entered, from 1; 0: there is no marker.
	Source int32
	// Entered is when it did, ns since the epoch by the wall clock; 0: not yet, see Builder.Mark.
	Entered int64
}

// Older returns the marker of the older record of two; none is older than nothing.
func (m Marker) Older(o Marker) Marker {
	if o.Source != 0 && (m.Source == 0 || o.Entered < m.Entered) {
		return o
	}
	return m
}

// Age returns how long ago the record entered; 0 if the clock was set back since.
func (m Marker) Age(now time.Time) time.Duration {
	return max(0, time.Duration(now.UnixNano()-m.Entered))
}

// Oldest returns the marker of the oldest record behind blocks.
func Oldest(blocks []*Block) Marker {
	var m Marker
	for _, b := range blocks {
		m = m.Older(b.marker)
	}
	return m
}

package window

import (
	"fmt"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// SideMapping tells which window of a side input belongs to a window of the main input: the SDKs' default window mapping. The zero
// value maps nothing.
type SideMapping struct {
	urn                  string
	size, period, offset int64 // ms; of fixed and sliding windows
}

// NewSideMapping reads the side input's windowing strategy. Of a WindowFn that the runner does not know, the mapping maps nothing;
// an error means that its payload is malformed.
func NewSideMapping(ws *pipepb.WindowingStrategy) (SideMapping, error) {
	m := SideMapping{urn: ws.GetWindowFn().GetUrn()}
	payload := ws.GetWindowFn().GetPayload()
	switch m.urn {
	case fixedURN:
		var p pipepb.FixedWindowsPayload
		if err := proto.Unmarshal(payload, &p); err != nil {
			return SideMapping{}, fmt.Errorf("read payload of %s: %w", m.urn, err)
		}
		m.size, m.period, m.offset = millis(p.GetSize()), millis(p.GetSize()), p.GetOffset().AsTime().UnixMilli()
	case slidingURN:
		var p pipepb.SlidingWindowsPayload
		if err := proto.Unmarshal(payload, &p); err != nil {
			return SideMapping{}, fmt.Errorf("read payload of %s: %w", m.urn, err)
		}
		m.size, m.period, m.offset = millis(p.GetSize()), millis(p.GetPeriod()), p.GetOffset().AsTime().UnixMilli()
	default:
		return m, nil
	}
	if m.size < 1 || m.period < 1 {
		return SideMapping{}, fmt.Errorf("%s has a size of %d ms and a period of %d ms: both must be at least 1", m.urn, m.size, m.period)
	}
	return m, nil
}

func millis(d interface{ AsDuration() time.Duration }) int64 { return d.AsDuration().Milliseconds() }

// Map returns the encoded side window for a main window with this maximum timestamp (ms), and its end: the side input is complete
// for it once the side collection's watermark has passed the end (W > end). With sliding windows it is the earliest window that
// has the timestamp. ok is false when the runner cannot know the window: wait until the side collection is complete.
func (m SideMapping) Map(maxTimestamp int64) (window []byte, end int64, ok bool) {
	switch m.urn {
	case globalURN:
		return []byte{}, coder.EndOfGlobalWindow, true
	case fixedURN, slidingURN:
		start := m.align(addSat(maxTimestamp, -m.size)) + m.period
		if start > maxTimestamp {
			return nil, 0, false // between two windows
		}
		return coder.AppendInterval(nil, start, start+m.size), min(start+m.size-1, coder.EndOfGlobalWindow), true
	}
	return nil, 0, false
}

// align is the latest window start that is not after ts.
func (m SideMapping) align(ts int64) int64 {
	over := (ts - m.offset) % m.period
	if over < 0 {
		over += m.period
	}
	return ts - over
}

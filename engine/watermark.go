package engine

import (
	"time"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/state"
)

// advance moves watermarks forward, in topological order, where something changed. REQUIRES: x.mu.
//
// A stage's input watermark is the least of what its producers promise and of the elements it has not committed yet. Its
// output watermark is the least of its input watermark and of what the stage holds back: timers' output timestamps,
// windows not yet fired, residuals' watermarks, and the work in flight. Both only rise.
func (x *execution) advance() {
	for _, s := range x.stages {
		s.resume()
		if !s.dirty {
			continue
		}
		s.dirty = false
		in := s.upstream()
		for _, m := range s.pending() {
			in = min(in, m)
		}
		if side, ok := s.op.(*sideOp); ok && in > s.inputWM {
			side.moves++
			defer side.release() // the readers come later in the order, but their queues may be looked at already
		}
		s.inputWM = max(s.inputWM, in)
		out := min(in, s.op.hold())
		for w := range s.active {
			out = min(out, w.hold)
		}
		if s.hasOwner {
			if h, ok := x.db.MinHold(s.owner); ok {
				out = min(out, h)
			}
			// Timers that have become due fire first: what they emit must not be late.
			if t, ok := x.db.NextTimer(s.owner, state.EventTime, 0, uint16(x.cfg.MaxParallelism)); ok && t <= s.inputWM {
				out = min(out, s.outputWM)
			}
		}
		if out > s.outputWM {
			s.outputWM = out
			for _, c := range s.outs {
				for _, t := range c.consumers {
					t.dirty = true
				}
			}
		}
		if s.ended.IsZero() && s.finished() {
			s.ended = time.Now()
		}
	}
}

// upstream is what the producers promise. REQUIRES: x.mu.
func (s *stage) upstream() int64 {
	if s.in == nil {
		return coder.MaxTimestamp
	}
	return s.in.watermark()
}

// pending are the least timestamps of elements that wait or are being processed. For a residual it is the watermark that
// its watermark estimator gave. REQUIRES: x.mu.
func (s *stage) pending() []int64 {
	var p []int64
	for i, q := range s.queues {
		if m, ok := q.MinTimestamp(); ok {
			p = append(p, m)
		}
		if m, ok := s.blocked[i].MinTimestamp(); ok {
			p = append(p, m)
		}
		if m, ok := s.unstable[i].MinTimestamp(); ok {
			p = append(p, m)
		}
	}
	if m, ok := s.truncated.MinTimestamp(); ok {
		p = append(p, m)
	}
	for _, d := range s.delayed {
		p = append(p, d.block.MinTimestamp())
	}
	for w := range s.active {
		p = append(p, w.minInput)
	}
	return p
}

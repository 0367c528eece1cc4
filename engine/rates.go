package engine

import (
	"time"
)

// SlotOverview tells what one slot of a stage has done since the execution began, or since a rescaling made the slot.
// Counters are of committed bundles.
type SlotOverview struct {
	ElementsIn, ElementsOut int64
	BytesIn, BytesOut       int64
	Bundles                 int64
	// Busy is the time in bundles, BackPressured the time in which the slot had none because the queues behind the stage
	// were full; the rest is idle. Bundles of sources, sinks and unbounded splittable DoFns, which mostly wait for others,
	// are busy only if they moved an element.
	Busy, BackPressured time.Duration
	// QueuedElements and QueuedBytes wait for the slot. What may go to any slot is counted with the first one.
	QueuedElements int
	QueuedBytes    int64
	Running        int
	// Backlog is what a source's shard knows to be waiting outside; -1: unknown or no source.
	Backlog int64
}

// Failure is an error that ended an execution of the job: the job failed, or went back to its last checkpoint.
type Failure struct {
	At  time.Time
	Err error
}

// maxFailures bounds the failures that a job remembers.
const maxFailures = 100

// usage is what the slots of a stage did with their time. All of it is guarded by execution.mu.
type usage struct {
	slots []slotUsage
	// throttled is how long the stage had work and the queues behind it were full; since is not zero while that is so.
	throttled time.Duration
	since     time.Time
}

// slotUsage is the usage of a slot.
type slotUsage struct {
	SlotOverview
	born    time.Duration // usage.throttled when the slot was made
	overlap time.Duration // time both busy and throttled
}

// resize fits the number of slots.
func (u *usage) resize(n int, now time.Time) {
	for len(u.slots) < n {
		u.slots = append(u.slots, slotUsage{born: u.throttledTime(now)})
	}
	u.slots = u.slots[:n]
}

func (u *usage) throttledTime(now time.Time) time.Duration {
	if u.since.IsZero() {
		return u.throttled
	}
	return u.throttled + now.Sub(u.since)
}

// throttle notes whether the stage is kept from working by full queues. REQUIRES: execution.mu.
func (s *stage) throttle(full bool) {
	u := &s.usage
	switch {
	case full == !u.since.IsZero():
	case !full:
		u.throttled, u.since = u.throttledTime(time.Now()), time.Time{}
	case s.queued() > 0 || s.in == nil && !s.op.idle():
		u.since = time.Now()
	}
}

// slot is the usage of the slot of a work. Works of an unbounded splittable DoFn, of which more run than there are slots,
// are spread over them. REQUIRES: execution.mu.
func (s *stage) slot(w *work, now time.Time) *slotUsage {
	s.usage.resize(s.x.cfg.Slots, now)
	return &s.usage.slots[w.slot%s.x.cfg.Slots]
}

// used adds an ended work to its slot. REQUIRES: execution.mu, w.blocks are there.
func (s *stage) used(w *work, emitted []*emission, committed bool) {
	now := time.Now()
	u := s.slot(w, now)
	moved := !committed
	if committed {
		u.Bundles++
	}
	for _, e := range emitted {
		u.ElementsOut += e.elements
		u.BytesOut += e.bytes
		moved = moved || e.elements > 0
	}
	for _, b := range w.blocks {
		moved = true
		if committed {
			u.ElementsIn += int64(b.Len())
			u.BytesIn += b.Size()
		}
	}
	if moved || !s.op.waits() {
		u.Busy += now.Sub(w.started)
		u.overlap += s.usage.throttledTime(now) - w.throttled
	}
}

// slotOverviews REQUIRES: execution.mu.
func (s *stage) slotOverviews() []SlotOverview {
	now := time.Now()
	u := &s.usage
	u.resize(s.x.cfg.Slots, now)
	out := make([]SlotOverview, len(u.slots))
	overlaps := make([]time.Duration, len(u.slots))
	for i, su := range u.slots {
		out[i], overlaps[i] = su.SlotOverview, su.overlap
		out[i].Backlog = -1
		if i < len(s.queues) {
			out[i].QueuedElements = s.queues[i].Len() + s.blocked[i].Len() + s.unstable[i].Len()
			out[i].QueuedBytes = s.queues[i].Size() + s.blocked[i].Size() + s.unstable[i].Size()
		}
	}
	out[0].QueuedElements += s.truncated.Len() + len(s.delayed)
	out[0].QueuedBytes += s.truncated.Size()
	for w := range s.active {
		i := w.slot % len(out)
		out[i].Running++
		if !s.op.waits() {
			out[i].Busy += now.Sub(w.started)
			overlaps[i] += u.throttledTime(now) - w.throttled
		}
	}
	for i := range out {
		out[i].BackPressured = max(0, u.throttledTime(now)-u.slots[i].born-overlaps[i])
	}
	if src, ok := s.op.(*sourceOp); ok {
		for i, b := range src.backlog {
			if i < len(out) {
				out[i].Backlog = b
			}
		}
	}
	return out
}

// failed remembers an error that ended an execution.
func (j *Job) failed(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failures = append(j.failures, Failure{At: time.Now(), Err: err})
	if len(j.failures) > maxFailures {
		j.failures = j.failures[1:]
	}
}

// Failures returns the newest errors that ended an execution of the job, oldest first.
func (j *Job) Failures() []Failure {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]Failure(nil), j.failures...)
}

// Restarts is how often the job went back to its last checkpoint in this process.
func (j *Job) Restarts() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return max(0, j.starts-1)
}

package engine

import (
	"container/heap"
	"context"
	"fmt"
	"time"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/plan"
	"github.com/tinyrunner/tinyrunner/state"
)

// collection is a PCollection on its way between stages.
type collection struct {
	*plan.Collection
	producers []*stage
	consumers []*stage
	keyed     bool // some consumer is keyed: elements are routed by key group
	plain     bool // some consumer is not
	// written counts elements, for the metric of the PCollection. Guarded by execution.mu.
	written int64
}

func newCollection(pc *plan.Collection) (*collection, error) {
	if pc.Coder == nil {
		return nil, fmt.Errorf("no coder")
	}
	return &collection{Collection: pc}, nil
}

// watermark is a lower bound of the timestamps still to come. REQUIRES: execution.mu.
func (c *collection) watermark() int64 {
	wm := coder.MaxTimestamp
	for _, p := range c.producers {
		if t, ok := p.op.(*testStreamOp); ok {
			wm = min(wm, t.watermark(c))
			continue
		}
		wm = min(wm, p.outputWM)
	}
	return wm
}

// operator is what a stage does. next, hold, idle and waits are called with execution.mu held; run without.
type operator interface {
	// open is called once before the first work, close once after the last.
	open(ctx context.Context) error
	close() error
	// next takes the next work of a slot that is not busy, or nil.
	next(slot int) *work
	// run does the work up to, and without, its commit.
	run(ctx context.Context, w *work) error
	// hold is a bound of the output watermark besides input and timers; coder.MaxTimestamp: none.
	hold() int64
	// idle reports that nothing is left to do but for queued elements and timers.
	idle() bool
	// waits: the work mostly waits for others, and so does not count as load.
	waits() bool
}

// stage is the runtime of a vertex. Its fields below mu-guarded are guarded by execution.mu.
type stage struct {
	x     *execution
	plan  *plan.Stage // nil for stages that the engine added (side input writers)
	name  string
	op    operator
	in    *collection // nil for roots
	outs  []*collection
	keyed bool
	// number is the stage's place in execution.stages, from 1. enters: records enter the job here, so latency counts from here.
	number int32
	enters bool
	// latency is what its bundles measured.
	latency latencies
	// owner names timers and holds in the state; zero if the stage has none.
	owner    state.Cell
	hasOwner bool

	// mu-guarded:
	queues    []*flow.Queue  // by slot if keyed, else one
	truncated flow.Queue     // draining: elements whose restriction was truncated
	blocked   []*flow.Queue  // elements whose side inputs are not ready; parallel to queues
	unstable  []*flow.Queue  // RequiresStableInput: elements of no complete checkpoint; parallel to queues
	delayed   delayedBlocks  // residuals that resume later
	busy      []bool         // by slot
	active    map[*work]bool // running work
	waiting   bool           // waits for a side input: producers are not throttled by this queue
	dirty     bool           // watermarks must be computed again
	inputWM   int64
	outputWM  int64
	ended     time.Time // when it had finished; zero: it has not
	stats     stats
	usage     usage
}

// stats count what a stage has committed.
type stats struct {
	ElementsIn, ElementsOut int64
	BytesIn, BytesOut       int64
	Bundles, Failures       int64
	Splits                  int64
	Dropped                 int64 // late elements
	Busy                    time.Duration
}

// addStage makes the runtime of a planned stage, and before it the writers of its side inputs.
func (x *execution) addStage(ps *plan.Stage) error {
	s := &stage{x: x, plan: ps, name: ps.Name, keyed: ps.Keyed}
	if ps.Owner != "" {
		cell, err := x.db.Cell(ps.Owner)
		if err != nil {
			return err
		}
		s.owner, s.hasOwner = cell, true
	}
	for _, id := range ps.Outputs {
		s.outs = append(s.outs, x.colls[id])
	}
	op, err := x.newOperator(s)
	if err != nil {
		return err
	}
	s.op = op
	x.link(s, ps.Input)
	return nil
}

// unboundedBundles is how many restrictions of an unbounded splittable DoFn are processed at once: they mostly wait.
const unboundedBundles = 16

// link adds a stage to the execution and wires it to the collections.
func (x *execution) link(s *stage, input string) {
	n := 1
	if s.keyed {
		n = x.cfg.Slots
	}
	for range n {
		s.queues = append(s.queues, &flow.Queue{})
		s.blocked = append(s.blocked, &flow.Queue{})
		s.unstable = append(s.unstable, &flow.Queue{})
	}
	s.busy = make([]bool, x.cfg.Slots)
	if s.unbounded() {
		s.busy = make([]bool, max(x.cfg.Slots, unboundedBundles))
		s.enters = true
	}
	s.enters = s.enters || input == ""
	s.active = make(map[*work]bool)
	s.inputWM, s.outputWM, s.dirty = coder.MinTimestamp, coder.MinTimestamp, true
	for _, c := range s.outs {
		c.producers = append(c.producers, s)
	}
	if input != "" {
		s.in = x.colls[input]
		s.in.consumers = append(s.in.consumers, s)
		s.in.keyed = s.in.keyed || s.keyed
		s.in.plain = s.in.plain || !s.keyed
	}
	x.stages = append(x.stages, s)
	s.number = int32(len(x.stages))
}

// groups are the key groups [from, to) of a slot, as Flink's KeyGroupRangeAssignment has them.
func (x *execution) groups(slot int) (from, to uint16) {
	m, n := x.cfg.MaxParallelism, x.cfg.Slots
	return uint16((slot*m + n - 1) / n), uint16(((slot+1)*m-1)/n + 1)
}

// slotOf is the slot of an encoded key and its key group.
func (x *execution) slotOf(key []byte) (slot int, group uint16) {
	g := coder.KeyGroup(key, x.cfg.MaxParallelism)
	return g * x.cfg.Slots / x.cfg.MaxParallelism, uint16(g)
}

// queue is where a slot takes elements from. REQUIRES: x.mu.
func (s *stage) queue(slot int) *flow.Queue {
	if s.keyed {
		return s.queues[slot]
	}
	return s.queues[0]
}

func (s *stage) queued() int {
	n := s.truncated.Len() + len(s.delayed)
	for i, q := range s.queues {
		n += q.Len() + s.blocked[i].Len() + s.unstable[i].Len()
	}
	return n
}

// entry is where elements for a slot arrive. REQUIRES: x.mu.
func (s *stage) entry(slot int) *flow.Queue {
	if s.plan != nil && s.plan.StableInput && s.x.coord != nil {
		return s.unstable[slot]
	}
	return s.queues[slot]
}

// unstableCounts counts the elements that become stable with the checkpoint that is being cut. REQUIRES: x.mu.
func (s *stage) unstableCounts() []int {
	var counts []int
	for _, q := range s.unstable {
		counts = append(counts, q.Len())
	}
	return counts
}

// stabilize releases the first elements of each queue: they are in a complete checkpoint, and so will be the same for ever.
// REQUIRES: x.mu.
func (s *stage) stabilize(counts []int) {
	for i, n := range counts {
		if n > 0 {
			s.queues[i].Push(s.unstable[i].Take(n, 0)...)
			s.dirty = true
		}
	}
}

func (s *stage) queuedBytes() int64 {
	n := s.truncated.Size() + s.blockedBytes()
	for i, q := range s.queues {
		n += q.Size() + s.unstable[i].Size()
	}
	return n
}

func (s *stage) blockedBytes() int64 {
	n := int64(0)
	for _, q := range s.blocked {
		n += q.Size()
	}
	return n
}

// finished: no element, timer or work will ever come. REQUIRES: x.mu.
func (s *stage) finished() bool {
	if s.outputWM < coder.MaxTimestamp || s.inputWM < coder.MaxTimestamp || len(s.active) > 0 || s.queued() > 0 || !s.op.idle() {
		return false
	}
	if !s.hasOwner {
		return true
	}
	for _, d := range []state.Domain{state.EventTime, state.ProcessingTime} {
		if _, ok := s.x.db.NextTimer(s.owner, d, 0, uint16(s.x.cfg.MaxParallelism)); ok {
			return false
		}
	}
	return true
}

// nextDue is when the stage has something to do by the clock. REQUIRES: x.mu.
func (s *stage) nextDue() (time.Time, bool) {
	var next time.Time
	if len(s.delayed) > 0 {
		next = s.delayed[0].due
	}
	if s.hasOwner {
		for slot, busy := range s.busy {
			if busy {
				continue
			}
			g0, g1 := s.x.groups(slot)
			if ms, ok := s.x.db.NextTimer(s.owner, state.ProcessingTime, g0, g1); ok {
				if t := time.UnixMilli(ms); next.IsZero() || t.Before(next) {
					next = t
				}
			}
		}
	}
	return next, !next.IsZero()
}

// resume moves residuals whose delay is over into the queue. REQUIRES: x.mu.
func (s *stage) resume() {
	for len(s.delayed) > 0 && !s.delayed[0].due.After(s.x.now()) {
		d := heap.Pop(&s.delayed).(delayedBlock)
		if d.truncated {
			s.truncated.Push(d.block)
		} else {
			s.queues[0].Push(d.block)
		}
	}
}

// delayedBlock is a residual that resumes at an instant.
type delayedBlock struct {
	due       time.Time
	block     *flow.Block
	truncated bool
}

// delayedBlocks is a heap by due.
type delayedBlocks []delayedBlock

func (h delayedBlocks) Len() int           { return len(h) }
func (h delayedBlocks) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h delayedBlocks) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *delayedBlocks) Push(v any)        { *h = append(*h, v.(delayedBlock)) }
func (h *delayedBlocks) Pop() any {
	old := *h
	v := old[len(old)-1]
	old[len(old)-1] = delayedBlock{}
	*h = old[:len(old)-1]
	return v
}

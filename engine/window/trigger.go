package window

import (
	"errors"
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

type kind byte

const (
	kindDefault kind = iota
	kindEndOfWindow
	kindAll
	kindAny
	kindEach
	kindOrFinally
	kindRepeat
	kindCount
	kindProcessing
	kindSynchronized
	kindAlways
	kindNever
)

// trigger is a compiled trigger: a tree of nodes and the size of its state.
type trigger struct {
	root  *node
	nodes []*node // all of them
	bits  int     // bits of state
	cells int     // numbers of state

	merging   bool // windows merge
	onTime    bool // some node waits for the end of the window
	byElement bool // elements can make some node ready
}

// node is one trigger. Its state is in the window's record: a bit that says it has finished, for kindEndOfWindow a bit that says
// its on-time firing is past, and for the leaves that count or wait a cell.
type node struct {
	kind        kind
	subs        []*node // of kindOrFinally: main, finally
	early, late *node   // of kindEndOfWindow; may be nil; also in subs

	finished int // bit
	past     int // bit of kindEndOfWindow
	cell     int // of kindCount: elements seen; of kindProcessing, kindSynchronized: the target, see packTarget

	count      int64       // of kindCount
	transforms []transform // of kindProcessing
}

// transform moves a processing time: a delay (ms), or with a period (ms) the next time that is offset + n*period.
type transform struct{ delay, period, offset int64 }

func compileTrigger(p *pipepb.Trigger, merging bool) (*trigger, error) {
	t := &trigger{merging: merging}
	if p.GetTrigger() == nil {
		p = &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{}}
	}
	var err error
	if t.root, err = t.add(p); err != nil {
		return nil, fmt.Errorf("read trigger: %w", err)
	}
	return t, nil
}

func (t *trigger) add(p *pipepb.Trigger) (*node, error) {
	n := &node{finished: t.bits}
	t.bits++
	t.nodes = append(t.nodes, n)
	switch p := p.GetTrigger().(type) {
	case nil:
		return nil, errors.New("a subtrigger is missing or of no known kind")
	case *pipepb.Trigger_Default_:
		n.kind, t.onTime = kindDefault, true
		return n, nil
	case *pipepb.Trigger_Always_:
		n.kind, t.byElement = kindAlways, true
		return n, nil
	case *pipepb.Trigger_Never_:
		n.kind = kindNever
		return n, nil
	case *pipepb.Trigger_ElementCount_:
		n.kind, n.count, t.byElement = kindCount, int64(p.ElementCount.GetElementCount()), true
		if n.count < 1 {
			return nil, fmt.Errorf("element_count is %d: it must be at least 1", n.count)
		}
		n.cell, t.cells = t.cells, t.cells+1
		return n, nil
	case *pipepb.Trigger_AfterProcessingTime_:
		n.kind = kindProcessing
		n.cell, t.cells = t.cells, t.cells+1
		return n, n.addTransforms(p.AfterProcessingTime.GetTimestampTransforms())
	case *pipepb.Trigger_AfterSynchronizedProcessingTime_:
		n.kind = kindSynchronized
		n.cell, t.cells = t.cells, t.cells+1
		return n, nil
	}
	return n, t.addComposite(n, p)
}

func (t *trigger) addComposite(n *node, p *pipepb.Trigger) error {
	switch p := p.GetTrigger().(type) {
	case *pipepb.Trigger_AfterAll_:
		n.kind = kindAll
		return t.addSubs(n, p.AfterAll.GetSubtriggers()...)
	case *pipepb.Trigger_AfterAny_:
		n.kind = kindAny
		return t.addSubs(n, p.AfterAny.GetSubtriggers()...)
	case *pipepb.Trigger_AfterEach_:
		n.kind = kindEach
		return t.addSubs(n, p.AfterEach.GetSubtriggers()...)
	case *pipepb.Trigger_OrFinally_:
		n.kind = kindOrFinally
		return t.addSubs(n, p.OrFinally.GetMain(), p.OrFinally.GetFinally())
	case *pipepb.Trigger_Repeat_:
		n.kind = kindRepeat
		return t.addSubs(n, p.Repeat.GetSubtrigger())
	case *pipepb.Trigger_AfterEndOfWindow_:
		n.kind, n.past, t.onTime = kindEndOfWindow, t.bits, true
		t.bits++
		return t.addPhases(n, p.AfterEndOfWindow)
	default:
		return fmt.Errorf("trigger %T is unknown", p)
	}
}

func (t *trigger) addSubs(n *node, subs ...*pipepb.Trigger) error {
	if len(subs) == 0 {
		return errors.New("a composite has no subtriggers")
	}
	for _, p := range subs {
		sub, err := t.add(p)
		if err != nil {
			return err
		}
		n.subs = append(n.subs, sub)
	}
	return nil
}

func (t *trigger) addPhases(n *node, p *pipepb.Trigger_AfterEndOfWindow) error {
	if p.GetEarlyFirings() != nil {
		if err := t.addSubs(n, p.GetEarlyFirings()); err != nil {
			return fmt.Errorf("early firings: %w", err)
		}
		n.early = n.subs[0]
	}
	if p.GetLateFirings() != nil {
		if err := t.addSubs(n, p.GetLateFirings()); err != nil {
			return fmt.Errorf("late firings: %w", err)
		}
		n.late = n.subs[len(n.subs)-1]
	}
	return nil
}

func (n *node) addTransforms(ps []*pipepb.TimestampTransform) error {
	for _, p := range ps {
		t := transform{
			delay:  p.GetDelay().GetDelayMillis(),
			period: p.GetAlignTo().GetPeriod(),
			offset: p.GetAlignTo().GetOffset(),
		}
		if t.delay < 0 {
			return fmt.Errorf("after_processing_time has a delay of %d ms: it must not be negative", t.delay)
		}
		if p.GetAlignTo() != nil && t.period < 1 {
			return fmt.Errorf("after_processing_time is aligned to a period of %d ms: it must be at least 1", t.period)
		}
		n.transforms = append(n.transforms, t)
	}
	return nil
}

func (t transform) apply(ms int64) int64 {
	if t.period == 0 {
		return addSat(ms, t.delay)
	}
	over := (ms - t.offset) % t.period
	if over < 0 {
		over += t.period
	}
	if over == 0 {
		return ms
	}
	return addSat(ms, t.period-over)
}

// now is what a trigger may know when it is evaluated, all in ms.
type now struct {
	watermark, processing, synchronized int64
	end                                 int64 // of the window
}

func (n now) pastEnd() bool { return n.watermark > n.end }

// readiness says whether and why a trigger is ready to fire.
type readiness struct {
	ready     bool
	byElement bool // an element made it so (element_count, always): it fires at once, not at the end of the batch
	onTime    bool // it is the firing at the end of the window
}

func (a readiness) or(b readiness) readiness {
	return readiness{
		ready:     a.ready || b.ready,
		byElement: a.ready && a.byElement || b.ready && b.byElement,
		onTime:    a.ready && a.onTime || b.ready && b.onTime,
	}
}

func (a readiness) and(b readiness) readiness {
	return readiness{ready: a.ready && b.ready, byElement: a.byElement || b.byElement, onTime: a.onTime || b.onTime}
}

// ready evaluates a node. It changes nothing.
func (n *node) ready(now now, s *triggerState) readiness {
	if s.bit(n.finished) {
		return readiness{}
	}
	switch n.kind {
	case kindDefault:
		return readiness{ready: now.pastEnd(), onTime: true}
	case kindEndOfWindow:
		return n.readyEndOfWindow(now, s)
	case kindAll:
		r := readiness{ready: true}
		for _, sub := range n.subs {
			if !s.bit(sub.finished) {
				r = r.and(sub.ready(now, s))
			}
		}
		return r
	case kindAny, kindOrFinally, kindRepeat:
		r := readiness{}
		for _, sub := range n.subs {
			r = r.or(sub.ready(now, s))
		}
		return r
	case kindEach:
		if sub := n.current(s); sub != nil {
			return sub.ready(now, s)
		}
		return readiness{}
	case kindCount:
		return readiness{ready: s.cells[n.cell] >= n.count, byElement: true}
	case kindProcessing:
		target, set := unpackTarget(s.cells[n.cell])
		return readiness{ready: set && now.processing >= target}
	case kindSynchronized:
		target, set := unpackTarget(s.cells[n.cell])
		return readiness{ready: set && now.synchronized >= target}
	case kindAlways:
		return readiness{ready: true, byElement: true}
	}
	return readiness{} // kindNever
}

func (n *node) readyEndOfWindow(now now, s *triggerState) readiness {
	switch {
	case s.bit(n.past):
		if n.late == nil {
			return readiness{}
		}
		return n.late.ready(now, s)
	case now.pastEnd():
		return readiness{ready: true, onTime: true}
	case n.early != nil:
		return n.early.ready(now, s)
	}
	return readiness{}
}

// current is the subtrigger whose turn it is, of kindEach; nil when all have finished.
func (n *node) current(s *triggerState) *node {
	for _, sub := range n.subs {
		if !s.bit(sub.finished) {
			return sub
		}
	}
	return nil
}

// element tells a node of an element. When windows merge, all subtriggers hear of it, because a merge may make a finished one
// begin again, and those after it wait once more.
func (n *node) element(now now, s *triggerState, merging bool) {
	switch n.kind {
	case kindCount:
		s.cells[n.cell]++
	case kindProcessing:
		if s.cells[n.cell] == 0 {
			target := now.processing
			for _, t := range n.transforms {
				target = t.apply(target)
			}
			s.cells[n.cell] = packTarget(target)
		}
	case kindSynchronized:
		// The element itself is done when the synchronized time has passed its arrival.
		if s.cells[n.cell] == 0 {
			s.cells[n.cell] = packTarget(addSat(now.processing, 1))
		}
	case kindEach:
		if sub := n.current(s); sub != nil && !merging {
			sub.element(now, s, merging)
			return
		}
	case kindEndOfWindow:
		if merging {
			break
		}
		phase := n.early
		if s.bit(n.past) {
			phase = n.late
		}
		if phase != nil {
			phase.element(now, s, merging)
		}
		return
	}
	for _, sub := range n.subs {
		sub.element(now, s, merging)
	}
}

// fire tells a ready node that it fires: it moves on, and may finish.
func (n *node) fire(now now, s *triggerState, merging bool) {
	switch n.kind {
	case kindCount, kindProcessing, kindSynchronized:
		s.cells[n.cell] = 0
		s.set(n.finished)
	case kindEndOfWindow:
		n.fireEndOfWindow(now, s, merging)
	case kindAll:
		n.fireReady(now, s, merging)
		s.set(n.finished)
	case kindAny:
		if n.fireReady(now, s, merging) {
			s.set(n.finished)
		}
	case kindEach:
		if sub := n.current(s); sub != nil {
			sub.fire(now, s, merging)
		}
		if merging {
			for _, sub := range n.subs {
				sub.clearCells(s)
			}
		}
		if n.current(s) == nil {
			s.set(n.finished)
		}
	case kindOrFinally:
		main, finally := n.subs[0], n.subs[1]
		if finally.ready(now, s).ready {
			finally.fire(now, s, merging)
			s.set(n.finished)
			return
		}
		main.fire(now, s, merging)
		if s.bit(main.finished) {
			s.set(n.finished)
		}
	case kindRepeat:
		n.subs[0].fireAgain(now, s, merging)
	}
}

// fireReady fires the subtriggers that are ready, and tells whether one of them finished.
func (n *node) fireReady(now now, s *triggerState, merging bool) (finished bool) {
	for _, sub := range n.subs {
		if sub.ready(now, s).ready {
			sub.fire(now, s, merging)
			finished = finished || s.bit(sub.finished)
		}
	}
	return finished
}

// fireAgain fires a node that is repeated: when it finishes it begins anew.
func (n *node) fireAgain(now now, s *triggerState, merging bool) {
	n.fire(now, s, merging)
	if s.bit(n.finished) {
		n.reset(s)
	}
}

func (n *node) fireEndOfWindow(now now, s *triggerState, merging bool) {
	switch {
	case s.bit(n.past):
		if n.late != nil {
			n.late.fireAgain(now, s, merging)
		}
	case now.pastEnd():
		s.set(n.past)
		if n.early != nil {
			n.early.reset(s)
		}
		if n.late == nil {
			s.set(n.finished)
			return
		}
		n.late.reset(s) // it has counted in parallel if windows merge
	default:
		n.early.fireAgain(now, s, merging)
	}
}

// reset puts a node and all under it back to the beginning.
func (n *node) reset(s *triggerState) {
	s.clear(n.finished)
	if n.kind == kindEndOfWindow {
		s.clear(n.past)
	}
	if n.stateful() {
		s.cells[n.cell] = 0
	}
	for _, sub := range n.subs {
		sub.reset(s)
	}
}

func (n *node) clearCells(s *triggerState) {
	if n.stateful() {
		s.cells[n.cell] = 0
	}
	for _, sub := range n.subs {
		sub.clearCells(s)
	}
}

func (n *node) stateful() bool {
	return n.kind == kindCount || n.kind == kindProcessing || n.kind == kindSynchronized
}

// nextTimer is the earliest target of a domain that has not come yet.
func (t *trigger) nextTimer(d Domain, now now, s *triggerState) (fire int64, ok bool) {
	if t.cells == 0 {
		return 0, false
	}
	clock, kind := now.processing, kindProcessing
	if d == SynchronizedProcessingTime {
		clock, kind = now.synchronized, kindSynchronized
	}
	for _, n := range t.nodes {
		if n.kind != kind {
			continue
		}
		target, set := unpackTarget(s.cells[n.cell])
		if set && target > clock && (!ok || target < fire) {
			fire, ok = target, true
		}
	}
	return fire, ok
}

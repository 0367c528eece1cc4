package window

import "slices"

// merge computes a node's state in a merged window, in dst, which is zero, from the states of the windows that it is made of.
func (n *node) merge(now now, dst *triggerState, from []*triggerState) {
	switch n.kind {
	case kindCount:
		if anyBit(from, n.finished) {
			dst.set(n.finished)
			return
		}
		for _, s := range from {
			dst.cells[n.cell] = addSat(dst.cells[n.cell], s.cells[n.cell])
		}
	case kindProcessing, kindSynchronized:
		n.mergeTargets(dst, from)
	case kindEndOfWindow:
		n.mergeEndOfWindow(now, dst, from)
	case kindEach:
		n.mergeEach(now, dst, from)
	case kindAll, kindAny, kindOrFinally, kindRepeat:
		finished := 0
		for _, sub := range n.subs {
			sub.merge(now, dst, from)
			if dst.bit(sub.finished) {
				finished++
			}
		}
		if n.kind == kindRepeat {
			return
		}
		if finished == len(n.subs) || n.kind != kindAll && finished > 0 {
			dst.set(n.finished)
		}
	}
}

// mergeTargets waits for the earliest of the windows' targets.
func (n *node) mergeTargets(dst *triggerState, from []*triggerState) {
	if allBits(from, n.finished) {
		dst.set(n.finished)
		return
	}
	for _, s := range from {
		target, set := unpackTarget(s.cells[n.cell])
		if old, have := unpackTarget(dst.cells[n.cell]); set && (!have || target < old) {
			dst.cells[n.cell] = packTarget(target)
		}
	}
}

// mergeEndOfWindow is past its on-time firing only if that is so in all windows, and the merged window has ended as well: else
// some elements have not had their chance to be on time.
func (n *node) mergeEndOfWindow(now now, dst *triggerState, from []*triggerState) {
	if !allBits(from, n.past) || !now.pastEnd() {
		if n.early != nil {
			n.early.merge(now, dst, from)
			dst.clear(n.early.finished)
		}
		return
	}
	dst.set(n.past)
	if n.late == nil {
		dst.set(n.finished)
		return
	}
	n.late.merge(now, dst, from)
	dst.clear(n.late.finished)
}

// mergeEach stands at the first subtrigger that has not finished in the merged window; those after it have not begun.
func (n *node) mergeEach(now now, dst *triggerState, from []*triggerState) {
	for _, sub := range n.subs {
		sub.merge(now, dst, from)
		if !dst.bit(sub.finished) {
			return
		}
	}
	dst.set(n.finished)
}

func allBits(states []*triggerState, bit int) bool {
	return !slices.ContainsFunc(states, func(s *triggerState) bool { return !s.bit(bit) })
}

func anyBit(states []*triggerState, bit int) bool {
	return slices.ContainsFunc(states, func(s *triggerState) bool { return s.bit(bit) })
}

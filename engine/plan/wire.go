package plan

import (
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// wiring are the coders of elements between stages. An SDK reads and writes what it finds in its descriptor, so both
// ends of a collection get the same coder, one that the runner can read: model coders stay as they are, any other is
// enclosed in a length prefix.
type wiring struct {
	*graph
	done map[string]string // coder -> the same on the wire
	// elements are, by PCollection, the wire coders of its elements.
	elements map[string]string
	// timers are, by leaf, the coders of its timers.
	timers map[*leaf]string
}

// wire finds the wire coders of a graph. Windowing strategies get their window coder as it is on the wire, ParDos the
// coder of their timers.
func wire(g *graph) (*wiring, error) {
	w := &wiring{graph: g, done: map[string]string{}, elements: map[string]string{}, timers: map[*leaf]string{}}
	windows := map[string]bool{}
	for _, l := range g.leaves {
		for _, out := range sorted(l.t.GetOutputs()) {
			pc := g.comps.Pcollections[out.id]
			w.elements[out.id] = w.element(pc.GetCoderId())
			if id := pc.GetWindowingStrategyId(); !windows[id] {
				windows[id] = true
				ws := g.comps.WindowingStrategies[id]
				ws.WindowCoderId = w.window(ws.GetWindowCoderId())
			}
		}
		if err := w.leaf(l); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// leaf fixes what the coders of a leaf's inputs and outputs have to do with each other.
func (w *wiring) leaf(l *leaf) error {
	switch {
	case l.role == redistribute:
		// Its consumers get the very bytes that the producers of its input wrote.
		return w.adopt(l, w.elements[l.main])
	case l.role == native && l.kind == GroupByKey:
		// The runner puts together values as they came: the output has the coders of the input.
		key, value, ok := w.coders.kv(w.elements[l.main])
		if !ok {
			return fmt.Errorf("transform %q (%s) cannot group PCollection %q: %w", l.name(), l.urn(), l.main, errNotKV)
		}
		return w.adopt(l, w.coders.of(coder.URNKV, key, w.coders.of(coder.URNIterable, value)))
	case l.stateful():
		key, _, ok := w.coders.kv(w.elements[l.main])
		if !ok {
			return fmt.Errorf("transform %q (%s) cannot keep state by the keys of PCollection %q: %w", l.name(), l.urn(), l.main, errNotKV)
		}
		if err := w.state(l, key); err != nil {
			return err
		}
	}
	for _, in := range sorted(l.t.GetInputs()) {
		side := l.pardo.GetSideInputs()[in.local]
		if side.GetAccessPattern().GetUrn() != urnMultimapSideInput {
			continue
		}
		if _, _, ok := w.coders.kv(w.elements[in.id]); !ok {
			return fmt.Errorf("transform %q (%s) cannot look up keys in side input %q: %w", l.name(), l.urn(), in.local, errNotKV)
		}
	}
	return nil
}

// adopt gives the output of a native leaf the wire coder of what it is made of, unless its own is the same.
func (w *wiring) adopt(l *leaf, id string) error {
	if !w.coders.same(w.elements[l.output()], id) {
		w.elements[l.output()] = id
	}
	in, out := w.windowing(l.main).GetWindowCoderId(), w.windowing(l.output()).GetWindowCoderId()
	if !w.coders.same(in, out) {
		return fmt.Errorf("transform %q (%s) changes the window coder from %s to %s", l.name(), l.urn(), w.coders.String(in), w.coders.String(out))
	}
	return nil
}

// state gives a stateful leaf timers with keys and windows as they are on the wire, and ordered lists whose values the
// runner can tell apart. Other state the runner keeps as the bytes that come.
func (w *wiring) state(l *leaf, key string) error {
	if len(l.pardo.GetTimerFamilySpecs()) > 0 {
		w.timers[l] = w.coders.of(coder.URNTimer, key, w.windowing(l.main).GetWindowCoderId())
	}
	for _, f := range l.pardo.GetTimerFamilySpecs() {
		f.TimerFamilyCoderId = w.timers[l]
	}
	for _, s := range l.pardo.GetStateSpecs() {
		if list := s.GetOrderedListSpec(); list != nil {
			list.ElementCoderId = w.element(list.GetElementCoderId())
		}
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(l.pardo)
	if err != nil {
		return fmt.Errorf("transform %q: write ParDoPayload: %w", l.name(), err)
	}
	l.t.Spec = &pipepb.FunctionSpec{Urn: l.urn(), Payload: payload}
	return nil
}

// element returns a coder as it is on the wire.
func (w *wiring) element(id string) string {
	if out, ok := w.done[id]; ok {
		return out
	}
	out := w.enclose(id)
	w.done[id] = out
	return out
}

func (w *wiring) enclose(id string) string {
	c := w.coders.all[id]
	urn := c.GetSpec().GetUrn()
	switch {
	case urn == coder.URNLengthPrefix:
		return id
	case !coder.Known(urn):
		return w.coders.of(coder.URNLengthPrefix, id)
	}
	components, changed := make([]string, len(c.GetComponentCoderIds())), false
	for i, sub := range c.GetComponentCoderIds() {
		if i == 1 && hasWindow(urn) {
			components[i] = w.window(sub)
		} else {
			components[i] = w.element(sub)
		}
		changed = changed || components[i] != sub
	}
	if !changed {
		return id
	}
	return w.coders.add(id+"-wire", c.GetSpec(), components...)
}

// hasWindow says whether the second component of a coder is that of windows.
func hasWindow(urn string) bool {
	return urn == coder.URNWindowedValue || urn == coder.URNParamWindowedValue || urn == coder.URNTimer
}

// window returns a window coder as it is on the wire: the runner must see where a window ends, in the data and in time,
// and so custom windows come behind their last timestamp.
func (w *wiring) window(id string) string {
	switch urn := w.coders.urn(id); urn {
	case coder.URNGlobalWindow, coder.URNIntervalWindow:
		return id
	case coder.URNCustomWindow:
		return w.element(id)
	case coder.URNLengthPrefix:
		for _, sub := range w.coders.all[id].GetComponentCoderIds() {
			if inner := w.coders.urn(sub); inner == coder.URNGlobalWindow || inner == coder.URNIntervalWindow {
				return id
			}
		}
	}
	return w.coders.of(coder.URNCustomWindow, w.element(id))
}

package plan

import (
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// combine expands a combine per key where the runner knows better than its parts. If it cannot be told from the results,
// values are combined before the grouping too ("lifted"):
//
//	KV<K, V> -> precombine -> KV<K, A> -> group by key -> KV<K, Iterable<A>> -> merge -> KV<K, A> -> extract -> KV<K, O>
//
// and else, if it has no parts,
//
//	KV<K, V> -> group by key -> KV<K, Iterable<V>> -> combine grouped values -> KV<K, O>
//
// It reports whether it did one of the two.
func (x *expander) combine(l *leaf) (bool, error) {
	var payload pipepb.CombinePayload
	if err := proto.Unmarshal(l.t.GetSpec().GetPayload(), &payload); err != nil {
		return false, fmt.Errorf("transform %q: read CombinePayload: %w", l.name(), err)
	}
	if len(l.t.GetInputs()) != 1 || len(l.t.GetOutputs()) != 1 || l.t.GetEnvironmentId() == "" {
		return false, nil
	}
	in, out := sorted(l.t.GetInputs())[0].id, l.output()
	key, value, ok := x.coders.kv(x.comps.Pcollections[in].GetCoderId())
	ws := x.comps.WindowingStrategies[x.comps.Pcollections[in].GetWindowingStrategyId()]
	var group *leaf
	switch {
	case !ok:
		return false, nil
	case payload.GetAccumulatorCoderId() != "" && liftable(ws):
		l.t.Subtransforms = nil
		combined := x.coders.of(coder.URNKV, key, payload.GetAccumulatorCoderId())
		pre := x.part(l, "Precombine", urnPrecombine, in, combined)
		group = x.part(l, "Group", urnGBK, pre.output(), x.grouped(key, payload.GetAccumulatorCoderId()))
		merge := x.part(l, "Merge", urnMergeAccumulators, group.output(), combined)
		x.last(l, "Extract", urnExtractOutputs, merge.output(), out)
	case len(l.t.GetSubtransforms()) == 0:
		group = x.part(l, "Group", urnGBK, in, x.grouped(key, value))
		x.last(l, "Combine", urnCombineGroupedValues, group.output(), out)
	default:
		return false, nil
	}
	group.t.EnvironmentId, group.t.Spec.Payload = "", nil
	group.role, group.kind = native, GroupByKey
	return true, x.groupable(group)
}

// grouped returns the coder of values by key.
func (x *expander) grouped(key, value string) string {
	return x.coders.of(coder.URNKV, key, x.coders.of(coder.URNIterable, value))
}

// part adds a part to a composite that has one output, with a new PCollection as its output.
func (x *expander) part(l *leaf, name, urn, in, coderID string) *leaf {
	c := x.component(l, name, urn)
	return x.link(l, c, in, x.pcollection(in, c, coderID))
}

// last is part for the one with the composite's output.
func (x *expander) last(l *leaf, name, urn, in, out string) {
	x.link(l, x.component(l, name, urn), in, out)
}

func (x *expander) link(l, part *leaf, in, out string) *leaf {
	part.t.Inputs, part.t.Outputs = map[string]string{"in": in}, map[string]string{"out": out}
	l.t.Subtransforms = append(l.t.Subtransforms, part.id)
	x.leaves = append(x.leaves, part)
	return part
}

// liftable says whether panes stay as they are when several elements of a key and window reach the trigger as one. When the
// pane's timestamp comes from its elements it does not: a late one among them would make all late.
func liftable(ws *pipepb.WindowingStrategy) bool {
	switch ws.GetOutputTime() {
	case pipepb.OutputTime_UNSPECIFIED, pipepb.OutputTime_END_OF_WINDOW:
		return ws.GetAccumulationMode() != pipepb.AccumulationMode_RETRACTING && blind(ws.GetTrigger())
	}
	return false
}

// blind says whether a trigger does not care how many elements arrive, or each on its own.
func blind(t *pipepb.Trigger) bool {
	switch t := t.GetTrigger().(type) {
	case nil, *pipepb.Trigger_Default_, *pipepb.Trigger_Never_,
		*pipepb.Trigger_AfterProcessingTime_, *pipepb.Trigger_AfterSynchronizedProcessingTime_:
		return true
	case *pipepb.Trigger_AfterEndOfWindow_:
		return blind(t.AfterEndOfWindow.GetEarlyFirings()) && blind(t.AfterEndOfWindow.GetLateFirings())
	case *pipepb.Trigger_Repeat_:
		return blind(t.Repeat.GetSubtrigger())
	case *pipepb.Trigger_OrFinally_:
		return blind(t.OrFinally.GetMain()) && blind(t.OrFinally.GetFinally())
	case *pipepb.Trigger_AfterAny_:
		return allBlind(t.AfterAny.GetSubtriggers())
	case *pipepb.Trigger_AfterAll_:
		return allBlind(t.AfterAll.GetSubtriggers())
	case *pipepb.Trigger_AfterEach_:
		return allBlind(t.AfterEach.GetSubtriggers())
	}
	return false // counts elements, or fires at each
}

func allBlind(ts []*pipepb.Trigger) bool {
	for _, t := range ts {
		if !blind(t) {
			return false
		}
	}
	return true
}

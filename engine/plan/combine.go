package plan

import (
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// lift replaces the parts of a combine per key by ones that combine before the grouping too, if that cannot be told from
// the results:
//
//	KV<K, V> -> precombine -> KV<K, A> -> group by key -> KV<K, Iterable<A>> -> merge -> KV<K, A> -> extract -> KV<K, O>
//
// It reports whether it did.
func (x *expander) lift(l *leaf) (bool, error) {
	var payload pipepb.CombinePayload
	if err := proto.Unmarshal(l.t.GetSpec().GetPayload(), &payload); err != nil {
		return false, fmt.Errorf("transform %q: read CombinePayload: %w", l.name(), err)
	}
	accumulator := payload.GetAccumulatorCoderId()
	if len(l.t.GetInputs()) != 1 || len(l.t.GetOutputs()) != 1 || accumulator == "" || l.t.GetEnvironmentId() == "" {
		return false, nil
	}
	in, out := sorted(l.t.GetInputs())[0].id, l.output()
	key, _, ok := x.coders.kv(x.comps.Pcollections[in].GetCoderId())
	ws := x.comps.WindowingStrategies[x.comps.Pcollections[in].GetWindowingStrategyId()]
	if !ok || !liftable(ws) {
		return false, nil
	}
	combined := x.coders.of(coder.URNKV, key, accumulator)
	grouped := x.coders.of(coder.URNKV, key, x.coders.of(coder.URNIterable, accumulator))

	pre := x.component(l, "Precombine", urnPrecombine)
	group := x.component(l, "Group", urnGBK)
	group.t.EnvironmentId, group.t.Spec.Payload = "", nil
	merge := x.component(l, "Merge", urnMergeAccumulators)
	extract := x.component(l, "Extract", urnExtractOutputs)

	link := func(c *leaf, in, out string) {
		c.t.Inputs, c.t.Outputs = map[string]string{"in": in}, map[string]string{"out": out}
		l.t.Subtransforms = append(l.t.Subtransforms, c.id)
	}
	l.t.Subtransforms = nil
	link(pre, in, x.pcollection(in, pre.t, combined))
	link(group, pre.output(), x.pcollection(out, group.t, grouped))
	link(merge, group.output(), x.pcollection(out, merge.t, combined))
	link(extract, merge.output(), out)

	for _, c := range []*leaf{pre, merge, extract} {
		c.role = user
	}
	x.leaves = append(x.leaves, pre)
	if err := x.native(group, GroupByKey); err != nil {
		return false, err
	}
	x.leaves = append(x.leaves, merge, extract)
	return true, nil
}

// liftable says whether panes stay as they are when several elements of a key and window reach the trigger as one.
func liftable(ws *pipepb.WindowingStrategy) bool {
	return ws.GetAccumulationMode() != pipepb.AccumulationMode_RETRACTING && blind(ws.GetTrigger())
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

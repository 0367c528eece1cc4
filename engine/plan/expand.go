package plan

import (
	"fmt"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// expand walks down the composites of a valid pipeline to the leaves, in the pipeline's order. Where the runner knows a
// better implementation of a transform than its parts, it replaces them, in the pipeline too.
func expand(p *pipepb.Pipeline, cs *coders, opts Options) ([]*leaf, error) {
	x := &expander{pipeline: p, comps: p.Components, coders: cs, opts: opts}
	for _, id := range slices.Clone(p.RootTransformIds) {
		if err := x.transform("", id); err != nil {
			return nil, err
		}
	}
	return x.leaves, nil
}

type expander struct {
	pipeline *pipepb.Pipeline
	comps    *pipepb.Components
	coders   *coders
	opts     Options
	leaves   []*leaf
}

// transform expands one transform, a part of parent ("": the pipeline).
func (x *expander) transform(parent, id string) error {
	t := x.comps.Transforms[id]
	l := &leaf{id: id, t: t}
	urn := l.urn()
	if kind, ok := x.opts.native(urn); ok {
		return x.native(l, kind)
	}
	switch urn {
	case urnImpulse:
		return x.native(l, Impulse)
	case urnGBK:
		return x.native(l, GroupByKey)
	case urnTestStream:
		return x.native(l, TestStream)
	case urnFlatten:
		return x.add(l, flatten)
	case urnReshuffle, urnRedistributeArbitrary, urnRedistributeByKey:
		if len(t.GetInputs()) == 1 && len(t.GetOutputs()) == 1 {
			return x.add(l, redistribute)
		}
	case urnCombinePerKey:
		done, err := x.combine(l)
		if done || err != nil {
			return err
		}
	case urnParDo:
		return x.pardo(parent, l)
	}
	if sub := t.GetSubtransforms(); len(sub) > 0 {
		for _, s := range slices.Clone(sub) {
			if err := x.transform(id, s); err != nil {
				return err
			}
		}
		return nil
	}
	return x.leaf(l)
}

// leaf takes a transform that has no parts and that the runner does not run itself.
func (x *expander) leaf(l *leaf) error {
	switch {
	case inSDK(l.urn()):
		return x.user(l)
	case produces(l.t) == 0:
		return nil // an empty composite: it hands its input on
	case l.urn() == urnRead:
		return l.unsupported("a source from before splittable DoFns: leave out --experiments=use_deprecated_read or use a newer SDK")
	case l.urn() == "":
		return l.unsupported("it has outputs, but neither a URN nor parts")
	}
	return l.unsupported("this runner does not know the URN")
}

// produces counts the outputs of a transform that are not its inputs.
func produces(t *pipepb.PTransform) int {
	n := 0
	for _, out := range t.GetOutputs() {
		n++
		for _, in := range t.GetInputs() {
			if in == out {
				n--
				break
			}
		}
	}
	return n
}

func (x *expander) add(l *leaf, r role) error {
	l.role = r
	x.leaves = append(x.leaves, l)
	return nil
}

func (x *expander) native(l *leaf, k Kind) error {
	l.kind = k
	if k == GroupByKey {
		if err := x.groupable(l); err != nil {
			return err
		}
	}
	return x.add(l, native)
}

// groupable says whether the runner can group in the windows of a GroupByKey's input.
func (x *expander) groupable(l *leaf) error {
	for _, in := range l.t.GetInputs() {
		ws := x.comps.WindowingStrategies[x.comps.Pcollections[in].GetWindowingStrategyId()]
		if ws.GetAccumulationMode() == pipepb.AccumulationMode_RETRACTING {
			return l.unsupported("retracting accumulation: use accumulating or discarding panes")
		}
	}
	return nil
}

// user adds a leaf that an SDK runs.
func (x *expander) user(l *leaf) error {
	if l.t.GetEnvironmentId() == "" {
		return l.unsupported("it has no environment to run in")
	}
	if hasParDoPayload(l.urn()) {
		l.pardo = &pipepb.ParDoPayload{}
		if err := proto.Unmarshal(l.t.GetSpec().GetPayload(), l.pardo); err != nil {
			return fmt.Errorf("transform %q: read ParDoPayload: %w", l.name(), err)
		}
	}
	return x.add(l, user)
}

// pardo adds a ParDo, expanded when its DoFn is splittable.
func (x *expander) pardo(parent string, l *leaf) error {
	if err := x.user(l); err != nil {
		return err
	}
	if l.pardo.GetRestrictionCoderId() == "" {
		return nil
	}
	if l.stateful() {
		return l.unsupported("a splittable DoFn with state or timers")
	}
	x.leaves = x.leaves[:len(x.leaves)-1]
	return x.split(parent, l)
}

// split expands a splittable ParDo:
//
//	element -> pair with restriction -> KV<element, restriction> -> split and size -> KV<KV<element, restriction>, size> -> process
//
// where the restriction, as its coder has it, comes with the state of the watermark estimator. The last one keeps the
// ParDo's id and name, for metrics and logs.
func (x *expander) split(parent string, l *leaf) error {
	local, main := "", ""
	for _, in := range sorted(l.t.GetInputs()) {
		if _, side := l.pardo.GetSideInputs()[in.local]; !side {
			local, main = in.local, in.id
		}
	}
	if main == "" {
		return fmt.Errorf("transform %q (%s) has no main input", l.name(), l.urn())
	}
	element := x.comps.Pcollections[main].GetCoderId()
	paired := x.coders.of(coder.URNKV, element, l.pardo.GetRestrictionCoderId())
	sized := x.coders.of(coder.URNKV, paired, x.coders.of(coder.URNDouble))

	pair := x.component(l, "PairWithRestriction", urnPairWithRestriction)
	pair.t.Inputs = replaced(l.t.GetInputs(), local, main)
	pair.t.Outputs = map[string]string{"out": x.pcollection(main, pair, paired)}

	split := x.component(l, "SplitAndSize", urnSplitAndSize)
	split.t.Inputs = replaced(l.t.GetInputs(), local, pair.output())
	split.t.Outputs = map[string]string{"out": x.pcollection(main, split, sized)}

	l.t.Spec = &pipepb.FunctionSpec{Urn: urnProcessSized, Payload: l.t.GetSpec().GetPayload()}
	l.t.Inputs[local] = split.output()
	l.t.Subtransforms = nil

	x.insert(parent, l.id, pair.id, split.id)
	for _, c := range []*leaf{pair, split, l} {
		c.pardo = l.pardo
		if err := x.add(c, user); err != nil {
			return err
		}
	}
	return nil
}

// component adds a transform to the pipeline that does a part of l, with l's payload and environment.
func (x *expander) component(l *leaf, name, urn string) *leaf {
	id := unused(x.comps.Transforms, l.id+"/"+name)
	t := &pipepb.PTransform{
		UniqueName:    l.name() + "/" + name,
		Spec:          &pipepb.FunctionSpec{Urn: urn, Payload: l.t.GetSpec().GetPayload()},
		EnvironmentId: l.t.GetEnvironmentId(),
		Annotations:   l.t.GetAnnotations(),
	}
	x.comps.Transforms[id] = t
	return &leaf{id: id, t: t}
}

// pcollection adds the output of l, a PCollection like another one but for its coder.
func (x *expander) pcollection(like string, l *leaf, coderID string) string {
	model := x.comps.Pcollections[like]
	id := unused(x.comps.Pcollections, l.id+".out")
	x.comps.Pcollections[id] = &pipepb.PCollection{
		UniqueName:          l.name() + ".out",
		CoderId:             coderID,
		IsBounded:           model.GetIsBounded(),
		WindowingStrategyId: model.GetWindowingStrategyId(),
	}
	return id
}

// insert puts new transforms before one of the parts of parent.
func (x *expander) insert(parent, before string, ids ...string) {
	list := &x.pipeline.RootTransformIds
	if parent != "" {
		list = &x.comps.Transforms[parent].Subtransforms
	}
	if i := slices.Index(*list, before); i >= 0 {
		*list = slices.Insert(*list, i, ids...)
	}
}

// replaced returns inputs with one of them exchanged.
func replaced(inputs map[string]string, local, id string) map[string]string {
	out := make(map[string]string, len(inputs))
	for k, v := range inputs {
		out[k] = v
	}
	out[local] = id
	return out
}

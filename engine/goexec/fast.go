package goexec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/coder"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	v1pb "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx/v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/typex"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/protox"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

const (
	urnSource     = "beam:runner:source:v1"
	urnSink       = "beam:runner:sink:v1"
	urnPrecombine = "beam:transform:combine_per_key_precombine:v1"
)

// fastPlan is what a fast stage's plan has of our own.
type fastPlan struct {
	source      *source
	sinks       []*sink
	collections []*collection
}

// notFast says why a stage cannot be a fast one.
type notFast struct{ reason string }

func (e *notFast) Error() string { return "not a fast stage: " + e.reason }

func refuse(format string, args ...any) error { return &notFast{fmt.Sprintf(format, args...)} }

// newFast compiles a stage whose transforms are plain ParDos, window assignments and the first part of a combine, with our
// own source and sinks around them. Everything else is refused with a *notFast.
func newFast(st *stage) (*exec.Plan, *fastPlan, error) {
	d := st.prog.Descriptor
	if len(st.prog.Timers) > 0 {
		return nil, nil, refuse("it has timers")
	}
	b := &fastBuilder{
		st:        st,
		d:         d,
		coders:    graphx.NewCoderUnmarshaller(d.GetCoders()),
		consumers: map[string][]string{},
		fast:      &fastPlan{},
	}
	produced := map[string]int{}
	for id, t := range d.GetTransforms() {
		in := t.GetInputs()
		if len(in) > 1 {
			return nil, nil, refuse("%s has several inputs", t.GetUniqueName())
		}
		for _, c := range in {
			b.consumers[c] = append(b.consumers[c], id)
		}
		for _, c := range t.GetOutputs() {
			if produced[c]++; produced[c] > 1 {
				return nil, nil, refuse("%s flattens", c)
			}
		}
	}
	if err := b.source(); err != nil {
		return nil, nil, err
	}
	plan, err := exec.NewPlan(d.GetId(), b.units)
	if err != nil {
		return nil, nil, fmt.Errorf("make plan: %w", err)
	}
	return plan, b.fast, nil
}

// fastBuilder builds from the source on, consumers before producers, as exec wants its units.
type fastBuilder struct {
	st        *stage
	d         *fnpb.ProcessBundleDescriptor
	coders    *graphx.CoderUnmarshaller
	consumers map[string][]string // collection -> transforms

	ids   exec.GenID
	units []exec.Unit
	fast  *fastPlan
}

func (b *fastBuilder) source() error {
	t := b.d.GetTransforms()[b.st.prog.Source]
	if t.GetSpec().GetUrn() != urnSource || len(t.GetOutputs()) != 1 {
		return refuse("its source is no data source")
	}
	c, err := b.portCoder(t)
	if err != nil {
		return err
	}
	// An iterable is read one way for a DoFn that takes an iterator and another for one that takes a slice.
	if hasIterable(c) {
		return refuse("it reads iterables")
	}
	for _, id := range t.GetOutputs() {
		out, err := b.consumersOf(id)
		if err != nil {
			return err
		}
		s := &source{uid: b.ids.New(), id: b.st.prog.Source, collection: id, dec: newDecoder(c), out: out}
		b.fast.source = s
		b.units = append(b.units, s)
	}
	return nil
}

// portCoder returns the windowed coder of a source or sink, when its windows are ones that we code.
func (b *fastBuilder) portCoder(t *pipepb.PTransform) (*coder.Coder, error) {
	var port fnpb.RemoteGrpcPort
	if err := proto.Unmarshal(t.GetSpec().GetPayload(), &port); err != nil {
		return nil, fmt.Errorf("payload of %s: %w", t.GetUniqueName(), err)
	}
	c, err := b.coders.Coder(port.GetCoderId())
	if err != nil {
		return nil, fmt.Errorf("coder of %s: %w", t.GetUniqueName(), err)
	}
	if c.Kind != coder.WindowedValue || c.Window.Payload != "" {
		return nil, refuse("%s has the coder %s", t.GetUniqueName(), c)
	}
	return c, nil
}

func hasIterable(c *coder.Coder) bool {
	if c.Kind == coder.Iterable || c.Kind == coder.CoGBK {
		return true
	}
	for _, c := range c.Components {
		if hasIterable(c) {
			return true
		}
	}
	return false
}

// consumersOf returns the node that takes a collection's elements.
func (b *fastBuilder) consumersOf(id string) (exec.Node, error) {
	var nodes []exec.Node
	for _, t := range b.consumers[id] {
		n, err := b.transform(t)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	switch len(nodes) {
	case 0:
		n := &exec.Discard{UID: b.ids.New()}
		b.units = append(b.units, n)
		return n, nil
	case 1:
		return nodes[0], nil
	}
	n := &exec.Multiplex{UID: b.ids.New(), Out: nodes}
	b.units = append(b.units, n)
	return n, nil
}

// collection returns the node that counts a collection and hands it on. A sink that is alone counts for itself.
func (b *fastBuilder) collection(id string) (exec.Node, error) {
	out, err := b.consumersOf(id)
	if err != nil {
		return nil, err
	}
	if s, ok := out.(*sink); ok {
		s.collection = id
		return s, nil
	}
	c := &collection{uid: b.ids.New(), id: id, out: out}
	b.fast.collections = append(b.fast.collections, c)
	b.units = append(b.units, c)
	return c, nil
}

// outputs returns the nodes of a transform's outputs, in the order of its DoFn's.
func (b *fastBuilder) outputs(t *pipepb.PTransform) ([]exec.Node, error) {
	out := make([]exec.Node, len(t.GetOutputs()))
	for i := range out {
		id, ok := t.GetOutputs()[fmt.Sprintf("i%d", i)]
		if len(out) == 1 { // whatever its name
			id, ok = slices.Collect(maps.Values(t.GetOutputs()))[0], true
		}
		if !ok {
			return nil, refuse("the outputs of %s are not numbered", t.GetUniqueName())
		}
		n, err := b.collection(id)
		if err != nil {
			return nil, err
		}
		out[i] = n
	}
	return out, nil
}

func (b *fastBuilder) transform(id string) (exec.Node, error) {
	t := b.d.GetTransforms()[id]
	if t.GetSpec().GetUrn() == urnSink {
		return b.sink(id, t)
	}
	out, err := b.outputs(t)
	if err != nil {
		return nil, err
	}
	var n exec.Node
	switch urn := t.GetSpec().GetUrn(); urn {
	case graphx.URNParDo:
		n, err = b.parDo(id, t, out)
	case graphx.URNWindow:
		n, err = b.window(t, out)
	case urnPrecombine:
		n, err = b.precombine(id, t, out)
	default:
		err = refuse("%s is a %s", t.GetUniqueName(), urn)
	}
	if err != nil {
		return nil, err
	}
	b.units = append(b.units, n)
	return n, nil
}

func (b *fastBuilder) sink(id string, t *pipepb.PTransform) (exec.Node, error) {
	i, ok := b.st.outputs[id]
	if !ok {
		return nil, refuse("%s is no output of the stage", id)
	}
	c, err := b.portCoder(t)
	if err != nil {
		return nil, err
	}
	s := &sink{uid: b.ids.New(), id: id, output: i, enc: newEncoder(c)}
	b.fast.sinks = append(b.fast.sinks, s)
	b.units = append(b.units, s)
	return s, nil
}

func (b *fastBuilder) parDo(id string, t *pipepb.PTransform, out []exec.Node) (exec.Node, error) {
	var p pipepb.ParDoPayload
	if err := proto.Unmarshal(t.GetSpec().GetPayload(), &p); err != nil {
		return nil, fmt.Errorf("payload of %s: %w", t.GetUniqueName(), err)
	}
	if len(p.GetSideInputs())+len(p.GetStateSpecs())+len(p.GetTimerFamilySpecs()) > 0 || p.GetRestrictionCoderId() != "" {
		return nil, refuse("%s is more than a plain ParDo", t.GetUniqueName())
	}
	op, fn, in, err := userFn(p.GetDoFn())
	if err != nil {
		return nil, fmt.Errorf("function of %s: %w", t.GetUniqueName(), err)
	}
	if op != graph.ParDo {
		return nil, refuse("%s is no ParDo inside", t.GetUniqueName())
	}
	dofn, err := graph.AsDoFn(fn, graph.MainUnknown)
	if err != nil {
		return nil, fmt.Errorf("function of %s: %w", t.GetUniqueName(), err)
	}
	if dofn.IsSplittable() {
		return nil, refuse("%s is splittable", t.GetUniqueName())
	}
	return &exec.ParDo{UID: b.ids.New(), Fn: dofn, Inbound: in, Out: out, PID: id}, nil
}

// userFn decodes the function of a ParDo or Combine as Beam Go marshals it.
func userFn(spec *pipepb.FunctionSpec) (graph.Opcode, *graph.Fn, []*graph.Inbound, error) {
	var tp v1pb.TransformPayload
	if err := protox.DecodeBase64(string(spec.GetPayload()), &tp); err != nil {
		return "", nil, nil, err
	}
	if tp.GetUrn() != graphx.URNDoFn { // Beam Go's own transforms: injections, expansions, ...
		return "", nil, nil, refuse("it has a %s", tp.GetUrn())
	}
	op, fn, _, in, _, err := graphx.DecodeMultiEdge(tp.GetEdge())
	return op, fn, in, err
}

func (b *fastBuilder) precombine(id string, t *pipepb.PTransform, out []exec.Node) (exec.Node, error) {
	var p pipepb.CombinePayload
	if err := proto.Unmarshal(t.GetSpec().GetPayload(), &p); err != nil {
		return nil, fmt.Errorf("payload of %s: %w", t.GetUniqueName(), err)
	}
	op, fn, in, err := userFn(p.GetCombineFn())
	if err != nil {
		return nil, fmt.Errorf("function of %s: %w", t.GetUniqueName(), err)
	}
	if op != graph.Combine || len(out) != 1 || len(in) == 0 {
		return nil, refuse("%s is no Combine inside", t.GetUniqueName())
	}
	cfn, err := graph.AsCombineFn(fn)
	if err != nil {
		return nil, fmt.Errorf("function of %s: %w", t.GetUniqueName(), err)
	}
	var c *coder.Coder
	var wc *coder.WindowCoder
	for _, input := range t.GetInputs() {
		pc := b.d.GetPcollections()[input]
		if c, err = b.coders.Coder(pc.GetCoderId()); err != nil {
			return nil, fmt.Errorf("coder of %s: %w", input, err)
		}
		ws := b.d.GetWindowingStrategies()[pc.GetWindowingStrategyId()]
		if wc, err = b.coders.WindowCoder(ws.GetWindowCoderId()); err != nil {
			return nil, fmt.Errorf("window coder of %s: %w", input, err)
		}
	}
	if c == nil || !coder.IsKV(c) {
		return nil, refuse("%s does not read KVs", t.GetUniqueName())
	}
	combine := &exec.Combine{UID: b.ids.New(), Fn: cfn, UsesKey: typex.IsKV(in[0].Type), Out: out[0], PID: id}
	return &exec.LiftedCombine{Combine: combine, KeyCoder: c.Components[0], WindowCoder: wc}, nil
}

func (b *fastBuilder) window(t *pipepb.PTransform, out []exec.Node) (exec.Node, error) {
	var p pipepb.WindowIntoPayload
	if err := proto.Unmarshal(t.GetSpec().GetPayload(), &p); err != nil {
		return nil, fmt.Errorf("payload of %s: %w", t.GetUniqueName(), err)
	}
	if len(out) != 1 {
		return nil, refuse("%s has %d outputs", t.GetUniqueName(), len(out))
	}
	fn, err := windowFn(p.GetWindowFn())
	if err != nil {
		return nil, fmt.Errorf("window function of %s: %w", t.GetUniqueName(), err)
	}
	return &exec.WindowInto{UID: b.ids.New(), Fn: fn, Out: out[0]}, nil
}

// windowFn decodes the standard window functions (standard_window_fns.proto). Beam Go knows no offsets.
func windowFn(spec *pipepb.FunctionSpec) (*window.Fn, error) {
	switch urn := spec.GetUrn(); urn {
	case graphx.URNGlobalWindowsWindowFn:
		return window.NewGlobalWindows(), nil
	case graphx.URNFixedWindowsWindowFn:
		var p pipepb.FixedWindowsPayload
		err := proto.Unmarshal(spec.GetPayload(), &p)
		return window.NewFixedWindows(p.GetSize().AsDuration()), err
	case graphx.URNSlidingWindowsWindowFn:
		var p pipepb.SlidingWindowsPayload
		err := proto.Unmarshal(spec.GetPayload(), &p)
		return window.NewSlidingWindows(p.GetPeriod().AsDuration(), p.GetSize().AsDuration()), err
	case graphx.URNSessionsWindowFn:
		var p pipepb.SessionWindowsPayload
		err := proto.Unmarshal(spec.GetPayload(), &p)
		return window.NewSessions(p.GetGapSize().AsDuration()), err
	default:
		return nil, refuse("its window function is %s", strings.TrimSpace(urn))
	}
}

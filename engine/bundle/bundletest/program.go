package bundletest

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// Stage builds the stage under test on its input and returns nothing: what its transforms produce and none of them
// consumes becomes an output, in the order of construction.
type Stage func(s beam.Scope, in beam.PCollection)

// Compile makes a program of stage, for an input of the type of like, a slice. like may also be a function from the
// pipeline's root to the input PCollection, for inputs that Create cannot make.
func Compile(tb testing.TB, like any, stage Stage) *Program {
	tb.Helper()
	c := Marshal(tb, func(s beam.Scope) {
		var in beam.PCollection
		if f, ok := like.(func(beam.Scope) beam.PCollection); ok {
			in = f(s.Scope("input"))
		} else {
			in = beam.CreateList(s.Scope("input"), like)
		}
		stage(s.Scope("stage"), in)
	}).Components
	in := map[string]*pipepb.PTransform{}
	for id, t := range c.Transforms {
		if strings.HasPrefix(t.UniqueName, "stage/") && len(t.Subtransforms) == 0 {
			in[id] = t
		}
	}
	input, outputs := borders(tb, in)
	d := &fnpb.ProcessBundleDescriptor{
		Id:                  "bundletest-" + strconv.FormatInt(programs.Add(1), 10),
		Transforms:          in,
		Pcollections:        c.Pcollections,
		WindowingStrategies: c.WindowingStrategies,
		Coders:              c.Coders,
		Environments:        c.Environments,
	}
	return finish(tb, d, input, outputs)
}

// programs makes descriptor ids unique in the process.
var programs atomic.Int64 //nolint:gochecknoglobals // a counter for the whole process

// Marshal makes the portable form of a pipeline.
func Marshal(tb testing.TB, build func(s beam.Scope)) *pipepb.Pipeline {
	tb.Helper()
	p, s := beam.NewPipelineWithRoot()
	build(s)
	edges, _, err := p.Build()
	if err != nil {
		tb.Fatalf("build pipeline: %v", err)
	}
	env, err := graphx.CreateEnvironment(context.Background(), graphx.URNEnvExternal, func(context.Context) string { return "unused" })
	if err != nil {
		tb.Fatalf("create environment: %v", err)
	}
	pb, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		tb.Fatalf("marshal pipeline: %v", err)
	}
	return pb
}

// borders finds the PCollection that transforms read from outside as main input, and those that only they produce.
func borders(tb testing.TB, in map[string]*pipepb.PTransform) (input string, outputs []string) {
	tb.Helper()
	produced, consumed := map[string]bool{}, map[string]bool{}
	for _, t := range in {
		for _, id := range t.Outputs {
			produced[id] = true
		}
	}
	for _, t := range in {
		var pardo pipepb.ParDoPayload
		if t.GetSpec().GetUrn() == graphx.URNParDo {
			if err := proto.Unmarshal(t.Spec.Payload, &pardo); err != nil {
				tb.Fatalf("payload of %s: %v", t.UniqueName, err)
			}
		}
		for local, id := range t.Inputs {
			consumed[id] = true
			if pardo.SideInputs[local] == nil && !produced[id] {
				input = id
			}
		}
	}
	for id := range produced {
		if !consumed[id] {
			outputs = append(outputs, id)
		}
	}
	// Beam Go numbers PCollections in the order of construction: n1, n2, ...
	slices.SortFunc(outputs, func(a, b string) int {
		x, _ := strconv.Atoi(strings.TrimLeft(a, "n"))
		y, _ := strconv.Atoi(strings.TrimLeft(b, "n"))
		return cmp.Or(x-y, strings.Compare(a, b))
	})
	return input, outputs
}

// finish puts source and sinks around the transforms.
func finish(tb testing.TB, d *fnpb.ProcessBundleDescriptor, input string, outputs []string) *Program {
	tb.Helper()
	p := &bundle.Program{Descriptor: d, Source: "source"}
	for id, t := range d.Transforms {
		if t.GetSpec().GetUrn() != graphx.URNParDo {
			continue
		}
		var pardo pipepb.ParDoPayload
		if err := proto.Unmarshal(t.Spec.Payload, &pardo); err != nil {
			tb.Fatalf("payload of %s: %v", t.UniqueName, err)
		}
		for family := range pardo.TimerFamilySpecs {
			p.Timers = append(p.Timers, bundle.TimerFamily{Transform: id, Family: family})
		}
		if pardo.RestrictionCoderId != "" {
			input = splittable(tb, d, t, &pardo, input)
		}
	}
	slices.SortFunc(p.Timers, func(a, b bundle.TimerFamily) int {
		return cmp.Or(strings.Compare(a.Transform, b.Transform), strings.Compare(a.Family, b.Family))
	})
	d.Transforms[p.Source] = port(tb, d, "beam:runner:source:v1", input, true)
	for _, id := range outputs {
		sink := "sink_" + id
		d.Transforms[sink] = port(tb, d, "beam:runner:sink:v1", id, false)
		p.Outputs = append(p.Outputs, sink)
	}
	return Wrap(tb, p)
}

// Wrap makes what the suite needs around a program that somebody else compiled, from a pipeline of Beam Go.
func Wrap(tb testing.TB, p *bundle.Program) *Program {
	tb.Helper()
	out := &Program{Program: p, tb: tb, Transforms: map[string]string{}}
	for id, t := range p.Descriptor.Transforms {
		out.Transforms[t.UniqueName[strings.LastIndexByte(t.UniqueName, '/')+1:]] = id
	}
	out.in = newCodec(tb, p.Descriptor, p.Source)
	for _, id := range p.Outputs {
		out.outs = append(out.outs, newCodec(tb, p.Descriptor, id))
	}
	return out
}

// port makes a data source or sink for a PCollection, with the windowed coder it takes.
func port(tb testing.TB, d *fnpb.ProcessBundleDescriptor, urn, collection string, source bool) *pipepb.PTransform {
	tb.Helper()
	id := windowedCoder(d, collection)
	payload, err := proto.Marshal(&fnpb.RemoteGrpcPort{CoderId: id})
	if err != nil {
		tb.Fatal(err)
	}
	t := &pipepb.PTransform{UniqueName: urn + collection, Spec: &pipepb.FunctionSpec{Urn: urn, Payload: payload}}
	if source {
		t.Outputs = map[string]string{"i0": collection}
	} else {
		t.Inputs = map[string]string{"i0": collection}
	}
	return t
}

func windowedCoder(d *fnpb.ProcessBundleDescriptor, collection string) string {
	pc := d.Pcollections[collection]
	id := "windowed_" + collection
	d.Coders[id] = &pipepb.Coder{
		Spec:              &pipepb.FunctionSpec{Urn: "beam:coder:windowed_value:v1"},
		ComponentCoderIds: []string{pc.CoderId, d.WindowingStrategies[pc.WindowingStrategyId].WindowCoderId},
	}
	return id
}

// splittable turns a splittable ParDo into the last of its three parts, the one that processes restrictions, and returns
// the PCollection of sized restrictions that it reads.
func splittable(tb testing.TB, d *fnpb.ProcessBundleDescriptor, t *pipepb.PTransform, pardo *pipepb.ParDoPayload, input string) string {
	tb.Helper()
	t.Spec.Urn = "beam:transform:sdf_process_sized_element_and_restrictions:v1"
	kv := func(a, b string) *pipepb.Coder {
		return &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: "beam:coder:kv:v1"}, ComponentCoderIds: []string{a, b}}
	}
	d.Coders["sdf_size"] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: "beam:coder:double:v1"}}
	d.Coders["sdf_pair"] = kv(d.Pcollections[input].CoderId, pardo.RestrictionCoderId)
	d.Coders["sdf_sized"] = kv("sdf_pair", "sdf_size")
	pc := proto.CloneOf(d.Pcollections[input])
	pc.CoderId = "sdf_sized"
	sized := input + "_sized"
	d.Pcollections[sized] = pc
	for local, id := range t.Inputs {
		if id == input {
			t.Inputs[local] = sized
		}
	}
	return sized
}

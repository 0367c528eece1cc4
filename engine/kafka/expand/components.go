package expand

import (
	"encoding/json"
	"fmt"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

// URNs of what an expansion is made of, besides package kafka's and package coder's.
const (
	urnRedistribute  = "beam:transform:redistribute_arbitrarily:v1"
	urnGlobalWindows = "beam:window_fn:global_windows:v1"
)

// expansion is the answer to a request while it is made. Its components are those of the request and new ones.
type expansion struct {
	namespace string
	comps     *pipepb.Components
	top       *pipepb.PTransform
}

// newExpansion begins an expansion. name is what was asked for; the payload stays behind, as passwords may be in it.
func newExpansion(req *jobpb.ExpansionRequest, name string) *expansion {
	x := &expansion{namespace: req.GetNamespace(), comps: new(pipepb.Components)}
	if req.GetComponents() != nil {
		x.comps = proto.CloneOf(req.GetComponents())
	}
	x.top = &pipepb.PTransform{
		UniqueName: req.GetTransform().GetUniqueName(),
		Spec:       &pipepb.FunctionSpec{Urn: name},
		Inputs:     req.GetTransform().GetInputs(),
		Outputs:    map[string]string{},
	}
	return x
}

func (x *expansion) response() *jobpb.ExpansionResponse {
	return &jobpb.ExpansionResponse{Components: x.comps, Transform: x.top}
}

// put adds a component under an id of the request's namespace.
func put[T any](x *expansion, m *map[string]T, name string, v T) string {
	if *m == nil {
		*m = make(map[string]T)
	}
	id := x.namespace + "_" + name
	for i := 2; ; i++ {
		if _, taken := (*m)[id]; !taken {
			break
		}
		id = fmt.Sprintf("%s_%s_%d", x.namespace, name, i)
	}
	(*m)[id] = v
	return id
}

func (x *expansion) coder(name, urn string, components ...string) string {
	return put(x, &x.comps.Coders, "coder_"+name, &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: components})
}

func (x *expansion) rowCoder(schema *pipepb.Schema) (string, error) {
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(schema)
	if err != nil {
		return "", fmt.Errorf("write schema: %w", err)
	}
	return put(x, &x.comps.Coders, "coder_row", &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urnRow, Payload: payload}}), nil
}

// pairCoder adds the coder of KV<nullable<K>, nullable<V>>.
func (x *expansion) pairCoder(e kafka.Elements) string {
	nullable := func(name string, t kafka.Type) string {
		return x.coder(name+"_nullable", coder.URNNullable, x.coder(name, t.Coder()))
	}
	return x.coder("kv", coder.URNKV, nullable("key", e.Key), nullable("value", e.Value))
}

// collection adds a PCollection in the global window.
func (x *expansion) collection(name, coderID string, bounded bool) string {
	windows := put(x, &x.comps.WindowingStrategies, "windows", &pipepb.WindowingStrategy{
		WindowFn:         &pipepb.FunctionSpec{Urn: urnGlobalWindows},
		MergeStatus:      pipepb.MergeStatus_NON_MERGING,
		WindowCoderId:    x.coder("window", coder.URNGlobalWindow),
		Trigger:          &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}},
		AccumulationMode: pipepb.AccumulationMode_DISCARDING,
		OutputTime:       pipepb.OutputTime_END_OF_WINDOW,
		ClosingBehavior:  pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
		OnTimeBehavior:   pipepb.OnTimeBehavior_FIRE_ALWAYS,
	})
	pc := &pipepb.PCollection{UniqueName: x.top.GetUniqueName() + "/" + name, CoderId: coderID, WindowingStrategyId: windows, IsBounded: pipepb.IsBounded_UNBOUNDED}
	if bounded {
		pc.IsBounded = pipepb.IsBounded_BOUNDED
	}
	return put(x, &x.comps.Pcollections, name, pc)
}

// part adds a subtransform.
func (x *expansion) part(name string, spec *pipepb.FunctionSpec, inputs, outputs map[string]string) {
	id := put(x, &x.comps.Transforms, name, &pipepb.PTransform{
		UniqueName: x.top.GetUniqueName() + "/" + name, Spec: spec, Inputs: inputs, Outputs: outputs,
	})
	x.top.Subtransforms = append(x.top.Subtransforms, id)
}

// output is the tag of the one output, as Java's transforms have it.
const output = "output"

// read adds the source, with elements in the coder, and returns the answer.
func (x *expansion) read(r *reading, coderID string) (*jobpb.ExpansionResponse, error) {
	payload, err := json.Marshal(r.config)
	if err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	bounded := r.config.MaxRecords > 0 || r.config.MaxReadTime > 0
	out := x.collection("Records", coderID, bounded)
	x.part("Read", &pipepb.FunctionSpec{Urn: kafka.ReadURN, Payload: payload}, nil, map[string]string{output: out})
	if r.redistribute {
		in := out
		out = x.collection("Redistributed", coderID, bounded)
		x.part("Redistribute", &pipepb.FunctionSpec{Urn: urnRedistribute}, map[string]string{"input": in}, map[string]string{output: out})
	}
	x.top.Outputs[output] = out
	return x.response(), nil
}

// write adds the sink, and returns the answer.
func (x *expansion) write(c *kafka.WriteConfig) (*jobpb.ExpansionResponse, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	// Python's SDK drops transforms without outputs before it submits a batch pipeline (leaf_transform_stages in its
	// translations.py takes them for empty composites), so the sink has one that stays empty.
	none := x.collection("Nothing", x.coder("nothing", coder.URNBytes), true)
	x.part("Write", &pipepb.FunctionSpec{Urn: kafka.WriteURN, Payload: payload}, x.top.GetInputs(), map[string]string{"nothing": none})
	return x.response(), nil
}

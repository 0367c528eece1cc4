package plan

import (
	"cmp"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// Kind says what executes a stage.
type Kind int

const (
	// User stages run fused transforms in an SDK worker.
	User Kind = iota
	// Impulse emits one empty byte string at the beginning of time.
	Impulse
	// GroupByKey groups its input by key and window.
	GroupByKey
	// Source is a runner-native source: a root that the engine reads by itself.
	Source
	// Sink is a runner-native sink.
	Sink
	// TestStream replays the events of its payload. The payload's coder, which its elements are in, may differ from the
	// output's as it is on the wire.
	TestStream
)

// Plan is a pipeline as the engine runs it. Pure data: the same pipeline always gives the same plan.
type Plan struct {
	// Stages in topological order.
	Stages []*Stage
	// Collections by PCollection id: those that cross a stage border, side inputs included.
	Collections map[string]*Collection
	// Pipeline is the expanded pipeline that the plan was made of (after combine lifting and SDF expansion), with the coders
	// that the plan added.
	Pipeline *pipepb.Pipeline

	names map[string]string // unique names of transforms by id, of an outline
}

// TransformName is the unique name of a transform of a stage; its id if it has none.
func (p *Plan) TransformName(id string) string {
	return cmp.Or(p.Pipeline.GetComponents().GetTransforms()[id].GetUniqueName(), p.names[id], id)
}

// Stage is one vertex: what runs as one bundle.
type Stage struct {
	// Index in Plan.Stages.
	Index int
	// Name is unique in the plan, readable, and stable as long as the pipeline's transform names are.
	Name string
	Kind Kind
	// Transforms are the ids of the fused leaf transforms, in topological order.
	Transforms []string
	// Environment id for User stages.
	Environment string

	// Input is the PCollection whose elements start bundles; "" for roots.
	Input string
	// Outputs are the collections that the stage writes, in the order of Program.Outputs. A collection may be written by
	// several stages (an unzipped Flatten); its consumers read all of them as one queue.
	Outputs []string
	// From are, by output, the PCollections of the stage's transforms whose elements go there: the output itself but for
	// what a Flatten or Redistribute behind the stage takes over. A native stage writes each element to all outputs that
	// are from the same PCollection. No two outputs are equal in both.
	From []string

	// Keyed: elements of one key never run in two bundles at once, and state and timers belong to the key. The input's
	// element coder is then a KV.
	Keyed bool
	// Owner is the unique name of the transform whose state and timers the stage holds (the stateful ParDo or the
	// GroupByKey): with a state id it names state cells for ever, whatever the fusion. A stage has at most one.
	Owner string
	// OwnerID is that transform's id.
	OwnerID string
	States  []UserState
	Timers  []TimerFamily
	// TimeSorted: the ParDo has RequiresTimeSortedInput. StableInput: it has RequiresStableInput.
	TimeSorted, StableInput bool
	// OnWindowExpiration is the timer family to fire at the end of each window's life; "" if none.
	OnWindowExpiration string

	SideInputs []SideInput

	// Splittable: the first transform is a process-sized-elements-and-restrictions; the input's elements are
	// KV<KV<element, KV<restriction, watermark estimator state>>, double size>.
	Splittable bool
	// Truncate is the stage that truncates restrictions when the job drains: its only output is this stage's input. It is
	// not in Plan.Stages. nil unless Splittable.
	Truncate *Stage

	// Windowing of the GroupByKey's input, or of the stage's input for keyed stages.
	Windowing *pipepb.WindowingStrategy
	// MergeWindows: the GroupByKey has merging windows of a custom WindowFn; the SDK merges them with this program
	// (beam:transform:merge_windows:v1). nil otherwise.
	MergeWindows *bundle.Program

	// Spec of the transform for native kinds: URN and payload.
	Spec *pipepb.FunctionSpec

	// Program for User stages.
	Program *bundle.Program
	// TimerCoders by timer family, for decoding and encoding timers that cross to the worker.
	TimerCoders map[bundle.TimerFamily]*coder.TimerCoder
}

// UserState is a state cell declared by the stage's stateful transform.
type UserState struct {
	ID   string // local state id
	Spec *pipepb.StateSpec
}

// TimerFamily is a timer family declared by the stage's stateful transform.
type TimerFamily struct {
	ID     string
	Domain pipepb.TimeDomain_Enum
	bundle.TimerFamily
}

// SideInput is a PCollection that bundles of a stage read besides their input.
type SideInput struct {
	Transform  string // id of the consuming transform
	Local      string // its local input name = side_input_id of state keys
	Collection string // PCollection id
	// AccessPattern is beam:side_input:iterable:v1 or beam:side_input:multimap:v1.
	AccessPattern string
}

// Collection is a PCollection that crosses a stage border. One without producers (a Flatten of nothing) is complete and
// empty from the beginning.
type Collection struct {
	ID         string
	UniqueName string
	Bounded    bool
	Windowing  *pipepb.WindowingStrategy
	// Coder reads whole windowed elements as they are on the wire.
	Coder *coder.WindowedValue
	// CoderID is the id, in Plan.Pipeline, of the element coder as it is on the wire (unknown codings length-prefixed).
	CoderID string
	// Producers are indices of stages; Consumers those that have it as Input; SideConsumers those that read it as side input.
	Producers, Consumers, SideConsumers []int
}

// Outline is what is left to tell of a plan that will not run again: its stages and collections by name, and how they hang
// together. It has no pipeline, coders or programs.
func (p *Plan) Outline() *Plan {
	out := &Plan{Collections: make(map[string]*Collection, len(p.Collections)), names: make(map[string]string)}
	for _, s := range p.Stages {
		for _, id := range s.Transforms {
			out.names[id] = p.TransformName(id)
		}
		out.Stages = append(out.Stages, &Stage{
			Index: s.Index, Name: s.Name, Kind: s.Kind, Transforms: s.Transforms, Environment: s.Environment,
			Input: s.Input, Outputs: s.Outputs, From: s.From, Keyed: s.Keyed, Owner: s.Owner, OwnerID: s.OwnerID,
			TimeSorted: s.TimeSorted, StableInput: s.StableInput, SideInputs: s.SideInputs, Splittable: s.Splittable,
		})
	}
	for id, c := range p.Collections {
		out.Collections[id] = &Collection{
			ID: c.ID, UniqueName: c.UniqueName, Bounded: c.Bounded, CoderID: c.CoderID,
			Producers: c.Producers, Consumers: c.Consumers, SideConsumers: c.SideConsumers,
		}
	}
	return out
}

package plan

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// role says how a leaf takes part in fusion.
type role int

const (
	// user leaves run in an SDK worker.
	user role = iota
	// native leaves are stages that the engine runs.
	native
	// flatten leaves run as copies in the stages of their inputs, or nowhere.
	flatten
	// redistribute leaves are queues.
	redistribute
)

// leaf is a transform that runs as one piece.
type leaf struct {
	id   string
	t    *pipepb.PTransform
	role role
	kind Kind // of native leaves
	// pardo is the payload of those that have a ParDoPayload.
	pardo *pipepb.ParDoPayload
	// main is the PCollection that the leaf processes; "" for roots and flattens, which have any number.
	main string
}

func (l *leaf) name() string { return l.t.GetUniqueName() }
func (l *leaf) urn() string  { return l.t.GetSpec().GetUrn() }

func (l *leaf) unsupported(reason string, args ...any) error {
	return &UnsupportedError{Transform: l.name(), URN: l.urn(), Reason: fmt.Sprintf(reason, args...)}
}

// output returns the PCollection of a leaf that has only one.
func (l *leaf) output() string {
	for _, id := range l.t.GetOutputs() {
		return id
	}
	return ""
}

// stateful: the leaf has state or timers, and so runs by key.
func (l *leaf) stateful() bool {
	return len(l.pardo.GetStateSpecs())+len(l.pardo.GetTimerFamilySpecs()) > 0
}

// splittable: the elements of the leaf may be split while they are processed.
func (l *leaf) splittable() bool { return l.urn() == urnProcessSized }

// begins says whether the leaf must be the first of its stage.
func (l *leaf) begins() bool {
	if l.urn() == urnSplitAndSize {
		return false // it has what its pair-with-restriction has, which is before it
	}
	return l.stateful() || l.splittable() || l.pardo.GetRequiresTimeSortedInput() || l.pardo.GetRequiresStableInput() ||
		len(l.pardo.GetSideInputs()) > 0
}

// graph is what a pipeline does: leaves in topological order.
type graph struct {
	comps    *pipepb.Components
	coders   *coders
	leaves   []*leaf
	producer map[string]*leaf // by PCollection
}

func newGraph(comps *pipepb.Components, cs *coders, leaves []*leaf) (*graph, error) {
	g := &graph{comps: comps, coders: cs, producer: map[string]*leaf{}}
	for _, l := range leaves {
		if err := g.connect(l); err != nil {
			return nil, err
		}
	}
	if err := g.sort(leaves); err != nil {
		return nil, err
	}
	return g, g.checkOwners()
}

// connect finds out the leaf's main input and registers its outputs.
func (g *graph) connect(l *leaf) error {
	for _, out := range sorted(l.t.GetOutputs()) {
		if other := g.producer[out.id]; other != nil {
			return fmt.Errorf("PCollection %q is produced by %q and by %q", out.id, other.name(), l.name())
		}
		g.producer[out.id] = l
	}
	if l.role == flatten {
		return l.expect(len(l.t.GetInputs()), 1)
	}
	var main []string
	for _, in := range sorted(l.t.GetInputs()) {
		if _, side := l.pardo.GetSideInputs()[in.local]; !side {
			main = append(main, in.id)
		}
	}
	want := 1
	if l.role == native && l.kind != GroupByKey && l.kind != Sink {
		want = 0
	}
	if len(main) != want {
		return fmt.Errorf("transform %q (%s) has %d main inputs, want %d", l.name(), l.urn(), len(main), want)
	}
	if want == 1 {
		l.main = main[0]
	}
	if l.role == redistribute || l.kind == GroupByKey {
		return l.expect(1, 1)
	}
	return nil
}

// expect checks the number of a leaf's inputs and outputs.
func (l *leaf) expect(inputs, outputs int) error {
	if i, o := len(l.t.GetInputs()), len(l.t.GetOutputs()); i != inputs || o != outputs {
		return fmt.Errorf("transform %q (%s) has %d inputs and %d outputs, want %d and %d", l.name(), l.urn(), i, o, inputs, outputs)
	}
	return nil
}

// sort orders the leaves so that producers come before consumers, and otherwise as they are in the pipeline.
func (g *graph) sort(leaves []*leaf) error {
	const visiting, visited = 1, 2
	state := map[*leaf]int{}
	var visit func(l *leaf) error
	visit = func(l *leaf) error {
		switch state[l] {
		case visiting:
			return fmt.Errorf("transform %q needs its own output", l.name())
		case visited:
			return nil
		}
		state[l] = visiting
		for _, in := range sorted(l.t.GetInputs()) {
			p := g.producer[in.id]
			if p == nil {
				return fmt.Errorf("transform %q (%s) reads PCollection %q, which no transform produces", l.name(), l.urn(), in.id)
			}
			if err := visit(p); err != nil {
				return err
			}
		}
		state[l] = visited
		g.leaves = append(g.leaves, l)
		return nil
	}
	for _, l := range leaves {
		if err := visit(l); err != nil {
			return err
		}
	}
	return nil
}

// checkOwners: transforms that own state need names of their own, or they would share it.
func (g *graph) checkOwners() error {
	owners := map[string]*leaf{}
	for _, l := range g.leaves {
		if !l.stateful() && (l.role != native || l.kind != GroupByKey) {
			continue
		}
		if l.name() == "" {
			return fmt.Errorf("transform %q (%s) keeps state and has no unique name", l.id, l.urn())
		}
		if other := owners[l.name()]; other != nil {
			return fmt.Errorf("transforms %q and %q keep state and have the same unique name %q", other.id, l.id, l.name())
		}
		owners[l.name()] = l
	}
	return nil
}

// windowing returns the windowing strategy of a PCollection.
func (g *graph) windowing(pcollection string) *pipepb.WindowingStrategy {
	id := g.comps.GetPcollections()[pcollection].GetWindowingStrategyId()
	return g.comps.GetWindowingStrategies()[id]
}

// end is one input or output of a transform.
type end struct {
	local string // the transform's name for it
	id    string // PCollection
}

// sorted returns inputs or outputs by local name: the order in which Compile visits them.
func sorted(m map[string]string) []end {
	out := make([]end, 0, len(m))
	for _, local := range slices.Sorted(maps.Keys(m)) {
		out = append(out, end{local, m[local]})
	}
	return out
}

// errNotKV says that elements have no key.
var errNotKV = errors.New("its elements are not KVs that the runner can read")

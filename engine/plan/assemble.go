package plan

import (
	"fmt"
	"maps"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// assembler turns vertices into the stages of a plan.
type assembler struct {
	*wiring
	job  string
	plan *Plan
}

// assemble makes the plan of vertices in topological order.
func assemble(p *pipepb.Pipeline, w *wiring, vertices []*vertex, job string) (*Plan, error) {
	a := &assembler{wiring: w, job: job, plan: &Plan{Collections: map[string]*Collection{}, Pipeline: p}}
	names := map[string]bool{}
	for i, v := range vertices {
		s := a.stage(v)
		s.Index = i
		s.Name = unused(names, s.Name)
		names[s.Name] = true
		a.plan.Stages = append(a.plan.Stages, s)
	}
	if err := a.collections(); err != nil {
		return nil, err
	}
	for i, v := range vertices {
		if err := a.programs(a.plan.Stages[i], v); err != nil {
			return nil, fmt.Errorf("stage %s: %w", a.plan.Stages[i].Name, err)
		}
	}
	return a.plan, nil
}

// stage makes a stage without its programs.
func (a *assembler) stage(v *vertex) *Stage {
	head := v.members[0]
	s := &Stage{Name: v.name(), Kind: v.kind, Environment: v.env, Input: v.input}
	for _, m := range v.members {
		s.Transforms = append(s.Transforms, m.id)
		s.SideInputs = append(s.SideInputs, sideInputs(m.leaf)...)
	}
	for _, e := range v.emits {
		s.Outputs = append(s.Outputs, e.to)
		s.From = append(s.From, e.from)
	}
	if v.kind != User {
		s.Spec = head.t.GetSpec()
	}
	if v.kind == GroupByKey {
		s.own(head.leaf)
		s.Windowing = a.windowing(v.input)
		return s
	}
	s.Splittable = head.splittable()
	s.TimeSorted, s.StableInput = head.pardo.GetRequiresTimeSortedInput(), head.pardo.GetRequiresStableInput()
	if head.stateful() {
		s.own(head.leaf)
		s.Windowing = a.windowing(v.input)
		s.OnWindowExpiration = head.pardo.GetOnWindowExpirationTimerFamilySpec()
	}
	return s
}

// name returns the name of a stage: that of the transform it begins with, which is the one with state or splits. What is
// fused behind it may change without changing the name. Of several that read the same queue it is the least name: some
// SDKs write equal pipelines with transforms in any order.
func (v *vertex) name() string {
	name := v.members[0].name()
	for _, m := range v.members[1:] {
		if m.main != "" && m.main == v.input {
			name = min(name, m.name())
		}
	}
	if name == "" {
		name = v.members[0].id
	}
	return name + v.suffix
}

// own makes a leaf the owner of the stage's state.
func (s *Stage) own(l *leaf) {
	s.Keyed, s.Owner, s.OwnerID = true, l.name(), l.id
	for _, id := range slices.Sorted(maps.Keys(l.pardo.GetStateSpecs())) {
		s.States = append(s.States, UserState{ID: id, Spec: l.pardo.GetStateSpecs()[id]})
	}
	for _, id := range slices.Sorted(maps.Keys(l.pardo.GetTimerFamilySpecs())) {
		s.Timers = append(s.Timers, TimerFamily{
			ID:          id,
			Domain:      l.pardo.GetTimerFamilySpecs()[id].GetTimeDomain(),
			TimerFamily: bundle.TimerFamily{Transform: l.id, Family: id},
		})
	}
}

func sideInputs(l *leaf) []SideInput {
	var out []SideInput
	for _, local := range slices.Sorted(maps.Keys(l.pardo.GetSideInputs())) {
		out = append(out, SideInput{
			Transform:     l.id,
			Local:         local,
			Collection:    l.t.GetInputs()[local],
			AccessPattern: l.pardo.GetSideInputs()[local].GetAccessPattern().GetUrn(),
		})
	}
	return out
}

// collections finds what crosses stages, and who is at its ends.
func (a *assembler) collections() error {
	for _, s := range a.plan.Stages {
		if s.Input != "" {
			c, err := a.collection(s.Input)
			if err != nil {
				return err
			}
			c.Consumers = append(c.Consumers, s.Index)
		}
		for _, side := range s.SideInputs {
			c, err := a.collection(side.Collection)
			if err != nil {
				return err
			}
			if !slices.Contains(c.SideConsumers, s.Index) {
				c.SideConsumers = append(c.SideConsumers, s.Index)
			}
		}
	}
	for _, s := range a.plan.Stages {
		for _, id := range s.Outputs {
			c := a.plan.Collections[id]
			if !slices.Contains(c.Producers, s.Index) {
				c.Producers = append(c.Producers, s.Index)
			}
		}
	}
	return nil
}

// collection returns a collection of the plan, adding it if need be.
func (a *assembler) collection(id string) (*Collection, error) {
	if c := a.plan.Collections[id]; c != nil {
		return c, nil
	}
	wire, err := coder.CompileWindowedValue(a.comps, a.windowed(id))
	if err != nil {
		return nil, fmt.Errorf("PCollection %q: %w", id, err)
	}
	pc := a.comps.Pcollections[id]
	c := &Collection{
		ID:         id,
		UniqueName: pc.GetUniqueName(),
		Bounded:    pc.GetIsBounded() != pipepb.IsBounded_UNBOUNDED,
		Windowing:  a.windowing(id),
		Coder:      wire,
		CoderID:    a.elements[id],
	}
	a.plan.Collections[id] = c
	return c, nil
}

// windowed returns the coder of a collection's whole elements.
func (a *assembler) windowed(id string) string {
	return a.coders.of(coder.URNWindowedValue, a.elements[id], a.windowing(id).GetWindowCoderId())
}

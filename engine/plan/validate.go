package plan

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// validate checks that all that the pipeline's transforms name exists, and that its requirements are met. Later steps
// rely on it. What no transform needs is not looked at.
func validate(p *pipepb.Pipeline) error {
	for _, r := range p.GetRequirements() {
		if !supportedRequirement(r) {
			return &UnsupportedError{URN: r, Reason: "this runner does not know the requirement"}
		}
	}
	v := &validator{comps: p.Components, parent: map[string]string{}, coders: map[string]int{}, strategies: map[string]bool{}}
	if len(p.RootTransformIds) == 0 {
		p.RootTransformIds = v.orphans()
		if len(p.RootTransformIds) == 0 && len(v.comps.GetTransforms()) > 0 {
			return errors.New("the pipeline has no root transforms: each is part of another one")
		}
	}
	for _, id := range p.RootTransformIds {
		if err := v.transform("the pipeline", id); err != nil {
			return err
		}
	}
	return nil
}

type validator struct {
	comps      *pipepb.Components
	parent     map[string]string // of visited transforms
	coders     map[string]int    // number of parts; 0 while being checked
	strategies map[string]bool
}

// orphans returns the transforms that are no other's part: the roots of a pipeline that does not name them.
func (v *validator) orphans() []string {
	parts := map[string]bool{}
	for _, t := range v.comps.GetTransforms() {
		for _, id := range t.GetSubtransforms() {
			parts[id] = true
		}
	}
	var out []string
	for _, id := range slices.Sorted(maps.Keys(v.comps.GetTransforms())) {
		if !parts[id] {
			out = append(out, id)
		}
	}
	return out
}

// transform checks a transform and its parts. parent names who refers to it.
func (v *validator) transform(parent, id string) error {
	t := v.comps.GetTransforms()[id]
	if t == nil {
		return missing(parent, "transform", id)
	}
	if other, ok := v.parent[id]; ok {
		return fmt.Errorf("transform %q is part of %s and of %s", id, other, parent)
	}
	v.parent[id] = parent
	who := fmt.Sprintf("transform %q (%q)", id, t.GetUniqueName())
	if env := t.GetEnvironmentId(); env != "" && v.comps.GetEnvironments()[env] == nil {
		return missing(who, "environment", env)
	}
	for _, in := range sorted(t.GetInputs()) {
		if err := v.pcollection(fmt.Sprintf("%s, input %q", who, in.local), in.id); err != nil {
			return err
		}
	}
	for _, out := range sorted(t.GetOutputs()) {
		if err := v.pcollection(fmt.Sprintf("%s, output %q", who, out.local), out.id); err != nil {
			return err
		}
	}
	if err := v.payload(who, t); err != nil {
		return err
	}
	for _, sub := range t.GetSubtransforms() {
		if err := v.transform(who, sub); err != nil {
			return err
		}
	}
	return nil
}

func (v *validator) pcollection(who, id string) error {
	pc := v.comps.GetPcollections()[id]
	if pc == nil {
		return missing(who, "PCollection", id)
	}
	who = fmt.Sprintf("PCollection %q", id)
	if err := v.coder(who, pc.GetCoderId()); err != nil {
		return err
	}
	return v.strategy(who, pc.GetWindowingStrategyId())
}

// maxCoderParts bounds how many coders one is made of, counting shared ones every time: what walks coders takes that long.
const maxCoderParts = 1 << 12

func (v *validator) coder(who, id string) error {
	parts, seen := v.coders[id]
	if parts > 0 {
		return nil
	}
	if seen {
		return fmt.Errorf("coder %q contains itself", id)
	}
	c := v.comps.GetCoders()[id]
	if c == nil {
		return missing(who, "coder", id)
	}
	v.coders[id] = 0
	parts = 1
	for _, sub := range c.GetComponentCoderIds() {
		if err := v.coder(fmt.Sprintf("coder %q", id), sub); err != nil {
			return err
		}
		if parts += v.coders[sub]; parts > maxCoderParts {
			return fmt.Errorf("coder %q is made of more than %d coders", id, maxCoderParts)
		}
	}
	v.coders[id] = parts
	return nil
}

func (v *validator) strategy(who, id string) error {
	if v.strategies[id] {
		return nil
	}
	ws := v.comps.GetWindowingStrategies()[id]
	if ws == nil {
		return missing(who, "windowing strategy", id)
	}
	v.strategies[id] = true
	who = fmt.Sprintf("windowing strategy %q", id)
	if env := ws.GetEnvironmentId(); env != "" && v.comps.GetEnvironments()[env] == nil {
		return missing(who, "environment", env)
	}
	return v.coder(who, ws.GetWindowCoderId())
}

// payload checks what the payloads of transforms that the runner reads refer to.
func (v *validator) payload(who string, t *pipepb.PTransform) error {
	urn, payload := t.GetSpec().GetUrn(), t.GetSpec().GetPayload()
	switch {
	case hasParDoPayload(urn):
		var pardo pipepb.ParDoPayload
		if err := proto.Unmarshal(payload, &pardo); err != nil {
			return fmt.Errorf("%s: read ParDoPayload: %w", who, err)
		}
		return v.pardo(who, t, &pardo)
	case hasCombinePayload(urn):
		var combine pipepb.CombinePayload
		if err := proto.Unmarshal(payload, &combine); err != nil {
			return fmt.Errorf("%s: read CombinePayload: %w", who, err)
		}
		if id := combine.GetAccumulatorCoderId(); id != "" {
			return v.coder(who+", accumulator", id)
		}
	case urn == urnTestStream:
		var stream pipepb.TestStreamPayload
		if err := proto.Unmarshal(payload, &stream); err != nil {
			return fmt.Errorf("%s: read TestStreamPayload: %w", who, err)
		}
		if id := stream.GetCoderId(); id != "" {
			return v.coder(who, id)
		}
	}
	return nil
}

func (v *validator) pardo(who string, t *pipepb.PTransform, p *pipepb.ParDoPayload) error {
	for _, local := range slices.Sorted(maps.Keys(p.GetSideInputs())) {
		if t.GetInputs()[local] == "" {
			return missing(who+", side input", "input", local)
		}
		switch urn := p.GetSideInputs()[local].GetAccessPattern().GetUrn(); urn {
		case urnIterableSideInput, urnMultimapSideInput:
		default:
			return &UnsupportedError{Transform: t.GetUniqueName(), URN: urn, Reason: fmt.Sprintf("access pattern of side input %q", local)}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.GetStateSpecs())) {
		if err := v.state(who, id, t, p.GetStateSpecs()[id]); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.GetTimerFamilySpecs())) {
		f := p.GetTimerFamilySpecs()[id]
		if err := v.coder(fmt.Sprintf("%s, timer family %q", who, id), f.GetTimerFamilyCoderId()); err != nil {
			return err
		}
		if d := f.GetTimeDomain(); d != pipepb.TimeDomain_EVENT_TIME && d != pipepb.TimeDomain_PROCESSING_TIME {
			return &UnsupportedError{Transform: t.GetUniqueName(), URN: t.GetSpec().GetUrn(), Reason: fmt.Sprintf("time domain %v of timer family %q", d, id)}
		}
	}
	if id := p.GetOnWindowExpirationTimerFamilySpec(); id != "" && p.GetTimerFamilySpecs()[id] == nil {
		return missing(who+", on window expiration", "timer family", id)
	}
	if id := p.GetRestrictionCoderId(); id != "" {
		return v.coder(who+", restriction", id)
	}
	return nil
}

func (v *validator) state(who, id string, t *pipepb.PTransform, s *pipepb.StateSpec) error {
	who = fmt.Sprintf("%s, state %q", who, id)
	coders := stateCoders(s)
	if coders == nil {
		return &UnsupportedError{Transform: t.GetUniqueName(), URN: t.GetSpec().GetUrn(), Reason: fmt.Sprintf("state %q is of an unknown type", id)}
	}
	for _, c := range coders {
		if err := v.coder(who, c); err != nil {
			return err
		}
	}
	// SDKs that predate protocols leave them out.
	switch urn := s.GetProtocol().GetUrn(); urn {
	case "", urnBagState, urnMultimapState, urnOrderedListState:
		return nil
	default:
		return &UnsupportedError{Transform: t.GetUniqueName(), URN: urn, Reason: fmt.Sprintf("protocol of state %q", id)}
	}
}

// stateCoders returns the coders that the declaration of a state cell names; nil when its type is unknown.
func stateCoders(s *pipepb.StateSpec) []string {
	switch spec := s.GetSpec().(type) {
	case *pipepb.StateSpec_ReadModifyWriteSpec:
		return []string{spec.ReadModifyWriteSpec.GetCoderId()}
	case *pipepb.StateSpec_BagSpec:
		return []string{spec.BagSpec.GetElementCoderId()}
	case *pipepb.StateSpec_CombiningSpec:
		return []string{spec.CombiningSpec.GetAccumulatorCoderId()}
	case *pipepb.StateSpec_MapSpec:
		return []string{spec.MapSpec.GetKeyCoderId(), spec.MapSpec.GetValueCoderId()}
	case *pipepb.StateSpec_MultimapSpec:
		return []string{spec.MultimapSpec.GetKeyCoderId(), spec.MultimapSpec.GetValueCoderId()}
	case *pipepb.StateSpec_SetSpec:
		return []string{spec.SetSpec.GetElementCoderId()}
	case *pipepb.StateSpec_OrderedListSpec:
		return []string{spec.OrderedListSpec.GetElementCoderId()}
	}
	return nil
}

func missing(who, what, id string) error {
	return fmt.Errorf("%s refers to %s %q, which is not in the pipeline", who, what, id)
}

package plan

import (
	"slices"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// check fails the test unless the plan has all properties that every plan has.
func check(t rapid.TB, p *Plan) {
	t.Helper()
	names, ids, owners := map[string]bool{}, map[string]bool{}, map[string]bool{}
	written := map[string]bool{}
	for i, s := range p.Stages {
		if s.Index != i {
			t.Errorf("stage %d has index %d", i, s.Index)
		}
		if names[s.Name] || s.Name == "" {
			t.Errorf("stage name %q is taken or empty", s.Name)
		}
		names[s.Name] = true
		if s.Owner != "" && owners[s.Owner] {
			t.Errorf("two stages own state as %q", s.Owner)
		}
		owners[s.Owner] = true
		checkOrder(t, p, s, written)
		for _, prog := range []*bundle.Program{s.Program, s.MergeWindows, truncateProgram(s)} {
			if prog == nil {
				continue
			}
			if id := prog.Descriptor.Id; ids[id] {
				t.Errorf("two descriptors have id %q", id)
			}
			ids[prog.Descriptor.Id] = true
			checkProgram(t, prog)
		}
		if (s.Kind == User) != (s.Program != nil) || s.Splittable != (s.Truncate != nil) {
			t.Errorf("stage %s lacks a program, or has one too many", s.Name)
		}
		if s.Program != nil && (len(s.Program.Outputs) != len(s.Outputs) || len(s.From) != len(s.Outputs)) {
			t.Errorf("stage %s has %d outputs and %d sinks", s.Name, len(s.Outputs), len(s.Program.Outputs))
		}
	}
	for id, c := range p.Collections {
		if len(c.Consumers)+len(c.SideConsumers) == 0 {
			t.Errorf("nobody reads collection %s", id)
		}
		if c.Coder == nil || c.Windowing == nil || p.Pipeline.Components.Coders[c.CoderID] == nil {
			t.Errorf("collection %s has no coder or windowing", id)
		}
	}
}

// checkOrder: a stage reads only what stages before it wrote, all of it.
func checkOrder(t rapid.TB, p *Plan, s *Stage, written map[string]bool) {
	reads := []string{s.Input}
	for _, side := range s.SideInputs {
		reads = append(reads, side.Collection)
	}
	for _, id := range reads {
		c := p.Collections[id]
		if c == nil {
			if id != "" {
				t.Errorf("stage %s reads %s, which is no collection", s.Name, id)
			}
			continue
		}
		if len(c.Producers) > 0 && (!written[id] || slices.Max(c.Producers) >= s.Index) {
			t.Errorf("stage %s reads %s before it is written", s.Name, id)
		}
	}
	for i, id := range s.Outputs {
		written[id] = true
		if p.Collections[id] == nil || !slices.Contains(p.Collections[id].Producers, s.Index) {
			t.Errorf("stage %s writes %s, which does not know it", s.Name, id)
		}
		for j := range i {
			if s.Outputs[j] == id && s.From[j] == s.From[i] {
				t.Errorf("stage %s writes %s twice", s.Name, id)
			}
		}
	}
}

func truncateProgram(s *Stage) *bundle.Program {
	if s.Truncate == nil {
		return nil
	}
	return s.Truncate.Program
}

// checkProgram: whatever a descriptor names is in it, and every input of a transform is produced in it, but side inputs.
func checkProgram(t rapid.TB, prog *bundle.Program) {
	t.Helper()
	d := prog.Descriptor
	coder := func(who, id string) {
		t.Helper()
		if d.Coders[id] == nil {
			t.Errorf("%s: %s needs coder %q", d.Id, who, id)
		}
	}
	for id, c := range d.Coders {
		for _, sub := range c.ComponentCoderIds {
			coder("coder "+id, sub)
		}
	}
	for id, ws := range d.WindowingStrategies {
		coder("windowing strategy "+id, ws.WindowCoderId)
	}
	made := map[string]bool{}
	for id, pc := range d.Pcollections {
		coder("PCollection "+id, pc.CoderId)
		if d.WindowingStrategies[pc.WindowingStrategyId] == nil {
			t.Errorf("%s: PCollection %s needs windowing strategy %q", d.Id, id, pc.WindowingStrategyId)
		}
	}
	for _, tr := range d.Transforms {
		for _, id := range tr.Outputs {
			made[id] = true
		}
	}
	for id, tr := range d.Transforms {
		var pardo pipepb.ParDoPayload
		if hasParDoPayload(tr.GetSpec().GetUrn()) {
			if err := proto.Unmarshal(tr.Spec.Payload, &pardo); err != nil {
				t.Error(err)
			}
		}
		for _, f := range pardo.TimerFamilySpecs {
			coder("timer of "+id, f.TimerFamilyCoderId)
		}
		for local, in := range tr.Inputs {
			if d.Pcollections[in] == nil || !made[in] && pardo.SideInputs[local] == nil {
				t.Errorf("%s: nothing makes %s, input of %s", d.Id, in, id)
			}
		}
		for _, out := range tr.Outputs {
			if d.Pcollections[out] == nil {
				t.Errorf("%s: transform %s needs PCollection %q", d.Id, id, out)
			}
		}
		if tr.Spec.Urn == urnDataSource || tr.Spec.Urn == urnDataSink {
			var port fnpb.RemoteGrpcPort
			if err := proto.Unmarshal(tr.Spec.Payload, &port); err != nil {
				t.Error(err)
			}
			coder(id, port.CoderId)
		}
	}
	for _, id := range append(prog.Outputs, prog.Source) {
		if d.Transforms[id] == nil {
			t.Errorf("%s: there is no transform %q", d.Id, id)
		}
	}
}

package plan

import (
	"fmt"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// descriptor is a ProcessBundleDescriptor while it is being made.
type descriptor struct {
	*fnpb.ProcessBundleDescriptor
	a       *assembler
	program *bundle.Program
}

func (a *assembler) descriptor(name, env string) *descriptor {
	d := &fnpb.ProcessBundleDescriptor{
		Id:                  name,
		Transforms:          map[string]*pipepb.PTransform{},
		Pcollections:        map[string]*pipepb.PCollection{},
		Coders:              map[string]*pipepb.Coder{},
		WindowingStrategies: map[string]*pipepb.WindowingStrategy{},
		Environments:        map[string]*pipepb.Environment{env: a.comps.GetEnvironments()[env]},
	}
	if a.job != "" {
		d.Id = a.job + "/" + name
	}
	return &descriptor{ProcessBundleDescriptor: d, a: a, program: &bundle.Program{Descriptor: d}}
}

// programs makes the programs of a stage: what it does itself, how it truncates, how it merges windows.
func (a *assembler) programs(s *Stage, v *vertex) error {
	switch {
	case v.kind == User:
		if err := a.user(s, v); err != nil {
			return err
		}
		if s.Splittable {
			s.Truncate = a.truncate(s, v.members[0].leaf)
		}
	case v.kind == GroupByKey && a.mergesInSDK(s.Windowing):
		var err error
		s.MergeWindows, err = a.mergeWindows(s)
		return err
	}
	return nil
}

// user makes the program of a User stage.
func (a *assembler) user(s *Stage, v *vertex) error {
	d := a.descriptor(s.Name, v.env)
	for _, m := range v.members {
		d.transform(m)
	}
	if s.Keyed || s.Splittable {
		// Keys of state requests and residuals come in this coder, not in that of the data source.
		d.recode(s.Input)
	}
	for _, side := range s.SideInputs {
		d.recode(side.Collection)
	}
	d.source(s.Input, a.windowed(s.Input))
	for _, e := range v.emits {
		d.sink(e.from, e.to, a.windowed(e.to))
	}
	s.Program = d.program
	timers := a.timers[v.members[0].leaf]
	if timers == "" {
		return nil
	}
	tc, err := coder.CompileTimer(a.comps, timers)
	if err != nil {
		return fmt.Errorf("timers: %w", err)
	}
	s.TimerCoders = map[bundle.TimerFamily]*coder.TimerCoder{}
	for _, t := range s.Timers {
		d.program.Timers = append(d.program.Timers, t.TimerFamily)
		s.TimerCoders[t.TimerFamily] = tc
	}
	return nil
}

// truncate makes the stage that truncates the restrictions in the input of a splittable stage.
func (a *assembler) truncate(s *Stage, process *leaf) *Stage {
	name := s.Name + "#truncate"
	truncated := unused(a.comps.Pcollections, s.Input+".truncated")
	t := proto.Clone(process.t).(*pipepb.PTransform)
	t.UniqueName = name
	t.Spec.Urn = urnTruncateSized
	t.Outputs = map[string]string{"out": truncated}

	d := a.descriptor(name, s.Environment)
	d.Pcollections[truncated] = a.comps.Pcollections[s.Input]
	d.transform(&member{leaf: &leaf{id: process.id, t: t, pardo: process.pardo}})
	d.recode(s.Input)
	for _, side := range s.SideInputs {
		d.recode(side.Collection)
	}
	d.source(s.Input, a.windowed(s.Input))
	d.sink(truncated, s.Input, a.windowed(s.Input))
	return &Stage{
		Index: s.Index, Name: name, Kind: User, Transforms: []string{process.id}, Environment: s.Environment,
		Input: s.Input, Outputs: []string{s.Input}, From: []string{truncated}, SideInputs: s.SideInputs, Program: d.program,
	}
}

// transform adds a transform with its PCollections and whatever coders it names.
func (d *descriptor) transform(m *member) {
	t := m.t
	if m.inputs != nil || len(t.GetSubtransforms()) > 0 {
		t = proto.Clone(t).(*pipepb.PTransform)
		t.Subtransforms = nil
		if m.inputs != nil {
			t.Inputs = m.inputs
		}
	}
	d.Transforms[m.id] = t
	for _, ends := range [][]end{sorted(t.GetInputs()), sorted(t.GetOutputs())} {
		for _, e := range ends {
			d.pcollection(e.id)
		}
	}
	for _, id := range coderIDs(m.leaf) {
		d.a.coders.collect(id, d.Coders)
	}
}

// coderIDs returns the coders that the payload of a leaf names.
func coderIDs(l *leaf) []string {
	if hasCombinePayload(l.urn()) {
		var p pipepb.CombinePayload
		if proto.Unmarshal(l.t.GetSpec().GetPayload(), &p) == nil { // validate has read it
			return []string{p.GetAccumulatorCoderId()}
		}
	}
	ids := []string{l.pardo.GetRestrictionCoderId()}
	for _, f := range l.pardo.GetTimerFamilySpecs() {
		ids = append(ids, f.GetTimerFamilyCoderId())
	}
	for _, s := range l.pardo.GetStateSpecs() {
		ids = append(ids, stateCoders(s)...)
	}
	return ids
}

// pcollection adds a PCollection with its coder and windowing strategy.
func (d *descriptor) pcollection(id string) {
	pc := d.Pcollections[id]
	if pc == nil {
		pc = d.a.comps.Pcollections[id]
		d.Pcollections[id] = pc
	}
	d.a.coders.collect(pc.GetCoderId(), d.Coders)
	ws := d.a.comps.WindowingStrategies[pc.GetWindowingStrategyId()]
	d.WindowingStrategies[pc.GetWindowingStrategyId()] = ws
	d.a.coders.collect(ws.GetWindowCoderId(), d.Coders)
}

// recode gives a PCollection that comes from outside its coder on the wire.
func (d *descriptor) recode(id string) {
	if d.Pcollections[id].GetCoderId() == d.a.elements[id] {
		return
	}
	pc := proto.Clone(d.Pcollections[id]).(*pipepb.PCollection)
	pc.CoderId = d.a.elements[id]
	d.Pcollections[id] = pc
	d.a.coders.collect(pc.CoderId, d.Coders)
}

// source adds the data source of a PCollection.
func (d *descriptor) source(pcollection, windowed string) {
	id := unused(d.Transforms, "source")
	d.program.Source = id
	d.Transforms[id] = &pipepb.PTransform{
		UniqueName: id,
		Spec:       d.port(urnDataSource, windowed),
		Outputs:    map[string]string{"out": pcollection},
	}
}

// sink adds a data sink for what goes from a PCollection to a collection.
func (d *descriptor) sink(from, to, windowed string) {
	id := unused(d.Transforms, "sink:"+to)
	d.program.Outputs = append(d.program.Outputs, id)
	d.Transforms[id] = &pipepb.PTransform{
		UniqueName: id,
		Spec:       d.port(urnDataSink, windowed),
		Inputs:     map[string]string{"in": from},
	}
}

// port returns the spec of a source or sink. Workers know the endpoint.
func (d *descriptor) port(urn, windowed string) *pipepb.FunctionSpec {
	d.a.coders.collect(windowed, d.Coders)
	// Marshalling a message of one string cannot fail.
	payload, _ := proto.MarshalOptions{Deterministic: true}.Marshal(&fnpb.RemoteGrpcPort{CoderId: windowed})
	return &pipepb.FunctionSpec{Urn: urn, Payload: payload}
}

// mergesInSDK says whether windows merge in a way that only the SDK knows.
func (a *assembler) mergesInSDK(ws *pipepb.WindowingStrategy) bool {
	return ws.GetMergeStatus() == pipepb.MergeStatus_NEEDS_MERGE && ws.GetWindowFn().GetUrn() != urnSessionWindows
}

// mergeWindows makes the program that merges windows of a custom WindowFn. For each element KV<nonce, Iterable<window>>
// it answers KV<nonce, KV<Iterable<unmerged window>, Iterable<KV<merged window, Iterable<its originals>>>>>, all in the
// global window (beam:transform:merge_windows:v1).
func (a *assembler) mergeWindows(s *Stage) (*bundle.Program, error) {
	ws := s.Windowing
	if ws.GetEnvironmentId() == "" {
		return nil, &UnsupportedError{Transform: s.Owner, URN: ws.GetWindowFn().GetUrn(),
			Reason: "the windowing strategy has no environment to merge windows in"}
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(ws.GetWindowFn())
	if err != nil {
		return nil, fmt.Errorf("write WindowFn: %w", err)
	}
	window, of := ws.GetWindowCoderId(), a.coders.of
	windows, nonce, global := of(coder.URNIterable, window), of(coder.URNBytes), of(coder.URNGlobalWindow)
	in := of(coder.URNKV, nonce, windows)
	out := of(coder.URNKV, nonce, of(coder.URNKV, windows, of(coder.URNIterable, of(coder.URNKV, window, windows))))

	d := a.descriptor(s.Name+"#merge", ws.GetEnvironmentId())
	d.WindowingStrategies["global"] = globalWindowing(global)
	d.Pcollections["in"] = &pipepb.PCollection{UniqueName: "in", CoderId: in, WindowingStrategyId: "global", IsBounded: pipepb.IsBounded_BOUNDED}
	d.Pcollections["out"] = &pipepb.PCollection{UniqueName: "out", CoderId: out, WindowingStrategyId: "global", IsBounded: pipepb.IsBounded_BOUNDED}
	d.Transforms["merge"] = &pipepb.PTransform{
		UniqueName:    s.Name + "/MergeWindows",
		Spec:          &pipepb.FunctionSpec{Urn: urnMergeWindows, Payload: payload},
		Inputs:        map[string]string{"in": "in"},
		Outputs:       map[string]string{"out": "out"},
		EnvironmentId: ws.GetEnvironmentId(),
	}
	d.source("in", of(coder.URNWindowedValue, in, global))
	d.sink("out", "out", of(coder.URNWindowedValue, out, global))
	return d.program, nil
}

func globalWindowing(windowCoder string) *pipepb.WindowingStrategy {
	return &pipepb.WindowingStrategy{
		WindowFn:         &pipepb.FunctionSpec{Urn: urnGlobalWindows},
		MergeStatus:      pipepb.MergeStatus_NON_MERGING,
		WindowCoderId:    windowCoder,
		Trigger:          &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}},
		AccumulationMode: pipepb.AccumulationMode_DISCARDING,
		OutputTime:       pipepb.OutputTime_END_OF_WINDOW,
		ClosingBehavior:  pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
		OnTimeBehavior:   pipepb.OnTimeBehavior_FIRE_ALWAYS,
	}
}

package fnapi

import (
	"fmt"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// The data ports of a descriptor (beam_fn_api.proto, RemoteGrpcPort).
const (
	urnSource = "beam:runner:source:v1"
	urnSink   = "beam:runner:sink:v1"
)

// program is a bundle.Program as this package uses it. It is immutable.
type program struct {
	served  *fnpb.ProcessBundleDescriptor // the descriptor with this server's endpoint in every port
	outputs map[string]int                // sink's transform id -> number of its stream
	timers  map[bundle.TimerFamily]int    // timer family -> number of its stream, after those of outputs
}

// streams is the number of streams that a bundle must end.
func (p *program) streams() int { return len(p.outputs) + len(p.timers) }

// newProgram fills endpoint into a copy of the descriptor.
func newProgram(p *bundle.Program, endpoint string) (*program, error) {
	desc := proto.CloneOf(p.Descriptor)
	api := &pipepb.ApiServiceDescriptor{Url: endpoint}
	desc.StateApiServiceDescriptor = api
	desc.TimerApiServiceDescriptor = api
	for id, t := range desc.GetTransforms() {
		if urn := t.GetSpec().GetUrn(); urn != urnSource && urn != urnSink {
			continue
		}
		port := &fnpb.RemoteGrpcPort{}
		if err := proto.Unmarshal(t.GetSpec().GetPayload(), port); err != nil {
			return nil, fmt.Errorf("read the port of transform %s in descriptor %s: %w", id, desc.GetId(), err)
		}
		port.ApiServiceDescriptor = api
		payload, err := proto.Marshal(port)
		if err != nil {
			return nil, fmt.Errorf("write the port of transform %s in descriptor %s: %w", id, desc.GetId(), err)
		}
		t.Spec.Payload = payload
	}
	out := &program{served: desc, outputs: make(map[string]int), timers: make(map[bundle.TimerFamily]int)}
	for i, id := range p.Outputs {
		out.outputs[id] = i
	}
	for i, f := range p.Timers {
		out.timers[f] = len(p.Outputs) + i
	}
	return out, nil
}

func (s *Server) program(id string) *program {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.programs[id]
}

// register makes p known to harnesses, until its environment closes.
func (e *Environment) register(p *bundle.Program) (*program, error) {
	id := p.Descriptor.GetId()
	if known := e.server.program(id); known != nil {
		return known, nil
	}
	out, err := newProgram(p, e.server.Endpoint())
	if err != nil {
		return nil, err
	}
	s := e.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.programs[id]; known != nil {
		return known, nil
	}
	s.programs[id] = out
	e.addNames(id, p.Descriptor)
	return out, nil
}

package jobapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Expander makes the transforms that SDKs ask for by name, such as a source that the runner has itself. Its methods are
// called from any goroutine.
type Expander interface {
	// Expand returns the request's transform with its subtransforms and outputs, and all components that it needs. The
	// ids of new components begin with the request's namespace. How the transform is configured is in its payload: a
	// pipepb.SchemaTransformPayload if it was asked for by the identifier of a SchemaTransform, else what the URN says.
	Expand(ctx context.Context, req *jobpb.ExpansionRequest) (*jobpb.ExpansionResponse, error)
	// SchemaTransform describes the transform's configuration, inputs and outputs to SDKs that look for transforms. It
	// is nil if the transform is no SchemaTransform: it then can be asked for, not found.
	SchemaTransform() *jobpb.SchemaTransformConfig
}

// ExpansionService implements Beam's ExpansionService, by which the SDK of one language uses transforms that are made
// elsewhere. It is immutable.
//
// Protocol: beam_expansion_api.proto, package org.apache.beam.model.expansion.v1.
type ExpansionService struct {
	jobpb.UnimplementedExpansionServiceServer

	expanders map[string]Expander
}

var _ jobpb.ExpansionServiceServer = (*ExpansionService)(nil)

// NewExpansionService makes a service of expanders, each under the URN of its transforms or, for a SchemaTransform, under
// its identifier. There may be none: it then tells SDKs that it has nothing.
func NewExpansionService(expanders map[string]Expander) *ExpansionService {
	return &ExpansionService{expanders: maps.Clone(expanders)}
}

// Register adds the service to a server, which should have been made with ServerOptions.
func (s *ExpansionService) Register(r grpc.ServiceRegistrar) {
	jobpb.RegisterExpansionServiceServer(r, s)
}

// DiscoverSchemaTransform lists the SchemaTransforms by their identifiers.
func (s *ExpansionService) DiscoverSchemaTransform(context.Context, *jobpb.DiscoverSchemaTransformRequest) (*jobpb.DiscoverSchemaTransformResponse, error) {
	resp := &jobpb.DiscoverSchemaTransformResponse{SchemaTransformConfigs: make(map[string]*jobpb.SchemaTransformConfig)}
	for id, e := range s.expanders {
		if config := e.SchemaTransform(); config != nil {
			resp.SchemaTransformConfigs[id] = config
		}
	}
	return resp, nil
}

// Expand expands one transform. What is wrong with it is told in the response, as SDKs try again when the call fails.
func (s *ExpansionService) Expand(ctx context.Context, req *jobpb.ExpansionRequest) (*jobpb.ExpansionResponse, error) {
	resp, err := s.expand(ctx, req)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return &jobpb.ExpansionResponse{Error: fmt.Sprintf("expand transform %q: %v", req.GetTransform().GetUniqueName(), err)}, nil
	}
	return resp, nil
}

func (s *ExpansionService) expand(ctx context.Context, req *jobpb.ExpansionRequest) (*jobpb.ExpansionResponse, error) {
	name, err := asked(req.GetTransform().GetSpec())
	if err != nil {
		return nil, err
	}
	e := s.expanders[name]
	if e == nil {
		return nil, fmt.Errorf("this runner has no transform %q, it has %s; give the SDK the address of an expansion service that has it", name, s.known())
	}
	return e.Expand(ctx, req)
}

// known lists the expanders for a message.
func (s *ExpansionService) known() string {
	if len(s.expanders) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(s.expanders)), ", ")
}

// The URNs of transforms whose name is in their payload (ExpansionMethods in external_transforms.proto).
const (
	urnSchemaTransform = "beam:expansion:payload:schematransform:v1"
	urnJavaClass       = "beam:expansion:payload:java_class_lookup:v1"
)

// asked returns what a transform is asked for by: its URN, the identifier of a SchemaTransform, or a class of Java.
func asked(spec *pipepb.FunctionSpec) (string, error) {
	switch spec.GetUrn() {
	case "":
		return "", errors.New("the request has no transform with a URN")
	case urnSchemaTransform:
		p := new(pipepb.SchemaTransformPayload)
		if err := proto.Unmarshal(spec.GetPayload(), p); err != nil {
			return "", fmt.Errorf("read payload of %s: %w", urnSchemaTransform, err)
		}
		return p.GetIdentifier(), nil
	case urnJavaClass:
		p := new(pipepb.JavaClassLookupPayload)
		if err := proto.Unmarshal(spec.GetPayload(), p); err != nil {
			return "", fmt.Errorf("read payload of %s: %w", urnJavaClass, err)
		}
		return p.GetClassName(), nil
	}
	return spec.GetUrn(), nil
}

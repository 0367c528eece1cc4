package fnapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// artifactChunk is the size of an artifact's messages in bytes; gRPC clients take 4 MB unless told otherwise.
const artifactChunk = 1 << 20

// noArtifacts is the retrieval token of a job without artifacts, which boot code knows.
const noArtifacts = "__no_artifacts_staged__"

// ArtifactSource gives harnesses the files that their environment depends on. Calls may come from several goroutines.
type ArtifactSource interface {
	// Resolve replaces artifacts by ones that Open can open, in the same order.
	Resolve(ctx context.Context, artifacts []*pipepb.ArtifactInformation) ([]*pipepb.ArtifactInformation, error)
	// Open opens one. An error that wraps fs.ErrNotExist says that there is no such artifact.
	Open(ctx context.Context, artifact *pipepb.ArtifactInformation) (io.ReadCloser, error)
}

// GetProvisionInfo tells a harness what it needs to boot (beam_provision_api.proto).
func (h services) GetProvisionInfo(ctx context.Context, _ *fnpb.GetProvisionInfoRequest) (*fnpb.GetProvisionInfoResponse, error) {
	w, err := h.server.worker(ctx)
	if err != nil {
		return nil, err
	}
	api := &pipepb.ApiServiceDescriptor{Url: h.server.Endpoint()}
	info := &fnpb.ProvisionInfo{
		PipelineOptions:    w.env.cfg.Options,
		RetrievalToken:     noArtifacts,
		LoggingEndpoint:    api,
		ArtifactEndpoint:   api,
		ControlEndpoint:    api,
		Dependencies:       w.env.dependencies,
		RunnerCapabilities: []string{capShortIDs},
		Metadata:           map[string]string{"runner": "tinyrunner"},
	}
	if info.PipelineOptions == nil {
		info.PipelineOptions = &structpb.Struct{}
	}
	if len(info.Dependencies) > 0 {
		info.RetrievalToken = w.env.cfg.Job
	}
	return &fnpb.GetProvisionInfoResponse{Info: info}, nil
}

// ResolveArtifacts replaces artifacts by ones that GetArtifact serves.
func (h services) ResolveArtifacts(ctx context.Context, req *jobpb.ResolveArtifactsRequest) (*jobpb.ResolveArtifactsResponse, error) {
	w, err := h.server.worker(ctx)
	if err != nil {
		return nil, err
	}
	out := req.GetArtifacts()
	if src := w.env.cfg.Artifacts; src != nil {
		if out, err = src.Resolve(ctx, out); err != nil {
			return nil, artifactError("resolve artifacts", err)
		}
	}
	return &jobpb.ResolveArtifactsResponse{Replacements: out}, nil
}

// GetArtifact streams an artifact. An empty one is a stream of no messages.
func (h services) GetArtifact(req *jobpb.GetArtifactRequest, stream jobpb.ArtifactRetrievalService_GetArtifactServer) (err error) {
	w, err := h.open(stream)
	if err != nil {
		return err
	}
	what := "get artifact " + describeArtifact(req.GetArtifact())
	src := w.env.cfg.Artifacts
	if src == nil {
		return status.Errorf(codes.NotFound, "%s: environment %s has no artifacts", what, w.env.cfg.ID)
	}
	in, err := src.Open(stream.Context(), req.GetArtifact())
	if err != nil {
		return artifactError(what, err)
	}
	defer func() {
		if closed := in.Close(); err == nil && closed != nil {
			err = artifactError(what, closed)
		}
	}()
	buf := make([]byte, artifactChunk)
	for {
		n, err := io.ReadFull(in, buf)
		if n > 0 {
			w.touch()
			if err := stream.Send(&jobpb.GetArtifactResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return artifactError(what, err)
		}
	}
}

func artifactError(what string, err error) error {
	code := codes.Internal
	if errors.Is(err, fs.ErrNotExist) {
		code = codes.NotFound
	}
	return status.Errorf(code, "%s: %v", what, err)
}

// describeArtifact names an artifact for people: its path or URL, or what is known of it.
func describeArtifact(a *pipepb.ArtifactInformation) string {
	switch a.GetTypeUrn() {
	case "beam:artifact:type:file:v1":
		p := &pipepb.ArtifactFilePayload{}
		if proto.Unmarshal(a.GetTypePayload(), p) == nil {
			return fmt.Sprintf("%q", p.GetPath())
		}
	case "beam:artifact:type:url:v1":
		p := &pipepb.ArtifactUrlPayload{}
		if proto.Unmarshal(a.GetTypePayload(), p) == nil {
			return fmt.Sprintf("%q", p.GetUrl())
		}
	}
	return fmt.Sprintf("of type %q", a.GetTypeUrn())
}

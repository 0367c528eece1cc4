package jobapi

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// ReverseArtifactRetrievalService fetches the artifacts of a preparation from the client that opened the stream: the
// client answers, this server asks. The client first sends the staging token of Prepare. When it breaks off, what had
// come is removed and the client may begin again with the same token.
func (s *Service) ReverseArtifactRetrievalService(stream jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceServer) error {
	if err := sendHeader(stream); err != nil {
		return err
	}
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return status.Error(codes.InvalidArgument, "stage artifacts: the stream ended before a staging token was sent")
	}
	if err != nil {
		return err
	}
	p, err := s.beginStaging(first.GetStagingToken())
	if err != nil {
		return err
	}
	rewritten, err := stageAll(p, &client{stream: stream})
	return s.endStaging(p, rewritten, err)
}

func (s *Service) beginStaging(token string) (*preparation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.byToken[token]
	switch {
	case p == nil:
		return nil, status.Errorf(codes.NotFound,
			"stage artifacts: staging token %q not known: it is not from this server, or its job has already been run; call Prepare again", token)
	case p.stage == staging:
		return nil, status.Errorf(codes.FailedPrecondition, "stage artifacts: another call is staging for preparation %q", p.id)
	case p.stage == staged:
		return nil, status.Errorf(codes.FailedPrecondition, "stage artifacts: all artifacts of preparation %q have been staged; call Run", p.id)
	}
	p.stage = staging
	s.active(0)
	return p, nil
}

// endStaging installs the staged dependencies, or undoes everything after an error.
func (s *Service) endStaging(p *preparation, rewritten map[string][]*pipepb.ArtifactInformation, err error) error {
	next := staged
	if err != nil {
		next = unstaged
		if clearErr := p.artifacts.clear(); clearErr != nil {
			s.log.Warn("staged files are left behind", "preparation", p.id, "error", clearErr)
		}
	}
	for id, deps := range rewritten {
		p.pipeline.GetComponents().GetEnvironments()[id].Dependencies = deps
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.stage = next
	s.active(0)
	return err
}

// stageAll fetches the dependencies of all environments and returns what stands for them, by environment id. An
// artifact that several environments share is fetched once.
func stageAll(p *preparation, c *client) (map[string][]*pipepb.ArtifactInformation, error) {
	envs := p.pipeline.GetComponents().GetEnvironments()
	rewritten := make(map[string][]*pipepb.ArtifactInformation)
	done := make(map[string]*pipepb.ArtifactInformation)
	for _, id := range slices.Sorted(maps.Keys(envs)) {
		if len(envs[id].GetDependencies()) == 0 {
			continue
		}
		deps, err := c.resolve(envs[id].GetDependencies())
		if err != nil {
			return nil, err
		}
		for i, dep := range deps {
			key, err := proto.MarshalOptions{Deterministic: true}.Marshal(dep)
			if err != nil {
				return nil, status.Errorf(codes.InvalidArgument, "stage artifacts: environment %q: dependency %d: %v", id, i, err)
			}
			if done[string(key)] == nil {
				file, err := stageOne(p.artifacts, c, dep)
				if err != nil {
					return nil, stagingError(id, err)
				}
				done[string(key)] = file
			}
			rewritten[id] = append(rewritten[id], done[string(key)])
		}
	}
	return rewritten, nil
}

func stageOne(files *Artifacts, c *client, dep *pipepb.ArtifactInformation) (*pipepb.ArtifactInformation, error) {
	if err := checkArtifact(dep); err != nil {
		return nil, fmt.Errorf("%w: %w", errArtifact, err)
	}
	content, here, err := embedded(dep)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errArtifact, err)
	}
	return files.add(dep, func(w io.Writer) error {
		if !here {
			return c.get(dep, w)
		}
		_, err := io.Copy(w, content)
		return err
	})
}

// errArtifact marks what the client described wrongly.
var errArtifact = errors.New("bad artifact")

// stagingError gives an error the status that tells whose fault it is.
func stagingError(env string, err error) error {
	code := codes.Internal // ours: the disk
	switch {
	case errors.Is(err, errArtifact), errors.Is(err, errHash), errors.Is(err, errProtocol):
		code = codes.InvalidArgument
	case errors.Is(err, errStream):
		code = codes.Aborted
	}
	return status.Errorf(code, "stage artifacts: environment %q: %v", env, err)
}

// client is the far end of a staging stream. One goroutine uses it.
type client struct {
	stream jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceServer
}

var (
	errStream   = errors.New("the client broke off")
	errProtocol = errors.New("unexpected answer")
)

// resolve asks the client which artifacts, in forms that it can send, stand for the given ones.
func (c *client) resolve(deps []*pipepb.ArtifactInformation) ([]*pipepb.ArtifactInformation, error) {
	answer, err := c.ask(&jobpb.ArtifactRequestWrapper{Request: &jobpb.ArtifactRequestWrapper_ResolveArtifact{
		ResolveArtifact: &jobpb.ResolveArtifactsRequest{Artifacts: deps},
	}})
	if err != nil {
		return nil, status.Errorf(codes.Aborted, "stage artifacts: resolve %d artifacts: %v", len(deps), err)
	}
	resolved := answer.GetResolveArtifactResponse()
	if resolved == nil {
		return nil, status.Errorf(codes.InvalidArgument, "stage artifacts: resolve %d artifacts: the client answered with %T", len(deps), answer.GetResponse())
	}
	return resolved.GetReplacements(), nil
}

// get streams an artifact's content to w, chunk by chunk.
func (c *client) get(dep *pipepb.ArtifactInformation, w io.Writer) error {
	answer, err := c.ask(&jobpb.ArtifactRequestWrapper{Request: &jobpb.ArtifactRequestWrapper_GetArtifact{
		GetArtifact: &jobpb.GetArtifactRequest{Artifact: dep},
	}})
	for {
		if err != nil {
			return fmt.Errorf("receive %s: %w", describe(dep), err)
		}
		chunk := answer.GetGetArtifactResponse()
		if chunk == nil && !answer.GetIsLast() {
			return fmt.Errorf("receive %s: %w: %T", describe(dep), errProtocol, answer.GetResponse())
		}
		if _, err := w.Write(chunk.GetData()); err != nil {
			return fmt.Errorf("write %s: %w", describe(dep), err)
		}
		if answer.GetIsLast() {
			return nil
		}
		answer, err = c.recv()
	}
}

func (c *client) ask(req *jobpb.ArtifactRequestWrapper) (*jobpb.ArtifactResponseWrapper, error) {
	if err := c.stream.Send(req); err != nil {
		return nil, fmt.Errorf("%w: %w", errStream, err)
	}
	return c.recv()
}

func (c *client) recv() (*jobpb.ArtifactResponseWrapper, error) {
	answer, err := c.stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it closed the stream", errStream)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStream, err)
	}
	return answer, nil
}

package jobapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// preparation is a pipeline that waits for its artifacts and for Run.
type preparation struct {
	id, token string
	name      string
	pipeline  *pipepb.Pipeline
	raw       *structpb.Struct
	options   Options
	artifacts *Artifacts

	stage stage // guarded by Service.mu
}

// stage says how far a preparation has come.
type stage int

const (
	unstaged stage = iota // also after staging broke off
	staging               // a client's stream owns pipeline and artifacts
	staged
	taken // Run has it
)

// Prepare checks a pipeline and keeps it for Run. Pipelines that cannot run are refused with INVALID_ARGUMENT.
func (s *Service) Prepare(_ context.Context, req *jobpb.PrepareJobRequest) (*jobpb.PrepareJobResponse, error) {
	p, err := s.newPreparation(req)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.prepared[p.id], s.byToken[p.token] = p, p
	s.order = append(s.order, p)
	old := s.evict()
	s.active(0)
	s.mu.Unlock()
	for _, o := range old {
		s.log.Warn("forgot a preparation that was never run: too many of them", "preparation", o.id)
		if err := o.artifacts.clear(); err != nil {
			s.log.Warn("staged files are left behind", "preparation", o.id, "error", err)
		}
	}
	return &jobpb.PrepareJobResponse{
		PreparationId:           p.id,
		ArtifactStagingEndpoint: &pipepb.ApiServiceDescriptor{Url: s.endpoint},
		StagingSessionToken:     p.token,
	}, nil
}

func (s *Service) newPreparation(req *jobpb.PrepareJobRequest) (*preparation, error) {
	options, err := ParseOptions(req.GetPipelineOptions())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "prepare job: %v", err)
	}
	name := firstOf(options.JobName, req.GetJobName(), "job")
	if req.GetPipeline() == nil {
		return nil, status.Errorf(codes.InvalidArgument, "prepare job %q: the request has no pipeline", name)
	}
	if err := checkDependencies(req.GetPipeline()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "prepare job %q: %v", name, err)
	}
	if err := s.engine.Check(req.GetPipeline()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "prepare job %q: %v", name, err)
	}
	id := newID("prepared-" + sanitize(name))
	return &preparation{
		id: id, token: rand.Text(), name: name,
		pipeline: req.GetPipeline(), raw: req.GetPipelineOptions(), options: options,
		artifacts: &Artifacts{dir: filepath.Join(s.dir, id), files: make(map[string]struct{})},
	}, nil
}

// evict forgets the oldest idle preparations beyond the bound. REQUIRES: s.mu.
func (s *Service) evict() []*preparation {
	over := len(s.order) - maxPreparations
	var old []*preparation
	for _, p := range s.order {
		if len(old) < over && p.stage != staging {
			old = append(old, p)
		}
	}
	for _, p := range old {
		s.forget(p)
	}
	return old
}

// forget drops a preparation. REQUIRES: s.mu.
func (s *Service) forget(p *preparation) {
	delete(s.prepared, p.id)
	delete(s.byToken, p.token)
	s.order = slices.DeleteFunc(s.order, func(o *preparation) bool { return o == p })
}

// Run makes a job of a preparation. It can be run once.
func (s *Service) Run(_ context.Context, req *jobpb.RunJobRequest) (*jobpb.RunJobResponse, error) {
	p, err := s.take(req.GetPreparationId())
	if err != nil {
		return nil, err
	}
	id := newID(sanitize(p.name))
	job, err := s.engine.Submit(Spec{
		ID: id, Name: p.name, Pipeline: p.pipeline, Raw: p.raw, Options: p.options, Artifacts: p.artifacts,
	})
	if err != nil {
		s.mu.Lock()
		s.active(-1)
		s.mu.Unlock()
		return nil, status.Error(codes.FailedPrecondition, errors.Join(fmt.Errorf("run job %q: %w", p.name, err), p.artifacts.clear()).Error())
	}
	s.watchers.Go(func() { s.watch(job, p.artifacts) })
	return &jobpb.RunJobResponse{JobId: id}, nil
}

// take removes a preparation from the waiting ones and counts it as a running job.
func (s *Service) take(id string) (*preparation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.prepared[id]
	switch {
	case s.closed:
		return nil, status.Error(codes.Unavailable, "run job: the server is shutting down")
	case p == nil:
		return nil, status.Errorf(codes.NotFound,
			"run job: preparation %q not known: it was never prepared here, has already been run, or was forgotten; call Prepare again", id)
	case p.stage == staging:
		return nil, status.Errorf(codes.FailedPrecondition, "run job: the artifacts of preparation %q are still being staged", id)
	case p.stage == unstaged && dependencies(p.pipeline) > 0:
		return nil, status.Errorf(codes.FailedPrecondition,
			"run job: %d artifacts of preparation %q have not been staged; call ReverseArtifactRetrievalService with its staging_session_token first",
			dependencies(p.pipeline), id)
	}
	p.stage = taken
	s.forget(p)
	s.active(+1)
	return p, nil
}

// checkDependencies refuses artifacts that cannot be staged.
func checkDependencies(p *pipepb.Pipeline) error {
	envs := p.GetComponents().GetEnvironments()
	for _, id := range slices.Sorted(maps.Keys(envs)) {
		for i, dep := range envs[id].GetDependencies() {
			if err := checkArtifact(dep); err != nil {
				return fmt.Errorf("environment %q: dependency %d: %w", id, i, err)
			}
		}
	}
	return nil
}

// dependencies counts the artifacts that all environments need.
func dependencies(p *pipepb.Pipeline) int {
	n := 0
	for _, env := range p.GetComponents().GetEnvironments() {
		n += len(env.GetDependencies())
	}
	return n
}

// newID returns name-SUFFIX. The suffix has 40 random bits: unique for as many jobs as a process ever sees.
func newID(name string) string { return name + "-" + strings.ToLower(rand.Text()[:8]) }

// sanitize makes a name fit for files, URLs and metric labels: a-z, 0-9 and dashes, at most 48 of them.
func sanitize(name string) string {
	var b strings.Builder
	dash := false
	for _, c := range strings.ToLower(name) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			if dash && b.Len() > 0 {
				b.WriteByte('-')
			}
			dash = false
			b.WriteRune(c)
		} else {
			dash = true
		}
		if b.Len() >= 48 {
			break
		}
	}
	return firstOf(b.String(), "job")
}

func firstOf(names ...string) string {
	for _, n := range names {
		if n != "" {
			return n
		}
	}
	return ""
}

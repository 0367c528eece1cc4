package jobapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc"
)

// maxPreparations bounds the pipelines that were prepared and not run: clients that vanish leave them behind.
const maxPreparations = 100

// Config is what a Service needs. All fields are required.
type Config struct {
	// Engine runs the jobs.
	Engine Engine
	// Dir is a directory of the service's own for staged artifacts. What an earlier process left there is removed.
	Dir string
	// Endpoint is the host:port at which clients reach the service that stages artifacts: this server's own.
	Endpoint string
	Logger   *slog.Logger
}

// Service implements Beam's JobService and ArtifactStagingService. Goroutine safe.
type Service struct {
	jobpb.UnimplementedJobServiceServer
	jobpb.UnimplementedArtifactStagingServiceServer

	engine   Engine
	dir      string
	endpoint string
	log      *slog.Logger

	stop     chan struct{}  // closed by Close
	watchers sync.WaitGroup // one goroutine for each unfinished job

	mu         sync.Mutex // guards the rest
	closed     bool
	prepared   map[string]*preparation // by preparation id
	byToken    map[string]*preparation
	order      []*preparation // oldest first
	running    int            // jobs that have not ended
	lastActive time.Time      // when a client last prepared or ran something, or a job ended
	changed    chan struct{}  // closed, and made anew, whenever running or lastActive changes
}

var (
	_ jobpb.JobServiceServer             = (*Service)(nil)
	_ jobpb.ArtifactStagingServiceServer = (*Service)(nil)
)

// New makes a service over an empty directory. Close releases it.
func New(cfg Config) (*Service, error) {
	if cfg.Engine == nil || cfg.Dir == "" || cfg.Endpoint == "" || cfg.Logger == nil {
		return nil, errors.New("jobapi config: Engine, Dir, Endpoint and Logger are required")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("find artifact directory: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("clear artifact directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create artifact directory: %w", err)
	}
	return &Service{
		engine: cfg.Engine, dir: dir, endpoint: cfg.Endpoint, log: cfg.Logger,
		stop:     make(chan struct{}),
		prepared: make(map[string]*preparation), byToken: make(map[string]*preparation),
		lastActive: time.Now(), changed: make(chan struct{}),
	}, nil
}

// Register adds the service to a server, which should have been made with ServerOptions.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	jobpb.RegisterJobServiceServer(r, s)
	jobpb.RegisterArtifactStagingServiceServer(r, s)
}

// Close removes all staged files. REQUIRES: the gRPC server has stopped and the engine's jobs have ended.
func (s *Service) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.stop)
	s.mu.Unlock()
	s.watchers.Wait()
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove artifact directory: %w", err)
	}
	return nil
}

// WaitIdle returns nil once no job has run and no client has prepared one for the given time, or ctx's error.
func (s *Service) WaitIdle(ctx context.Context, quiet time.Duration) error {
	for {
		s.mu.Lock()
		running, left, changed := s.running, quiet-time.Since(s.lastActive), s.changed
		s.mu.Unlock()
		var expired <-chan time.Time
		if running == 0 {
			if left <= 0 {
				return nil
			}
			expired = time.After(left)
		}
		select {
		case <-expired:
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// active notes that something happened. REQUIRES: s.mu.
func (s *Service) active(started int) {
	s.running += started
	s.lastActive = time.Now()
	close(s.changed)
	s.changed = make(chan struct{})
}

// watch waits for the end of a job and removes its files, if any. It ends with the job, or at Close.
func (s *Service) watch(job Job, files *Artifacts) {
	select {
	case <-job.Done():
	case <-s.stop:
	}
	if files != nil {
		if err := files.clear(); err != nil {
			s.log.Warn("staged files are left behind", "job", job.ID(), "error", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active(-1)
}

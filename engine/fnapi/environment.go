package fnapi

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// closeGrace is how long a harness may take to wind up after its control stream was ended, before it is stopped.
const closeGrace = 300 * time.Millisecond

// maxFruitless is how many harnesses in a row may be lost without having answered a single bundle, though they had some to
// process or were lost within briefLife. More of them mean that a bundle kills its harness, or that harnesses cannot work
// at all, and that the next one will fare no better.
const (
	maxFruitless = 10
	briefLife    = 10 * time.Second
)

// EnvironmentConfig says what an environment's harnesses are and what they are given.
type EnvironmentConfig struct {
	ID  string // the environment's id in the pipeline
	Job string // the job's id
	// Proto is the environment. EXTERNAL (and so LOOPBACK) can run, and AnyOf one that contains it.
	Proto *pipepb.Environment
	// Options are the pipeline options as they were submitted.
	Options *structpb.Struct
	// Parallelism is the number of harnesses. Default 1.
	Parallelism int
	// Artifacts serves the environment's dependencies; nil if it has none.
	Artifacts ArtifactSource
	// Logger takes the harnesses' messages. Default: the server's.
	Logger *slog.Logger
}

// Environment is a set of SDK harnesses for one environment of one job. Any goroutine may call it.
type Environment struct {
	server       *Server
	cfg          EnvironmentConfig
	log          *slog.Logger
	launcher     launcher
	dependencies []*pipepb.ArtifactInformation
	goSDK        bool // the harnesses are of the Go SDK
	slots        []*slot
	names        names

	stop     context.CancelFunc // ends the supervisors
	running  sync.WaitGroup     // of supervisors
	closed   chan struct{}      // closed by Close
	closeOne sync.Once
}

// launcher starts and stops harnesses of one environment.
type launcher interface {
	// start asks for a harness with the given id. That it returns nil does not mean that one will ever connect.
	start(ctx context.Context, worker string) error
	// stop asks to end it.
	stop(ctx context.Context, worker string) error
	// String describes where harnesses come from: "EXTERNAL at localhost:50000".
	String() string
	// remedy says what a person can do if none comes.
	remedy() string
	close() error
}

// Open starts an environment's harnesses and returns at once; Environment.Worker waits for them. An error means that the
// environment cannot be had at all. Values of ctx are used until Close, its end is not.
func (s *Server) Open(ctx context.Context, cfg EnvironmentConfig) (*Environment, error) {
	if cfg.Parallelism < 1 {
		cfg.Parallelism = 1
	}
	if cfg.Logger == nil {
		cfg.Logger = s.cfg.Logger
	}
	if s.Endpoint() == "" {
		return nil, fmt.Errorf("open environment %q: the worker port's endpoint is not known yet", cfg.ID)
	}
	proto, err := choose(cfg.ID, cfg.Proto)
	if err != nil {
		return nil, err
	}
	l, err := newLauncher(cfg.ID, proto, s.Endpoint(), cfg.Logger.With("job", cfg.Job))
	if err != nil {
		return nil, err
	}
	e := &Environment{
		server:       s,
		cfg:          cfg,
		log:          cfg.Logger.With("job", cfg.Job),
		launcher:     l,
		dependencies: proto.GetDependencies(),
		goSDK:        isGo(proto),
		closed:       make(chan struct{}),
	}
	ctx, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	for i := range cfg.Parallelism {
		sl := &slot{env: e, index: i, changed: make(chan struct{})}
		e.slots = append(e.slots, sl)
		e.running.Go(func() { sl.supervise(ctx) })
	}
	return e, nil
}

// isGo tells the Go SDK by the version that its environments state.
func isGo(p *pipepb.Environment) bool {
	for _, c := range p.GetCapabilities() {
		if strings.HasPrefix(c, "beam:version:sdk_base:go:") {
			return true
		}
	}
	return false
}

// Worker returns the harness for a slot; slot i uses harness i modulo Parallelism. It waits until one is connected, at
// most Config.WorkerWait, and says every Config.WaitLog what it waits for.
func (e *Environment) Worker(ctx context.Context, slot int) (*Worker, error) {
	return e.slots[slot%len(e.slots)].wait(ctx)
}

// Close ends the harnesses and waits until they were asked to stop. Running bundles return bundle.ErrWorkerLost. It may
// take some seconds: a worker pool waits for the process.
func (e *Environment) Close() error {
	var err error
	e.closeOne.Do(func() {
		close(e.closed)
		e.stop()
		e.running.Wait()
		s := e.server
		s.mu.Lock()
		for _, id := range e.descriptors() {
			delete(s.programs, id)
		}
		s.mu.Unlock()
		if cerr := e.launcher.close(); cerr != nil {
			err = fmt.Errorf("close environment %q: %w", e.cfg.ID, cerr)
		}
	})
	return err
}

// workerID makes an id that is unique in this process and fit for metadata, file names and command lines.
func (e *Environment) workerID() string {
	safe := func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '_'
	}
	id := e.cfg.Job + "-" + e.cfg.ID
	return fmt.Sprintf("%s-%d", strings.Map(safe, id), e.server.attempts.Add(1))
}

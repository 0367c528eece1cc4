package fnapi

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Config is what a Server needs to know. The zero value works; the endpoint must be known before an Environment opens.
type Config struct {
	// Logger takes the server's own messages and, unless an environment has its own, those of the harnesses. Default:
	// none.
	Logger *slog.Logger
	// Endpoint is host:port of the worker port as harnesses must dial it. SetEndpoint may set it later.
	Endpoint string
	// WorkerWait is how long Environment.Worker waits for a harness to connect. Default 2 minutes.
	WorkerWait time.Duration
	// WaitLog is the time between two messages that say what is being waited for. Default 10 seconds.
	WaitLog time.Duration
	// RetryMin and RetryMax bound the pause before a harness is started again; it doubles from one to the other. Defaults
	// 100 milliseconds and 5 seconds.
	RetryMin, RetryMax time.Duration
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.WorkerWait <= 0 {
		c.WorkerWait = 2 * time.Minute
	}
	if c.WaitLog <= 0 {
		c.WaitLog = 10 * time.Second
	}
	if c.RetryMin <= 0 {
		c.RetryMin = 100 * time.Millisecond
	}
	if c.RetryMax < c.RetryMin {
		c.RetryMax = max(5*time.Second, c.RetryMin)
	}
	return c
}

// Server is the runner's side of the Fn API for all harnesses of a process. Any goroutine may call it.
type Server struct {
	cfg      Config
	attempts atomic.Int64 // numbers worker ids

	mu       sync.Mutex
	endpoint string              // guarded by mu
	workers  map[string]*Worker  // by key: those that a supervisor started and has not given up; guarded by mu
	programs map[string]*program // by descriptor id; guarded by mu
}

// NewServer returns a server without environments.
func NewServer(cfg Config) *Server {
	return &Server{
		cfg:      cfg.withDefaults(),
		endpoint: cfg.Endpoint,
		workers:  make(map[string]*Worker),
		programs: make(map[string]*program),
	}
}

// ServerOptions are the options that the grpc.Server of a worker port should be made with: messages of any size (an
// element may be large, and Python sends 10 MiB at a time), bounded windows, and keep-alive. Python's harness pings every
// 20 seconds whether or not it has calls; a server that does not permit this closes the connection.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(math.MaxInt32),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.InitialWindowSize(1 << 20),     // 1 MiB a stream
		grpc.InitialConnWindowSize(4 << 20), // 4 MiB a connection
		// A harness that is busy in native code may be slow to answer; a killed one closes its connections anyway.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 2 * time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// Register adds the Fn API services to g, which should have been made with ServerOptions.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	h := services{server: s}
	fnpb.RegisterBeamFnControlServer(g, h)
	fnpb.RegisterBeamFnDataServer(g, h)
	fnpb.RegisterBeamFnStateServer(g, h)
	fnpb.RegisterBeamFnLoggingServer(g, h)
	fnpb.RegisterProvisionServiceServer(g, h)
	jobpb.RegisterArtifactRetrievalServiceServer(g, h)
}

// SetEndpoint tells the host:port at which harnesses reach the server.
func (s *Server) SetEndpoint(hostport string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoint = hostport
}

// Endpoint returns host:port of the worker port as harnesses must dial it; empty if it was never told.
func (s *Server) Endpoint() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endpoint
}

func (s *Server) addWorker(w *Worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.workers[w.key] = w
}

func (s *Server) removeWorker(w *Worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.workers, w.key)
}

// worker finds the worker that a call belongs to.
func (s *Server) worker(ctx context.Context) (*Worker, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	ids := md.Get("worker_id")
	if len(ids) == 0 || ids[0] == "" {
		return nil, status.Error(codes.FailedPrecondition, "the call's metadata has no worker_id: only SDK harnesses may call this service")
	}
	s.mu.Lock()
	w := s.workers[ids[0]]
	s.mu.Unlock()
	if w == nil {
		return nil, status.Errorf(codes.Unavailable, "worker_id %q is not expected by any job: the job has not begun, or is over", ids[0])
	}
	w.touch()
	return w, nil
}

// Expects reports whether the headers of a call name a worker that was started and not given up. The worker_id is random, and
// told to nobody but the harness: who knows it is that harness.
func (s *Server) Expects(header metadata.MD) bool {
	ids := header.Get("worker_id")
	if len(ids) != 1 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.workers[ids[0]] != nil
}

// services are the gRPC handlers, apart from Server so that they are no part of its API.
type services struct {
	fnpb.UnimplementedBeamFnControlServer
	fnpb.UnimplementedBeamFnDataServer
	fnpb.UnimplementedBeamFnStateServer
	fnpb.UnimplementedBeamFnLoggingServer
	fnpb.UnimplementedProvisionServiceServer
	jobpb.UnimplementedArtifactRetrievalServiceServer
	server *Server
}

// open finds the worker of a stream and sends the response headers, for which some SDKs wait before anything else.
func (h services) open(stream grpc.ServerStream) (*Worker, error) {
	w, err := h.server.worker(stream.Context())
	if err != nil {
		return nil, err
	}
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return nil, fmt.Errorf("send headers: %w", err)
	}
	return w, nil
}

func (h services) Control(stream fnpb.BeamFnControl_ControlServer) error {
	w, err := h.open(stream)
	if err != nil {
		return err
	}
	return w.serveControl(stream)
}

func (h services) Data(stream fnpb.BeamFnData_DataServer) error {
	w, err := h.open(stream)
	if err != nil {
		return err
	}
	return w.serveData(stream)
}

func (h services) State(stream fnpb.BeamFnState_StateServer) error {
	w, err := h.open(stream)
	if err != nil {
		return err
	}
	return w.serveState(stream)
}

func (h services) Logging(stream fnpb.BeamFnLogging_LoggingServer) error {
	w, err := h.open(stream)
	if err != nil {
		return err
	}
	return w.serveLogging(stream)
}

// GetProcessBundleDescriptor also serves clients that send no worker_id (TypeScript): ids are unique in the process.
func (h services) GetProcessBundleDescriptor(_ context.Context, req *fnpb.GetProcessBundleDescriptorRequest) (*fnpb.ProcessBundleDescriptor, error) {
	id := req.GetProcessBundleDescriptorId()
	p := h.server.program(id)
	if p == nil {
		return nil, status.Errorf(codes.NotFound, "process bundle descriptor %q is unknown: its job is over", id)
	}
	return p.served, nil
}

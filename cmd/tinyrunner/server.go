package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/fnapi"
	"github.com/tinyrunner/tinyrunner/engine/jobapi"
	"github.com/tinyrunner/tinyrunner/state"
	"github.com/tinyrunner/tinyrunner/web"
)

const (
	// maxParallelism is the number of key groups of every job, as Flink's default.
	maxParallelism = 128
	// In the data directory: portsFile tells the ports in use, lockFile is locked while a process uses it.
	portsFile = "ports.json"
	lockFile  = "LOCK"
	// stopGrace is how long open calls may take to end once their jobs have.
	stopGrace = 2 * time.Second
	// gcPercent trades CPU for memory. The memory limit holds the heap anyway; below it 50 cost a tenth of the CPU of a
	// Kafka job for 17 MB.
	gcPercent = 100
	// outsideGo is what the process needs besides what Go's memory limit covers: the binary's own pages, above all. A batch
	// job of 4 GB had a peak of 230 MB with 40 MB here.
	outsideGo = 60 << 20
)

// server is everything that serve starts. Its parts are made by newServer, which leaves nothing behind when it fails, and
// end in run.
type server struct {
	settings *settings
	log      *slog.Logger
	dir      string

	cluster *engine.Cluster
	jobs    *jobapi.Service
	workers *fnapi.Server

	jobListener, workerListener, webListener net.Listener // webListener is nil without HTTP
	security                                 *security
	jobServer                                *grpc.Server
	ownServer                                *grpc.Server // the job service for this process's own calls, over own
	own                                      *bufconn.Listener
	workerServer                             *grpc.Server
	webServer                                *http.Server
	web                                      *web.Handler // nil without HTTP
	logs                                     *web.Logs

	resuming    atomic.Bool       // some jobs of an earlier process have still to be resumed
	resumes     bool              // goes on with the jobs in the store
	stopServing func(cause error) // set by run

	cleanup []func() error // in the order of making; run in reverse
}

// newServer opens directories and ports and wires all parts. Nothing is served until run.
func newServer(s *settings, log *slog.Logger) (_ *server, err error) {
	logs := web.NewLogs(0)
	srv := &server{settings: s, log: slog.New(logs.Handler(log.Handler())), logs: logs}
	defer func() {
		if err != nil {
			err = errors.Join(err, srv.close())
		}
	}()
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(int64(s.memory) - outsideGo)
	for _, step := range []func() error{srv.openSecurity, srv.openDir, srv.openPorts, srv.makeCluster, srv.makeServices, srv.writePorts} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return srv, nil
}

func (s *server) onClose(f func() error) { s.cleanup = append(s.cleanup, f) }

func (s *server) close() error {
	var errs []error
	for _, f := range slices.Backward(s.cleanup) {
		errs = append(errs, f())
	}
	s.cleanup = nil
	return errors.Join(errs...)
}

// openDir makes the data directory, and sure that no other process uses it.
func (s *server) openDir() error {
	s.dir = s.settings.dataDir
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "tinyrunner-")
		if err != nil {
			return usage("cannot make a data directory: %w: name one with --data_dir", err)
		}
		s.dir = dir
		s.onClose(func() error { return os.RemoveAll(dir) })
	}
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return fmt.Errorf("find data directory: %w", err)
	}
	s.dir = dir
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return usage("cannot use the data directory: %w: name one that this user may write with --data_dir", err)
	}
	name := filepath.Join(s.dir, lockFile)
	if err := s.checkOwn(name); err != nil {
		return err
	}
	lock, err := vfs.Default.Lock(name)
	if errors.Is(err, syscall.EAGAIN) {
		return usage("cannot use the data directory %s: another tinyrunner uses it: name a different one with --data_dir", s.dir)
	}
	if err != nil {
		return usage("cannot use the data directory: %w: name one that this user may write with --data_dir", err)
	}
	s.onClose(lock.Close)
	return s.clearDir()
}

// ownNames are what a server makes in its data directory, besides the lock.
func ownNames() []string {
	return []string{"artifacts", "jars", "jobs", restoreDir, "spill", portsFile}
}

// checkOwn refuses a directory that was never locked, and so not used, but has files by our names: they are somebody's.
func (s *server) checkOwn(lock string) error {
	if _, err := os.Lstat(lock); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range ownNames() {
		if _, err := os.Lstat(filepath.Join(s.dir, name)); err == nil {
			return usage("cannot use the data directory %s: it has another program's %q: name a different one with --data_dir", s.dir, name)
		}
	}
	return nil
}

// clearDir removes what a process that was killed has left and cannot be used again. REQUIRES: the lock is held.
func (s *server) clearDir() error {
	if err := s.clearJobs(); err != nil {
		return usage("cannot clear the data directory: %w: name one that this user may write with --data_dir", err)
	}
	for _, name := range ownNames() {
		if name == "jobs" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
			return usage("cannot clear the data directory: %w: name one that this user may write with --data_dir", err)
		}
	}
	return nil
}

func (s *server) openSecurity() (err error) {
	s.security, err = newSecurity(s.settings, s.log)
	return err
}

func (s *server) openPorts() (err error) {
	if s.jobListener, err = s.listen("job_port", s.settings.jobPort); err != nil {
		return err
	}
	if s.workerListener, err = s.listen("worker_port", s.settings.workerPort); err != nil {
		return err
	}
	if s.settings.serveHTTP {
		s.webListener, err = s.listen("http_port", s.settings.webPort)
	}
	return err
}

func (s *server) listen(flag string, port int) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(s.settings.host, strconv.Itoa(port)))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, usage("port %d (--%s) is in use: stop the process that has it, or let --%s=0 choose a free one", port, flag, flag)
	case err != nil:
		return nil, usage("cannot listen for --%s: %w: choose another --host or --%s", flag, err, flag)
	}
	s.onClose(func() error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return l, nil
}

// address is how others reach a listener of this process.
func (s *server) address(l net.Listener) string {
	host := s.settings.advertise
	if host == "" {
		host = s.settings.host
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(portOf(l)))
}

func portOf(l net.Listener) int {
	if l == nil {
		return 0
	}
	return l.Addr().(*net.TCPAddr).Port
}

// jobEndpoint is where this machine's own programs reach the Job API.
func (s *server) jobEndpoint() string { return s.address(s.jobListener) }

func (s *server) makeCluster() error {
	pool, err := flow.NewPool(int64(s.settings.bufferPool), filepath.Join(s.dir, "spill"))
	if err != nil {
		return usage("cannot use the data directory: %w: name one that this user may write with --data_dir", err)
	}
	s.onClose(pool.Close)
	cache := state.NewCache(int64(s.settings.memory) / 4)
	s.onClose(func() error { cache.Close(); return nil })
	s.workers = fnapi.NewServer(fnapi.Config{Logger: s.log, Endpoint: s.address(s.workerListener), WorkerWait: s.settings.workerWait})
	checkpoints, err := s.openCheckpoints()
	if err != nil {
		return err
	}
	s.cluster, err = engine.New(engine.Config{
		DataDir: s.dir, Pool: pool, Cache: cache, Slots: s.settings.slots, MaxParallelism: maxParallelism,
		Sources: sources(), Sinks: sinks(), Checkpoints: checkpoints, Ended: s.fenced, Logger: s.log,
	})
	if err != nil {
		return fmt.Errorf("make cluster: %w", err)
	}
	s.onClose(s.cluster.Close)
	if s.webListener == nil {
		return nil
	}
	if s.web, err = s.newWeb(pool, cache, checkpoints); err != nil {
		return err
	}
	s.webServer = s.security.httpServer(s.web)
	return nil
}

// engine is the cluster as package jobapi sees it.
func (s *server) engine() jobEngine { return jobEngine{s.cluster, s.workers, s.settings, s.log} }

func (s *server) makeServices() (err error) {
	s.jobs, err = jobapi.New(jobapi.Config{
		Engine: s.engine(), Dir: filepath.Join(s.dir, "artifacts"), Endpoint: s.address(s.jobListener), Logger: s.log,
	})
	if err != nil {
		return err
	}
	s.onClose(s.jobs.Close)
	s.jobServer = grpc.NewServer(append(jobapi.ServerOptions(s.log), s.security.grpcOptions(jobPort, nil)...)...)
	s.ownServer, s.own = grpc.NewServer(jobapi.ServerOptions(s.log)...), bufconn.Listen(ownBuffer)
	expansion := jobapi.NewExpansionService(expanders(s.log))
	for _, g := range []*grpc.Server{s.jobServer, s.ownServer} {
		s.jobs.Register(g)
		expansion.Register(g)
	}
	s.workerServer = grpc.NewServer(append(fnapi.ServerOptions(), s.security.grpcOptions(workerPort, s.workers.Expects)...)...)
	s.workers.Register(s.workerServer)
	return nil
}

// ownBuffer is how much a call to this process's own job service may be ahead of its reader, in bytes.
const ownBuffer = 64 << 10

// dialOwn connects to this process's own job service: by memory, so that neither TLS nor a token is needed.
func (s *server) dialOwn() (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///own", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.own.DialContext(ctx) }))
	if err != nil {
		return nil, fmt.Errorf("connect to the job service: %w", err)
	}
	return conn, nil
}

// portsJSON is what portsFile holds.
type portsJSON struct {
	Job    int      `json:"job_port"`
	Worker int      `json:"worker_port"`
	HTTP   int      `json:"http_port"`           // 0: not open
	TLS    []string `json:"tls_ports,omitempty"` // as --tls_ports names them
}

// writePorts tells scripts which ports were chosen. All of them listen by now.
func (s *server) writePorts() error {
	ports := portsJSON{Job: portOf(s.jobListener), Worker: portOf(s.workerListener), HTTP: portOf(s.webListener)}
	if s.security.certs != nil {
		ports.TLS = s.security.tls
	}
	data, err := json.Marshal(ports)
	if err != nil {
		return fmt.Errorf("encode ports: %w", err)
	}
	name := filepath.Join(s.dir, portsFile)
	if err := os.WriteFile(name+".tmp", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write ports: %w", err)
	}
	if err := os.Rename(name+".tmp", name); err != nil {
		return fmt.Errorf("write ports: %w", err)
	}
	s.onClose(func() error {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	return nil
}

// errIdle ends a server that had nothing to do for long enough.
var errIdle = errors.New("idle")

// run serves until ctx ends or the server was idle for too long, then cancels the jobs and releases everything.
func (s *server) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s.stopServing = stop
	if s.resumes {
		tried := make(chan struct{})
		first := sync.OnceFunc(func() { close(tried) })
		g.Go(func() error { s.resume(ctx, first); return nil })
		<-tried
	}
	s.log.Info("tinyrunner is ready", "job_endpoint", s.address(s.jobListener), "worker_endpoint", s.address(s.workerListener),
		"http_port", portOf(s.webListener), "data_dir", s.dir, "slots", s.cluster.Slots(), "memory", s.settings.memory.String(),
		"checkpoints", cmp.Or(s.settings.checkpoints, "none: jobs end with this process"))
	g.Go(func() error { return serveGRPC(s.jobServer, s.jobListener) })
	g.Go(func() error { return serveGRPC(s.workerServer, s.workerListener) })
	g.Go(func() error { return serveGRPC(s.ownServer, s.own) })
	if s.webServer != nil {
		g.Go(func() error {
			if err := serveHTTP(s.webServer, s.webListener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error { return s.web.Run(ctx) })
	}
	if idle := s.settings.idleShutdown; idle > 0 {
		g.Go(func() error {
			if s.jobs.WaitIdle(ctx, idle) != nil {
				return nil // stopped before
			}
			s.log.Info("no job for a while: exiting", "idle_shutdown_timeout", idle)
			return errIdle
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		return s.stop()
	})
	err := g.Wait()
	var coded *exitError
	if cause := context.Cause(ctx); err == nil && errors.As(cause, &coded) {
		err = cause
	}
	if errors.Is(err, errIdle) {
		err = nil
	}
	return errors.Join(err, s.close())
}

// serveGRPC serves until the server is stopped, which may be before it has begun.
func serveGRPC(g *grpc.Server, l net.Listener) error {
	if err := g.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// stop ends jobs first, so that the streams of their clients end with a state and not with a broken connection.
func (s *server) stop() error {
	s.log.Info("stopping", "jobs", len(s.cluster.Jobs()))
	err := errors.Join(s.suspend(), s.cluster.Close())
	ended := make(chan struct{})
	go func() {
		s.jobServer.GracefulStop()
		s.ownServer.GracefulStop()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(stopGrace):
		s.jobServer.Stop()
		s.ownServer.Stop()
		<-ended
	}
	s.workerServer.Stop()
	if s.webServer != nil {
		err = errors.Join(err, endAnswers(s.webServer))
	}
	return err
}

// endAnswers closes a server once it has answered what it was asked: the one who ended this process by REST waits for that.
func endAnswers(s *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return s.Close()
}

package fnapi

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Server on a port of its own, with a worker pool whose harnesses the test plays.
type rig struct {
	t      *testing.T
	server *Server
	addr   string
	pool   *fakePool
	log    *logBuffer
}

// newRig starts a server. Waits are short: nothing real has to boot.
func newRig(t *testing.T) *rig {
	t.Helper()
	log := &logBuffer{}
	server := NewServer(Config{
		Logger:     slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		WorkerWait: 5 * time.Second,
		WaitLog:    20 * time.Millisecond,
		RetryMin:   time.Millisecond,
		RetryMax:   10 * time.Millisecond,
	})
	g := grpc.NewServer(ServerOptions()...)
	server.Register(g)
	addr := serve(t, g)
	server.SetEndpoint(addr)
	pool := &fakePool{starts: make(chan string, 100), stops: make(chan string, 100)}
	pg := grpc.NewServer()
	fnpb.RegisterBeamFnExternalWorkerPoolServer(pg, pool)
	pool.addr = serve(t, pg)
	return &rig{t: t, server: server, addr: addr, pool: pool, log: log}
}

func serve(t *testing.T, g *grpc.Server) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Serve(lis)
	}()
	t.Cleanup(func() {
		g.Stop()
		<-done
	})
	return lis.Addr().String()
}

// open opens an EXTERNAL environment at the rig's pool.
func (r *rig) open(change ...func(*EnvironmentConfig)) *Environment {
	r.t.Helper()
	cfg := EnvironmentConfig{ID: "env", Job: "job", Proto: externalEnv(r.pool.addr)}
	for _, f := range change {
		f(&cfg)
	}
	env, err := r.server.Open(r.t.Context(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := env.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return env
}

func externalEnv(pool string) *pipepb.Environment {
	payload, _ := proto.Marshal(&pipepb.ExternalPayload{Endpoint: &pipepb.ApiServiceDescriptor{Url: pool}})
	return &pipepb.Environment{Urn: urnExternal, Payload: payload}
}

// connect plays the next harness that the pool was asked for and returns it with its worker.
func (r *rig) connect(env *Environment) (*Worker, *harness) {
	r.t.Helper()
	h := r.dial(recv(r.t, r.pool.starts))
	h.openControl()
	for {
		w, err := env.Worker(r.t.Context(), 0)
		if err != nil {
			r.t.Fatal(err)
		}
		if w.key == h.id {
			return w, h
		}
	}
}

// dial connects as a worker without opening any stream.
func (r *rig) dial(id string) *harness {
	r.t.Helper()
	conn, err := grpc.NewClient(r.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	h := &harness{t: r.t, id: id, conn: conn, ctx: metadata.AppendToOutgoingContext(ctx, "worker_id", id)}
	h.kill = func() {
		cancel()
		conn.Close()
	}
	r.t.Cleanup(h.kill)
	return h
}

// harness is an SDK harness whose every step the test takes.
type harness struct {
	t       *testing.T
	id      string
	conn    *grpc.ClientConn
	ctx     context.Context
	kill    func()
	control fnpb.BeamFnControl_ControlClient
	data    fnpb.BeamFnData_DataClient
	state   fnpb.BeamFnState_StateClient
}

// must fails the test on an error; it returns the value besides.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (h *harness) openControl() {
	h.t.Helper()
	h.control = must[fnpb.BeamFnControl_ControlClient](h.t)(fnpb.NewBeamFnControlClient(h.conn).Control(h.ctx))
	must[metadata.MD](h.t)(h.control.Header()) // comes before anything is sent
}

func (h *harness) openData() {
	h.t.Helper()
	h.data = must[fnpb.BeamFnData_DataClient](h.t)(fnpb.NewBeamFnDataClient(h.conn).Data(h.ctx))
	must[metadata.MD](h.t)(h.data.Header())
}

func (h *harness) openState() {
	h.t.Helper()
	h.state = must[fnpb.BeamFnState_StateClient](h.t)(fnpb.NewBeamFnStateClient(h.conn).State(h.ctx))
	must[metadata.MD](h.t)(h.state.Header())
}

func (h *harness) instruction() *fnpb.InstructionRequest {
	h.t.Helper()
	return must[*fnpb.InstructionRequest](h.t)(h.control.Recv())
}

// descriptor fetches a bundle's descriptor as the TypeScript SDK does: without worker_id.
func (h *harness) descriptor(id string) (*fnpb.ProcessBundleDescriptor, error) {
	return fnpb.NewBeamFnControlClient(h.conn).GetProcessBundleDescriptor(context.Background(),
		&fnpb.GetProcessBundleDescriptorRequest{ProcessBundleDescriptorId: id})
}

func (h *harness) respond(resp *fnpb.InstructionResponse) {
	h.t.Helper()
	if err := h.control.Send(resp); err != nil {
		h.t.Fatal(err)
	}
}

// done answers a bundle with success.
func (h *harness) done(id string, resp *fnpb.ProcessBundleResponse) {
	h.t.Helper()
	h.respond(&fnpb.InstructionResponse{InstructionId: id, Response: &fnpb.InstructionResponse_ProcessBundle{ProcessBundle: resp}})
}

func (h *harness) send(msg *fnpb.Elements) {
	h.t.Helper()
	if err := h.data.Send(msg); err != nil {
		h.t.Fatal(err)
	}
}

func dataOut(id, transform, data string, last bool) *fnpb.Elements {
	return &fnpb.Elements{Data: []*fnpb.Elements_Data{{InstructionId: id, TransformId: transform, Data: []byte(data), IsLast: last}}}
}

func timersOut(id string, f bundle.TimerFamily, data string, last bool) *fnpb.Elements {
	return &fnpb.Elements{Timers: []*fnpb.Elements_Timers{{InstructionId: id, TransformId: f.Transform, TimerFamilyId: f.Family, Timers: []byte(data), IsLast: last}}}
}

// finish ends all streams of a bundle and answers it.
func (h *harness) finish(b *bundle.Bundle) {
	h.t.Helper()
	for _, out := range b.Program.Outputs {
		h.send(dataOut(b.ID, out, "", true))
	}
	for _, f := range b.Program.Timers {
		h.send(timersOut(b.ID, f, "", true))
	}
	h.done(b.ID, &fnpb.ProcessBundleResponse{})
}

// input reads a bundle's input to its end: what came for the source, and for timers, in the order of arrival.
func (h *harness) input(id string) string {
	h.t.Helper()
	var sb strings.Builder
	for {
		msg := must[*fnpb.Elements](h.t)(h.data.Recv())
		over := false
		for _, t := range msg.GetTimers() {
			fmt.Fprintf(&sb, "%s/%s=%s%s ", t.GetTransformId(), t.GetTimerFamilyId(), t.GetTimers(), mark(t.GetIsLast()))
		}
		for _, d := range msg.GetData() {
			if d.GetInstructionId() != id {
				h.t.Fatalf("input for instruction %q, want %q", d.GetInstructionId(), id)
			}
			fmt.Fprintf(&sb, "%s=%s%s ", d.GetTransformId(), d.GetData(), mark(d.GetIsLast()))
			over = over || d.GetIsLast()
		}
		if over {
			return strings.TrimSpace(sb.String())
		}
	}
}

func mark(last bool) string {
	if last {
		return "."
	}
	return ""
}

// fakePool is a worker pool that starts nothing: it tells the test what it was asked.
type fakePool struct {
	fnpb.UnimplementedBeamFnExternalWorkerPoolServer
	addr   string
	starts chan string
	stops  chan string

	mu     sync.Mutex
	refuse string
}

func (p *fakePool) StartWorker(_ context.Context, req *fnpb.StartWorkerRequest) (*fnpb.StartWorkerResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse != "" {
		return &fnpb.StartWorkerResponse{Error: p.refuse}, nil
	}
	p.starts <- req.GetWorkerId()
	return &fnpb.StartWorkerResponse{}, nil
}

func (p *fakePool) StopWorker(_ context.Context, req *fnpb.StopWorkerRequest) (*fnpb.StopWorkerResponse, error) {
	p.stops <- req.GetWorkerId()
	return &fnpb.StopWorkerResponse{}, nil
}

// recv takes the next value of a channel, or fails the test if none comes.
func recv[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatal("nothing came within a minute")
		panic("not reached")
	}
}

// recorder is a Sink that keeps everything as text, and a StateServer that echoes keys.
type recorder struct {
	mu     sync.Mutex
	got    []string
	fail   error
	over   bool
	states func(context.Context, *fnpb.StateRequest) *fnpb.StateResponse
}

func (s *recorder) add(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		panic("Sink used after Run returned")
	}
	s.got = append(s.got, text)
	return s.fail
}

func (s *recorder) Data(output int, data []byte) error {
	return s.add(fmt.Sprintf("%d=%s", output, data))
}

func (s *recorder) Timers(f bundle.TimerFamily, data []byte) error {
	return s.add(fmt.Sprintf("%s/%s=%s", f.Transform, f.Family, data))
}

func (s *recorder) Handle(ctx context.Context, req *fnpb.StateRequest) *fnpb.StateResponse {
	if s.states != nil {
		return s.states(ctx, req)
	}
	return &fnpb.StateResponse{Response: &fnpb.StateResponse_Get{Get: &fnpb.StateGetResponse{Data: req.GetStateKey().GetRunner().GetKey()}}}
}

// end says that Run has returned.
func (s *recorder) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

func (s *recorder) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.got, " ")
}

// testProgram is a stage with source "src", sinks "out0" and "out1" and one timer family "do"/"tf".
func testProgram(id string) *bundle.Program {
	port, _ := proto.Marshal(&fnpb.RemoteGrpcPort{CoderId: "wv"})
	return &bundle.Program{
		Descriptor: &fnpb.ProcessBundleDescriptor{
			Id: id,
			Transforms: map[string]*pipepb.PTransform{
				"src":  {UniqueName: "Read", Spec: &pipepb.FunctionSpec{Urn: urnSource, Payload: port}},
				"do":   {UniqueName: "Format/ParDo", Spec: &pipepb.FunctionSpec{Urn: "beam:transform:pardo:v1"}},
				"out0": {UniqueName: "Write0", Spec: &pipepb.FunctionSpec{Urn: urnSink, Payload: port}},
				"out1": {UniqueName: "Write1", Spec: &pipepb.FunctionSpec{Urn: urnSink, Payload: port}},
			},
		},
		Source:  "src",
		Outputs: []string{"out0", "out1"},
		Timers:  []bundle.TimerFamily{{Transform: "do", Family: "tf"}},
	}
}

// blocks makes one block of each element.
func blocks(t *testing.T, elements ...string) []*flow.Block {
	t.Helper()
	pool := must[*flow.Pool](t)(flow.NewPool(1<<30, t.TempDir()))
	t.Cleanup(func() { pool.Close() })
	var out []*flow.Block
	for _, e := range elements {
		b := pool.NewBuilder()
		if err := b.Append([]byte(e), 0); err != nil {
			t.Fatal(err)
		}
		out = append(out, must[[]*flow.Block](t)(b.Finish())...)
	}
	t.Cleanup(func() {
		for _, k := range out {
			k.Release()
		}
	})
	return out
}

func testBundle(t *testing.T, id string, sink *recorder, elements ...string) *bundle.Bundle {
	t.Helper()
	return &bundle.Bundle{ID: id, Program: testProgram("stage"), Input: blocks(t, elements...), State: sink, Sink: sink}
}

// outcome is what Run returned.
type outcome struct {
	res *bundle.Result
	err error
}

// run starts a bundle and returns where its outcome will arrive.
func run1(ctx context.Context, w *Worker, b *bundle.Bundle, sink *recorder) <-chan outcome {
	c := make(chan outcome, 1)
	go func() {
		res, err := w.Run(ctx, b)
		sink.end()
		c <- outcome{res, err}
	}()
	return c
}

// logBuffer is a log that a test reads while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf []byte
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, p...)
	return len(p), nil
}

// await waits for a line that contains all parts and returns it.
func (l *logBuffer) await(t *testing.T, parts ...string) string {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		lines := strings.Split(string(l.buf), "\n")
		l.mu.Unlock()
		for _, line := range lines {
			if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
				return line
			}
		}
	}
	t.Fatalf("no log line with %q in:\n%s", parts, l.buf)
	return ""
}

var _ io.Writer = (*logBuffer)(nil)

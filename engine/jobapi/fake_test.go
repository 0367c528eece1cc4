package jobapi

import (
	"context"
	"iter"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/structpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeEngine keeps jobs and lets tests play their events.
type fakeEngine struct {
	check func(*pipepb.Pipeline) error // nil: everything is fine

	mu   sync.Mutex
	jobs []*fakeJob
}

func (e *fakeEngine) Check(p *pipepb.Pipeline) error {
	if e.check == nil {
		return nil
	}
	return e.check(p)
}

func (e *fakeEngine) Submit(spec Spec) (Job, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	j := &fakeJob{spec: spec, done: make(chan struct{}), changed: make(chan struct{})}
	j.state(jobpb.JobState_STARTING)
	e.jobs = append(e.jobs, j)
	return j, nil
}

func (e *fakeEngine) Job(id string) (Job, bool) {
	if j := e.find(id); j != nil {
		return j, true
	}
	return nil, false
}

func (e *fakeEngine) find(id string) *fakeJob {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, j := range e.jobs {
		if j.spec.ID == id {
			return j
		}
	}
	return nil
}

func (e *fakeEngine) Jobs() []Job {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Job
	for _, j := range e.jobs {
		out = append(out, j)
	}
	return out
}

type fakeJob struct {
	spec     Spec
	drainErr error

	mu      sync.Mutex
	events  []Event
	current jobpb.JobState_Enum
	changed chan struct{}
	done    chan struct{}
}

func (j *fakeJob) ID() string                 { return j.spec.ID }
func (j *fakeJob) Name() string               { return j.spec.Name }
func (j *fakeJob) Pipeline() *pipepb.Pipeline { return j.spec.Pipeline }
func (j *fakeJob) Options() *structpb.Struct  { return j.spec.Raw }
func (j *fakeJob) Done() <-chan struct{}      { return j.done }
func (j *fakeJob) Cancel()                    { j.state(jobpb.JobState_CANCELLED) }

func (j *fakeJob) State() jobpb.JobState_Enum {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.current
}

func (j *fakeJob) Metrics() (attempted, committed []*pipepb.MonitoringInfo) {
	return []*pipepb.MonitoringInfo{{Urn: "attempted"}}, []*pipepb.MonitoringInfo{{Urn: "committed"}}
}

func (j *fakeJob) Drain() error {
	if j.drainErr == nil {
		j.state(jobpb.JobState_DRAINING)
	}
	return j.drainErr
}

func (j *fakeJob) ended() bool {
	switch j.current {
	case jobpb.JobState_DONE, jobpb.JobState_FAILED, jobpb.JobState_CANCELLED:
		return true
	default:
		return false
	}
}

func (j *fakeJob) state(s jobpb.JobState_Enum) { j.publish(Event{State: s}) }

func (j *fakeJob) message(imp jobpb.JobMessage_MessageImportance, text string) {
	j.publish(Event{Message: &Message{ID: "m", Importance: imp, Text: text}})
}

func (j *fakeJob) publish(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ended() {
		return
	}
	e.Time = time.Date(2026, 11, 21, 10, 0, len(j.events), 0, time.UTC)
	j.events = append(j.events, e)
	if e.Message == nil {
		j.current = e.State
	}
	close(j.changed)
	j.changed = make(chan struct{})
	if j.ended() {
		close(j.done)
	}
}

func (j *fakeJob) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for at := 0; ; {
			j.mu.Lock()
			batch, ended, changed := j.events[at:], j.ended(), j.changed
			j.mu.Unlock()
			for _, e := range batch {
				if !yield(e, nil) {
					return
				}
			}
			at += len(batch)
			switch {
			case len(batch) > 0:
				continue
			case ended:
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				yield(Event{}, ctx.Err())
				return
			}
		}
	}
}

// fixture is a service over a fake engine, and a client of it.
type fixture struct {
	engine  *fakeEngine
	service *Service
	dir     string
	conn    *grpc.ClientConn
	jobs    jobpb.JobServiceClient
	staging jobpb.ArtifactStagingServiceClient
}

func start(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{engine: new(fakeEngine), dir: t.TempDir()}
	s, err := New(Config{Engine: f.engine, Dir: f.dir, Endpoint: "test:1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	f.service = s
	server := grpc.NewServer(ServerOptions(slog.New(slog.DiscardHandler))...)
	s.Register(server)
	lis := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	f.conn, err = grpc.NewClient("passthrough:test",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	f.jobs, f.staging = jobpb.NewJobServiceClient(f.conn), jobpb.NewArtifactStagingServiceClient(f.conn)
	t.Cleanup(func() {
		for _, j := range f.engine.jobs {
			j.Cancel()
		}
		if err := f.conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// prepare prepares a pipeline and fails the test when that is refused.
func (f *fixture) prepare(t *testing.T, p *pipepb.Pipeline) *jobpb.PrepareJobResponse {
	t.Helper()
	resp, err := f.jobs.Prepare(t.Context(), &jobpb.PrepareJobRequest{JobName: "my job", Pipeline: p})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// run prepares and runs a pipeline without artifacts.
func (f *fixture) run(t *testing.T) *fakeJob {
	t.Helper()
	resp, err := f.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: f.prepare(t, pipeline()).GetPreparationId()})
	if err != nil {
		t.Fatal(err)
	}
	return f.engine.find(resp.GetJobId())
}

// pipeline is a pipeline of one transform whose environment has the given dependencies.
func pipeline(deps ...*pipepb.ArtifactInformation) *pipepb.Pipeline {
	return &pipepb.Pipeline{Components: &pipepb.Components{
		Transforms:   map[string]*pipepb.PTransform{"t": {UniqueName: "Impulse", Spec: &pipepb.FunctionSpec{Urn: "beam:transform:impulse:v1"}}},
		Environments: map[string]*pipepb.Environment{"py": {Dependencies: deps}},
	}}
}

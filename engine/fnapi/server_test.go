package fnapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The port is open before any job: whoever calls is told so, and leaves no trace.
func TestUnknownWorker(t *testing.T) {
	r := newRig(t)
	stream := func(s grpc.ClientStream, err error) error {
		if err != nil {
			return err
		}
		return s.RecvMsg(&fnpb.Elements{})
	}
	calls := map[string]func(ctx context.Context, c *grpc.ClientConn) error{
		"control": func(ctx context.Context, c *grpc.ClientConn) error {
			return stream(fnpb.NewBeamFnControlClient(c).Control(ctx))
		},
		"data": func(ctx context.Context, c *grpc.ClientConn) error {
			return stream(fnpb.NewBeamFnDataClient(c).Data(ctx))
		},
		"state": func(ctx context.Context, c *grpc.ClientConn) error {
			return stream(fnpb.NewBeamFnStateClient(c).State(ctx))
		},
		"logging": func(ctx context.Context, c *grpc.ClientConn) error {
			return stream(fnpb.NewBeamFnLoggingClient(c).Logging(ctx))
		},
		"provision": func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := fnpb.NewProvisionServiceClient(c).GetProvisionInfo(ctx, &fnpb.GetProvisionInfoRequest{})
			return err
		},
		"resolve": func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := jobpb.NewArtifactRetrievalServiceClient(c).ResolveArtifacts(ctx, &jobpb.ResolveArtifactsRequest{})
			return err
		},
		"artifact": func(ctx context.Context, c *grpc.ClientConn) error {
			return stream(jobpb.NewArtifactRetrievalServiceClient(c).GetArtifact(ctx, &jobpb.GetArtifactRequest{}))
		},
	}
	h := r.dial("stranger")
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			err := call(h.ctx, h.conn)
			if want := `worker_id "stranger" is not expected by any job: the job has not begun, or is over`; status.Code(err) != codes.Unavailable || status.Convert(err).Message() != want {
				t.Errorf("error %v, want UNAVAILABLE: %s", err, want)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := call(ctx, h.conn); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("without worker_id: %v, want FAILED_PRECONDITION", err)
			}
		})
	}
	if _, err := h.descriptor("nowhere"); status.Code(err) != codes.NotFound {
		t.Errorf("descriptor: %v, want NOT_FOUND", err)
	}
	if len(r.server.workers) != 0 || len(r.server.programs) != 0 {
		t.Errorf("%d workers, %d programs", len(r.server.workers), len(r.server.programs))
	}
}

// A second harness with the same id does not disturb the first.
func TestSecondControlStream(t *testing.T) {
	r := newRig(t)
	w, _ := r.connect(r.open())
	again := r.dial(w.key)
	again.openControl()
	if _, err := again.control.Recv(); status.Code(err) != codes.AlreadyExists {
		t.Errorf("error %v, want ALREADY_EXISTS", err)
	}
	select {
	case <-w.gone:
		t.Error("the first harness was lost")
	default:
	}
}

func TestProvision(t *testing.T) {
	r := newRig(t)
	opts := must[*structpb.Struct](t)(structpb.NewStruct(map[string]any{"beam:option:runner:v1": "tiny"}))
	env := externalEnv(r.pool.addr)
	env.Dependencies = []*pipepb.ArtifactInformation{fileArtifact("main.py")}
	r.open(func(c *EnvironmentConfig) { c.Proto, c.Options = env, opts })
	h := r.dial(recv(t, r.pool.starts))
	resp := must[*fnpb.GetProvisionInfoResponse](t)(fnpb.NewProvisionServiceClient(h.conn).GetProvisionInfo(h.ctx, &fnpb.GetProvisionInfoRequest{}))
	api := &pipepb.ApiServiceDescriptor{Url: r.addr}
	want := &fnpb.ProvisionInfo{
		PipelineOptions: opts, RetrievalToken: "job", Dependencies: env.Dependencies,
		LoggingEndpoint: api, ArtifactEndpoint: api, ControlEndpoint: api,
		RunnerCapabilities: []string{"beam:protocol:monitoring_info_short_ids:v1"},
		Metadata:           map[string]string{"runner": "tinyrunner"},
	}
	if !proto.Equal(resp.GetInfo(), want) {
		t.Errorf("got %v, want %v", resp.GetInfo(), want)
	}
}

func fileArtifact(path string) *pipepb.ArtifactInformation {
	payload, _ := proto.Marshal(&pipepb.ArtifactFilePayload{Path: path})
	return &pipepb.ArtifactInformation{TypeUrn: "beam:artifact:type:file:v1", TypePayload: payload}
}

// artifacts are files by path.
type artifacts map[string][]byte

func (a artifacts) Resolve(_ context.Context, in []*pipepb.ArtifactInformation) ([]*pipepb.ArtifactInformation, error) {
	if len(in) > 1 {
		return nil, errors.New("too many")
	}
	return in, nil
}

func (a artifacts) Open(_ context.Context, info *pipepb.ArtifactInformation) (io.ReadCloser, error) {
	p := &pipepb.ArtifactFilePayload{}
	if err := proto.Unmarshal(info.GetTypePayload(), p); err != nil {
		return nil, err
	}
	data, ok := a[p.GetPath()]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func TestArtifacts(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789"), 250_000)
	r := newRig(t)
	r.open(func(c *EnvironmentConfig) { c.Artifacts = artifacts{"big": big, "empty": nil} })
	h := r.dial(recv(t, r.pool.starts))
	client := jobpb.NewArtifactRetrievalServiceClient(h.conn)
	get := func(path string) ([]byte, int, error) {
		s := must[jobpb.ArtifactRetrievalService_GetArtifactClient](t)(client.GetArtifact(h.ctx, &jobpb.GetArtifactRequest{Artifact: fileArtifact(path)}))
		var data []byte
		for n := 0; ; n++ {
			msg, err := s.Recv()
			if errors.Is(err, io.EOF) {
				return data, n, nil
			}
			if err != nil {
				return nil, n, err
			}
			data = append(data, msg.GetData()...)
		}
	}
	if data, n, err := get("big"); err != nil || n != 3 || !bytes.Equal(data, big) {
		t.Errorf("big: %d bytes in %d messages, %v", len(data), n, err)
	}
	if data, n, err := get("empty"); err != nil || n != 0 || len(data) != 0 {
		t.Errorf("empty: %d bytes in %d messages, %v", len(data), n, err)
	}
	_, _, err := get("../secret")
	if want := `get artifact "../secret": file does not exist`; status.Code(err) != codes.NotFound || status.Convert(err).Message() != want {
		t.Errorf("missing: %v, want NOT_FOUND: %s", err, want)
	}
	one := []*pipepb.ArtifactInformation{fileArtifact("big")}
	resp := must[*jobpb.ResolveArtifactsResponse](t)(client.ResolveArtifacts(h.ctx, &jobpb.ResolveArtifactsRequest{Artifacts: one}))
	if len(resp.GetReplacements()) != 1 {
		t.Errorf("resolved %v", resp)
	}
	_, err = client.ResolveArtifacts(h.ctx, &jobpb.ResolveArtifactsRequest{Artifacts: append(one, one...)})
	if status.Code(err) != codes.Internal {
		t.Errorf("resolve: %v, want INTERNAL", err)
	}
}

func TestNoArtifacts(t *testing.T) {
	r := newRig(t)
	r.open()
	h := r.dial(recv(t, r.pool.starts))
	info := &pipepb.ArtifactInformation{TypeUrn: "beam:artifact:type:maven:v1"}
	s := must[jobpb.ArtifactRetrievalService_GetArtifactClient](t)(jobpb.NewArtifactRetrievalServiceClient(h.conn).GetArtifact(h.ctx, &jobpb.GetArtifactRequest{Artifact: info}))
	_, err := s.Recv()
	if want := `get artifact of type "beam:artifact:type:maven:v1": environment env has no artifacts`; status.Convert(err).Message() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestLogging(t *testing.T) {
	r := newRig(t)
	env := r.open()
	w, h := r.connect(env)
	if _, err := env.register(testProgram("stage")); err != nil {
		t.Fatal(err)
	}
	s := must[fnpb.BeamFnLogging_LoggingClient](t)(fnpb.NewBeamFnLoggingClient(h.conn).Logging(h.ctx))
	data := must[*structpb.Struct](t)(structpb.NewStruct(map[string]any{"rows": 3}))
	long := strings.Repeat("line\n", maxMoreLines+50)
	err := s.Send(&fnpb.LogEntry_List{LogEntries: []*fnpb.LogEntry{
		{
			Severity: fnpb.LogEntry_Severity_WARN, Message: "slow element", InstructionId: "b1", TransformId: "do",
			LogLocation: "dofn.py:17", CustomData: data, Timestamp: timestamppb.New(time.Unix(1e9, 0)),
		},
		{Severity: fnpb.LogEntry_Severity_ERROR, Message: "boom", TransformId: "unheard-of", Trace: "Traceback:\n  File dofn.py\nValueError\n"},
		{Severity: fnpb.LogEntry_Severity_CRITICAL, Message: "bang", Trace: long},
		{Severity: fnpb.LogEntry_Severity_INFO, Message: "one\ntwo", Trace: "two"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.log.await(t, "level=WARN", `msg="slow element"`, "time=2001-09-09", "job=job", "worker="+w.ID(), "bundle=b1", "transform=Format/ParDo", "at=dofn.py:17", "data.rows=3")
	r.log.await(t, "level=ERROR", "msg=boom", "transform=unheard-of")
	r.log.await(t, "level=ERROR", `msg="|   File dofn.py"`)
	r.log.await(t, "level=ERROR", `msg="| ValueError"`)
	r.log.await(t, "level=ERROR+4", `msg="| ..."`, "lines_left_out=50")
	r.log.await(t, "level=INFO", "msg=one", "worker="+w.ID())
	r.log.await(t, "level=INFO", `msg="| two"`)
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end of the logging stream: %v, want EOF", err)
	}
}

func TestSeverities(t *testing.T) {
	last := severity(fnpb.LogEntry_Severity_TRACE)
	for s := fnpb.LogEntry_Severity_DEBUG; s <= fnpb.LogEntry_Severity_CRITICAL; s++ {
		if severity(s) <= last {
			t.Errorf("%v is logged as %v, not above what is below it", s, severity(s))
		}
		last = severity(s)
	}
}

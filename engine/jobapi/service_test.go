package jobapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// wantStatus compares an error's code and whole message.
func wantStatus(t *testing.T, err error, code codes.Code, message string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != code || s.Message() != message {
		t.Errorf("got  %s: %s\nwant %s: %s", s.Code(), s.Message(), code, message)
	}
}

func TestPrepareRefuses(t *testing.T) {
	f := start(t)
	f.engine.check = func(p *pipepb.Pipeline) error {
		for _, tr := range p.GetComponents().GetTransforms() {
			if tr.GetSpec().GetUrn() == "beam:transform:unknown:v1" {
				return fmt.Errorf("transform %q: URN %s is not supported", tr.GetUniqueName(), tr.GetSpec().GetUrn())
			}
		}
		return nil
	}
	unknown := pipeline()
	unknown.GetComponents().GetTransforms()["t"] = &pipepb.PTransform{
		UniqueName: "Read/Magic", Spec: &pipepb.FunctionSpec{Urn: "beam:transform:unknown:v1"},
	}
	options := func(m map[string]any) *structpb.Struct {
		s, err := structpb.NewStruct(m)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct {
		name string
		req  *jobpb.PrepareJobRequest
		want string
	}{
		{"no pipeline", &jobpb.PrepareJobRequest{JobName: "a"}, `prepare job "a": the request has no pipeline`},
		{"unsupported transform", &jobpb.PrepareJobRequest{Pipeline: unknown},
			`prepare job "job": transform "Read/Magic": URN beam:transform:unknown:v1 is not supported`},
		{"options", &jobpb.PrepareJobRequest{Pipeline: pipeline(), PipelineOptions: options(map[string]any{"beam:option:sdk_worker_parallelism:v1": "many"})},
			`prepare job: option sdk_worker_parallelism: want a whole number from 0 to 1024, got string_value:"many"`},
		{"name from options, staged name goes up", &jobpb.PrepareJobRequest{JobName: "job",
			Pipeline:        pipeline(file("/x", "ok.txt"), file("/x", "../../etc/passwd")),
			PipelineOptions: options(map[string]any{"beam:option:job_name:v1": "words"})},
			`prepare job "words": environment "py": dependency 1: staged name "../../etc/passwd" leaves the staging directory by ".."`},
		{"staged name absolute", &jobpb.PrepareJobRequest{Pipeline: pipeline(file("/x", "/etc/passwd"))},
			`prepare job "job": environment "py": dependency 0: staged name "/etc/passwd" is an absolute path; it must be relative to the harness's staging directory`},
		{"staged name empty", &jobpb.PrepareJobRequest{Pipeline: pipeline(file("/x", ""))},
			`prepare job "job": environment "py": dependency 0: staged name is empty`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := f.jobs.Prepare(t.Context(), c.req)
			// protobuf prints one or two spaces, at random, to keep people from relying on it.
			wantStatus(t, normalized(err), codes.InvalidArgument, c.want)
		})
	}
}

func normalized(err error) error {
	s := status.Convert(err)
	return status.Error(s.Code(), strings.ReplaceAll(strings.ReplaceAll(s.Message(), "\u00a0", " "), "  ", " "))
}

func TestMalformedRolePayload(t *testing.T) {
	f := start(t)
	bad := file("/x", "a")
	bad.RolePayload = []byte{0xff}
	_, err := f.jobs.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: pipeline(bad)})
	const want = `prepare job "job": environment "py": dependency 0: malformed staging_to role: proto: cannot parse invalid wire-format data`
	wantStatus(t, normalized(err), codes.InvalidArgument, want)
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (rawCodec) Unmarshal(_ []byte, _ any) error { return nil }
func (rawCodec) Name() string                    { return "proto" }

var _ encoding.Codec = rawCodec{}

func TestMalformedRequestLeavesServerUp(t *testing.T) {
	f := start(t)
	err := f.conn.Invoke(t.Context(), "/org.apache.beam.model.job_management.v1.JobService/Prepare", []byte{0x0a, 0xff, 0xff}, new([]byte), grpc.ForceCodec(rawCodec{}))
	wantStatus(t, normalized(err), codes.Internal,
		"grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data")
	f.run(t)
}

func TestPanicFailsTheCallOnly(t *testing.T) {
	f := start(t)
	f.engine.check = func(*pipepb.Pipeline) error { panic("boom") }
	_, err := f.jobs.Prepare(t.Context(), &jobpb.PrepareJobRequest{Pipeline: pipeline()})
	wantStatus(t, err, codes.Internal,
		"/org.apache.beam.model.job_management.v1.JobService/Prepare: internal error: boom; the server's log has the stack")
	f.engine.check = nil
	f.run(t)
}

func TestRun(t *testing.T) {
	f := start(t)
	prep := f.prepare(t, pipeline())
	if prep.GetArtifactStagingEndpoint().GetUrl() != "test:1" || prep.GetStagingSessionToken() == "" {
		t.Errorf("Prepare answered %v", prep)
	}
	resp, err := f.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prep.GetPreparationId()})
	if err != nil {
		t.Fatal(err)
	}
	if ok, _ := regexp.MatchString("^my-job-[a-z2-7]{8}$", resp.GetJobId()); !ok || resp.GetJobId() == prep.GetPreparationId() {
		t.Errorf("job id %q", resp.GetJobId())
	}
	_, err = f.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prep.GetPreparationId()})
	wantStatus(t, err, codes.NotFound, fmt.Sprintf("run job: preparation %q not known: it was never prepared here, has already been run, "+
		"or was forgotten; call Prepare again", prep.GetPreparationId()))

	got, err := f.jobs.GetPipeline(t.Context(), &jobpb.GetJobPipelineRequest{JobId: resp.GetJobId()})
	if err != nil || len(got.GetPipeline().GetComponents().GetTransforms()) != 1 {
		t.Errorf("GetPipeline: %v, %v", got, err)
	}
	list, err := f.jobs.GetJobs(t.Context(), new(jobpb.GetJobsRequest))
	if err != nil || len(list.GetJobInfo()) != 1 || list.GetJobInfo()[0].GetJobName() != "my job" || list.GetJobInfo()[0].GetState() != jobpb.JobState_STARTING {
		t.Errorf("GetJobs: %v, %v", list, err)
	}
	m, err := f.jobs.GetJobMetrics(t.Context(), &jobpb.GetJobMetricsRequest{JobId: resp.GetJobId()})
	if err != nil || m.GetMetrics().GetAttempted()[0].GetUrn() != "attempted" || m.GetMetrics().GetCommitted()[0].GetUrn() != "committed" {
		t.Errorf("GetJobMetrics: %v, %v", m, err)
	}
	if _, err := f.jobs.DescribePipelineOptions(t.Context(), new(jobpb.DescribePipelineOptionsRequest)); err != nil {
		t.Error(err)
	}
}

func TestCancelAndDrain(t *testing.T) {
	f := start(t)
	j := f.run(t)
	d, err := f.jobs.Drain(t.Context(), &jobpb.DrainJobRequest{JobId: j.ID()})
	if err != nil || d.GetState() != jobpb.JobState_DRAINING {
		t.Errorf("Drain: %v, %v", d, err)
	}
	for range 2 { // cancelling a cancelled job is no error
		c, err := f.jobs.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: j.ID()})
		if err != nil || c.GetState() != jobpb.JobState_CANCELLED {
			t.Errorf("Cancel: %v, %v", c, err)
		}
	}
	j.drainErr = errors.New("drain job: it is CANCELLED")
	_, err = f.jobs.Drain(t.Context(), &jobpb.DrainJobRequest{JobId: j.ID()})
	wantStatus(t, err, codes.FailedPrecondition, "drain job: it is CANCELLED")
	s, err := f.jobs.GetState(t.Context(), &jobpb.GetJobStateRequest{JobId: j.ID()})
	if err != nil || s.GetState() != jobpb.JobState_CANCELLED {
		t.Errorf("GetState: %v, %v", s, err)
	}
}

// everyCall makes each call that names a job and returns the errors by method.
func (f *fixture) everyCall(ctx context.Context, id string) map[string]error {
	errs := make(map[string]error)
	_, errs["GetState"] = f.jobs.GetState(ctx, &jobpb.GetJobStateRequest{JobId: id})
	_, errs["GetPipeline"] = f.jobs.GetPipeline(ctx, &jobpb.GetJobPipelineRequest{JobId: id})
	_, errs["Cancel"] = f.jobs.Cancel(ctx, &jobpb.CancelJobRequest{JobId: id})
	_, errs["Drain"] = f.jobs.Drain(ctx, &jobpb.DrainJobRequest{JobId: id})
	_, errs["GetJobMetrics"] = f.jobs.GetJobMetrics(ctx, &jobpb.GetJobMetricsRequest{JobId: id})
	states, err := f.jobs.GetStateStream(ctx, &jobpb.GetJobStateRequest{JobId: id})
	if err == nil {
		_, err = states.Recv()
	}
	errs["GetStateStream"] = err
	messages, err := f.jobs.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: id})
	if err == nil {
		_, err = messages.Recv()
	}
	errs["GetMessageStream"] = err
	return errs
}

func TestUnknownJob(t *testing.T) {
	f := start(t)
	check := func(id, want string) {
		t.Helper()
		for method, err := range f.everyCall(t.Context(), id) {
			t.Run(method, func(t *testing.T) { wantStatus(t, err, codes.NotFound, want) })
		}
	}
	check("x", `job "x" not known; known: none`)
	a, b := f.run(t), f.run(t)
	check("", fmt.Sprintf(`job "" not known; known: %s, %s`, b.ID(), a.ID()))
	prep := f.prepare(t, pipeline()).GetPreparationId()
	check(prep, fmt.Sprintf(`job %q not known: this is a preparation; Run it and use the job_id that Run returns`, prep))
	for range 10 {
		f.run(t)
	}
	if got := known(f.engine.Jobs()); !strings.HasSuffix(got, " and 2 older") || strings.Count(got, ",") != 9 {
		t.Errorf("known jobs: %s", got)
	}
}

// follow reads a job's message stream to its end.
func (f *fixture) follow(ctx context.Context, id string) ([]string, error) {
	stream, err := f.jobs.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: id})
	if err != nil {
		return nil, err
	}
	var lines []string
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
		if s := m.GetStateResponse(); s != nil {
			lines = append(lines, s.GetTimestamp().AsTime().Format("05 ")+s.GetState().String())
		} else {
			r := m.GetMessageResponse()
			lines = append(lines, fmt.Sprintf("%s %s %s", r.GetTime(), r.GetImportance(), r.GetMessageText()))
		}
	}
}

var failedJob = []string{
	"00 STARTING", "01 RUNNING",
	"2026-11-21T10:00:02.000Z JOB_MESSAGE_ERROR Traceback: ValueError",
	"03 FAILED",
}

func TestStreamsReplayAndEnd(t *testing.T) {
	f := start(t)
	job, other := f.run(t), f.run(t)

	var wg sync.WaitGroup
	for range 3 { // early subscribers
		wg.Go(func() {
			if lines, err := f.follow(t.Context(), job.ID()); err != nil || !slices.Equal(lines, failedJob) {
				t.Errorf("early subscriber: %q, %v", lines, err)
			}
		})
	}
	job.state(jobpb.JobState_RUNNING)
	job.message(jobpb.JobMessage_JOB_MESSAGE_ERROR, "Traceback: ValueError")
	job.state(jobpb.JobState_FAILED)
	wg.Wait()
	if lines, err := f.follow(t.Context(), job.ID()); err != nil || !slices.Equal(lines, failedJob) {
		t.Errorf("late subscriber: %q, %v", lines, err)
	}

	stream, err := f.jobs.GetStateStream(t.Context(), &jobpb.GetJobStateRequest{JobId: job.ID()})
	if err != nil {
		t.Fatal(err)
	}
	var states []jobpb.JobState_Enum
	for {
		s, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, s.GetState())
	}
	if want := []jobpb.JobState_Enum{jobpb.JobState_STARTING, jobpb.JobState_RUNNING, jobpb.JobState_FAILED}; !slices.Equal(states, want) {
		t.Errorf("states %v", states)
	}
	if s := other.State(); s != jobpb.JobState_STARTING {
		t.Errorf("the other job is %s", s)
	}
}

func TestHeadersComeAtOnce(t *testing.T) {
	f := start(t)
	job := f.run(t)
	job.mu.Lock()
	job.events = nil // nothing to send yet
	job.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	states, err := f.jobs.GetStateStream(ctx, &jobpb.GetJobStateRequest{JobId: job.ID()})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := f.jobs.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: job.ID()})
	if err != nil {
		t.Fatal(err)
	}
	staging, err := f.staging.ReverseArtifactRetrievalService(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []grpc.ClientStream{states, messages, staging} {
		if _, err := s.Header(); err != nil {
			t.Errorf("%T: %v", s, err)
		}
	}
}

func TestSubscriberLeaves(t *testing.T) {
	f := start(t)
	job := f.run(t)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := f.jobs.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: job.ID()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Canceled || job.State() != jobpb.JobState_STARTING {
		t.Errorf("%v; the job is %s", err, job.State())
	}
}

func TestOldPreparationsAreForgotten(t *testing.T) {
	f := start(t)
	first := f.prepare(t, pipeline(file("/x", "a")))
	if err := f.stage(t.Context(), first, map[string]string{"/x": "1"}); err != nil {
		t.Fatal(err)
	}
	for range maxPreparations {
		f.prepare(t, pipeline())
	}
	if n := len(f.service.prepared); n != maxPreparations {
		t.Errorf("%d preparations are kept", n)
	}
	if _, err := f.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: first.GetPreparationId()}); status.Code(err) != codes.NotFound {
		t.Errorf("the oldest can still be run: %v", err)
	}
	if left := f.stagedFiles(t); len(left) != 0 {
		t.Errorf("files are left: %v", left)
	}
}

func TestWaitIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Service{stop: make(chan struct{}), changed: make(chan struct{}), lastActive: time.Now()}
		begin := time.Now()
		step := func(started int) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.active(started)
		}
		go func() {
			time.Sleep(50 * time.Second)
			step(0) // a client prepares
			time.Sleep(50 * time.Second)
			step(+1) // and runs
			time.Sleep(time.Hour)
			step(-1) // the job ends
		}()
		if err := s.WaitIdle(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
		if got, want := time.Since(begin), time.Hour+100*time.Second+time.Minute; got != want {
			t.Errorf("idle after %v, want %v", got, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		step(+1)
		if err := s.WaitIdle(ctx, time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a running job: %v", err)
		}
	})
}

func TestManyJobsAtOnce(t *testing.T) {
	f := start(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			prep := f.prepare(t, pipeline(file("/x", "a")))
			if err := f.stage(t.Context(), prep, map[string]string{"/x": strings.Repeat("x", i)}); err != nil {
				t.Error(err)
				return
			}
			resp, err := f.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prep.GetPreparationId()})
			if err != nil {
				t.Error(err)
				return
			}
			job := f.engine.find(resp.GetJobId())
			job.state(jobpb.JobState_DONE)
			if lines, err := f.follow(t.Context(), resp.GetJobId()); err != nil || len(lines) != 2 {
				t.Errorf("%q, %v", lines, err)
			}
		})
	}
	wg.Wait()
	f.waitNoFiles(t)
}

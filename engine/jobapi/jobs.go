package jobapi

import (
	"context"
	"fmt"
	"strings"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// job finds a job or explains what is known instead.
func (s *Service) job(id string) (Job, error) {
	if j, ok := s.engine.Job(id); ok {
		return j, nil
	}
	s.mu.Lock()
	_, waiting := s.prepared[id]
	s.mu.Unlock()
	if waiting {
		return nil, status.Errorf(codes.NotFound, "job %q not known: this is a preparation; Run it and use the job_id that Run returns", id)
	}
	return nil, status.Errorf(codes.NotFound, "job %q not known; known: %s", id, known(s.engine.Jobs()))
}

// known lists the newest jobs.
func known(jobs []Job) string {
	const most = 10
	if len(jobs) == 0 {
		return "none"
	}
	var ids []string
	for i := len(jobs) - 1; i >= 0 && len(ids) < most; i-- {
		ids = append(ids, jobs[i].ID())
	}
	text := strings.Join(ids, ", ")
	if more := len(jobs) - len(ids); more > 0 {
		text += fmt.Sprintf(" and %d older", more)
	}
	return text
}

// GetJobs lists the jobs that run or are remembered, oldest first.
func (s *Service) GetJobs(context.Context, *jobpb.GetJobsRequest) (*jobpb.GetJobsResponse, error) {
	resp := new(jobpb.GetJobsResponse)
	for _, j := range s.engine.Jobs() {
		resp.JobInfo = append(resp.JobInfo, &jobpb.JobInfo{
			JobId: j.ID(), JobName: j.Name(), PipelineOptions: j.Options(), State: j.State(),
		})
	}
	return resp, nil
}

// GetState returns a job's state.
func (s *Service) GetState(_ context.Context, req *jobpb.GetJobStateRequest) (*jobpb.JobStateEvent, error) {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return nil, err
	}
	return &jobpb.JobStateEvent{State: j.State()}, nil
}

// GetPipeline returns a job's pipeline as it was submitted, its dependencies pointing at the staged files.
func (s *Service) GetPipeline(_ context.Context, req *jobpb.GetJobPipelineRequest) (*jobpb.GetJobPipelineResponse, error) {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return nil, err
	}
	return &jobpb.GetJobPipelineResponse{Pipeline: j.Pipeline()}, nil
}

// Cancel stops a job at once. It does nothing to a job that has ended. The answer is the state right after.
func (s *Service) Cancel(_ context.Context, req *jobpb.CancelJobRequest) (*jobpb.CancelJobResponse, error) {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return nil, err
	}
	j.Cancel()
	return &jobpb.CancelJobResponse{State: j.State()}, nil
}

// Drain lets a job finish what it has read.
func (s *Service) Drain(_ context.Context, req *jobpb.DrainJobRequest) (*jobpb.DrainJobResponse, error) {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return nil, err
	}
	if err := j.Drain(); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &jobpb.DrainJobResponse{State: j.State()}, nil
}

// GetJobMetrics returns a job's metrics so far: of committed bundles, and of all that ran.
func (s *Service) GetJobMetrics(_ context.Context, req *jobpb.GetJobMetricsRequest) (*jobpb.GetJobMetricsResponse, error) {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return nil, err
	}
	attempted, committed := j.Metrics()
	return &jobpb.GetJobMetricsResponse{Metrics: &jobpb.MetricResults{Attempted: attempted, Committed: committed}}, nil
}

// DescribePipelineOptions lists options beyond Beam's own, which Python's SDK then takes as flags. All configuration of the
// runner itself belongs to the server.
func (s *Service) DescribePipelineOptions(context.Context, *jobpb.DescribePipelineOptionsRequest) (*jobpb.DescribePipelineOptionsResponse, error) {
	const group = "tinyrunner"
	return &jobpb.DescribePipelineOptionsResponse{Options: []*jobpb.PipelineOptionDescriptor{
		{
			Name: savepointOption, Type: jobpb.PipelineOptionType_STRING, Group: group,
			Description: "Savepoint that the job begins with: file:///DIR or s3://BUCKET/PREFIX, as the server sees it.",
		},
		{
			Name: nonRestoredOption, Type: jobpb.PipelineOptionType_BOOLEAN, Group: group, DefaultValue: "false",
			Description: "Drop state of the savepoint that the pipeline has no place for, instead of refusing it.",
		},
	}}, nil
}

// GetStateStream sends every state since the job's beginning and ends after the terminal one.
func (s *Service) GetStateStream(req *jobpb.GetJobStateRequest, stream jobpb.JobService_GetStateStreamServer) error {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return err
	}
	if err := sendHeader(stream); err != nil {
		return err
	}
	for e, err := range j.Events(stream.Context()) {
		if err != nil {
			return status.FromContextError(err).Err()
		}
		if e.Message != nil {
			continue
		}
		if err := stream.Send(stateEvent(e)); err != nil {
			return err
		}
	}
	return nil
}

// GetMessageStream sends every state and message since the job's beginning and ends after the terminal state.
func (s *Service) GetMessageStream(req *jobpb.JobMessagesRequest, stream jobpb.JobService_GetMessageStreamServer) error {
	j, err := s.job(req.GetJobId())
	if err != nil {
		return err
	}
	if err := sendHeader(stream); err != nil {
		return err
	}
	for e, err := range j.Events(stream.Context()) {
		if err != nil {
			return status.FromContextError(err).Err()
		}
		if err := stream.Send(messageResponse(e)); err != nil {
			return err
		}
	}
	return nil
}

// sendHeader sends the response headers at once: gRPC would send them with the first message, and Beam's TypeScript
// client waits for them before it goes on.
func sendHeader(stream interface{ SendHeader(metadata.MD) error }) error {
	return stream.SendHeader(nil)
}

func stateEvent(e Event) *jobpb.JobStateEvent {
	return &jobpb.JobStateEvent{State: e.State, Timestamp: timestamppb.New(e.Time)}
}

func messageResponse(e Event) *jobpb.JobMessagesResponse {
	if e.Message == nil {
		return &jobpb.JobMessagesResponse{Response: &jobpb.JobMessagesResponse_StateResponse{StateResponse: stateEvent(e)}}
	}
	return &jobpb.JobMessagesResponse{Response: &jobpb.JobMessagesResponse_MessageResponse{MessageResponse: &jobpb.JobMessage{
		MessageId: e.Message.ID, Time: e.Time.UTC().Format("2006-01-02T15:04:05.000Z"),
		Importance: e.Message.Importance, MessageText: e.Message.Text,
	}}}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/checkpoint"
)

// commandGrace is how long a command may take to end after SIGTERM.
const commandGrace = 5 * time.Second

// runProgram runs a command that submits jobs to srv, and returns what became of them.
func runProgram(ctx context.Context, srv *server, args []string, stdout, stderr io.Writer) error {
	endpoint := srv.jobEndpoint()
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "{job_endpoint}", endpoint)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "JOB_ENDPOINT="+endpoint)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, stdout, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = commandGrace
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		return usage("cannot run %s: %w", args[0], err)
	}
	if jobErr := jobsResult(ctx, srv); jobErr != nil {
		return jobErr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	if len(srv.cluster.Jobs()) == 0 {
		return fmt.Errorf("%s submitted no job: give it the endpoint, for instance --job_endpoint={job_endpoint}", args[0])
	}
	return nil
}

// jobsResult waits for all jobs and returns the worst that became of one.
func jobsResult(ctx context.Context, srv *server) error {
	var worst error
	for _, j := range srv.cluster.Jobs() {
		select {
		case <-j.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := stateError(j.ID(), j.State(), j.Err()); err != nil && (worst == nil || j.State() == jobpb.JobState_FAILED) {
			worst = err
		}
	}
	return worst
}

// stateError is nil for a job that has done its work.
func stateError(id string, s jobpb.JobState_Enum, cause error) error {
	switch s {
	case jobpb.JobState_DONE, jobpb.JobState_DRAINED, jobpb.JobState_STOPPED:
		return nil
	case jobpb.JobState_CANCELLED:
		return &exitError{code: exitCancelled, err: fmt.Errorf("job %s was cancelled", id)}
	default:
		var fenced *checkpoint.FencedError
		if errors.As(cause, &fenced) {
			return &exitError{code: exitFenced, err: fmt.Errorf("job %s: %w", id, fenced)}
		}
		return &exitError{code: exitFailed, err: fmt.Errorf("job %s is %s: %w", id, s, cause)}
	}
}

// runPipeline submits a pipeline to srv through its Job API and waits for the end.
func runPipeline(ctx context.Context, srv *server, p *pipepb.Pipeline, file string) error {
	conn, err := srv.dialOwn()
	if err != nil {
		return err
	}
	id, err := submit(ctx, conn, p, strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)))
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("submit %s: %s", file, status.Convert(err).Message())
	}
	if _, ok := srv.cluster.Job(id); !ok {
		return fmt.Errorf("submit %s: job %s is not known", file, id)
	}
	return jobsResult(ctx, srv)
}

func submit(ctx context.Context, conn *grpc.ClientConn, p *pipepb.Pipeline, name string) (id string, err error) {
	jobs := jobpb.NewJobServiceClient(conn)
	prep, err := jobs.Prepare(ctx, &jobpb.PrepareJobRequest{Pipeline: p, JobName: name}, grpc.WaitForReady(true))
	if err != nil {
		return "", err
	}
	if err := offerFiles(ctx, conn, prep.GetStagingSessionToken()); err != nil {
		return "", err
	}
	job, err := jobs.Run(ctx, &jobpb.RunJobRequest{PreparationId: prep.GetPreparationId()})
	return job.GetJobId(), err
}

// offerFiles is the client's side of artifact staging: it sends the local files that it is asked for.
func offerFiles(ctx context.Context, conn *grpc.ClientConn, token string) error {
	stream, err := jobpb.NewArtifactStagingServiceClient(conn).ReverseArtifactRetrievalService(ctx)
	if err != nil {
		return err
	}
	answer := &jobpb.ArtifactResponseWrapper{StagingToken: token}
	for {
		if err := stream.Send(answer); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv tells why
			return err
		}
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if r := req.GetResolveArtifact(); r != nil {
			answer = &jobpb.ArtifactResponseWrapper{Response: &jobpb.ArtifactResponseWrapper_ResolveArtifactResponse{
				ResolveArtifactResponse: &jobpb.ResolveArtifactsResponse{Replacements: r.GetArtifacts()},
			}}
			continue
		}
		if err := sendFile(stream, req.GetGetArtifact().GetArtifact()); err != nil {
			return err
		}
		answer = &jobpb.ArtifactResponseWrapper{IsLast: true, Response: fileChunk(nil)}
	}
}

func sendFile(stream jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceClient, info *pipepb.ArtifactInformation) (err error) {
	const chunk = 1 << 20 // bytes
	var payload pipepb.ArtifactFilePayload
	if info.GetTypeUrn() != "beam:artifact:type:file:v1" || proto.Unmarshal(info.GetTypePayload(), &payload) != nil {
		return fmt.Errorf("cannot stage an artifact of type %s: only files of this machine", info.GetTypeUrn())
	}
	f, err := os.Open(payload.GetPath())
	if err != nil {
		return fmt.Errorf("stage artifact: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for buf := make([]byte, chunk); ; {
		n, err := f.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("stage artifact: %w", err)
		}
		if err := stream.Send(&jobpb.ArtifactResponseWrapper{Response: fileChunk(buf[:n])}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
}

func fileChunk(data []byte) *jobpb.ArtifactResponseWrapper_GetArtifactResponse {
	return &jobpb.ArtifactResponseWrapper_GetArtifactResponse{GetArtifactResponse: &jobpb.GetArtifactResponse{Data: data}}
}

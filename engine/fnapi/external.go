package fnapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Environments by URN (beam_runner_api.proto, StandardEnvironments).
const (
	urnExternal = "beam:env:external:v1"
	urnDocker   = "beam:env:docker:v1"
	urnProcess  = "beam:env:process:v1"
	urnAnyOf    = "beam:env:anyof:v1"
)

// What a worker pool may take to start or to stop a harness; Python's waits 10 seconds for the process to end.
const (
	startTimeout = 30 * time.Second
	stopTimeout  = 15 * time.Second
)

const useOther = "submit with --environment_type=LOOPBACK, or start a worker pool and submit with --environment_type=EXTERNAL --environment_config=HOST:PORT"

// choose returns the environment to use: of an AnyOf the first EXTERNAL one, else the first whose program is on this machine;
// or the given one.
func choose(id string, env *pipepb.Environment) (*pipepb.Environment, error) {
	if env.GetUrn() != urnAnyOf {
		return env, nil
	}
	any := &pipepb.AnyOfEnvironmentPayload{}
	if err := proto.Unmarshal(env.GetPayload(), any); err != nil {
		return nil, fmt.Errorf("read the payload of environment %q (%s): %w", id, urnAnyOf, err)
	}
	var urns []string
	for _, usable := range []func(*pipepb.Environment) bool{isExternal, isInstalled} {
		urns = nil
		for _, e := range any.GetEnvironments() {
			if usable(e) {
				return completed(e, env), nil
			}
			urns = append(urns, e.GetUrn())
		}
	}
	return nil, fmt.Errorf("environment %q offers %v, none of which can run here: %s", id, urns, useOther)
}

func isExternal(e *pipepb.Environment) bool { return e.GetUrn() == urnExternal }

// isInstalled reports whether this machine has the program that starts a harness.
func isInstalled(e *pipepb.Environment) bool {
	var command string
	switch e.GetUrn() {
	case urnProcess:
		p := &pipepb.ProcessPayload{}
		if proto.Unmarshal(e.GetPayload(), p) != nil {
			return false
		}
		command = p.GetCommand()
	case urnDocker:
		command = "docker"
	}
	_, err := exec.LookPath(command)
	return err == nil
}

// completed returns e with the capabilities and dependencies of the AnyOf that it is part of, unless it has its own.
func completed(e, outer *pipepb.Environment) *pipepb.Environment {
	e = proto.CloneOf(e)
	if len(e.GetCapabilities()) == 0 {
		e.Capabilities = outer.GetCapabilities()
	}
	if len(e.GetDependencies()) == 0 {
		e.Dependencies = outer.GetDependencies()
	}
	return e
}

// newLauncher returns the launcher of an environment, or an error that says what to use instead.
func newLauncher(id string, env *pipepb.Environment, endpoint string, log *slog.Logger) (launcher, error) {
	switch env.GetUrn() {
	case urnExternal:
		return newExternal(id, env, endpoint)
	case urnDocker:
		return newDocker(id, env, endpoint, log)
	case urnProcess:
		return newProcess(id, env, endpoint, log)
	default:
		return nil, fmt.Errorf("environment %q is of unknown type %q: %s", id, env.GetUrn(), useOther)
	}
}

// external starts harnesses through a BeamFnExternalWorkerPool. LOOPBACK is the same: there the pool is the process that
// submitted the job.
type external struct {
	pool     string // host:port
	params   map[string]string
	endpoint string // of our worker port
	conn     *grpc.ClientConn
	client   fnpb.BeamFnExternalWorkerPoolClient
}

func newExternal(id string, env *pipepb.Environment, endpoint string) (*external, error) {
	p := &pipepb.ExternalPayload{}
	if err := proto.Unmarshal(env.GetPayload(), p); err != nil {
		return nil, fmt.Errorf("read the payload of environment %q (%s): %w", id, urnExternal, err)
	}
	url := p.GetEndpoint().GetUrl()
	if url == "" {
		return nil, fmt.Errorf("environment %q is EXTERNAL but names no worker pool: submit with --environment_config=HOST:PORT", id)
	}
	conn, err := grpc.NewClient(url,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("environment %q: worker pool %q: %w", id, url, err)
	}
	return &external{
		pool:     url,
		params:   p.GetParams(),
		endpoint: endpoint,
		conn:     conn,
		client:   fnpb.NewBeamFnExternalWorkerPoolClient(conn),
	}, nil
}

func (x *external) start(ctx context.Context, worker string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	api := &pipepb.ApiServiceDescriptor{Url: x.endpoint}
	resp, err := x.client.StartWorker(ctx, &fnpb.StartWorkerRequest{
		WorkerId:          worker,
		ControlEndpoint:   api,
		LoggingEndpoint:   api,
		ArtifactEndpoint:  api,
		ProvisionEndpoint: api,
		Params:            x.params,
	})
	if err != nil {
		return fmt.Errorf("ask the worker pool: %s", status.Convert(err).Message())
	}
	if resp.GetError() != "" {
		return fmt.Errorf("the worker pool refused: %s", resp.GetError())
	}
	return nil
}

func (x *external) stop(ctx context.Context, worker string) error {
	resp, err := x.client.StopWorker(ctx, &fnpb.StopWorkerRequest{WorkerId: worker})
	if err != nil {
		return err
	}
	if resp.GetError() != "" {
		return errors.New(resp.GetError())
	}
	return nil
}

func (x *external) String() string { return "EXTERNAL at " + x.pool }

func (x *external) remedy() string {
	return "start a worker pool there (python -m apache_beam.runners.worker.worker_pool_main --service_port=PORT), or submit with --environment_type=LOOPBACK"
}

func (x *external) close() error { return x.conn.Close() }

package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"

	"github.com/tinyrunner/tinyrunner/benchmarks/recovery/newest"
	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/fnapi"
	"github.com/tinyrunner/tinyrunner/engine/tiny"
)

// submit runs the job with its functions linked into this process, or in harnesses. Linked in, they fill the state, which takes a
// harness ten minutes.
func (c *child) submit(ctx context.Context, cluster *tiny.Cluster, log *slog.Logger) (*engine.Job, error) {
	if c.o.harness == "" || c.o.child == "fill" {
		return cluster.Submit(ctx, newest.Pipeline(), "recovery")
	}
	address, err := startPool(ctx, c.o.harness)
	if err != nil {
		return nil, fmt.Errorf("start pool of harnesses: %w", err)
	}
	pb, err := portable(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("translate pipeline: %w", err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := fnapi.NewServer(fnapi.Config{Endpoint: lis.Addr().String(), Logger: log})
	g := grpc.NewServer(fnapi.ServerOptions()...)
	server.Register(g)
	go g.Serve(lis) //nolint:errcheck // it ends with the process
	open := func(ctx context.Context, id string, env *pipepb.Environment) (engine.Workers, error) {
		e, err := server.Open(ctx, fnapi.EnvironmentConfig{ID: id, Job: "recovery", Proto: env})
		return workers{e}, err
	}
	return cluster.Cluster.Submit(engine.JobSpec{ID: "recovery", Name: "recovery", Pipeline: pb, Open: open})
}

// startPool starts the binary of ./benchmarks/recovery/job, which ends with this process, and gives its address.
func startPool(ctx context.Context, binary string) (string, error) {
	cmd := exec.CommandContext(ctx, binary)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if _, err := cmd.StdinPipe(); err != nil {
		return "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	return strings.TrimSpace(line), err
}

// portable is the pipeline with an environment of harnesses that are had from address.
func portable(ctx context.Context, address string) (*pipepb.Pipeline, error) {
	edges, _, err := newest.Pipeline().Build()
	if err != nil {
		return nil, err
	}
	env, err := graphx.CreateEnvironment(ctx, graphx.URNEnvExternal, func(context.Context) string { return address })
	if err != nil {
		return nil, err
	}
	env.Dependencies = nil // the program is there
	return graphx.Marshal(edges, &graphx.Options{Environment: env})
}

// workers are an environment's harnesses as the engine sees them.
type workers struct{ *fnapi.Environment }

func (w workers) Worker(ctx context.Context, slot int) (engine.Worker, error) {
	return w.Environment.Worker(ctx, slot)
}

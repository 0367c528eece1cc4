// Package goharness runs the workers' suite against fnapi, with the harness of the Go SDK at the other end.
package goharness

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal/extworker"
	"google.golang.org/grpc"

	"github.com/tinyrunner/tinyrunner/engine/bundle/bundletest"
	"github.com/tinyrunner/tinyrunner/engine/fnapi"
)

func TestMain(m *testing.M) {
	beam.Init()
	m.Run()
}

// TestWorker runs the workers' suite against a harness of the Go SDK, over gRPC, in this process.
func TestWorker(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := fnapi.NewServer(fnapi.Config{Endpoint: lis.Addr().String(), Logger: slog.New(slog.DiscardHandler), WorkerWait: 20 * time.Second})
	g := grpc.NewServer(fnapi.ServerOptions()...)
	server.Register(g)
	go g.Serve(lis)
	t.Cleanup(g.Stop)

	pool, err := extworker.StartLoopback(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pool.Stop(context.Background()) })

	bundletest.Run(t, func(t *testing.T) bundletest.Worker {
		env, err := graphx.CreateEnvironment(t.Context(), graphx.URNEnvExternal, pool.EnvironmentConfig)
		if err != nil {
			t.Fatal(err)
		}
		env.Dependencies = nil
		workers, err := server.Open(context.Background(), fnapi.EnvironmentConfig{ID: "go", Job: t.Name(), Proto: env})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { workers.Close() })
		w, err := workers.Worker(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return w
	})
}

package tiny

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/goexec"
)

// EnvironmentURN says that an environment's functions are Go functions linked into the running program.
const EnvironmentURN = "tinyrunner:env:linked_in_go:v1"

// Marshal makes the portable form of a pipeline whose functions are linked into this program.
func Marshal(ctx context.Context, p *beam.Pipeline) (*pipepb.Pipeline, error) {
	edges, _, err := p.Build()
	if err != nil {
		return nil, fmt.Errorf("build pipeline: %w", err)
	}
	env, err := graphx.CreateEnvironment(ctx, EnvironmentURN, func(context.Context) string { return "" })
	if err != nil {
		return nil, fmt.Errorf("create environment: %w", err)
	}
	env.Dependencies = nil // the worker binary that other runners stage
	pb, err := graphx.Marshal(edges, &graphx.Options{Environment: env, PipelineResourceHints: jobopts.GetPipelineResourceHints()})
	if err != nil {
		return nil, fmt.Errorf("marshal pipeline: %w", err)
	}
	return pb, nil
}

// Open returns the opener of environments whose functions are linked into this program. Others it refuses.
func Open(log *slog.Logger) engine.OpenEnvironment {
	return func(_ context.Context, id string, env *pipepb.Environment) (engine.Workers, error) {
		if env.GetUrn() != EnvironmentURN {
			return nil, fmt.Errorf("open environment %s: its functions (%s) are not linked into this program: "+
				"run the pipeline against a server (tinyrunner serve)", id, env.GetUrn())
		}
		return workers{goexec.New(goexec.Config{ID: "go", Logger: log})}, nil
	}
}

// workers gives every slot the one worker.
type workers struct {
	worker *goexec.Worker
}

func (w workers) Worker(context.Context, int) (engine.Worker, error) { return w.worker, nil }

func (w workers) Close() error { return w.worker.Close() }

var (
	_ engine.Workers = workers{}
	_ engine.Worker  = (*goexec.Worker)(nil)
)

package main

import (
	"cmp"
	"context"
	"iter"
	"log/slog"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/fnapi"
	"github.com/tinyrunner/tinyrunner/engine/jobapi"
	"github.com/tinyrunner/tinyrunner/engine/kafka"
	"github.com/tinyrunner/tinyrunner/engine/native"
	"github.com/tinyrunner/tinyrunner/engine/plan"
	"github.com/tinyrunner/tinyrunner/web"
)

// sources and sinks are the transforms that the runner has itself.
func sources() map[string]native.SourceFactory {
	return map[string]native.SourceFactory{kafka.ReadURN: kafka.OpenSource}
}

func sinks() map[string]native.SinkFactory {
	return map[string]native.SinkFactory{kafka.WriteURN: kafka.OpenSink}
}

// nativeKind tells the planner of them.
func nativeKind(urn string) (plan.Kind, bool) {
	if _, ok := sources()[urn]; ok {
		return plan.Source, true
	}
	_, ok := sinks()[urn]
	return plan.Sink, ok
}

// jobEngine is the cluster as package jobapi sees it.
type jobEngine struct {
	cluster  *engine.Cluster
	workers  *fnapi.Server
	settings *settings
	log      *slog.Logger
}

var _ jobapi.Engine = jobEngine{}

func (e jobEngine) Check(p *pipepb.Pipeline) error { return e.cluster.Check(p) }

func (e jobEngine) Submit(spec jobapi.Spec) (jobapi.Job, error) {
	var files []checkpoint.JobFile
	for _, local := range spec.Artifacts.Files() {
		files = append(files, checkpoint.JobFile{Role: checkpoint.RoleArtifact, Path: artifactPath(local), Local: local})
	}
	j, err := e.cluster.Submit(engine.JobSpec{
		ID: spec.ID, Name: cmp.Or(e.settings.jobName, spec.Name), Pipeline: spec.Pipeline, Options: spec.Raw,
		Draining: spec.Options.Draining(), Files: files, Open: e.opener(spec),
		Savepoint: e.settings.savepoint, AllowNonRestored: e.settings.allowNonRestored,
	})
	if err != nil {
		return nil, err
	}
	return job{j}, nil
}

// opener starts the harnesses of a job's environments.
func (e jobEngine) opener(spec jobapi.Spec) engine.OpenEnvironment {
	return func(ctx context.Context, id string, env *pipepb.Environment) (engine.Workers, error) {
		h, err := e.workers.Open(ctx, fnapi.EnvironmentConfig{
			ID: id, Job: spec.ID, Proto: env, Options: spec.Raw, Parallelism: spec.Options.Harnesses,
			Artifacts: spec.Artifacts, Logger: e.log,
		})
		if err != nil {
			return nil, err
		}
		return harnesses{h}, nil
	}
}

func (e jobEngine) Job(id string) (jobapi.Job, bool) {
	j, ok := e.cluster.Job(id)
	return job{j}, ok
}

func (e jobEngine) Jobs() []jobapi.Job {
	var out []jobapi.Job
	for _, j := range e.cluster.Jobs() {
		out = append(out, job{j})
	}
	return out
}

// harnesses are an environment's workers as the engine sees them.
type harnesses struct{ *fnapi.Environment }

func (h harnesses) Worker(ctx context.Context, slot int) (engine.Worker, error) {
	w, err := h.Environment.Worker(ctx, slot)
	if err != nil {
		return nil, err // not a nil *fnapi.Worker in an interface
	}
	return w, nil
}

// job is a job as package jobapi sees it.
type job struct{ *engine.Job }

func (j job) Events(ctx context.Context) iter.Seq2[jobapi.Event, error] {
	return func(yield func(jobapi.Event, error) bool) {
		for e, err := range j.Job.Events(ctx) {
			out := jobapi.Event{Time: e.Time, State: e.State}
			if m := e.Message; m != nil {
				out.Message = &jobapi.Message{ID: m.ID, Importance: m.Importance, Text: m.Text}
			}
			if !yield(out, err) {
				return
			}
		}
	}
}

// webCluster is the cluster as package web sees it.
type webCluster struct {
	cluster        *engine.Cluster
	pool           *flow.Pool
	maxParallelism int
}

var _ web.Cluster = webCluster{}

func (c webCluster) Slots() int { return c.cluster.Slots() }

func (c webCluster) Pool() web.Pool {
	return web.Pool{Limit: c.pool.Limit(), Used: c.pool.Used(), Spilled: c.pool.Spilled()}
}

func (c webCluster) Jobs() []web.Job {
	var out []web.Job
	for _, j := range c.cluster.Jobs() {
		w := web.Job{
			ID: j.ID(), Name: j.Name(), MaxParallelism: c.maxParallelism, Streaming: unbounded(j.Plan()), Changes: changes(j),
		}
		inputs := stageInputs(j.Plan())
		for _, s := range j.Overview().Stages {
			w.Stages = append(w.Stages, web.Stage{
				Name: s.Name, Inputs: inputs[s.Name],
				Finished:   s.OutputWatermark >= coder.MaxTimestamp && s.QueuedElements == 0 && s.RunningBundles == 0,
				ElementsIn: s.ElementsIn, BytesIn: s.BytesIn, ElementsOut: s.ElementsOut, BytesOut: s.BytesOut,
				Busy: s.Busy, QueuedElements: s.QueuedElements, Active: s.RunningBundles,
			})
		}
		out = append(out, w)
	}
	return out
}

// changes returns the states a job went through so far.
func changes(j *engine.Job) []web.Change {
	past, cancel := context.WithCancel(context.Background())
	cancel() // what has happened, without waiting for more
	out := []web.Change{{State: jobpb.JobState_STARTING, At: j.Created()}}
	for e, err := range j.Events(past) {
		if err == nil && e.Message == nil && e.State != jobpb.JobState_STARTING {
			out = append(out, web.Change{State: e.State, At: e.Time})
		}
	}
	return out
}

func unbounded(p *plan.Plan) bool {
	for _, c := range p.Collections {
		if !c.Bounded {
			return true
		}
	}
	return false
}

// stageInputs finds, by name, the stages that feed each stage.
func stageInputs(p *plan.Plan) map[string][]web.Input {
	out := make(map[string][]web.Input)
	for _, s := range p.Stages {
		c := p.Collections[s.Input]
		if c == nil {
			continue
		}
		for _, i := range c.Producers {
			out[s.Name] = append(out[s.Name], web.Input{Stage: p.Stages[i].Name, Keyed: s.Keyed})
		}
	}
	return out
}

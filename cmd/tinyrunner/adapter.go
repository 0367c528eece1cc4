package main

import (
	"cmp"
	"context"
	"iter"
	"log/slog"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/fnapi"
	"github.com/tinyrunner/tinyrunner/engine/jobapi"
	"github.com/tinyrunner/tinyrunner/engine/kafka"
	"github.com/tinyrunner/tinyrunner/engine/kafka/expand"
	"github.com/tinyrunner/tinyrunner/engine/native"
	"github.com/tinyrunner/tinyrunner/engine/plan"
)

// sources and sinks are the transforms that the runner has itself.
func sources() map[string]native.SourceFactory {
	return map[string]native.SourceFactory{kafka.ReadURN: kafka.OpenSource}
}

func sinks() map[string]native.SinkFactory {
	return map[string]native.SinkFactory{kafka.WriteURN: kafka.OpenSink}
}

// expanders are the transforms of other SDKs that the runner has itself.
func expanders(log *slog.Logger) map[string]jobapi.Expander {
	out := make(map[string]jobapi.Expander)
	for urn, e := range expand.Expanders(log) {
		out[urn] = e
	}
	return out
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
	name := cmp.Or(e.settings.jobName, spec.Name)
	if err := e.checkRestore(spec.Options.Savepoint, name); err != nil {
		return nil, err
	}
	var files []checkpoint.JobFile
	for _, local := range spec.Artifacts.Files() {
		files = append(files, checkpoint.JobFile{Role: checkpoint.RoleArtifact, Path: artifactPath(local), Local: local})
	}
	j, err := e.cluster.Submit(engine.JobSpec{
		ID: spec.ID, Name: name, Pipeline: spec.Pipeline, Options: spec.Raw,
		Draining: spec.Options.Draining(), Files: files, Open: e.opener(spec),
		Savepoint:        cmp.Or(spec.Options.Savepoint, e.settings.savepoint),
		AllowNonRestored: spec.Options.AllowNonRestored || e.settings.allowNonRestored,
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

package main

import (
	"context"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/plan"
	"github.com/tinyrunner/tinyrunner/web"
)

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

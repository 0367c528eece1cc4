package engine_test

import (
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/protobuf/proto"
)

// A job that has ended is remembered without what it was made of, but still answers what clients ask.
func TestEndedJobIsOutlined(t *testing.T) {
	r := newRig(t, calm())
	entered, goOn := make(chan bool, 100), make(chan bool)
	gate := newGate(t, func(string, int64) bool { entered <- true; <-goOn; return true })
	submitted := numbers(t, 2, gate)
	want := proto.CloneOf(submitted)
	job := r.submit(t, "job", submitted, goOnly(), false)
	<-entered
	running := job.Plan()
	close(goOn)
	wantState(t, job, jobpb.JobState_DONE)

	outline := job.Plan()
	if outline.Pipeline != nil || len(outline.Stages) != len(running.Stages) {
		t.Errorf("the plan of the ended job has %d stages, want %d, and a pipeline: %t, want none",
			len(outline.Stages), len(running.Stages), outline.Pipeline != nil)
	}
	for i, s := range outline.Stages {
		if was := running.Stages[i]; s.Name != was.Name || s.Kind != was.Kind || len(s.Transforms) != len(was.Transforms) || s.Program != nil {
			t.Errorf("stage %d of the ended job is %+v, was %+v", i, s, was)
		}
		for _, id := range s.Transforms {
			if got, was := outline.TransformName(id), running.TransformName(id); got != was || got == id {
				t.Errorf("transform %s of the ended job is called %q, was %q", id, got, was)
			}
		}
	}
	if !proto.Equal(job.Pipeline(), want) {
		t.Error("GetPipeline of the ended job is not what was submitted")
	}
	attempted, committed := job.Metrics()
	if len(attempted) == 0 || len(committed) == 0 {
		t.Errorf("the ended job has %d attempted and %d committed metrics", len(attempted), len(committed))
	}
	r.close(t)
}

package engine_test

import (
	"strings"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// TestCheckpointSizes: a checkpoint tells of the state of each stage and of what was on its way to it.
func TestCheckpointSizes(t *testing.T) {
	l := counted(20000, 2, 3000)
	l.open = true
	w := newWorld(t, l, 1)
	defer w.close()
	life := slowLife()
	life.Batch, life.Elements = 100, 50
	p := startProcess(t, w, life)
	job := begin(t, p, specOf(twoWays(t), goOnly()))
	if !until(func() bool { return job.Overview().Stages[0].ElementsOut > 4000 }) {
		t.Error("nothing comes")
	}
	makeCheckpoint(t, job, "")
	c := job.Checkpoints().History[0]
	stages := job.Overview().Stages
	if len(c.Stages) != len(stages) {
		t.Fatalf("%d stages, want %d: %+v", len(c.Stages), len(stages), c)
	}
	state, inFlight := int64(0), int64(0)
	for k, s := range c.Stages {
		if s.Name != stages[k].Name {
			t.Errorf("stage %d is %q, want %q", k, s.Name, stages[k].Name)
		}
		inFlight += s.InFlight
		state += s.State
		if keeps := strings.Contains(s.Name, "ticker") || strings.Contains(s.Name, "log"); keeps != (s.State > 0) && !strings.Contains(s.Name, "GBK") {
			t.Errorf("state of %s: %d bytes", s.Name, s.State)
		}
		if n, err := job.StateSize(s.Name); n != s.State || err != nil { // not looked at again so soon
			t.Errorf("state of %s: %d bytes in the checkpoint, %d now: %v", s.Name, s.State, n, err)
		}
	}
	if state < 2000 || state > 10*c.Size || inFlight != c.InFlightBytes || c.InFlight > 0 != (c.InFlightBytes > 0) {
		t.Errorf("%d bytes of state; %d of %d bytes in flight: %+v", state, inFlight, c.InFlightBytes, c)
	}
	job.Cancel()
	wantEnd(t, job, jobpb.JobState_CANCELLED)
	p.end(t)
}

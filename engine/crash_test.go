package engine_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine"
)

var crashSeed = flag.Uint64("crash.seed", 0, "run only this seed of the crash tests")

// crashes is how the lives of a job end but for the last.
type crashes struct {
	rng  *rand.Rand
	left int
}

// next arranges the end of a process: after a while, or at one of its next calls to the world.
func (c *crashes) next(p *process) (due <-chan time.Time) {
	if c.left--; c.left < 0 {
		return nil
	}
	if c.rng.IntN(3) == 0 {
		return time.After(time.Duration(c.rng.IntN(60_000)) * time.Microsecond)
	}
	n := []int{3, 20, 100, 300}[c.rng.IntN(4)]
	p.g.blow(int64(1+c.rng.IntN(n)), c.rng.IntN(2) == 0)
	return time.After(200 * time.Millisecond)
}

// randomLife draws how the next process runs.
func randomLife(rng *rand.Rand, groups int) life {
	return life{
		conditions: conditions{
			Slots: 1 + rng.IntN(4), Groups: groups,
			Elements: []int{0, 1, 3}[rng.IntN(3)], Bytes: []int64{0, 1, 60}[rng.IntN(3)],
			Pool:   []int64{1, 64 << 10, 32 << 20}[rng.IntN(3)],
			Losses: []int{0, 0, 20}[rng.IntN(3)], Rate: 20, Seed: rng.Uint64(),
		},
		Interval: time.Duration(1+rng.IntN(20)) * time.Millisecond,
		Batch:    1 + rng.IntN(4),
		Delay:    time.Duration(rng.IntN(2000)) * time.Microsecond,
		Retain:   1 + rng.IntN(3),
	}
}

// Whatever crashes when: what was committed is what a run without crashes gives, each record once.
func TestExactlyOnceThroughCrashes(t *testing.T) {
	n := uint64(24)
	if testing.Short() {
		n = 6
	}
	from := uint64(1)
	if *crashSeed != 0 {
		from, n = *crashSeed, *crashSeed
	}
	for seed := from; seed <= n; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { crashRun(t, seed) })
	}
}

func crashRun(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 3))
	w := newWorld(t, counted(60+rng.IntN(150), 1+rng.IntN(5), 1+rng.IntN(8)), seed)
	defer w.close()
	groups := []int{4, 5, 128}[rng.IntN(3)]
	pb := twoWays(t)
	c := &crashes{rng: rng, left: rng.IntN(6)}
	crashed := false
	for lives := 1; ; lives++ {
		l := randomLife(rng, groups)
		p := startProcess(t, w, l)
		due := c.next(p)
		t.Logf("life %d: %+v", lives, l)
		if lastWords(t, p, pb, l.conditions, due) {
			break
		}
		p.crash(t)
		if crashed = w.ended(t); crashed {
			break // in the middle of clearing up, which the next job of the name does
		}
		if rng.IntN(2) == 0 {
			_ = os.RemoveAll(w.dir) // another machine
		}
	}
	checkTwoWays(t, w.broker, w.log)
	if left := w.garbage(t); len(left) > 0 && !crashed {
		t.Errorf("garbage in the store: %v", left)
	}
}

// lastWords runs a process to its end. true: the job is done.
func lastWords(t *testing.T, p *process, pb *pipepb.Pipeline, c conditions, due <-chan time.Time) (done bool) {
	t.Helper()
	job, err := p.run(t, specOf(pb, func(context.Context, string, *pipepb.Environment) (engine.Workers, error) { return newChaos(c), nil }))
	if err != nil {
		if !p.g.dead.Load() {
			t.Fatalf("run job: %v", err)
		}
		return false
	}
	timeout := time.After(patience)
	select {
	case <-job.Done():
	case <-due:
		p.g.crash()
		return false
	case <-timeout:
		t.Fatalf("job does not end: %+v", job.Overview())
	}
	if p.g.dead.Load() {
		return false
	}
	if st := job.State(); st != jobpb.JobState_DONE {
		t.Fatalf("job ended %v: %v", st, job.Err())
	}
	p.end(t)
	return true
}

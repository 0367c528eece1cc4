package engine_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
	"github.com/tinyrunner/tinyrunner/engine"
)

// faults makes one call of the store or of the file system fail.
type faults struct {
	bucket *objstore.Faulty
	fsOn   atomic.Bool
	fsAt   atomic.Int64 // the call that fails; 0: none
	fsSeen atomic.Int64
	spared atomic.Int64 // calls that are not made to fail
	failed atomic.Value // string: the call that failed
}

// MaybeError implements errorfs.Injector.
func (f *faults) MaybeError(op errorfs.Op) error {
	if !f.fsOn.Load() {
		return nil
	}
	if spared(op) {
		f.spared.Add(1)
		return nil
	}
	if f.fsSeen.Add(1) == f.fsAt.Load() {
		f.failed.Store(fmt.Sprintf("op %d of %s", op.Kind, op.Path))
		return errorfs.ErrInjected
	}
	return nil
}

// spared: Pebble ends the process when it cannot write its list of files, and when its Open fails after it has begun to
// work it leaves goroutines behind, which may end the process too. Those are crashes, of which there are tests.
func spared(op errorfs.Op) bool {
	if op.Kind == errorfs.OpList || op.Kind == errorfs.OpOpenDir {
		return true
	}
	for _, name := range []string{"MANIFEST", "marker.", "temporary.", "OPTIONS", ".log"} {
		if strings.Contains(op.Path, name) && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return true
		}
	}
	return false
}

func (f *faults) String() string { return "faults" }

// laps is a job that goes from process to process, each with a restore and two checkpoints.
type laps struct {
	w    *world
	f    *faults
	spec engine.JobSpec
	next int
}

func newLaps(t *testing.T, pb *pipepb.Pipeline) *laps {
	log := counted(0, 2, 3)
	log.open = true
	l := &laps{w: newWorld(t, log, 1), f: &faults{}, spec: specOf(pb, goOnly())}
	l.f.bucket = objstore.NewFaulty(l.w.mem)
	l.w.bucket = l.f.bucket
	return l
}

// lap runs a process: it goes on with the job, makes a checkpoint, and suspends the job with another.
func (l *laps) lap(t *testing.T) error {
	for range 8 {
		key := l.next % 3
		l.w.log.appendTo(key%2, logRecord{Value: fmt.Sprintf("k%d=%d", key, l.next), TS: int64(4 * l.next)})
		l.next++
	}
	life := calmLife()
	life.Interval, life.Batch, life.Retain = time.Hour, 100, 1
	p := startProcess(t, l.w, life, func(cfg *engine.Config) {
		cfg.FS = errorfs.Wrap(lazyFS{vfs.Default}, l.f)
	})
	defer p.end(t)
	job, err := p.run(t, l.spec)
	if err != nil {
		return err
	}
	for job.State() == jobpb.JobState_STARTING {
		time.Sleep(100 * time.Microsecond)
	}
	for until := time.Now().Add(patience); l.behind(job) && job.State() == jobpb.JobState_RUNNING; time.Sleep(200 * time.Microsecond) {
		if time.Now().After(until) {
			t.Fatalf("the job does not read on: %+v", job.Overview())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := job.Checkpoint(ctx, ""); err != nil {
		return errors.Join(err, job.Err())
	}
	if err := job.Suspend(ctx); err != nil {
		return errors.Join(err, job.Err())
	}
	return nil
}

// behind: the source has not read all, or something is on its way.
func (l *laps) behind(job *engine.Job) bool {
	o := job.Overview()
	for _, s := range o.Stages {
		if strings.HasPrefix(s.Name, "copy") {
			return s.ElementsIn == 0
		}
	}
	return true
}

// run makes a lap, one with faults, and one more, and then lets the job end. It says how often a process had to be started anew.
func (l *laps) run(t *testing.T, arm, disarm func()) (restarts int) {
	t.Helper()
	if err := l.lap(t); err != nil {
		t.Fatalf("first lap: %v", err)
	}
	arm()
	for l.lap(t) != nil {
		if restarts++; restarts > 3 {
			t.Fatal("the job does not recover")
		}
	}
	disarm()
	if err := l.lap(t); err != nil {
		t.Fatalf("last lap: %v", err)
	}
	if left := l.w.garbage(t); len(left) > 0 {
		t.Fatalf("garbage in the store: %v", left)
	}
	l.w.log.close()
	finishIn(t, l.w, calmLife(), l.spec)
	checkTwoWays(t, l.w.broker, l.w.log)
	l.w.close()
	return restarts
}

var allFaults = flag.Bool("faults.all", false, "make each call fail, not only some")

// stride says that each n-th of so many calls is made to fail, so that it is about some; another one each day.
func stride(calls, some int) (first, n int) {
	if *allFaults {
		return 1, 1
	}
	n = max(1, calls/some)
	return 1 + time.Now().YearDay()%n, n
}

// Each single call of the store that fails, at each point of it, leaves a job that recovers and a store without garbage.
func TestEveryBucketCallFails(t *testing.T) {
	pb := twoWays(t)
	l := newLaps(t, pb)
	var calls []objstore.Call
	l.run(t, func() { l.f.bucket.Fail(0, 0, objstore.Before) }, func() { calls = l.f.bucket.Calls() })
	restarts := 0
	first, step := stride(len(calls), 5)
	for k := first; k <= len(calls); k += step {
		for _, p := range []objstore.Point{objstore.Before, objstore.Midway, objstore.After} {
			t.Run(fmt.Sprintf("%d %v", k, p), func(t *testing.T) {
				l := newLaps(t, pb)
				restarts += l.run(t, func() { l.f.bucket.Fail(k, k, p) }, func() { l.f.bucket.Fail(0, 0, p) })
			})
		}
	}
	t.Logf("%d calls of the store, each %d-th failed at 3 points; %d times the process had to be started anew", len(calls), step, restarts)
}

// The same with each single call of the file system of the state.
func TestEveryFileSystemCallFails(t *testing.T) {
	pb := twoWays(t)
	l := newLaps(t, pb)
	var calls int
	l.run(t, func() { l.f.fsOn.Store(true) }, func() {
		l.f.fsOn.Store(false)
		calls = int(l.f.fsSeen.Load())
	})
	restarts := 0
	first, step := stride(calls, 10)
	for k := first; k <= calls; k += step {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			l := newLaps(t, pb)
			defer func() {
				if t.Failed() {
					t.Logf("what failed: %v", l.f.failed.Load())
				}
			}()
			restarts += l.run(t, func() {
				l.f.fsAt.Store(int64(k))
				l.f.fsOn.Store(true)
			}, func() { l.f.fsOn.Store(false) })
		})
	}
	t.Logf("%d calls of the file system, each %d-th failed, besides %d that were spared; %d times the process had to be started anew",
		calls, step, l.f.spared.Load(), restarts)
}

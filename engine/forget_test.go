package engine_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/engine"
)

// TestForget: a streaming job that has failed keeps its checkpoints and its name until it is forgotten. Savepoints stay.
func TestForget(t *testing.T) {
	w := newWorld(t, counted(160, 2, 3), 1)
	defer w.close()
	loseTransaction(t, w)
	p := startProcess(t, w, calmLife())
	defer p.end(t)
	job, err := p.run(t, specOf(twoWays(t), goOnly()))
	if err != nil {
		t.Fatal(err)
	}
	wantEnd(t, job, jobpb.JobState_FAILED)
	if err := w.mem.Create(t.Context(), "savepoints/one/savepoint", strings.NewReader("somebody's"), 10); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(w.dir, "jobs", "job")
	if _, err := os.Stat(disk); err != nil {
		t.Fatalf("the failed job has nothing on disk: %v", err)
	}
	stored := one(t, p)
	if stored.Ended || stored.Newest == nil {
		t.Fatalf("the store has nothing to go on with: %+v", stored)
	}
	for range 2 {
		f, err := p.cluster.Forget(t.Context(), stored.Job, false)
		if err != nil {
			t.Fatal(err)
		}
		if now := one(t, p); !now.Ended || now.How != "forgotten" {
			t.Errorf("after it was forgotten, %+v: %+v", f, now)
		}
	}
	if left := w.listing("jobs/"); len(left) != 1 || len(w.listing("savepoints/")) != 1 {
		t.Errorf("there is %v", w.listing(""))
	}
	if _, err := os.Stat(disk); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files on disk: %v", err)
	}

	spec := specOf(twoWays(t), goOnly())
	spec.ID = "job-2"
	if job, err = p.cluster.Submit(spec); err != nil {
		t.Fatal(err)
	}
	var running *engine.RunningError
	if _, err := p.cluster.Forget(t.Context(), stored.Job, true); !errors.As(err, &running) {
		t.Errorf("a job that runs: %v", err)
	}
	wantEnd(t, job, jobpb.JobState_DONE)
	if n := job.Checkpoints().Counts.Restored; n != 0 {
		t.Errorf("the new job began with what was forgotten")
	}
}

// one is the only job in the store.
func one(t *testing.T, p *process) checkpoint.JobEntry {
	t.Helper()
	all, err := p.cluster.Stored(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("%d jobs in the store: %v", len(all), err)
	}
	return all[0]
}

// Package enginetest runs Beam Go pipelines in a test, in the test's own process, as net/http/httptest runs handlers:
//
//	func TestMain(m *testing.M) { beam.Init(); os.Exit(m.Run()) }
//
//	func TestCount(t *testing.T) {
//		p, s := beam.NewPipelineWithRoot()
//		passert.Equals(s, Count(s, beam.Create(s, "a", "b", "a")), ...)
//		enginetest.Run(t, p)
//	}
//
// Importing it also links the runner "tiny" in, so that tests which use Beam's ptest run with --runner=tiny.
package enginetest

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/tiny"
)

// Run runs the pipeline to its end and fails the test when the pipeline fails. The pipeline is cancelled shortly before the
// test's own deadline, so that a hanging one says so.
func Run(t testing.TB, p *beam.Pipeline, configure ...func(*engine.Config)) *tiny.Result {
	t.Helper()
	r, err := NewCluster(t, configure...).Run(p)
	if err != nil {
		t.Fatalf("pipeline: %v", err)
	}
	return r
}

// Cluster is a cluster that lives as long as the test: it is closed at the test's end and leaves no goroutine behind.
type Cluster struct {
	*tiny.Cluster

	t   testing.TB
	ctx context.Context
}

// NewCluster starts a cluster for the test, with two slots and a log that goes to the test's log.
func NewCluster(t testing.TB, configure ...func(*engine.Config)) *Cluster {
	t.Helper()
	made, err := tiny.NewCluster(tiny.Options{
		DataDir: t.TempDir(),
		Slots:   2,
		Logger:  slog.New(slog.NewTextHandler(testLog{t}, nil)),
		Engine: func(cfg *engine.Config) {
			for _, f := range configure {
				f(cfg)
			}
		},
	})
	if err != nil {
		t.Fatalf("create cluster: %v", err)
	}
	c := &Cluster{Cluster: made, t: t, ctx: deadline(t)}
	t.Cleanup(func() {
		if err := made.Cluster.Close(); err != nil {
			t.Errorf("close cluster: %v", err)
		}
		if used := made.Pool.Used(); used != 0 {
			t.Errorf("the cluster is closed, but blocks of %d bytes were not released", used)
		}
		if err := made.Close(); err != nil {
			t.Errorf("close cluster: %v", err)
		}
	})
	return c
}

// Run runs the pipeline to its end. The result is there whenever the job could be started.
func (c *Cluster) Run(p *beam.Pipeline) (*tiny.Result, error) {
	c.t.Helper()
	job, err := c.Submit(c.ctx, p, c.t.Name())
	if err != nil {
		return nil, err
	}
	return tiny.Wait(c.ctx, job)
}

// Start starts the pipeline and fails the test when it is refused. The cluster's end cancels it.
func (c *Cluster) Start(p *beam.Pipeline) *engine.Job {
	c.t.Helper()
	job, err := c.Submit(c.ctx, p, c.t.Name())
	if err != nil {
		c.t.Fatalf("start pipeline: %v", err)
	}
	return job
}

// WaitState waits until the job is in the state, and fails the test when it ends in another or the test's time is over.
func (c *Cluster) WaitState(job *engine.Job, want jobpb.JobState_Enum) {
	c.t.Helper()
	for e, err := range job.Events(c.ctx) {
		if err != nil {
			c.t.Fatalf("job %s: waiting for %s: %v", job.ID(), want, err)
		}
		if e.Message == nil && e.State == want {
			return
		}
	}
	c.t.Fatalf("job %s: waiting for %s: it ended %s: %v", job.ID(), want, job.State(), job.Err())
}

// deadline is the test's context, ended a little before the test is killed.
func deadline(t testing.TB) context.Context {
	ctx := t.Context()
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if end, ok := d.Deadline(); ok {
			c, cancel := context.WithDeadline(ctx, end.Add(-time.Second))
			t.Cleanup(cancel)
			return c
		}
	}
	return ctx
}

// testLog writes lines to a test's log.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

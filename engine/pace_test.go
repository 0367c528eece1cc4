package engine_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tinyrunner/tinyrunner/engine"
)

func init() { register.DoFn1x1[string, string](&slow{}) }

var longestBundle atomic.Int64 // elements

// slow takes its time, and counts the elements of its bundles.
type slow struct{ n int64 }

func (f *slow) StartBundle() { f.n = 0 }

func (f *slow) ProcessElement(s string) string {
	time.Sleep(100 * time.Microsecond)
	if f.n++; f.n > longestBundle.Load() {
		longestBundle.Store(f.n)
	}
	return s
}

// Bundles of a stream end when MaxBundleTime is over, however much is queued.
func TestBundlesOfSlowFunctionsAreShort(t *testing.T) {
	longestBundle.Store(0)
	l := counted(3000, 1, 10)
	w := newWorld(t, l, 1)
	defer w.close()
	c := calmLife()
	c.Batch, c.Delay = 3000, 0
	p := startProcess(t, w, c, func(cfg *engine.Config) { cfg.MaxBundleTime = 10 * time.Millisecond })
	defer p.end(t)
	pipeline, s := beam.NewPipelineWithRoot()
	exactly(s, "slow", beam.ParDo(s, &slow{}, readLog(s, false)))
	j, err := p.run(t, engine.JobSpec{ID: "slow", Name: "slow", Pipeline: marshal(t, pipeline), Open: goOnly()})
	if err != nil {
		t.Fatal(err)
	}
	<-j.Done()
	if j.Err() != nil {
		t.Fatal(j.Err())
	}
	if n := len(w.broker.values("slow")); n != 3000 {
		t.Errorf("%d records", n)
	}
	if n := longestBundle.Load(); n > 256 {
		t.Errorf("a bundle has %d elements", n)
	}
}

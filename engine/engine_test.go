package engine_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"go.uber.org/goleak"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/goexec"
)

func TestMain(m *testing.M) {
	register.Function2x0(emitNumbers)
	register.Function1x2(byParity)
	register.Function3x0(sumUp)
	register.Function2x1(checkSide)
	register.Function1x1(collect)
	register.Emitter1[int64]()
	register.Iter1[int64]()
	register.Emitter2[beam.EventTime, int64]()
	register.Function2x0(emitTimed)
	register.Function2x1(formatSum)
	register.Function3x0(moveBack)
	register.Emitter1[string]()
	beam.Init()
	goleak.VerifyTestMain(m)
}

func emitNumbers(_ []byte, emit func(int64)) {
	for i := range int64(1000) {
		emit(i)
	}
}

func emitTimed(_ []byte, emit func(beam.EventTime, int64)) {
	for i := range int64(100) {
		emit(beam.EventTime(i*100), i)
	}
}

func moveBack(_ int64, vs func(*int64) bool, emit func(beam.EventTime, int64)) {
	var v int64
	for vs(&v) {
		emit(beam.EventTime(v), v)
	}
}

func byParity(n int64) (int64, int64) { return n % 2, n }

func sumUp(k int64, vs func(*int64) bool, emit func(string)) {
	var sum, v int64
	for vs(&v) {
		sum += v
	}
	emit(fmt.Sprintf("%d:%d", k, sum))
}

func checkSide(s string, side []int64) string { return fmt.Sprintf("%s/%d", s, len(side)) }

func formatSum(k, v int64) string { return fmt.Sprintf("%d:%d", k, v) }

var (
	collected   = map[string][]string{}
	collectedMu sync.Mutex
)

func collect(s string) string {
	collectedMu.Lock()
	defer collectedMu.Unlock()
	test, v, _ := strings.Cut(s, "|")
	collected[test] = append(collected[test], v)
	return s
}

// tag makes collect put the strings under a test's name.
type tag struct{ Name string }

func (t *tag) ProcessElement(s string) string { return t.Name + "|" + s }

func init() { register.DoFn1x1[string, string]((*tag)(nil)) }

type goWorkers struct{ w *goexec.Worker }

func (g goWorkers) Worker(context.Context, int) (engine.Worker, error) { return g.w, nil }
func (g goWorkers) Close() error                                       { return g.w.Close() }

func newCluster(t *testing.T) *engine.Cluster {
	t.Helper()
	pool, err := flow.NewPool(32<<20, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	c, err := engine.New(engine.Config{DataDir: t.TempDir(), Pool: pool, Slots: 2, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if used := pool.Used(); used != 0 {
			t.Errorf("%d bytes of the pool are still in use", used)
		}
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func toProto(t *testing.T, p *beam.Pipeline) *pipepb.Pipeline {
	t.Helper()
	edges, _, err := p.Build()
	if err != nil {
		t.Fatal(err)
	}
	env, err := graphx.CreateEnvironment(context.Background(), "beam:env:embedded:v1", func(context.Context) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	pb, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		t.Fatal(err)
	}
	return pb
}

// run executes a pipeline and returns what collect saw of it, sorted.
func run(t *testing.T, build func(beam.Scope) beam.PCollection) []string {
	t.Helper()
	p, s := beam.NewPipelineWithRoot()
	out := build(s)
	out = beam.ParDo(s, &tag{t.Name()}, out)
	beam.ParDo(s, collect, out)
	job, err := newCluster(t).Submit(engine.JobSpec{
		ID: "job", Name: t.Name(), Pipeline: toProto(t, p),
		Open: func(context.Context, string, *pipepb.Environment) (engine.Workers, error) {
			return goWorkers{goexec.New(goexec.Config{})}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	st, err := job.Wait(ctx)
	if err != nil || st != jobpb.JobState_DONE {
		t.Fatalf("job ended %v: %v\n%+v\n%s", st, err, job.Overview(), job.Plan())
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("%+v", job.Overview())
	}
	collectedMu.Lock()
	defer collectedMu.Unlock()
	got := collected[t.Name()]
	delete(collected, t.Name())
	sort.Strings(got)
	return got
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestGroupByKey(t *testing.T) {
	got := run(t, func(s beam.Scope) beam.PCollection {
		n := beam.ParDo(s, emitNumbers, beam.Impulse(s))
		return beam.ParDo(s, sumUp, beam.GroupByKey(s, beam.ParDo(s, byParity, n)))
	})
	want(t, got, "0:249500", "1:250000")
}

func TestFixedWindows(t *testing.T) {
	got := run(t, func(s beam.Scope) beam.PCollection {
		n := beam.ParDo(s, emitTimed, beam.Impulse(s))
		n = beam.WindowInto(s, window.NewFixedWindows(5*time.Second), n)
		return beam.ParDo(s, sumUp, beam.GroupByKey(s, beam.ParDo(s, byParity, n)))
	})
	want(t, got, "0:1850", "0:600", "1:1875", "1:625")
}

// A bounded input loses nothing, even when user code moves timestamps behind the watermark.
func TestTimestampsMovedBack(t *testing.T) {
	got := run(t, func(s beam.Scope) beam.PCollection {
		n := beam.ParDo(s, emitNumbers, beam.Impulse(s))
		late := beam.ParDo(s, moveBack, beam.GroupByKey(s, beam.ParDo(s, byParity, n)))
		late = beam.WindowInto(s, window.NewFixedWindows(500*time.Millisecond), late)
		return beam.ParDo(s, sumUp, beam.GroupByKey(s, beam.ParDo(s, byParity, late)))
	})
	want(t, got, "0:187250", "0:62250", "1:187500", "1:62500")
}

func TestSessions(t *testing.T) {
	got := run(t, func(s beam.Scope) beam.PCollection {
		n := beam.ParDo(s, emitTimed, beam.Impulse(s))
		n = beam.WindowInto(s, window.NewSessions(time.Second), n)
		return beam.ParDo(s, sumUp, beam.GroupByKey(s, beam.ParDo(s, byParity, n)))
	})
	want(t, got, "0:2450", "1:2500")
}

func TestCombine(t *testing.T) {
	got := run(t, func(s beam.Scope) beam.PCollection {
		n := beam.ParDo(s, emitNumbers, beam.Impulse(s))
		sums := stats.SumPerKey(s, beam.ParDo(s, byParity, n))
		return beam.ParDo(s, formatSum, sums)
	})
	want(t, got, "0:249500", "1:250000")
}

func TestSideInputAndFlatten(t *testing.T) {
	got := run(t, func(s beam.Scope) beam.PCollection {
		n := beam.ParDo(s, emitNumbers, beam.Impulse(s))
		m := beam.ParDo(s, emitTimed, beam.Impulse(s))
		side := beam.Flatten(s, n, m)
		sums := beam.ParDo(s, sumUp, beam.GroupByKey(s, beam.ParDo(s, byParity, n)))
		return beam.ParDo(s, checkSide, sums, beam.SideInput{Input: side})
	})
	want(t, got, "0:249500/1100", "1:250000/1100")
}

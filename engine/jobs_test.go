package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/typex"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/reflectx"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/goexec"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// numbers is a pipeline whose DoFn sees the keys a and b with the numbers up to n, and what it emits goes to the sink.
func numbers(t *testing.T, n int64, dofn any) *pipepb.Pipeline {
	t.Helper()
	p, s := beam.NewPipelineWithRoot()
	f := &origin{}
	for i := range n {
		f.Elems = append(f.Elems, datum{K: string('a' + rune(i%2)), V: i, TS: i})
	}
	col := beam.Reshuffle(s, beam.ParDo(s, f, beam.Impulse(s)))
	sink(s, "sink", beam.ParDo(s, &tally{}, beam.ParDo(s, dofn, col)))
	return marshal(t, p)
}

func upTo(n int64) []string {
	var s []string
	for i := range n {
		s = append(s, strconv.FormatInt(i, 10))
	}
	return s
}

func wantState(t *testing.T, job *engine.Job, want jobpb.JobState_Enum) {
	t.Helper()
	if st, err := end(t, job); st != want {
		t.Errorf("job %s ended %v, want %v: %v", job.ID(), st, want, err)
	}
}

func TestCancelWhileBundlesRun(t *testing.T) {
	c := calm()
	c.Slots, c.Elements, c.Pool = 2, 1, 64<<10
	r := newRig(t, c)
	entered := make(chan bool, 100)
	newGate(t, func(string, int64) bool { entered <- true; return true })
	job := r.submit(t, "job", numbers(t, 20, &blocker{t.Name()}), goOnly(), false)
	<-entered
	<-entered
	job.Cancel()
	wantState(t, job, jobpb.JobState_CANCELLED)
	if err := job.Err(); err != nil {
		t.Errorf("Err: %v, want none of a cancelled job", err)
	}
	r.idle(t)
	job.Cancel() // once more: nothing happens
	if err := job.Drain(); err == nil {
		t.Error("an ended job can be drained")
	}
	r.close(t)
}

// What a job is doing may be asked at any time, also while it ends with elements on their way.
func TestOverviewWhileJobEnds(t *testing.T) {
	c := calm()
	c.Slots, c.Elements, c.Pool = 2, 1, 64<<10
	r := newRig(t, c)
	for i := range 5 {
		entered := make(chan bool, 100)
		newGate(t, func(string, int64) bool { entered <- true; return true })
		job := r.submit(t, fmt.Sprint("job", i), numbers(t, 20, &blocker{t.Name()}), goOnly(), false)
		<-entered
		done := make(chan struct{})
		go func() {
			defer close(done)
			for job.State() != jobpb.JobState_CANCELLED {
				job.Overview()
			}
		}()
		job.Cancel()
		wantState(t, job, jobpb.JobState_CANCELLED)
		<-done
	}
	r.close(t)
}

// absent has no workers, ever.
type absent struct{ asked chan bool }

func (w absent) Worker(ctx context.Context, _ int) (engine.Worker, error) {
	w.asked <- true
	<-ctx.Done()
	return nil, fmt.Errorf("wait for worker: %w", context.Cause(ctx))
}

func (w absent) Close() error { return nil }

func TestCancelWhileWaitingForWorker(t *testing.T) {
	r := newRig(t, calm())
	w := absent{make(chan bool, 100)}
	job := r.submit(t, "job", numbers(t, 20, &mapper{}), workersOf(w), false)
	<-w.asked
	job.Cancel()
	wantState(t, job, jobpb.JobState_CANCELLED)
	r.close(t)
}

// The cluster's end is the end of its jobs.
func TestCloseWhileBundlesRun(t *testing.T) {
	r := newRig(t, calm())
	entered := make(chan bool, 100)
	newGate(t, func(string, int64) bool { entered <- true; return true })
	job := r.submit(t, "job", numbers(t, 20, &blocker{t.Name()}), goOnly(), false)
	<-entered
	r.close(t)
	wantState(t, job, jobpb.JobState_CANCELLED)
	if _, err := r.cluster.Submit(engine.JobSpec{ID: "next", Pipeline: job.Pipeline(), Open: goOnly()}); err == nil {
		t.Error("a closed cluster takes a job")
	}
}

func TestFailingDoFn(t *testing.T) {
	c := calm()
	c.Slots, c.Elements, c.Pool = 2, 3, 1
	r := newRig(t, c)
	p, s := beam.NewPipelineWithRoot()
	f := &origin{}
	for i := range int64(50) {
		f.Elems = append(f.Elems, datum{K: "k" + strconv.FormatInt(i, 10), V: i, TS: i})
	}
	col := beam.Reshuffle(s, beam.ParDo(s, f, beam.Impulse(s)))
	beam.ParDo0(s, &failing{"the disk of the user is full"}, col)
	failed := r.submit(t, "failing", marshal(t, p), goOnly(), false)
	st, err := end(t, failed)
	if st != jobpb.JobState_FAILED || err == nil || !strings.Contains(err.Error(), "the disk of the user is full") || !strings.Contains(err.Error(), "failing") {
		t.Errorf("job ended %v: %v, want FAILED with the DoFn's words and its name", st, err)
	}
	r.idle(t)
	var texts []string
	for e, err := range failed.Events(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Message != nil && e.Message.Importance == jobpb.JobMessage_JOB_MESSAGE_ERROR {
			texts = append(texts, e.Message.Text)
		}
	}
	if len(texts) != 1 || !strings.Contains(texts[0], "the disk of the user is full") {
		t.Errorf("error messages: %q", texts)
	}
	wantState(t, r.submit(t, "next", numbers(t, 10, &mapper{}), goOnly(), false), jobpb.JobState_DONE)
	if d := differ(r.values(), upTo(10)); d != "" {
		t.Errorf("the next job:\n%s", d)
	}
	r.close(t)
}

// Two jobs of the same pipeline and transforms' names run at once and do not see each other.
func TestTwoJobsAtOnce(t *testing.T) {
	c := calm()
	c.Slots, c.Elements, c.Pool = 2, 7, 64<<10
	r := newRig(t, c)
	var both sync.WaitGroup
	both.Add(2)
	var first sync.Map
	gate := newGate(t, func(_ string, v int64) bool {
		// The first element of each job waits for the other job's.
		if _, again := first.LoadOrStore(v%100, true); !again {
			both.Done()
			both.Wait()
		}
		return true
	})
	jobs := map[string]*engine.Job{}
	for _, id := range []string{"one", "two"} {
		p, s := beam.NewPipelineWithRoot()
		f := &origin{}
		for i := range int64(50) {
			v := int64(1)
			if id == "two" {
				v = 2
			}
			f.Elems = append(f.Elems, datum{K: strconv.FormatInt(i%5, 10), V: v + 100*i, TS: i})
		}
		col := beam.ParDo(s, gate, beam.ParDo(s, f, beam.Impulse(s)))
		col = beam.ParDo(s, newHoard(1), beam.WindowInto(s, window.NewFixedWindows(10*time.Millisecond), col))
		sink(s, id, beam.ParDo(s, show, beam.ParDo(s, &ungroup{Op: "sum"}, beam.GroupByKey(s, col))))
		jobs[id] = r.submit(t, id, marshal(t, p), goOnly(), false)
	}
	if _, err := r.cluster.Submit(engine.JobSpec{ID: "one", Pipeline: jobs["one"].Pipeline(), Open: goOnly()}); err == nil {
		t.Error("an id is taken twice")
	}
	for _, job := range jobs {
		wantState(t, job, jobpb.JobState_DONE)
	}
	r.close(t)
	sums := map[string]int64{}
	for _, o := range r.outs() {
		_, v, _ := strings.Cut(o.Value, "=")
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sums[o.Sink] += n
	}
	// For each of 5 windows and 5 keys: the sum of 2 elements, their number, the number of different ones, and a tick.
	want := int64(100*50*49/2 + 25*(2+2-1001))
	if sums["one"] != want+50 || sums["two"] != want+100 {
		t.Errorf("sums are %v, want %d and %d", sums, want+50, want+100)
	}
}

func states(job *engine.Job) string {
	var s []string
	for e := range job.Events(context.Background()) {
		if e.Message == nil {
			s = append(s, e.State.String())
		}
	}
	return strings.Join(s, " ")
}

func TestEventsReplay(t *testing.T) {
	r := newRig(t, calm())
	opened := make(chan bool)
	gate := newGate(t, func(string, int64) bool { <-opened; return true })
	job := r.submit(t, "job", numbers(t, 3, gate), goOnly(), false)
	early := make(chan string)
	go func() { early <- states(job) }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var left error
	for e, err := range job.Events(ctx) {
		left = err
		if e.State == jobpb.JobState_RUNNING {
			cancel()
		}
	}
	if !errors.Is(left, context.Canceled) {
		t.Errorf("a subscriber who leaves got error %v", left)
	}
	close(opened)
	wantState(t, job, jobpb.JobState_DONE)
	const all = "STARTING RUNNING DONE"
	if got := <-early; got != all {
		t.Errorf("the early subscriber saw %q, want %q", got, all)
	}
	if got := states(job); got != all {
		t.Errorf("the late subscriber saw %q, want %q", got, all)
	}
	for e := range job.Events(context.Background()) {
		if e.State != jobpb.JobState_STARTING {
			t.Errorf("the first event is %+v", e)
		}
		break
	}
	r.close(t)
}

// A drained source that never ends lets go of everything: each number once, in windows that are complete, whoever got lost.
func TestDrainEndlessSource(t *testing.T) {
	for _, losses := range []int{0, 20} {
		t.Run(fmt.Sprintf("losses %d", losses), func(t *testing.T) {
			c := calm()
			c.Slots, c.Losses, c.Rate, c.Seed = 2, losses, 30, 7
			p, s := beam.NewPipelineWithRoot()
			seen := make(chan bool, 1)
			gate := newGate(t, func(_ string, v int64) bool {
				if v == 20 {
					select {
					case seen <- true:
					default:
					}
				}
				return true
			})
			col := beam.ParDo(s, &origin{[]datum{{K: "a", V: 1, TS: 0}}}, beam.Impulse(s))
			col = beam.ParDo(s, gate, beam.ParDo(s, &endless{}, col))
			sink(s, "numbers", beam.ParDo(s, &tally{}, col))
			col = beam.ParDo(s, &ungroup{Op: "count"}, beam.GroupByKey(s, col))
			sink(s, "count", beam.ParDo(s, &tally{}, col))
			r := newRig(t, c)
			job := r.submit(t, "job", marshal(t, p), workersOf(newChaos(c)), true)
			select {
			case <-seen:
			case <-job.Done():
			}
			if err := job.Drain(); err != nil {
				t.Errorf("drain: %v", err)
			}
			wantState(t, job, jobpb.JobState_DRAINED)
			r.idle(t)
			r.close(t)
			var nums, counts []string
			for _, o := range r.outs() {
				if o.Sink == "count" {
					counts = append(counts, o.Value)
				} else {
					nums = append(nums, o.Value)
				}
			}
			if d := differ(nums, upTo(int64(len(nums)))); d != "" || len(nums) < 21 {
				t.Errorf("%d numbers:\n%s", len(nums), d)
			}
			if len(counts) != 1 || counts[0] != strconv.Itoa(len(nums)) {
				t.Errorf("the windows count %v, want %d", counts, len(nums))
			}
		})
	}
}

// splitLoser loses the worker of the first bundles that gave something back, at their end.
type splitLoser struct {
	*goexec.Worker
	left   atomic.Int64
	splits sync.Map // bundles that were split
	lost   atomic.Int64
}

func (w *splitLoser) Split(ctx context.Context, b *bundle.Bundle, fraction float64) (*bundle.Split, error) {
	sp, err := w.Worker.Split(ctx, b, fraction)
	if sp != nil {
		w.splits.Store(b.ID, true)
	}
	return sp, err
}

func (w *splitLoser) Run(ctx context.Context, b *bundle.Bundle) (*bundle.Result, error) {
	res, err := w.Worker.Run(ctx, b)
	if _, split := w.splits.Load(b.ID); split && w.left.Add(-1) >= 0 {
		w.lost.Add(1)
		return nil, fmt.Errorf("after a split: %w", bundle.ErrWorkerLost)
	}
	return res, err
}

// oneWorker is the worker of all slots.
type oneWorker struct {
	w     engine.Worker
	close func() error
}

func (o oneWorker) Worker(context.Context, int) (engine.Worker, error) { return o.w, nil }
func (o oneWorker) Close() error                                       { return o.close() }

// A long bundle gives work to a slot that has none. Each element is processed to a commit once, also when the bundle that gave
// it back is lost afterwards.
func TestSplitLongBundle(t *testing.T) {
	const n = 24
	for _, stock := range []bool{false, true} {
		for _, losses := range []int64{0, 2} {
			t.Run(fmt.Sprintf("stock %v losses %d", stock, losses), func(t *testing.T) {
				c := calm()
				c.Slots = 2
				r := newRig(t, c, func(cfg *engine.Config) { cfg.MaxBundleTime = 20 * time.Millisecond })
				gate := newGate(t, func(string, int64) bool { time.Sleep(20 * time.Millisecond); return true })
				w := &splitLoser{Worker: goexec.New(goexec.Config{Stock: stock})}
				w.left.Store(losses)
				job := r.submit(t, "job", numbers(t, n, gate), workersOf(oneWorker{w, w.Close}), false)
				wantState(t, job, jobpb.JobState_DONE)
				r.idle(t)
				r.close(t)
				splits := int64(0)
				for _, v := range job.Overview().Stages {
					splits += v.Splits
				}
				if splits == 0 || w.lost.Load() != losses {
					t.Errorf("%d splits, %d bundles lost, want some and %d", splits, w.lost.Load(), losses)
				}
				if d := differ(r.values(), upTo(n)); d != "" {
					t.Error(d)
				}
			})
		}
	}
}

// brokenSource says that it is done, but leaves the watermark where it is.
type brokenSource struct{}

func (brokenSource) Fetch(context.Context, int, *flow.Builder, int64) (native.Fetched, error) {
	return native.Fetched{Watermark: 5, Done: true}, nil
}

func (brokenSource) Close() error { return nil }

// A job that can never go on says so, and where.
func TestStalledJobReports(t *testing.T) {
	const urn = "tinyrunner:test_source:v1"
	r := newRig(t, calm(), func(cfg *engine.Config) {
		cfg.Sources = map[string]native.SourceFactory{
			urn: func(context.Context, native.SourceConfig) (native.Source, error) { return brokenSource{}, nil },
		}
	})
	p, s := beam.NewPipelineWithRoot()
	col := beam.External(s, urn, nil, nil, []beam.FullType{typex.New(reflectx.String)}, true)[0]
	sink(s, "sink", beam.ParDo(s, &tally{}, beam.ParDo(s, newHoard(0), beam.ParDo(s, &parse{}, col))))
	job := r.submit(t, "job", marshal(t, p), goOnly(), false)
	st, err := end(t, job)
	if st != jobpb.JobState_FAILED || err == nil {
		t.Fatalf("job ended %v: %v, want FAILED", st, err)
	}
	for _, want := range []string{"stalled", "hoard (input watermark 5, queued 0)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the job says %q, without %q", err, want)
		}
	}
	r.close(t)
}

// tokenWatcher notes the cache tokens of stateful bundles, and loses some of them.
type tokenWatcher struct {
	*goexec.Worker
	lose map[int]bool // by number of the stateful bundle

	mu     sync.Mutex
	tokens []string
}

func (w *tokenWatcher) Run(ctx context.Context, b *bundle.Bundle) (*bundle.Result, error) {
	if len(b.Program.Timers) == 0 {
		return w.Worker.Run(ctx, b)
	}
	w.mu.Lock()
	n := len(w.tokens)
	for _, t := range b.CacheTokens {
		if t.GetUserState() != nil {
			w.tokens = append(w.tokens, string(t.GetToken()))
		}
	}
	w.mu.Unlock()
	res, err := w.Worker.Run(ctx, b)
	if w.lose[n] {
		return nil, bundle.ErrWorkerLost
	}
	return res, err
}

// What an SDK cached of a bundle that failed must not be used again.
func TestCacheTokensAfterFailure(t *testing.T) {
	c := calm()
	c.Elements = 2
	r := newRig(t, c)
	w := &tokenWatcher{Worker: goexec.New(goexec.Config{}), lose: map[int]bool{2: true, 3: true, 5: true}}
	job := r.submit(t, "job", numbers(t, 12, newHoard(0)), workersOf(oneWorker{w, w.Close}), false)
	wantState(t, job, jobpb.JobState_DONE)
	r.close(t)
	if len(w.tokens) < 8 {
		t.Fatalf("tokens %v of fewer bundles than expected", w.tokens)
	}
	seen := map[string]bool{w.tokens[0]: true}
	for i := 1; i < len(w.tokens); i++ {
		last, now := w.tokens[i-1], w.tokens[i]
		if w.lose[i-1] && seen[now] || !w.lose[i-1] && now != last {
			t.Errorf("bundle %d has token %q after %q, which was lost: %v", i, now, last, w.lose[i-1])
		}
		seen[now] = true
	}
}

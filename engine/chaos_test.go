package engine_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/goexec"
	"github.com/tinyrunner/tinyrunner/engine/native"
	"github.com/tinyrunner/tinyrunner/state"
)

// conditions are what a run must not depend on: the size of bundles, of the pool, the slots, and who gets lost when.
type conditions struct {
	Slots, Groups  int
	Elements       int   // a bundle
	Bytes          int64 // a bundle
	Pool           int64
	Stock          bool // plans of Beam's own executor only
	Losses         int  // bundles that lose their worker, at most
	Rate           int  // percent of the bundles
	Rescales       int  // while the job runs, at most
	Seed           uint64
	DeclaredStream bool
}

// calm conditions are those of a good day.
func calm() conditions { return conditions{Slots: 1, Groups: 128, Pool: 32 << 20} }

func drawConditions(t *rapid.T) conditions {
	return conditions{
		Slots:          rapid.IntRange(1, 4).Draw(t, "slots"),
		Groups:         rapid.SampledFrom([]int{4, 5, 128}).Draw(t, "key groups"),
		Elements:       rapid.SampledFrom([]int{0, 1, 2, 3, 5}).Draw(t, "bundle elements"),
		Bytes:          rapid.SampledFrom([]int64{0, 1, 40, 400}).Draw(t, "bundle bytes"),
		Pool:           rapid.SampledFrom([]int64{1, 64 << 10, 32 << 20}).Draw(t, "pool"),
		Stock:          rapid.Bool().Draw(t, "stock"),
		Losses:         rapid.SampledFrom([]int{0, 3, 30}).Draw(t, "losses"),
		Rate:           rapid.SampledFrom([]int{5, 50}).Draw(t, "loss rate"),
		Rescales:       rapid.SampledFrom([]int{0, 0, 5}).Draw(t, "rescales"),
		Seed:           rapid.Uint64().Draw(t, "seed"),
		DeclaredStream: rapid.Bool().Draw(t, "declared streaming"),
	}
}

// chaos gives workers that get lost.
type chaos struct {
	cond  conditions
	inner *goexec.Worker
	left  atomic.Int64

	mu  sync.Mutex
	rng *rand.Rand
}

func newChaos(c conditions) *chaos {
	ch := &chaos{cond: c, inner: goexec.New(goexec.Config{Stock: c.Stock}), rng: rand.New(rand.NewPCG(c.Seed, 1))}
	ch.left.Store(int64(c.Losses))
	return ch
}

func (c *chaos) Worker(context.Context, int) (engine.Worker, error) {
	return chaosWorker{c.inner, c}, nil
}

func (c *chaos) Close() error { return c.inner.Close() }

// fate decides where a bundle loses its worker: after so many pieces of output and state; 0: before; -1: not.
func (c *chaos) fate() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rng.IntN(100) >= c.cond.Rate || c.left.Add(-1) < 0 {
		return -1
	}
	return []int{0, 1, 2, 5, 1 << 30}[c.rng.IntN(5)]
}

type chaosWorker struct {
	*goexec.Worker
	c *chaos
}

func (w chaosWorker) Run(ctx context.Context, b *bundle.Bundle) (*bundle.Result, error) {
	fate := w.c.fate()
	if fate < 0 {
		return w.Worker.Run(ctx, b)
	}
	lost := fmt.Errorf("chaos: %w", bundle.ErrWorkerLost)
	if fate == 0 {
		return nil, lost
	}
	m := &mortal{left: fate, sink: b.Sink, state: b.State}
	// The bundle keeps its identity: the engine splits it by its ID.
	mine := *b
	mine.Sink, mine.State = m, m
	_, _ = w.Worker.Run(ctx, &mine)
	return nil, lost
}

// mortal passes on some calls and refuses all others.
type mortal struct {
	sink  bundle.Sink
	state bundle.StateServer

	mu   sync.Mutex
	left int
}

func (m *mortal) use() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left--; m.left < 0 {
		return bundle.ErrWorkerLost
	}
	return nil
}

func (m *mortal) Data(output int, data []byte) error {
	if err := m.use(); err != nil {
		return err
	}
	return m.sink.Data(output, data)
}

func (m *mortal) Timers(f bundle.TimerFamily, data []byte) error {
	if err := m.use(); err != nil {
		return err
	}
	return m.sink.Timers(f, data)
}

func (m *mortal) Handle(ctx context.Context, req *fnpb.StateRequest) *fnpb.StateResponse {
	if err := m.use(); err != nil {
		return &fnpb.StateResponse{Id: req.GetId(), Error: err.Error()}
	}
	return m.state.Handle(ctx, req)
}

// out is an element that came to a sink.
type out struct {
	Sink  string
	Value string
	TS    int64
	Start int64 // of the window; both 0 in the global window
	End   int64
	Pane  coder.Pane
}

func (o out) String() string {
	return fmt.Sprintf("%s: %s @%d [%d,%d)", o.Sink, o.Value, o.TS, o.Start, o.End)
}

const testSinkURN = "tinyrunner:test_sink:v1"

// sink writes strings where the test sees them, exactly once.
func sink(s beam.Scope, name string, col beam.PCollection) {
	beam.External(s.Scope(name), testSinkURN, []byte(name), []beam.PCollection{col}, nil, true)
}

// recorder is what all sinks of a run got.
type recorder struct {
	mu  sync.Mutex
	got []out
}

func (r *recorder) open(_ context.Context, cfg native.SinkConfig) (native.Sink, error) {
	return &recordingSink{r, cfg}, nil
}

func (r *recorder) outs() []out {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func (r *recorder) values() []string {
	var vs []string
	for _, o := range r.outs() {
		vs = append(vs, o.Value)
	}
	slices.Sort(vs)
	return vs
}

type recordingSink struct {
	r   *recorder
	cfg native.SinkConfig
}

func (s *recordingSink) Close() error { return nil }

func (s *recordingSink) Send(_ context.Context, blocks []*flow.Block) (native.Sent, error) {
	return acknowledged{}, s.record(blocks)
}

// acknowledged are elements that need not be waited for.
type acknowledged struct{}

func (acknowledged) Wait(context.Context) error { return nil }

func (s *recordingSink) record(blocks []*flow.Block) error {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	for _, b := range blocks {
		d, err := b.Data()
		if err != nil {
			return err
		}
		for i := range d.Len() {
			e := d.Element(i)
			h, err := s.cfg.Coder.ParseHeader(e)
			if err != nil {
				return err
			}
			_, n, err := coder.ParseVarint(e[h.ValueOffset:])
			if err != nil {
				return err
			}
			for win := range s.cfg.Coder.EachWindow(h) {
				o := out{Sink: string(s.cfg.Payload), Value: string(e[h.ValueOffset+n:]), TS: h.Timestamp, Pane: h.Pane}
				if len(win) > 0 {
					if o.Start, o.End, _, err = coder.ParseInterval(win); err != nil {
						return err
					}
				}
				s.r.got = append(s.r.got, o)
			}
		}
	}
	return nil
}

// rig is a cluster with a recorder, as a test under conditions wants it.
type rig struct {
	*recorder
	cluster *engine.Cluster
	pool    *flow.Pool
	cache   *state.Cache
	dir     string
	before  goleak.Option
	closed  bool
}

// fataler is *testing.T or *rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

func newRig(t fataler, c conditions, configure ...func(*engine.Config)) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		t.Fatalf("%v", err)
	}
	r := &rig{recorder: &recorder{}, dir: dir, before: goleak.IgnoreCurrent(), cache: state.NewCache(1 << 20)}
	if r.pool, err = flow.NewPool(c.Pool, filepath.Join(dir, "spill")); err != nil {
		t.Fatalf("%v", err)
	}
	level := slog.LevelError + 1
	if testing.Verbose() && os.Getenv("ENGINE_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	cfg := engine.Config{
		DataDir: dir, Pool: r.pool, Cache: r.cache, Slots: c.Slots, MaxParallelism: c.Groups,
		MaxBundleElements: c.Elements, MaxBundleBytes: c.Bytes,
		Sinks:  map[string]native.SinkFactory{testSinkURN: r.open},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	}
	for _, f := range configure {
		f(&cfg)
	}
	if r.cluster, err = engine.New(cfg); err != nil {
		t.Fatalf("%v", err)
	}
	return r
}

// files are the files and job directories that are left below the data directory.
func (r *rig) files(t fataler) []string {
	var left []string
	err := filepath.WalkDir(r.dir, func(path string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(r.dir, path)
		if rel != "." && rel != "jobs" && rel != "spill" {
			left = append(left, rel)
		}
		return err
	})
	if err != nil {
		t.Fatalf("walk %s: %v", r.dir, err)
	}
	return left
}

// idle checks that no job of the cluster has left anything.
func (r *rig) idle(t fataler) {
	t.Helper()
	if used := r.pool.Used(); used != 0 {
		t.Fatalf("%d bytes of the pool are still in use", used)
	}
	if n := r.pool.Spilled(); n != 0 {
		t.Fatalf("%d bytes are still spilled", n)
	}
	if left := r.files(t); len(left) > 0 {
		t.Fatalf("left in the data directory: %v", left)
	}
}

// close ends the cluster and checks that nothing is left of it.
func (r *rig) close(t fataler) {
	t.Helper()
	if r.closed {
		return
	}
	r.closed = true
	if err := r.cluster.Close(); err != nil {
		t.Fatalf("close cluster: %v", err)
	}
	r.idle(t)
	if err := r.pool.Close(); err != nil {
		t.Fatalf("close pool: %v", err)
	}
	r.cache.Close()
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatalf("%v", err)
	}
	if err := goleak.Find(r.before); err != nil {
		t.Fatalf("goroutines are left: %v", err)
	}
}

// open is how a job gets workers.
type open = engine.OpenEnvironment

func workersOf(w engine.Workers) open {
	return func(context.Context, string, *pipepb.Environment) (engine.Workers, error) { return w, nil }
}

func goOnly() open {
	return func(context.Context, string, *pipepb.Environment) (engine.Workers, error) {
		return goWorkers{goexec.New(goexec.Config{})}, nil
	}
}

// submit starts a job.
func (r *rig) submit(t fataler, id string, p *pipepb.Pipeline, o open, streaming bool) *engine.Job {
	t.Helper()
	spec := engine.JobSpec{ID: id, Name: id, Pipeline: p, Open: o}
	if streaming {
		spec.Options = &structpb.Struct{Fields: map[string]*structpb.Value{"beam:option:streaming:v1": structpb.NewBoolValue(true)}}
	}
	job, err := r.cluster.Submit(spec)
	if err != nil {
		t.Fatalf("submit: %v", err)
	}
	return job
}

const patience = 2 * time.Minute

// end waits for a job's terminal state.
func end(t fataler, job *engine.Job) (jobpb.JobState_Enum, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := job.Wait(ctx)
	if ctx.Err() != nil {
		o, _ := json.MarshalIndent(job.Overview(), "", " ")
		t.Fatalf("job %s did not end in %v:\n%s\n%s", job.ID(), patience, o, job.Plan())
	}
	return st, err
}

// execute runs a pipeline under conditions and returns what came to its sinks. Nothing may be left after it.
func execute(t fataler, c conditions, p *pipepb.Pipeline) []out {
	t.Helper()
	r := newRig(t, c)
	job := r.submit(t, "job", p, func(context.Context, string, *pipepb.Environment) (engine.Workers, error) {
		return newChaos(c), nil
	}, c.DeclaredStream)
	scaled := c.rescale(job)
	st, err := end(t, job)
	<-scaled
	if st != jobpb.JobState_DONE || err != nil {
		t.Fatalf("job ended %v: %v\n%s", st, err, job.Plan())
	}
	r.idle(t)
	r.close(t)
	return r.outs()
}

// rescale gives a running job other numbers of slots; the channel is closed when it is done with that.
func (c conditions) rescale(job *engine.Job) <-chan struct{} {
	done := make(chan struct{})
	rng := rand.New(rand.NewPCG(c.Seed, 2))
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for range c.Rescales {
			for job.State() == jobpb.JobState_STARTING {
				time.Sleep(100 * time.Microsecond)
			}
			if err := job.Rescale(ctx, 1+rng.IntN(min(6, c.Groups))); err != nil {
				return // it has ended
			}
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
		}
	}()
	return done
}

// differ describes how two multisets differ; empty if they do not.
func differ(got, want []string) string {
	n := map[string]int{}
	for _, s := range want {
		n[s]++
	}
	for _, s := range got {
		n[s]--
	}
	var b strings.Builder
	keys := make([]string, 0, len(n))
	for s := range n {
		keys = append(keys, s)
	}
	slices.Sort(keys)
	for _, s := range keys {
		if n[s] > 0 {
			fmt.Fprintf(&b, "  missing %d times: %s\n", n[s], s)
		} else if n[s] < 0 {
			fmt.Fprintf(&b, "  too often by %d: %s\n", -n[s], s)
		}
	}
	return b.String()
}

func texts(outs []out) []string {
	var s []string
	for _, o := range outs {
		s = append(s, o.String())
	}
	return s
}

// checks is rapid.Check with a number of its own, unless the command line says one.
func checks(t *testing.T, n int, f func(*rapid.T)) {
	t.Helper()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		old := flag.Lookup("rapid.checks").Value.String()
		if err := flag.Set("rapid.checks", strconv.Itoa(n)); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = flag.Set("rapid.checks", old) }()
	}
	rapid.Check(t, f)
}

package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/typex"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/reflectx"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
	enginestate "github.com/tinyrunner/tinyrunner/state"
)

func init() {
	// By reflection: for a DoFn of six parameters package register makes so much code that compiling it takes minutes.
	beam.RegisterType(reflect.TypeFor[ticker]())
	register.Emitter2[string, int64]()
}

const (
	testLogURN   = "tinyrunner:test_log:v1"
	testExactURN = "tinyrunner:test_exact:v1"
)

// ticker numbers the elements of a key and window. At the end of the window it tells how many there were, negative.
type ticker struct {
	Wake timers.EventTime
	Seen state.Value[int64]
}

func newTicker() *ticker {
	return &ticker{Wake: timers.InEventTime("wake"), Seen: state.MakeValueState[int64]("seen")}
}

func (f *ticker) ProcessElement(w beam.Window, sp state.Provider, tp timers.Provider, k string, _ int64, emit func(string, int64)) {
	n, _, err := f.Seen.Read(sp)
	must(err)
	must(f.Seen.Write(sp, n+1))
	end := int64(w.MaxTimestamp()) // which elements may still have when the watermark is there
	f.Wake.Set(tp, time.UnixMilli(end+1), timers.WithOutputTimestamp(time.UnixMilli(end)))
	emit(k, n+1)
}

func (f *ticker) OnTimer(_ context.Context, _ beam.EventTime, sp state.Provider, tp timers.Provider, k string, _ timers.Context, emit func(string, int64)) {
	n, _, err := f.Seen.Read(sp)
	must(err)
	emit(k, -n)
}

// exactly writes strings to the broker.
func exactly(s beam.Scope, name string, col beam.PCollection) {
	beam.External(s.Scope(name), testExactURN, []byte(name), []beam.PCollection{col}, nil, true)
}

// readLog gives the records of the log, which are strings.
func readLog(s beam.Scope, bounded bool) beam.PCollection {
	return beam.External(s.Scope("log"), testLogURN, nil, nil, []beam.FullType{typex.New(reflectx.String)}, bounded)[0]
}

const windowMs = 40

// twoWays is the pipeline of the crash tests: the records as they are, and what a stateful DoFn and a GroupByKey make of them.
func twoWays(t fataler) *pipepb.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	in := readLog(s, false)
	exactly(s, "copy", in)
	col := beam.WindowInto(s, window.NewFixedWindows(windowMs*time.Millisecond), beam.ParDo(s, &parse{}, in))
	col = beam.ParDo(s, newTicker(), col)
	exactly(s, "ticks", beam.ParDo(s, show, col))
	sums := beam.ParDo(s, &ungroup{Op: "sum"}, beam.GroupByKey(s, col))
	exactly(s, "sums", beam.ParDo(s, show, sums))
	return marshal(t, p)
}

// counted is a log of n records in p partitions, over k keys; a key is in one partition.
func counted(n, p, k int) *eventLog {
	l := &eventLog{partitions: make([][]logRecord, p)}
	for i := range n {
		key := i % k
		l.partitions[key%p] = append(l.partitions[key%p], logRecord{Value: fmt.Sprintf("k%d=%d", key, i), TS: int64(i)})
	}
	return l
}

// expectTwoWays is what twoWays makes of a log.
func expectTwoWays(l *eventLog) map[string][]string {
	type cell struct {
		key string
		win int64
	}
	want := map[string][]string{}
	n := map[cell]int64{}
	for _, records := range l.partitions {
		for _, r := range records {
			key, _, _ := strings.Cut(r.Value, "=")
			c := cell{key, floor(r.TS, windowMs)}
			n[c]++
			want["copy"] = append(want["copy"], r.Value)
			want["ticks"] = append(want["ticks"], show(key, n[c]))
		}
	}
	for c, n := range n {
		want["ticks"] = append(want["ticks"], show(c.key, -n))
		want["sums"] = append(want["sums"], show(c.key, n*(n+1)/2-n))
	}
	return want
}

// checkTwoWays compares what was committed with what a run without crashes gives.
func checkTwoWays(t fataler, b *broker, l *eventLog) {
	t.Helper()
	for name, want := range expectTwoWays(l) {
		if d := differ(b.values(name), want); d != "" {
			t.Fatalf("sink %s differs:\n%s", name, d)
		}
	}
	// Of each window the numbers rise.
	last := map[string]int64{}
	for _, o := range b.outs() {
		key, v, _ := strings.Cut(o.Value, "=")
		n, err := strconv.ParseInt(v, 10, 64)
		if o.Sink != "ticks" || err != nil {
			continue
		}
		at := fmt.Sprintf("%s [%d", key, o.Start)
		if n != last[at]+1 && n != -last[at] {
			t.Fatalf("order is lost: %v comes after number %d", o, last[at])
		}
		last[at] = n
	}
	if len(b.violations) > 0 {
		t.Fatalf("the engine broke the rules of sinks: %v", b.violations)
	}
}

// world is what outlives a process.
type world struct {
	bucket objstore.Bucket
	mem    *memBucket
	log    *eventLog
	broker *broker
	dir    string // data directory of the next process
}

func newWorld(t fataler, l *eventLog, seed uint64) *world {
	dir, err := os.MkdirTemp("", "durable")
	if err != nil {
		t.Fatalf("%v", err)
	}
	mem := newMemBucket()
	return &world{bucket: mem, mem: mem, log: l, broker: newBroker(seed), dir: dir}
}

func (w *world) close() { _ = os.RemoveAll(w.dir) }

// lazyFS does not wait for the disk: a process that crashes in a test does not take the machine with it.
type lazyFS struct{ vfs.FS }

// lazyFile is a file that is not synced.
type lazyFile struct{ vfs.File }

func (f lazyFile) Sync() error                { return nil }
func (f lazyFile) SyncData() error            { return nil }
func (f lazyFile) SyncTo(int64) (bool, error) { return false, nil }
func lazily(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return lazyFile{f}, nil
}

func (fs lazyFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return lazily(fs.FS.Create(name, c))
}

func (fs lazyFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return lazily(fs.FS.OpenReadWrite(name, c, opts...))
}

func (fs lazyFS) OpenDir(name string) (vfs.File, error) { return lazily(fs.FS.OpenDir(name)) }

func (fs lazyFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return lazily(fs.FS.ReuseForWrite(from, to, c))
}

// process is one life of a runner in a world.
type process struct {
	w       *world
	g       *gate
	cluster *engine.Cluster
	pool    *flow.Pool
	cache   *enginestate.Cache
	before  goleak.Option
	spill   string
	closed  bool
}

// life is how a process runs.
type life struct {
	conditions
	Interval time.Duration // of checkpoints
	Batch    int           // records of a fetch
	Delay    time.Duration // of a fetch
	Retain   int
}

func calmLife() life {
	return life{conditions: calm(), Interval: 5 * time.Millisecond, Batch: 2, Delay: time.Millisecond}
}

func startProcess(t fataler, w *world, c life, configure ...func(*engine.Config)) *process {
	t.Helper()
	p := &process{w: w, g: &gate{}, before: goleak.IgnoreCurrent(), cache: enginestate.NewCache(8 << 20)}
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		t.Fatalf("%v", err)
	}
	var err error
	if p.spill, err = os.MkdirTemp("", "spill"); err != nil {
		t.Fatalf("%v", err)
	}
	if p.pool, err = flow.NewPool(c.Pool, p.spill); err != nil {
		t.Fatalf("%v", err)
	}
	level := slog.LevelError + 1
	if testing.Verbose() && os.Getenv("ENGINE_TEST_LOG") != "" {
		level = slog.LevelInfo
	}
	cfg := engine.Config{
		DataDir: w.dir, Pool: p.pool, Cache: p.cache, Slots: c.Slots, MaxParallelism: c.Groups,
		MaxBundleElements: c.Elements, MaxBundleBytes: c.Bytes, FS: lazyFS{vfs.Default},
		Sources: map[string]native.SourceFactory{testLogURN: sourceOf(w.log, p.g, c.Batch, c.Delay)},
		Sinks:   map[string]native.SinkFactory{testExactURN: exactSink(w.broker, p.g)},
		Checkpoints: &engine.CheckpointConfig{
			Bucket: gatedBucket{w.bucket, p.g}, Prefix: "jobs", Location: "mem:///jobs", Interval: c.Interval, Retain: c.Retain,
			OpenLocation: func(_ context.Context, location string) (objstore.Bucket, string, error) {
				return gatedBucket{w.bucket, p.g}, strings.TrimPrefix(location, "mem:///"), nil
			},
		},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	}
	for _, f := range configure {
		f(&cfg)
	}
	if p.cluster, err = engine.New(cfg); err != nil {
		t.Fatalf("%v", err)
	}
	return p
}

// end closes the process: it has crashed, or all its jobs have ended.
func (p *process) end(t fataler) {
	t.Helper()
	if p.closed {
		return
	}
	p.closed = true
	if err := p.cluster.Close(); err != nil {
		t.Fatalf("close cluster: %v", err)
	}
	if used, spilled := p.pool.Used(), p.pool.Spilled(); used != 0 || spilled != 0 {
		t.Fatalf("%d bytes of the pool are still in use, %d spilled", used, spilled)
	}
	if err := p.pool.Close(); err != nil {
		t.Fatalf("close pool: %v", err)
	}
	p.cache.Close()
	_ = os.RemoveAll(p.spill)
	if err := goleak.Find(p.before); err != nil {
		t.Fatalf("goroutines are left: %v", err)
	}
}

// crash ends the process without a word to anybody.
func (p *process) crash(t fataler) {
	t.Helper()
	p.g.crash()
	p.end(t)
}

// run starts the job, or goes on with it when the store knows it.
func (p *process) run(t fataler, spec engine.JobSpec) (*engine.Job, error) {
	t.Helper()
	entries, err := p.cluster.Resumable(context.Background())
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return p.cluster.Submit(spec)
	}
	return p.cluster.Resume(context.Background(), entries[0], func(s *engine.JobSpec) error {
		s.Open = spec.Open
		return nil
	})
}

// listing is what the bucket holds of jobs.
func (w *world) listing(prefix string) []string {
	var names []string
	for _, n := range w.mem.names() {
		if strings.HasPrefix(n, prefix) {
			names = append(names, n)
		}
	}
	return names
}

// manifests are the entries of the log of checkpoints that can be read, by name.
func (w *world) manifests(t fataler) map[string]*checkpoint.Manifest {
	t.Helper()
	all := map[string]*checkpoint.Manifest{}
	for _, n := range w.listing("jobs/") {
		if strings.Contains(n, "/log/") {
			m, err := checkpoint.DecodeManifest(w.mem.get(n))
			if err != nil {
				t.Fatalf("%s: %v", n, err)
			}
			all[n] = m
		}
	}
	return all
}

// ended: the store says that the job has finished.
func (w *world) ended(t fataler) bool {
	for _, m := range w.manifests(t) {
		if m.Kind == checkpoint.KindEnd && m.How == "finished" {
			return true
		}
	}
	return false
}

// garbage are the objects that no entry names.
func (w *world) garbage(t fataler) []string {
	t.Helper()
	used := map[string]bool{}
	for name, m := range w.manifests(t) {
		used[name] = true
		root, _, _ := strings.Cut(name, "/log/")
		for _, f := range slices.Concat(m.Files, m.JobFiles) {
			used[root+"/"+f.Object] = true
		}
	}
	var left []string
	for _, n := range w.listing("") {
		if !used[n] && !strings.HasPrefix(n, "savepoints/") {
			left = append(left, n)
		}
	}
	return left
}

func specOf(p *pipepb.Pipeline, o open) engine.JobSpec {
	return engine.JobSpec{ID: "job-1", Name: "job", Pipeline: p, Open: o}
}

// wantEnd waits for a job's end.
func wantEnd(t fataler, job *engine.Job, want jobpb.JobState_Enum) {
	t.Helper()
	if st, err := end(t, job); st != want {
		t.Fatalf("job ended %v, want %v: %v", st, want, err)
	}
}

func waitFor(t fataler, what string, cond func() bool) {
	t.Helper()
	for began := time.Now(); !cond(); time.Sleep(500 * time.Microsecond) {
		if time.Since(began) > patience {
			t.Fatalf("%s: not in time", what)
		}
	}
}

func completed(job *engine.Job) int64 { return job.Checkpoints().Counts.Completed }

// A job without crashes, with a checkpoint every few milliseconds.
func TestCheckpointsWhileRunning(t *testing.T) {
	w := newWorld(t, counted(300, 3, 7), 1)
	defer w.close()
	p := startProcess(t, w, calmLife())
	job, err := p.run(t, specOf(twoWays(t), goOnly()))
	if err != nil {
		t.Fatal(err)
	}
	wantEnd(t, job, jobpb.JobState_DONE)
	if n := completed(job); n < 3 {
		t.Errorf("%d checkpoints, want more", n)
	}
	p.end(t)
	checkTwoWays(t, w.broker, w.log)
	if left := w.listing(""); len(left) != 1 {
		t.Errorf("a finished job leaves %v, want its last entry", left)
	}
	if files, _ := filepath.Glob(filepath.Join(w.dir, "jobs", "*")); len(files) > 0 {
		t.Errorf("left on the disk: %v", files)
	}
}

var (
	_ = json.Marshal
	_ = errors.New
)

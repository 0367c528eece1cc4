package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/goexec"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// slowLife gives a test time to act before the log is read to its end.
func slowLife() life {
	l := calmLife()
	l.Batch, l.Delay, l.Interval = 1, 2*time.Millisecond, time.Hour
	return l
}

// begin starts the job and waits until some of it has come to the sinks' transactions.
func begin(t *testing.T, p *process, spec engine.JobSpec) *engine.Job {
	t.Helper()
	job, err := p.run(t, spec)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "job runs", func() bool {
		var in int64
		for _, s := range job.Overview().Stages {
			in = max(in, s.ElementsIn)
		}
		return in > 10 || job.State() != jobpb.JobState_RUNNING && job.State() != jobpb.JobState_STARTING
	})
	return job
}

// makeCheckpoint makes one, which must succeed.
func makeCheckpoint(t *testing.T, job *engine.Job, savepoint string) engine.CheckpointInfo {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	info, err := job.Checkpoint(ctx, savepoint)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// finishIn goes on with the job in a new process until its end.
func finishIn(t *testing.T, w *world, l life, spec engine.JobSpec, configure ...func(*engine.Config)) *engine.Job {
	t.Helper()
	p := startProcess(t, w, l, configure...)
	job, err := p.run(t, spec)
	if err != nil {
		t.Fatal(err)
	}
	wantEnd(t, job, jobpb.JobState_DONE)
	p.end(t)
	return job
}

func messages(job *engine.Job) string {
	var b strings.Builder
	for e := range job.Events(context.Background()) {
		if e.Message != nil {
			b.WriteString(e.Message.Text + "\n")
		}
	}
	return b.String()
}

func TestSuspendAndResume(t *testing.T) {
	w := newWorld(t, counted(120, 2, 3), 1)
	defer w.close()
	spec := specOf(twoWays(t), goOnly())
	p := startProcess(t, w, slowLife())
	job := begin(t, p, spec)
	if err := job.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, job, jobpb.JobState_STOPPED)
	p.end(t)
	if n := len(w.broker.outs()); n == 0 {
		t.Error("what was written before is not committed")
	}
	l := calmLife()
	l.Slots = 3
	again := finishIn(t, w, l, spec)
	if st := again.Checkpoints(); st.LatestRestored == nil || st.Counts.Restored != 1 {
		t.Errorf("the job does not say that it was restored: %+v", st)
	}
	checkTwoWays(t, w.broker, w.log)
}

// A wish to suspend that failed must not turn a later stop into one.
func TestStopAfterFailedSuspend(t *testing.T) {
	w := newWorld(t, counted(120, 2, 3), 1)
	defer w.close()
	p := startProcess(t, w, slowLife())
	job, err := p.run(t, specOf(twoWays(t), goOnly()))
	if err != nil {
		t.Fatal(err)
	}
	if err := job.Suspend(t.Context()); err == nil {
		t.Skip("the job ran already")
	}
	waitFor(t, "job runs", func() bool { return job.State() == jobpb.JobState_RUNNING })
	if _, err := job.Stop(t.Context(), "mem:///savepoints/a"); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, job, jobpb.JobState_DONE)
	p.end(t)
}

func TestStopAndStartFromSavepoint(t *testing.T) {
	w := newWorld(t, counted(120, 2, 3), 1)
	defer w.close()
	spec := specOf(twoWays(t), goOnly())
	p := startProcess(t, w, slowLife())
	job := begin(t, p, spec)
	info, err := job.Stop(t.Context(), "mem:///savepoints/a")
	if err != nil || info.Savepoint == "" {
		t.Fatalf("stop: %+v, %v", info, err)
	}
	wantEnd(t, job, jobpb.JobState_DONE)
	if left := w.garbage(t); len(left) > 0 || len(w.listing("jobs/")) != 1 {
		t.Errorf("the job leaves %v in the store", w.listing("jobs/"))
	}
	p.end(t)
	spec.ID, spec.Savepoint = "job-2", "mem:///savepoints/a"
	finishIn(t, w, calmLife(), spec)
	checkTwoWays(t, w.broker, w.log)
	if len(w.listing("savepoints/")) == 0 {
		t.Error("the savepoint is gone")
	}
}

// changed is a pipeline without the stateful DoFn of twoWays.
func changed(t *testing.T) *pipepb.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	exactly(s, "copy", readLog(s, false))
	return marshal(t, p)
}

func TestChangedPipeline(t *testing.T) {
	w := newWorld(t, counted(120, 2, 3), 1)
	defer w.close()
	p := startProcess(t, w, slowLife())
	job := begin(t, p, specOf(twoWays(t), goOnly()))
	if _, err := job.Stop(t.Context(), "mem:///savepoints/a"); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, job, jobpb.JobState_DONE)
	p.end(t)

	p = startProcess(t, w, slowLife())
	spec := specOf(changed(t), goOnly())
	spec.ID, spec.Savepoint = "job-2", "mem:///savepoints/a"
	job, err := p.run(t, spec)
	if err != nil {
		t.Fatal(err)
	}
	st, err := end(t, job)
	var not *engine.NotRestoredError
	if st != jobpb.JobState_FAILED || !errors.As(err, &not) {
		t.Fatalf("job ended %v: %v, want a NotRestoredError", st, err)
	}
	if what := strings.Join(not.What, "; "); !strings.Contains(what, "ticker") || !strings.Contains(what, "seen") {
		t.Errorf("it names %v", not.What)
	}
	p.end(t)

	p = startProcess(t, w, slowLife())
	spec.ID, spec.Name, spec.AllowNonRestored = "job-3", "other", true
	if job, err = p.cluster.Submit(spec); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "job runs", func() bool { return job.State() != jobpb.JobState_STARTING })
	makeCheckpoint(t, job, "")
	p.crash(t)
	// What was dropped is gone: the next process needs no leave.
	p = startProcess(t, w, calmLife())
	entries, err := p.cluster.Resumable(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(entries, func(e checkpoint.JobEntry) bool { return e.Name == "other" })
	job, err = p.cluster.Resume(t.Context(), entries[i], func(s *engine.JobSpec) error { s.Open = goOnly(); return nil })
	if err != nil {
		t.Fatal(err)
	}
	wantEnd(t, job, jobpb.JobState_DONE)
	p.end(t)
}

// crashedAfter is a world whose process has made n checkpoints and then crashed, on a disk that is lost.
func crashedAfter(t *testing.T, n int) *world {
	t.Helper()
	w := newWorld(t, counted(160, 2, 3), 1)
	p := startProcess(t, w, slowLife())
	job := begin(t, p, specOf(twoWays(t), goOnly()))
	for range n {
		makeCheckpoint(t, job, "")
		time.Sleep(10 * time.Millisecond)
	}
	p.crash(t)
	w.close()
	return w
}

// newestCheckpoint is the entry of the newest checkpoint.
func (w *world) newestCheckpoint(t fataler) (name string, m *checkpoint.Manifest) {
	for n, e := range w.manifests(t) {
		if e.Kind == checkpoint.KindCheckpoint && (m == nil || e.Seq > m.Seq) {
			name, m = n, e
		}
	}
	return name, m
}

func TestCorruptCheckpoint(t *testing.T) {
	for name, object := range map[string]func(w *world) string{
		"manifest": func(w *world) string {
			n, _ := w.newestCheckpoint(t)
			return n
		},
		"file": func(w *world) string {
			n, m := w.newestCheckpoint(t)
			root, _, _ := strings.Cut(n, "/log/")
			i := slices.IndexFunc(m.Files, func(f checkpoint.File) bool { return f.Path == "execution.json" })
			return root + "/" + m.Files[i].Object
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := crashedAfter(t, 2)
			defer w.close()
			w.mem.flip(object(w))
			job := finishIn(t, w, calmLife(), specOf(twoWays(t), goOnly()))
			if got := messages(job); !strings.Contains(got, "cannot be restored") || !strings.Contains(got, "corrupt") {
				t.Errorf("it says nothing of it: %q", got)
			}
			for sink, want := range expectTwoWays(w.log) {
				if d := differ(w.broker.values(sink), want); strings.Contains(d, "missing") {
					t.Errorf("sink %s: records are lost:\n%s", sink, d)
				}
			}
		})
	}
}

func TestTwoProcesses(t *testing.T) {
	w := newWorld(t, counted(160, 2, 3), 1)
	defer func() { w.close() }()
	spec := specOf(twoWays(t), goOnly())
	l := slowLife()
	l.Interval = 10 * time.Millisecond
	older := startProcess(t, w, l)
	job := begin(t, older, spec)
	waitFor(t, "a checkpoint", func() bool { return completed(job) > 0 })
	defer os.RemoveAll(w.dir)
	w.dir += "-2"
	newer := startProcess(t, w, calmLife())
	second, err := newer.run(t, spec)
	if err != nil {
		t.Fatal(err)
	}
	st, err := end(t, job)
	var fenced *checkpoint.FencedError
	if st != jobpb.JobState_FAILED || !errors.As(err, &fenced) && !errors.Is(err, native.ErrFenced) {
		t.Errorf("the older one ended %v: %v, want a FencedError", st, err)
	}
	if fenced != nil && fenced.Winner.PID == 0 {
		t.Errorf("it does not name the winner: %v", err)
	} else if fenced == nil {
		t.Logf("fenced by the sink: %v", err)
	}
	wantEnd(t, second, jobpb.JobState_DONE)
	newer.end(t)
	older.end(t)
	checkTwoWays(t, w.broker, w.log)
}

// finalizing workers ask for finalization of each bundle.
type finalizing struct {
	*goexec.Worker
	mu        sync.Mutex
	ran       []string
	finalized []string
}

func (w *finalizing) Run(ctx context.Context, b *bundle.Bundle) (*bundle.Result, error) {
	res, err := w.Worker.Run(ctx, b)
	if err == nil {
		res.RequiresFinalization = true
		w.mu.Lock()
		w.ran = append(w.ran, b.ID)
		w.mu.Unlock()
	}
	return res, err
}

func (w *finalizing) Finalize(_ context.Context, b *bundle.Bundle) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finalized = append(w.finalized, b.ID)
	return nil
}

func (w *finalizing) count() (ran, finalized int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ran), len(w.finalized)
}

func TestFinalizersRunAfterCheckpoint(t *testing.T) {
	w := newWorld(t, counted(160, 2, 3), 1)
	defer w.close()
	p := startProcess(t, w, slowLife())
	f := &finalizing{Worker: goexec.New(goexec.Config{})}
	job := begin(t, p, specOf(twoWays(t), workersOf(oneWorker{f, f.Worker.Close})))
	waitFor(t, "bundles", func() bool { ran, _ := f.count(); return ran > 5 })
	if _, n := f.count(); n > 0 {
		t.Errorf("%d bundles are finalized before the checkpoint", n)
	}
	makeCheckpoint(t, job, "")
	if _, n := f.count(); n == 0 {
		t.Error("no bundle is finalized after the checkpoint")
	}
	wantEnd(t, job, jobpb.JobState_DONE)
	p.end(t)
	slices.Sort(f.ran)
	slices.Sort(f.finalized)
	if !slices.Equal(f.ran, f.finalized) {
		t.Errorf("%d bundles ran, %d are finalized", len(f.ran), len(f.finalized))
	}
}

// stable is a pipeline whose gate has RequiresStableInput.
func stable(t *testing.T, gate *gated) *pipepb.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	col := beam.ParDo(s, gate, beam.ParDo(s, &parse{}, readLog(s, false)))
	exactly(s, "copy", beam.ParDo(s, show, col))
	pb := marshal(t, p)
	n := 0
	for _, tr := range pb.GetComponents().GetTransforms() {
		if !strings.Contains(tr.GetUniqueName(), "gated") || tr.GetSpec().GetUrn() != "beam:transform:pardo:v1" {
			continue
		}
		var pd pipepb.ParDoPayload
		must(proto.Unmarshal(tr.GetSpec().GetPayload(), &pd))
		pd.RequiresStableInput = true
		tr.Spec.Payload, _ = proto.Marshal(&pd)
		n++
	}
	if n != 1 {
		t.Fatalf("%d transforms are gated", n)
	}
	pb.Requirements = append(pb.Requirements, "beam:requirement:pardo:stable_input:v1")
	return pb
}

func TestStableInput(t *testing.T) {
	w := newWorld(t, counted(80, 1, 3), 1)
	defer w.close()
	var mu sync.Mutex
	var seen []string
	gate := newGate(t, func(k string, v int64) bool {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprintf("%s=%d", k, v))
		return true
	})
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
	spec := specOf(stable(t, gate), goOnly())
	p := startProcess(t, w, slowLife())
	job := begin(t, p, spec)
	time.Sleep(20 * time.Millisecond)
	if n := count(); n > 0 {
		t.Errorf("%d elements are processed before a checkpoint", n)
	}
	makeCheckpoint(t, job, "")
	waitFor(t, "stable elements", func() bool { return count() > 0 })
	time.Sleep(20 * time.Millisecond)
	first := count()
	p.crash(t)
	mu.Lock()
	before := slices.Clone(seen[:first])
	seen = nil
	mu.Unlock()
	finishIn(t, w, calmLife(), spec)
	if len(seen) < first || !slices.Equal(seen[:first], before) {
		t.Errorf("after the crash came %v, before %v", seen, before)
	}
	var want []string
	for _, r := range w.log.partitions[0] {
		want = append(want, r.Value)
	}
	if d := differ(w.broker.values("copy"), want); d != "" {
		t.Error(d)
	}
}

// A bounded job commits what it has written when it ends.
func TestBoundedJobCommitsAtItsEnd(t *testing.T) {
	w := newWorld(t, counted(50, 2, 3), 1)
	defer w.close()
	p, s := beam.NewPipelineWithRoot()
	exactly(s, "copy", readLog(s, true))
	l := calmLife()
	l.Interval = time.Hour
	finishIn(t, w, l, specOf(marshal(t, p), goOnly()))
	if n := len(w.broker.values("copy")); n != 50 {
		t.Errorf("%d records are committed, want 50", n)
	}
}

func TestLostTransactions(t *testing.T) {
	w := newWorld(t, counted(160, 2, 3), 1)
	defer w.close()
	l := slowLife()
	l.Interval = 5 * time.Millisecond
	p := startProcess(t, w, l)
	job := begin(t, p, specOf(twoWays(t), goOnly()))
	for range 3 {
		w.broker.set(func() { w.broker.refuse = 1 })
		waitFor(t, "refusal", func() bool {
			w.broker.mu.Lock()
			defer w.broker.mu.Unlock()
			return w.broker.refuse == 0 || job.State() == jobpb.JobState_DONE
		})
	}
	wantEnd(t, job, jobpb.JobState_DONE)
	p.end(t)
	if got := messages(job); !strings.Contains(got, "going back") {
		t.Errorf("it says nothing of it: %q", got)
	}
	checkTwoWays(t, w.broker, w.log)
}

// While the store is away the job goes on.
func TestBucketAway(t *testing.T) {
	w := newWorld(t, counted(160, 2, 3), 1)
	defer w.close()
	f := &flakyBucket{Bucket: w.mem}
	w.bucket = f
	l := slowLife()
	l.Interval = 5 * time.Millisecond
	p := startProcess(t, w, l)
	job := begin(t, p, specOf(twoWays(t), goOnly()))
	waitFor(t, "a checkpoint", func() bool { return completed(job) > 0 })
	f.away.Store(true)
	read := func() (n int64) {
		for _, s := range job.Overview().Stages {
			n += s.ElementsOut
		}
		return n
	}
	at := read()
	waitFor(t, "progress without the store", func() bool { return read() > at+20 })
	f.away.Store(false)
	wantEnd(t, job, jobpb.JobState_DONE)
	p.end(t)
	checkTwoWays(t, w.broker, w.log)
}

func TestCancelRemovesEverything(t *testing.T) {
	for _, when := range []string{"running", "restarting", "beginning"} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(t, counted(160, 2, 3), 1)
			defer w.close()
			l := slowLife()
			l.Interval = 5 * time.Millisecond
			p := startProcess(t, w, l)
			spec := specOf(twoWays(t), goOnly())
			var job *engine.Job
			if when == "beginning" {
				opened, left := make(chan bool), make(chan bool)
				spec.Open = func(ctx context.Context, _ string, _ *pipepb.Environment) (engine.Workers, error) {
					close(opened)
					<-left
					return nil, ctx.Err()
				}
				var err error
				if job, err = p.run(t, spec); err != nil {
					t.Fatal(err)
				}
				<-opened
				job.Cancel()
				close(left)
			} else {
				job = begin(t, p, spec)
				waitFor(t, "a checkpoint", func() bool { return completed(job) > 0 })
			}
			if when == "restarting" {
				w.broker.set(func() { w.broker.refuse = 1 })
				waitFor(t, "restart", func() bool { return strings.Contains(soFar(job), "going back") })
			}
			job.Cancel()
			wantEnd(t, job, jobpb.JobState_CANCELLED)
			p.end(t)
			m := w.manifests(t)
			if left := w.listing(""); len(left) != 1 || m[left[0]] == nil || m[left[0]].Kind != checkpoint.KindEnd {
				t.Errorf("left in the store: %v", left)
			}
		})
	}
}

// soFar are the messages of a job that goes on.
func soFar(job *engine.Job) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	var b strings.Builder
	for e := range job.Events(ctx) {
		if e.Message != nil {
			b.WriteString(e.Message.Text + "\n")
		}
	}
	return b.String()
}

// loseTransaction leaves a job in the store that fails when it goes on: the broker gave up a transaction of its complete checkpoint.
func loseTransaction(t *testing.T, w *world) {
	t.Helper()
	p := startProcess(t, w, slowLife())
	p.g.hook = func(what string) {
		if strings.HasPrefix(what, "end ") && !p.g.dead.Load() {
			p.g.crash() // with its first commit
		}
	}
	job := begin(t, p, specOf(twoWays(t), goOnly()))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() { waitFor(t, "crash", p.g.dead.Load); cancel() }()
	if _, err := job.Checkpoint(ctx, ""); err == nil {
		t.Error("the checkpoint was committed")
	}
	p.crash(t)
	w.broker.expire()
}

// A transaction of a complete checkpoint that the broker gave up is told, and nothing is thrown away.
func TestTransactionOfCheckpointLost(t *testing.T) {
	w := newWorld(t, counted(160, 2, 3), 1)
	defer w.close()
	loseTransaction(t, w)
	p := startProcess(t, w, calmLife())
	job, err := p.run(t, specOf(twoWays(t), goOnly()))
	if err != nil {
		t.Fatal(err)
	}
	st, err := end(t, job)
	if st != jobpb.JobState_FAILED || !errors.Is(err, native.ErrLost) {
		t.Errorf("job ended %v: %v, want ErrLost", st, err)
	}
	p.end(t)
	if _, m := w.newestCheckpoint(t); m == nil {
		t.Error("the checkpoint is gone")
	}

	job = finishIn(t, w, calmLife(), specOf(twoWays(t), goOnly()), func(c *engine.Config) { c.Checkpoints.AcceptLost = true })
	if got := messages(job); !strings.Contains(got, "going on without the records of a lost transaction") {
		t.Errorf("the job's messages do not tell of the lost transaction:\n%s", got)
	}
	lost := map[string]int{}
	for name, want := range expectTwoWays(w.log) {
		lost[name] = len(want)
	}
	for _, o := range w.broker.outs() {
		if lost[o.Sink]--; lost[o.Sink] < 0 {
			t.Fatalf("more records in %s than without a loss", o.Sink)
		}
	}
	if lost["copy"] == 0 || lost["copy"] == len(w.log.partitions[0])+len(w.log.partitions[1]) {
		t.Errorf("%d records of copy are lost, want some and not all", lost["copy"])
	}
}

// A job has ended and the store is away for good: the process still ends.
func TestCloseWhileStoreIsAway(t *testing.T) {
	w := newWorld(t, counted(120, 2, 3), 1)
	defer w.close()
	p := startProcess(t, w, slowLife())
	job := begin(t, p, specOf(twoWays(t), goOnly()))
	makeCheckpoint(t, job, "")
	p.g.crash()
	job.Cancel()
	closed := make(chan bool)
	go func() {
		defer close(closed)
		p.end(t)
	}()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Errorf("the process does not end within %v", patience)
		<-closed
	}
}

// The state is kept by key group: with another number of them nothing would be found.
func TestMaxParallelismMustNotChange(t *testing.T) {
	w := crashedAfter(t, 1)
	defer w.close()
	l := calmLife()
	l.Groups = 64
	p := startProcess(t, w, l)
	job, err := p.run(t, specOf(twoWays(t), goOnly()))
	if err != nil {
		t.Fatal(err)
	}
	if st, err := end(t, job); st != jobpb.JobState_FAILED || !strings.Contains(err.Error(), "128") {
		t.Errorf("job ended %v: %v, want an error that names the number", st, err)
	}
	p.end(t)
}

// The end of the process is not the end of its jobs.
func TestCloseKeepsJobs(t *testing.T) {
	w := newWorld(t, counted(120, 2, 3), 1)
	defer w.close()
	spec := specOf(twoWays(t), goOnly())
	p := startProcess(t, w, slowLife())
	job := begin(t, p, spec)
	makeCheckpoint(t, job, "")
	p.end(t)
	finishIn(t, w, calmLife(), spec)
	checkTwoWays(t, w.broker, w.log)
}

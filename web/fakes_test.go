package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/structpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeCluster has two slots. What it is told to do it remembers in calls.
type fakeCluster struct {
	jobs     []*fakeJob
	notReady error
	// storeAway is what the store of the checkpoints fails with; rival: another process may run every job.
	storeAway error
	rival     bool
	submit    func(Submission) (string, error)

	mu    sync.Mutex
	calls []string
}

func (c *fakeCluster) Slots() int { return 2 }

func (c *fakeCluster) Jobs() []Job {
	var out []Job
	for _, j := range c.jobs {
		out = append(out, j)
	}
	return out
}

// oneJob is a cluster that has one job only.
type oneJob struct {
	*fakeCluster
	job Job
}

func (c oneJob) Jobs() []Job { return []Job{c.job} }

func (c *fakeCluster) Memory() Memory {
	return Memory{Limit: 250 << 20, PoolLimit: 32 << 20, PoolUsed: 65536, PoolSpilled: 7, CacheLimit: 60 << 20, CacheInUse: 5 << 20,
		MemTables: 1 << 20, Resident: 90 << 20, ResidentFile: 30 << 20}
}

func (c *fakeCluster) Settings() map[string]string {
	return map[string]string{"slots": "2", "auth_token": "do not tell"}
}

func (c *fakeCluster) Ready(context.Context) error { return c.notReady }

func (c *fakeCluster) Submit(_ context.Context, s Submission) (string, error) {
	c.call("submit %s", s.Name)
	if s.Savepoint != "" {
		c.call("from %s as %q, own name %v, drop %v", s.Savepoint, s.JobName, !s.SavedName, s.AllowNonRestored)
	}
	if c.submit == nil {
		return "", errors.New("no")
	}
	return c.submit(s)
}

func (c *fakeCluster) DisposeSavepoint(_ context.Context, location string) error {
	c.call("dispose %s", location)
	if strings.HasSuffix(location, "none") {
		return errors.New("there is no savepoint")
	}
	return nil
}

// Stored has the failed job, which can go on, one that can not, and words.
func (c *fakeCluster) Stored(context.Context) ([]StoredJob, error) {
	at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	return []StoredJob{
		{Identity: "failed", ID: "failed", Name: "failed", Changed: at, Checkpoint: 7, At: at, Size: 500},
		{Identity: "old%20one", ID: "old", Name: "old one", Changed: at, Ended: true, How: "finished"},
		{Identity: "words", ID: "words-abc", Name: "words", Changed: at, Running: true, Checkpoint: 3, At: at, Size: 5000},
	}, c.storeAway
}

func (c *fakeCluster) Forget(_ context.Context, identity string, force bool) (Forgotten, error) {
	c.call("forget %s %v", identity, force)
	if identity == "words" || c.rival && !force {
		return Forgotten{}, &ConflictError{errors.New("it is running")}
	}
	return Forgotten{Objects: 3, Bytes: 900}, nil
}

func (c *fakeCluster) Shutdown() { c.call("shut down") }

func (c *fakeCluster) call(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, fmt.Sprintf(format, args...))
}

// called returns the calls so far, without what is random in them.
func (c *fakeCluster) called() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return randomPart.ReplaceAllString(strings.Join(c.calls, "\n"), "-RANDOM")
}

// fakeJob is a job that does at once what it is told.
type fakeJob struct {
	cluster     *fakeCluster
	mu          sync.Mutex
	info        Info
	stages      []Stage
	failures    []Failure
	checkpoints Checkpoints
	harnesses   []Harness
	latencies   []Latency
	metrics     []*pipepb.MonitoringInfo
	options     *structpb.Struct
	refuse      error         // what checkpoints and stops fail with
	wait        chan struct{} // checkpoints wait for it, if it is not nil
}

func (j *fakeJob) ID() string { return j.info.ID }

func (j *fakeJob) Info() Info {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := j.info
	i.Changes = slices.Clone(i.Changes)
	return i
}

func (j *fakeJob) Stages() []Stage { return j.stages }

func (j *fakeJob) Metrics() (attempted, committed []*pipepb.MonitoringInfo) {
	return j.metrics, j.metrics
}

func (j *fakeJob) Options() *structpb.Struct { return j.options }

func (j *fakeJob) Failures() []Failure { return j.failures }

func (j *fakeJob) Checkpoints() Checkpoints { return j.checkpoints }

func (j *fakeJob) Transform(id string) string { return "Words/" + id }

func (j *fakeJob) Harnesses() []Harness { return j.harnesses }

func (j *fakeJob) StateSize(stage string) (int64, bool) { return 12345, stage == "Group" }

func (j *fakeJob) Latencies(stage string) []Latency {
	return slices.DeleteFunc(slices.Clone(j.latencies), func(l Latency) bool { return stage != "" && l.Stage != stage })
}

func (j *fakeJob) end(s jobpb.JobState_Enum) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.info.Changes = append(j.info.Changes, Change{s, time.Now()})
}

func (j *fakeJob) Cancel() {
	j.cluster.call("cancel %s", j.info.ID)
	j.end(jobpb.JobState_CANCELLED)
}

func (j *fakeJob) Checkpoint(ctx context.Context, savepoint string) (int64, error) {
	j.cluster.call("checkpoint %s %q", j.info.ID, savepoint)
	if j.wait != nil {
		select {
		case <-j.wait:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 7, j.refuse
}

func (j *fakeJob) Stop(_ context.Context, savepoint string, drain bool) error {
	if drain {
		j.cluster.call("drain %s", j.info.ID)
	}
	j.cluster.call("stop %s %q", j.info.ID, savepoint)
	if j.refuse == nil {
		j.end(jobpb.JobState_DONE)
	}
	return j.refuse
}

func (j *fakeJob) Rescale(_ context.Context, slots int) error {
	j.cluster.call("rescale %s %d", j.info.ID, slots)
	if j.refuse != nil {
		return j.refuse
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.info.Slots = slots
	return nil
}

func varintPayload(values ...uint64) []byte {
	var b []byte
	for _, v := range values {
		b = protowire.AppendVarint(b, v)
	}
	return b
}

func monitoringInfo(kind, typ, transform, name string, payload []byte) *pipepb.MonitoringInfo {
	return &pipepb.MonitoringInfo{
		Urn: "beam:metric:user:" + kind + ":v1", Type: "beam:metrics:" + typ + ":v1", Payload: payload,
		Labels: map[string]string{"PTRANSFORM": transform, "NAMESPACE": "app", "NAME": name},
	}
}

// example has one running job, words, and one for each end that a job can have.
func example(now time.Time) *fakeCluster {
	at := func(s jobpb.JobState_Enum, ago time.Duration) Change { return Change{State: s, At: now.Add(-ago)} }
	c := &fakeCluster{}
	ended := func(id string, s jobpb.JobState_Enum) *fakeJob {
		return &fakeJob{
			cluster: c, info: Info{ID: id, Name: id, MaxParallelism: 128, Slots: 2, Changes: []Change{
				at(jobpb.JobState_STARTING, time.Hour), at(jobpb.JobState_RUNNING, time.Hour-time.Second), at(s, time.Minute),
			}},
			stages: []Stage{
				{Name: "Impulse", Kind: "Impulse", Total: Counters{RecordsOut: 1, BytesOut: 3}, Ended: now.Add(-30 * time.Minute)},
				{Name: "Work", Kind: "User", Total: Counters{RecordsIn: 1, BytesIn: 3}, Inputs: []Input{{Stage: "Impulse"}}},
			},
		}
	}
	failed := ended("failed", jobpb.JobState_FAILED)
	failed.failures = []Failure{
		{At: now.Add(-2 * time.Minute), Text: "commit sink Write: going back"},
		{At: now.Add(-time.Minute), Text: "stage Work: bundle failed-3: user code failed in w: Traceback (most recent call last):\n  File \"x.py\", line 1, in <lambda>\n    1 // 0\nZeroDivisionError: integer division or modulo by zero [while running 'Work']\n"},
	}
	c.jobs = []*fakeJob{ended("done", jobpb.JobState_DONE), ended("drained", jobpb.JobState_DRAINED), failed, ended("cancelled", jobpb.JobState_CANCELLED), words(c, now)}
	return c
}

// took are n durations, most of them d.
func took(n int64, d time.Duration) Durations {
	return Durations{Count: n, Min: d / 2, Max: 2 * d, Mean: d, P50: d, P75: d, P90: d, P95: d, P98: d, P99: 2 * d, P999: 2 * d}
}

// words is a job that has run for 9 seconds.
func words(c *fakeCluster, now time.Time) *fakeJob {
	counters := func(in, out int64, busy, pressed time.Duration) Counters {
		return Counters{RecordsIn: in, RecordsOut: out, BytesIn: 20 * in, BytesOut: 20 * out, Busy: busy, BackPressured: pressed}
	}
	done := Checkpoint{
		ID: 3, Status: "COMPLETED", Started: now.Add(-4 * time.Second), Ended: now.Add(-3900 * time.Millisecond), Pause: 2 * time.Millisecond,
		Size: 5000, Uploaded: 1000, InFlight: 10, InFlightBytes: 200,
		Stages: []StageCheckpoint{{Stage: "Read", State: 40}, {Stage: "Group", State: 3000, InFlight: 200}},
	}
	saved := done
	saved.ID, saved.Savepoint = 2, "s3://b/sp"
	broken := Checkpoint{ID: 1, Status: "FAILED", Started: now.Add(-8 * time.Second), Ended: now.Add(-7 * time.Second), Error: "store is away"}
	running := Checkpoint{ID: 4, Status: "IN_PROGRESS", Started: now.Add(-time.Second)}
	options, err := structpb.NewStruct(map[string]any{"beam:option:streaming:v1": true, "beam:option:db_password:v1": "hush"})
	if err != nil {
		panic("not reached")
	}
	return &fakeJob{
		cluster: c, options: options,
		info: Info{ID: "words-abc", Name: "words", Streaming: true, MaxParallelism: 128, Slots: 2, Restarts: 1, Changes: []Change{
			{jobpb.JobState_STARTING, now.Add(-10 * time.Second)}, {jobpb.JobState_RUNNING, now.Add(-9 * time.Second)},
		}},
		stages: []Stage{
			{
				Name: "Read", Kind: "Source", InputWatermark: MaxWatermark, OutputWatermark: 946684790000, Bundles: 5, Total: counters(0, 100, 0, 0),
				Subtasks: []Subtask{
					{Counters: counters(0, 60, time.Second, 8*time.Second), Backlog: 30}, {Counters: counters(0, 40, 2*time.Second, 0), Backlog: 12},
				},
			},
			{
				Name: "Group", Kind: "GroupByKey", Inputs: []Input{{Stage: "Read", Keyed: true}}, InputWatermark: 946684790000,
				OutputWatermark: 946684780000, Bundles: 9, FailedBundles: 1, Splits: 2, DroppedLate: 3, Total: counters(90, 7, 0, 0),
				Transforms: []string{"group"}, Subtasks: []Subtask{
					{Counters: counters(45, 4, 4*time.Second, 0), QueuedRecords: 10, QueuedBytes: 200, Running: 1, Backlog: -1},
					{Counters: counters(45, 3, 9*time.Second, 0), Backlog: -1},
				},
			},
		},
		metrics: []*pipepb.MonitoringInfo{
			monitoringInfo("sum_int64", "sum_int64", "group", "seen", varintPayload(90)),
			monitoringInfo("sum_int64", "sum_int64", "other", "seen", varintPayload(10)),
			monitoringInfo("distribution_int64", "distribution_int64", "group", "size", varintPayload(2, 30, 10, 20)),
			monitoringInfo("latest_int64", "latest_int64", "group", "last", varintPayload(1, 5)),
			monitoringInfo("sum_int64", "sum_int64", "group", "broken", []byte{0xff}),
		},
		latencies: []Latency{
			{Source: "Read", Stage: "Group", Total: took(2, 8*time.Millisecond), Slots: []Durations{{}, took(2, 8*time.Millisecond)}, Observed: 3, Sum: 50 * time.Millisecond},
			{Source: "Silent", Stage: "Group", Slots: []Durations{{}, {}}, Observed: 1, Sum: time.Second},
		},
		checkpoints: Checkpoints{
			Enabled: true, Location: "s3://b/cp", Interval: 10 * time.Second, Restored: 1, Total: 4, InProgress: 1, Completed: 2, Failed: 1,
			History:        []Checkpoint{running, done, saved, broken},
			LatestRestored: &Checkpoint{ID: 9, Status: "COMPLETED", Restored: now.Add(-10 * time.Second)},
		},
	}
}

// newTestHandler makes a handler that is closed with the test.
func newTestHandler(t testing.TB, c *fakeCluster, change func(*Config)) *Handler {
	t.Helper()
	cfg := Config{
		Cluster: c, Revision: "abc", Logger: slog.New(slog.DiscardHandler), Address: "127.0.0.1:8081", JarDir: t.TempDir(),
		SavepointDir: "file:///savepoints",
	}
	if change != nil {
		change(&cfg)
	}
	h, err := NewHandler(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// call makes a request. Headers are "Name: value".
func call(t testing.TB, h http.Handler, method, path, body string, headers ...string) (code int, header http.Header, answer []byte) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	data, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, w.Header(), bytes.TrimSpace(data)
}

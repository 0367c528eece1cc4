package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc/status"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/plan"
	"github.com/tinyrunner/tinyrunner/state"
	"github.com/tinyrunner/tinyrunner/web"
)

// newWeb makes the handler of the HTTP port.
func (s *server) newWeb(pool *flow.Pool, cache *state.Cache, checkpoints *engine.CheckpointConfig) (*web.Handler, error) {
	c := webCluster{server: s, pool: pool, cache: cache}
	if checkpoints != nil {
		c.bucket = checkpoints.Bucket
	}
	h, err := web.NewHandler(web.Config{
		Cluster: c, Revision: versions().revision, Logger: s.log, Logs: s.logs, Address: s.address(s.webListener), JobEndpoint: s.jobEndpoint(),
		JarDir: filepath.Join(s.dir, "jars"), SavepointDir: s.settings.savepointDir, ReadOnly: s.settings.readOnly,
		Token: s.security.token, ClientCerts: s.security.mutual && s.security.encrypts(restPort), Hosts: s.settings.hosts(),
		MaxBody: int64(s.settings.maxBody), MaxJar: int64(s.settings.maxJar),
	})
	if err != nil {
		return nil, err
	}
	s.onClose(h.Close)
	return h, nil
}

// webCluster is the server as package web sees it.
type webCluster struct {
	*server
	pool   *flow.Pool
	cache  *state.Cache
	bucket objstore.Bucket // of the checkpoints; nil: none
}

var _ web.Cluster = webCluster{}

// Slots of the process; a job may have others.
func (c webCluster) Slots() int { return c.cluster.Slots() }

// Memory tells of the parts that Go's runtime does not tell apart. The cache is shared by the databases of all jobs, which
// tell of it; without a running job it is empty but for what the last one has left.
func (c webCluster) Memory() web.Memory {
	m := web.Memory{
		Limit: int64(c.server.settings.memory), PoolLimit: c.pool.Limit(), PoolUsed: c.pool.Used(), PoolSpilled: c.pool.Spilled(),
		CacheLimit: c.cache.Bytes(), CacheInUse: -1, StateOutsideGo: builtWithCgo(),
	}
	for _, j := range c.cluster.Jobs() {
		if s, ok := j.StateMetrics(); ok {
			m.CacheInUse = s.CacheBytes
			m.MemTables += s.MemTableBytes
		}
	}
	m.Resident, m.ResidentFile = residentSelf()
	return m
}

// Settings are all flags but those that hold secrets, which package web hides.
func (c webCluster) Settings() map[string]string {
	out := make(map[string]string)
	for _, t := range c.server.settings.table() {
		out[t.name] = t.value.String()
	}
	return out
}

// Ready looks whether the jobs of an earlier process go on and the store of the checkpoints answers.
func (c webCluster) Ready(ctx context.Context) error {
	if c.resuming.Load() {
		return errors.New("some jobs of an earlier process do not go on yet: the store of their checkpoints is asked again; the log tells why")
	}
	if c.bucket == nil {
		return nil
	}
	for _, err := range c.bucket.List(ctx, "readyz-probe/") {
		if err != nil {
			return fmt.Errorf("the store of the checkpoints cannot be reached: %w", err)
		}
		break
	}
	return nil
}

// Jobs are all jobs, oldest first.
func (c webCluster) Jobs() []web.Job {
	var out []web.Job
	for _, j := range c.cluster.Jobs() {
		out = append(out, webJob{j, c.server.settings.checkpoints})
	}
	return out
}

// Submit takes the way that all jobs take: this process's own Job API.
func (c webCluster) Submit(ctx context.Context, s web.Submission) (id string, err error) {
	clean, err := c.fromSavepoint(ctx, &s)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, clean()) }()
	conn, err := c.dialOwn()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	jobs := jobpb.NewJobServiceClient(conn)
	prep, err := jobs.Prepare(ctx, &jobpb.PrepareJobRequest{Pipeline: s.Pipeline, JobName: s.Name, PipelineOptions: s.Options})
	if err != nil {
		return "", errors.New(status.Convert(err).Message())
	}
	if err := offerFiles(ctx, conn, prep.GetStagingSessionToken()); err != nil {
		return "", errors.New(status.Convert(err).Message())
	}
	job, err := jobs.Run(ctx, &jobpb.RunJobRequest{PreparationId: prep.GetPreparationId()})
	if err != nil {
		return "", errors.New(status.Convert(err).Message())
	}
	return job.GetJobId(), nil
}

// Shutdown ends run, which has begun before anything is served.
func (c webCluster) Shutdown() { c.stopServing(nil) }

// DisposeSavepoint removes a savepoint.
func (c webCluster) DisposeSavepoint(ctx context.Context, location string) error {
	bucket, prefix, err := c.openLocation(ctx, location)
	if err != nil {
		return fmt.Errorf("dispose savepoint %s: %w", location, err)
	}
	err = checkpoint.DisposeSavepoint(ctx, checkpoint.SavepointConfig{Bucket: bucket, Prefix: prefix, Owner: checkpoint.NewOwner(time.Now())})
	if err = errors.Join(err, objstore.Close(bucket)); err != nil {
		return fmt.Errorf("dispose savepoint %s: %w", location, err)
	}
	return nil
}

// Stored are the jobs in the store of the checkpoints.
func (c webCluster) Stored(ctx context.Context) ([]web.StoredJob, error) {
	all, err := c.cluster.Stored(ctx)
	if err != nil {
		return nil, err
	}
	var out []web.StoredJob
	for _, e := range all {
		s := storedJob(e)
		s.Running = c.cluster.Runs(e.Job)
		out = append(out, s)
	}
	return out, nil
}

func storedJob(e checkpoint.JobEntry) web.StoredJob {
	s := web.StoredJob{Identity: e.Job, ID: e.JobID, Name: cmp.Or(e.Name, e.Job), Changed: e.Changed, Ended: e.Ended, How: e.How}
	if e.Newest != nil {
		s.Checkpoint, s.At, s.Size = e.Newest.ID, e.Newest.Created, e.Newest.Bytes
	}
	return s
}

// Forget removes what the store holds of a job.
func (c webCluster) Forget(ctx context.Context, identity string, force bool) (web.Forgotten, error) {
	f, err := c.cluster.Forget(ctx, identity, force)
	var running *engine.RunningError
	var busy *checkpoint.BusyError
	if errors.As(err, &running) || errors.As(err, &busy) {
		err = &web.ConflictError{Err: err}
	}
	return web.Forgotten{Objects: f.Objects, Bytes: f.Bytes}, err
}

// webJob is a job as package web sees it.
type webJob struct {
	*engine.Job
	location string // of all jobs' checkpoints; "": none
}

var _ web.Job = webJob{}

// Info tells what is known without a look at the stages.
func (j webJob) Info() web.Info {
	return web.Info{
		ID: j.ID(), Name: cmp.Or(j.Name(), j.ID()), Streaming: unbounded(j.Plan()), MaxParallelism: maxParallelism, Slots: j.Slots(),
		Restarts: j.Restarts(), Changes: changes(j.Job),
	}
}

// Stages tells of the stages as they are now, or were when the job ended. Before it runs there are those of the plan.
func (j webJob) Stages() []web.Stage {
	overview := j.Overview()
	if len(overview.Stages) == 0 {
		return plannedStages(j.Plan())
	}
	planned := make(map[string]*plan.Stage, len(overview.Stages))
	for _, s := range j.Plan().Stages {
		planned[s.Name] = s
	}
	out := make([]web.Stage, 0, len(overview.Stages))
	for _, s := range overview.Stages {
		w := webStage(s)
		if p := planned[s.Name]; p != nil {
			w.Transforms, w.Environment = p.Transforms, p.Environment
		}
		out = append(out, w)
	}
	return out
}

func webStage(s engine.StageOverview) web.Stage {
	w := web.Stage{
		Name: s.Name, Kind: s.Kind, Ended: s.Ended,
		InputWatermark: watermark(s.InputWatermark), OutputWatermark: watermark(s.OutputWatermark),
		Total:   web.Counters{RecordsIn: s.ElementsIn, RecordsOut: s.ElementsOut, BytesIn: s.BytesIn, BytesOut: s.BytesOut, Busy: s.Busy},
		Bundles: s.Bundles, FailedBundles: s.FailedBundles, Splits: s.Splits, DroppedLate: s.DroppedLate,
	}
	for _, in := range s.Inputs {
		w.Inputs = append(w.Inputs, web.Input{Stage: in, Keyed: s.Keyed})
	}
	w.Subtasks = make([]web.Subtask, 0, len(s.Slots))
	for _, t := range s.Slots {
		w.Subtasks = append(w.Subtasks, web.Subtask{
			Counters: web.Counters{
				RecordsIn: t.ElementsIn, RecordsOut: t.ElementsOut, BytesIn: t.BytesIn, BytesOut: t.BytesOut,
				Busy: t.Busy, BackPressured: t.BackPressured,
			},
			QueuedRecords: int64(t.QueuedElements), QueuedBytes: t.QueuedBytes, Running: t.Running, Backlog: t.Backlog,
		})
	}
	return w
}

func watermark(ms int64) int64 {
	switch {
	case ms <= coder.MinTimestamp:
		return web.MinWatermark
	case ms >= coder.MaxTimestamp:
		return web.MaxWatermark
	default:
		return ms
	}
}

// plannedStages are the stages of a job that does not run yet.
func plannedStages(p *plan.Plan) []web.Stage {
	var out []web.Stage
	for _, s := range p.Stages {
		w := web.Stage{
			Name: s.Name, Kind: s.Kind.String(), Transforms: s.Transforms, Environment: s.Environment,
			InputWatermark: web.MinWatermark, OutputWatermark: web.MinWatermark,
		}
		if c := p.Collections[s.Input]; c != nil {
			for _, k := range c.Producers {
				w.Inputs = append(w.Inputs, web.Input{Stage: p.Stages[k].Name, Keyed: s.Keyed})
			}
		}
		out = append(out, w)
	}
	return out
}

// Failures are what ended executions.
func (j webJob) Failures() []web.Failure {
	var out []web.Failure
	for _, f := range j.Job.Failures() {
		out = append(out, web.Failure{At: f.At, Text: f.Err.Error()})
	}
	return out
}

// Checkpoints tells of the job's checkpoints.
func (j webJob) Checkpoints() web.Checkpoints {
	s := j.Job.Checkpoints()
	out := web.Checkpoints{
		Enabled: s.Enabled, Interval: s.Interval, Restored: s.Counts.Restored, Total: s.Counts.Total,
		InProgress: s.Counts.InProgress, Completed: s.Counts.Completed, Failed: s.Counts.Failed,
	}
	if s.Enabled {
		out.Location = j.location
	}
	for _, i := range s.History {
		out.History = append(out.History, webCheckpoint(i))
	}
	if s.LatestRestored != nil {
		out.LatestRestored = new(webCheckpoint(*s.LatestRestored))
	}
	return out
}

func webCheckpoint(i engine.CheckpointInfo) web.Checkpoint {
	out := web.Checkpoint{
		ID: i.ID, Status: string(i.Status), Started: i.Started, Ended: i.Ended, Restored: i.Restored, Pause: i.Pause,
		Size: i.Size, Uploaded: i.Uploaded, InFlight: i.InFlight, InFlightBytes: i.InFlightBytes, Savepoint: i.Savepoint, Error: i.Error,
	}
	for _, s := range i.Stages {
		out.Stages = append(out.Stages, web.StageCheckpoint{Stage: s.Name, State: s.State, InFlight: s.InFlight})
	}
	return out
}

// Transform is the name that the pipeline gives to a transform.
func (j webJob) Transform(id string) string {
	return j.Plan().TransformName(id)
}

// Harnesses are those of the environments in use, by environment and place.
func (j webJob) Harnesses() []web.Harness {
	envs := j.Workers()
	var out []web.Harness
	for _, id := range slices.Sorted(maps.Keys(envs)) {
		of, ok := envs[id].(harnesses)
		if !ok {
			continue // linked in
		}
		for _, i := range of.Harnesses() {
			h := web.Harness{
				Environment: i.Environment, From: i.From, Index: i.Index, Worker: i.Worker, PID: i.PID, Resident: residentTree(i.PID),
				Since: i.Since, LastCall: i.LastCall, Running: i.Running, Bundles: i.Bundles, Restarts: i.Restarts, Tries: i.Tries,
			}
			if i.LastError != nil {
				h.Error = i.LastError.Error()
			}
			out = append(out, h)
		}
	}
	return out
}

// StateSize tells how large the state of a stage is.
func (j webJob) StateSize(stage string) (int64, bool) {
	n, err := j.Job.StateSize(stage)
	return n, err == nil
}

// Latencies are those that the stages measure.
func (j webJob) Latencies(stage string) []web.Latency {
	var out []web.Latency
	for _, l := range j.Job.Latencies(stage) {
		w := web.Latency{Source: l.Source, Stage: l.Stage, Total: web.Durations(l.Total), Observed: l.Observed, Sum: l.Sum}
		for _, d := range l.Slots {
			w.Slots = append(w.Slots, web.Durations(d))
		}
		out = append(out, w)
	}
	return out
}

// Checkpoint makes a checkpoint, and a savepoint of it if there is a location.
func (j webJob) Checkpoint(ctx context.Context, savepoint string) (int64, error) {
	i, err := j.Job.Checkpoint(ctx, savepoint)
	return i.ID, err
}

// Stop ends the job with a savepoint, drained or not.
func (j webJob) Stop(ctx context.Context, savepoint string, drain bool) error {
	stop := j.Job.Stop
	if drain {
		stop = j.StopDrained
	}
	_, err := stop(ctx, savepoint)
	return err
}

// changes returns the states a job went through so far.
func changes(j *engine.Job) []web.Change {
	out := []web.Change{{State: jobpb.JobState_STARTING, At: j.Created()}}
	for _, e := range j.Changes() {
		if e.State != jobpb.JobState_STARTING {
			out = append(out, web.Change{State: e.State, At: e.Time})
		}
	}
	return out
}

func unbounded(p *plan.Plan) bool {
	for _, c := range p.Collections {
		if !c.Bounded {
			return true
		}
	}
	return false
}

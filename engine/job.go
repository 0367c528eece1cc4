package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strconv"
	"sync"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/engine/plan"
)

// maxMessages bounds a job's history: a never-ending job with a chatty DoFn must not grow.
const maxMessages = 1000

// Job is one submitted pipeline. Goroutine safe.
type Job struct {
	spec    JobSpec // also guarded by mu once the execution has ended, as is the plan: see archive
	plan    *plan.Plan
	created time.Time
	log     *slog.Logger
	metrics metrics

	identity string            // names its checkpoints; "": it makes none
	claimed  *checkpoint.Store // set if it was resumed

	cancelRun context.CancelCauseFunc // ends the execution
	done      chan struct{}           // closed after the terminal state was set and everything was released

	mu        sync.Mutex // guards the rest
	state     jobpb.JobState_Enum
	events    []Event // oldest messages are dropped beyond maxMessages, state changes never
	dropped   int     // how many events were dropped from the front
	changed   chan struct{}
	err       error
	exec      *execution // nil before and after the run
	durable   *durable   // nil before the run, and of a job without checkpoints
	last      Overview   // taken when the run ended
	archived  *archive   // nil before the end
	slots     int
	suspended bool // stopped to be resumed
	starts    int  // executions that began to run
	failures  []Failure
	nextMsg   int
}

var (
	errCancelled = errors.New("the job was cancelled")
	// errClosed is not the end of a job that can be resumed.
	errClosed = errors.New("the process shuts down")
)

func newJob(spec JobSpec, p *plan.Plan, log *slog.Logger) *Job {
	j := &Job{
		spec: spec, plan: p, created: time.Now(), log: log.With("job", spec.ID),
		done: make(chan struct{}), changed: make(chan struct{}),
	}
	j.setState(jobpb.JobState_STARTING)
	return j
}

// ID is the job's id, unique in the cluster.
func (j *Job) ID() string { return j.spec.ID }

// Name is the name the submitter chose; several jobs may share it.
func (j *Job) Name() string { return j.spec.Name }

// Created is when the job was submitted.
func (j *Job) Created() time.Time { return j.created }

// Options are the pipeline options as they were submitted; may be nil.
func (j *Job) Options() *structpb.Struct { return j.spec.Options }

// streaming: the job was declared a streaming one by its options.
func (j *Job) streaming() bool {
	for _, name := range []string{"beam:option:streaming:v1", "streaming"} {
		if v, ok := j.spec.Options.GetFields()[name]; ok && v.GetBoolValue() {
			return true
		}
	}
	return false
}

// Plan is the plan the job runs, and only its outline when the job has ended. Callers must not change it.
func (j *Job) Plan() *plan.Plan {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.plan
}

// State is the job's current state.
func (j *Job) State() jobpb.JobState_Enum {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state
}

// Ended reports whether the job is in a state that it never leaves.
func (j *Job) Ended() bool { return terminal(j.State()) }

// Err is why the job failed; nil unless State is FAILED.
func (j *Job) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// Done is closed when the job has ended and released everything.
func (j *Job) Done() <-chan struct{} { return j.done }

// Wait returns the terminal state and, for FAILED, the reason; or the context's error when that ends first.
func (j *Job) Wait(ctx context.Context) (jobpb.JobState_Enum, error) {
	select {
	case <-j.done:
		return j.State(), j.Err()
	case <-ctx.Done():
		return j.State(), ctx.Err()
	}
}

// Events yields every state change and the newest messages from the job's beginning on, then what comes, and ends after the
// terminal state. The error is the context's.
func (j *Job) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		at := 0
		for {
			j.mu.Lock()
			at = max(at, j.dropped)
			batch := j.events[at-j.dropped:]
			ended, changed := terminal(j.state), j.changed
			j.mu.Unlock()
			for _, e := range batch {
				if !yield(e, nil) {
					return
				}
			}
			at += len(batch)
			if len(batch) > 0 {
				continue
			}
			if ended {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				yield(Event{}, ctx.Err())
				return
			}
		}
	}
}

// Cancel ends the job without draining it. It does nothing to a job that has ended.
func (j *Job) Cancel() { j.cancel(errCancelled) }

func (j *Job) cancel(why error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if terminal(j.state) {
		return
	}
	j.setStateLocked(jobpb.JobState_CANCELLING)
	if j.cancelRun != nil {
		j.cancelRun(why)
	}
}

// Drain stops the sources, truncates restrictions, and lets the job end with everything processed.
func (j *Job) Drain() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if terminal(j.state) || j.exec == nil {
		return fmt.Errorf("drain job %s: it is %s, only a running job can be drained", j.spec.ID, j.state)
	}
	j.setStateLocked(jobpb.JobState_DRAINING)
	j.exec.drain()
	return nil
}

// Overview tells what the job is doing now, or did when it ended.
func (j *Job) Overview() Overview {
	j.mu.Lock()
	x, o, st := j.exec, j.last, j.state
	j.mu.Unlock()
	if x != nil {
		o = x.overview()
	}
	o.State = st
	return o
}

var errNotDurable = errors.New("the job makes no checkpoints: start the server with --checkpoints, and note that jobs with a TestStream never do")

// Checkpoint makes a checkpoint now and waits until it is complete. With a location it is also copied there, as a savepoint.
func (j *Job) Checkpoint(ctx context.Context, savepoint string) (CheckpointInfo, error) {
	x := j.running()
	if x == nil {
		return CheckpointInfo{}, fmt.Errorf("checkpoint job %s: it is %s, only a running job can be checkpointed", j.ID(), j.State())
	}
	if x.coord == nil {
		return CheckpointInfo{}, fmt.Errorf("checkpoint job %s: %w", j.ID(), errNotDurable)
	}
	trigger := checkpoint.Manual
	if savepoint != "" {
		trigger = checkpoint.ForSave
	}
	r := x.coord.request(trigger, savepoint)
	select {
	case <-r.done:
	case <-ctx.Done():
		return CheckpointInfo{}, ctx.Err()
	}
	if r.err != nil {
		return r.info, fmt.Errorf("checkpoint job %s: %w", j.ID(), r.err)
	}
	return r.info, nil
}

// Stop ends the job with a savepoint at the location, from which it can be started again. Its own checkpoints are removed.
func (j *Job) Stop(ctx context.Context, savepoint string) (CheckpointInfo, error) {
	if savepoint == "" {
		return CheckpointInfo{}, fmt.Errorf("stop job %s: name the location of the savepoint", j.ID())
	}
	return j.stop(ctx, savepoint)
}

// Suspend ends the job with a checkpoint. A process that resumes it later goes on from there.
func (j *Job) Suspend(ctx context.Context) error {
	_, err := j.stop(ctx, "")
	return err
}

func (j *Job) stop(ctx context.Context, location string) (CheckpointInfo, error) {
	x := j.running()
	if x == nil {
		return CheckpointInfo{}, fmt.Errorf("stop job %s: it is %s, only a running job can be stopped", j.ID(), j.State())
	}
	info, err := x.stop(ctx, location)
	if err != nil {
		return info, fmt.Errorf("stop job %s: %w", j.ID(), err)
	}
	select {
	case <-j.done:
	case <-ctx.Done():
	}
	return info, nil
}

// Slots is the number of bundles of one stage that may run at once.
func (j *Job) Slots() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.slots
}

func (j *Job) setSlots(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.slots = n
}

// Rescale changes the number of slots of a running job: the bundles under way end, key groups move, the job goes on.
func (j *Job) Rescale(ctx context.Context, slots int) error {
	x := j.running()
	if x == nil {
		return fmt.Errorf("rescale job %s: it is %s, only a running job can be rescaled", j.ID(), j.State())
	}
	if err := x.rescale(ctx, slots); err != nil {
		return fmt.Errorf("rescale job %s: %w", j.ID(), err)
	}
	return nil
}

// Checkpoints tells of the job's checkpoints.
func (j *Job) Checkpoints() CheckpointStats {
	j.mu.Lock()
	d := j.durable
	j.mu.Unlock()
	if d == nil {
		return CheckpointStats{}
	}
	return d.stats()
}

// warn tells the log and the job's subscribers.
func (j *Job) warn(text string) {
	j.log.Warn(text)
	j.message(jobpb.JobMessage_JOB_MESSAGE_WARNING, text)
}

// message appends a message for the job's subscribers.
func (j *Job) message(imp jobpb.JobMessage_MessageImportance, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.nextMsg++
	j.publish(Event{Time: time.Now(), Message: &Message{ID: strconv.Itoa(j.nextMsg), Importance: imp, Text: text}})
}

func (j *Job) setState(s jobpb.JobState_Enum) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.setStateLocked(s)
}

// setStateLocked publishes a new state. Nothing leaves a terminal state. REQUIRES: j.mu.
func (j *Job) setStateLocked(s jobpb.JobState_Enum) {
	if s == j.state || terminal(j.state) || j.state == jobpb.JobState_CANCELLING && !terminal(s) {
		return
	}
	j.state = s
	j.publish(Event{Time: time.Now(), State: s})
	j.log.Info("job state", "state", s.String())
}

// publish REQUIRES: j.mu.
func (j *Job) publish(e Event) {
	j.events = append(j.events, e)
	if len(j.events) > 2*maxMessages {
		j.trim()
	}
	close(j.changed)
	j.changed = make(chan struct{})
}

// trim drops old messages. State changes are few and stay: they move behind the dropped part, order kept.
func (j *Job) trim() {
	cut := len(j.events) - maxMessages
	var kept []Event
	for _, e := range j.events[:cut] {
		if e.Message == nil {
			kept = append(kept, e)
		}
	}
	j.dropped += cut - len(kept)
	j.events = append(kept, j.events[cut:]...)
}

// start is called by the execution when it begins to run.
func (j *Job) start(x *execution) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.exec = x
	j.starts++
	j.setStateLocked(jobpb.JobState_RUNNING)
}

// finish sets the terminal state that belongs to the execution's outcome.
func (j *Job) finish(err error, drained bool) {
	j.mu.Lock()
	cancelled := j.state == jobpb.JobState_CANCELLING
	suspended := j.suspended
	if x := j.exec; x != nil {
		j.mu.Unlock()
		o := x.overview()
		j.mu.Lock()
		j.last, j.exec = o, nil
	}
	j.mu.Unlock()
	j.archive()
	switch {
	case cancelled || errors.Is(err, errCancelled):
		j.setState(jobpb.JobState_CANCELLED)
	case errors.Is(err, errStopped) && suspended:
		j.setState(jobpb.JobState_STOPPED)
	case errors.Is(err, errStopped):
		j.setState(jobpb.JobState_DONE)
	case err != nil:
		j.mu.Lock()
		j.err = err
		j.mu.Unlock()
		j.failed(err)
		j.log.Error("job failed", "error", err)
		j.message(jobpb.JobMessage_JOB_MESSAGE_ERROR, err.Error())
		j.setState(jobpb.JobState_FAILED)
	case drained:
		j.setState(jobpb.JobState_DRAINED)
	default:
		j.setState(jobpb.JobState_DONE)
	}
	close(j.done)
}

func terminal(s jobpb.JobState_Enum) bool {
	switch s {
	case jobpb.JobState_DONE, jobpb.JobState_FAILED, jobpb.JobState_CANCELLED, jobpb.JobState_DRAINED, jobpb.JobState_UPDATED, jobpb.JobState_STOPPED:
		return true
	}
	return false
}

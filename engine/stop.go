package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// errStopped ends an execution that was stopped with a checkpoint.
var errStopped = errors.New("the job was stopped with a checkpoint")

// quiesceTime is how long a job that stops waits for the bundles under way. What is not done by then runs again after the
// restart: it is part of the checkpoint.
const quiesceTime = 5 * time.Second

// stop is the wish to end an execution with a checkpoint.
type stop struct {
	since    time.Time
	location string // of a savepoint; "": none
	done     chan struct{}
	// valid once done is closed:
	info CheckpointInfo
	err  error
}

// stop stops the job: no more bundles start, a last checkpoint is made, and the execution ends. If the checkpoint fails the
// job goes on.
func (x *execution) stop(ctx context.Context, location string) (CheckpointInfo, error) {
	x.mu.Lock()
	if x.coord == nil {
		x.mu.Unlock()
		return CheckpointInfo{}, errNotDurable
	}
	if x.stopping != nil || x.rescaling != nil {
		x.mu.Unlock()
		return CheckpointInfo{}, errors.New("the job is being stopped or rescaled already")
	}
	st := &stop{since: time.Now(), location: location, done: make(chan struct{})}
	x.stopping = st
	x.hastenWorks()
	x.mu.Unlock()
	x.kick()
	return st.wait(ctx, x)
}

func (st *stop) wait(ctx context.Context, x *execution) (CheckpointInfo, error) {
	select {
	case <-st.done:
		return st.info, st.err
	case <-ctx.Done():
		return CheckpointInfo{}, ctx.Err()
	case <-x.ended:
	}
	select {
	case <-st.done: // before the end
		return st.info, st.err
	default:
		return CheckpointInfo{}, errEnded
	}
}

// StopDrained ends the job as Drain does: sources stop, watermarks rise to the end of time, all windows and event-time timers
// fire, and everything is processed. Then it makes a savepoint, of the state that is left. A job that begins with it is a
// drained one and has nothing more to read. It waits for the end. An error after the job was drained says that there is no
// savepoint; the job has ended all the same.
func (j *Job) StopDrained(ctx context.Context, savepoint string) (CheckpointInfo, error) {
	j.mu.Lock()
	x := j.exec
	if savepoint == "" || x == nil || terminal(j.state) {
		defer j.mu.Unlock()
		return CheckpointInfo{}, fmt.Errorf("drain job %s: it is %s; only a running job can be drained, and the location of the savepoint must be named",
			j.spec.ID, j.state)
	}
	st, err := x.saveDrained(savepoint)
	if err == nil {
		j.setStateLocked(jobpb.JobState_DRAINING)
	}
	j.mu.Unlock()
	if err != nil {
		return CheckpointInfo{}, fmt.Errorf("drain job %s: %w", j.ID(), err)
	}
	x.drain()
	info, err := st.wait(ctx, x)
	if errors.Is(err, errEnded) {
		select {
		case <-j.done:
			err = errors.Join(fmt.Errorf("it is %s, and there is no savepoint", j.State()), j.Err())
		case <-time.After(quiesceTime):
			err = errors.New("it went back to its last checkpoint: try again")
		case <-ctx.Done():
		}
	}
	if err == nil {
		select {
		case <-j.done:
		case <-ctx.Done():
		}
	}
	if err != nil {
		return info, fmt.Errorf("drain job %s: %w", j.ID(), err)
	}
	return info, nil
}

// saveDrained makes the end of the execution a savepoint.
func (x *execution) saveDrained(location string) (*stop, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.coord == nil {
		return nil, errNotDurable
	}
	if x.stopping != nil || x.saving != nil {
		return nil, errors.New("the job is being stopped already")
	}
	x.saving = &stop{since: time.Now(), location: location, done: make(chan struct{})}
	return x.saving, nil
}

// quiet returns the wish to stop when the time has come: all bundles have ended, or have had their time. REQUIRES: x.mu.
func (x *execution) quiet() *stop {
	st := x.stopping
	if st == nil || x.failed != nil {
		return nil
	}
	if time.Since(st.since) < quiesceTime && x.active() > 0 {
		return nil
	}
	return st
}

// halt makes the last checkpoint and ends the execution with errStopped.
func (x *execution) halt(ctx context.Context, st *stop) (done bool, err error) {
	r := x.coord.request(checkpoint.ForStop, st.location)
	<-r.done
	st.info, st.err = r.info, r.err
	x.mu.Lock()
	x.stopping = nil
	x.mu.Unlock()
	if r.err == nil {
		if st.location == "" {
			x.job.setSuspended()
		}
		x.cancel(errStopped)
		err = errStopped
	}
	close(st.done)
	return r.err == nil, err
}

// coordinate starts the coordinator of a job that makes checkpoints, and returns what ends it.
func (x *execution) coordinate(ctx context.Context) func() {
	if x.coord == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		x.coord.run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// lastCheckpoint makes what a job that is done has prepared final: transactions and finalizers. It also makes the savepoint that
// a drained job ends with.
func (x *execution) lastCheckpoint(err error) error {
	if x.coord == nil || err != nil {
		return nil
	}
	x.mu.Lock()
	st := x.saving
	needed := len(x.finalizers) > 0 || st != nil
	for _, s := range x.stages {
		if op, ok := s.op.(*sinkOp); ok && op.exact != nil {
			needed = true
		}
	}
	x.mu.Unlock()
	if !needed {
		return nil
	}
	if st == nil {
		st = &stop{done: make(chan struct{})}
	}
	r := x.coord.request(checkpoint.ForStop, st.location)
	<-r.done
	st.info, st.err = r.info, r.err
	close(st.done)
	if st.location != "" && r.info.Status == CheckpointCompleted {
		return nil // the job is done; that there is no savepoint is told to who asked for it
	}
	return r.err
}

// awaitsCheckpoint reports whether elements wait to become stable, and asks for the checkpoint that makes them. REQUIRES:
// x.mu.
func (x *execution) awaitsCheckpoint() bool {
	for _, s := range x.stages {
		for _, q := range s.unstable {
			if q.Len() > 0 {
				x.coord.hurry()
				return true
			}
		}
	}
	return false
}

// restarts reports whether the execution ended because a sink has lost what it wrote since the last checkpoint.
func restarts(err error) bool {
	return errors.Is(err, native.ErrRestart) && !errors.Is(err, native.ErrFenced)
}

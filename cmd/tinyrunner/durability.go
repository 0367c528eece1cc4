package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
	"github.com/tinyrunner/tinyrunner/engine"
)

// openCheckpoints opens the place of the checkpoints; nil without --checkpoints.
func (s *server) openCheckpoints() (*engine.CheckpointConfig, error) {
	if s.settings.checkpoints == "" && s.settings.localCheckpoints {
		s.settings.checkpoints = "file://" + filepath.Join(s.dir, "checkpoints")
	}
	if s.settings.checkpoints == "" {
		return nil, nil
	}
	loc, err := objstore.Parse(s.settings.checkpoints)
	if err != nil {
		return nil, usage("invalid --checkpoints: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	bucket, err := loc.Open(ctx, s.settings.s3())
	if err != nil {
		return nil, usage("cannot use --checkpoints: %w", err)
	}
	s.onClose(func() error { return objstore.Close(bucket) })
	return &engine.CheckpointConfig{
		Bucket: bucket, Location: loc.String(), Interval: s.settings.checkpointInterval, Retain: s.settings.checkpointRetain,
		Unfenced: s.settings.unfenced, AcceptLost: s.settings.acceptLost, OpenLocation: s.openLocation,
	}, nil
}

// openLocation opens the place of a savepoint.
func (s *server) openLocation(ctx context.Context, location string) (objstore.Bucket, string, error) {
	loc, err := objstore.Parse(location)
	if err != nil {
		return nil, "", err
	}
	bucket, err := loc.Open(ctx, s.settings.s3())
	return bucket, "", err
}

func (s *settings) s3() objstore.S3Config {
	return objstore.S3Config{Endpoint: s.s3Endpoint, PathStyle: s.s3PathStyle, Region: s.s3Region, SSE: s.s3SSE, SSEKeyID: s.s3SSEKey}
}

// clearJobs removes what a process that was killed has left of jobs, but for the cuts of their checkpoints if these are kept:
// what they hold need not be downloaded.
func (s *server) clearJobs() error {
	jobs := filepath.Join(s.dir, "jobs")
	if s.settings.checkpoints == "" {
		if left, err := os.ReadDir(jobs); err == nil && len(left) > 0 {
			s.log.Warn("removing jobs of a process that was killed", "jobs", len(left))
		}
		return os.RemoveAll(jobs)
	}
	files, err := filepath.Glob(filepath.Join(jobs, "*", "*"))
	for _, f := range files {
		if filepath.Base(f) != "cuts" {
			err = errors.Join(err, os.RemoveAll(f))
		}
	}
	return err
}

// resume goes on with the jobs that the store knows. A store that cannot be reached is asked again until it answers; a job
// that can never be resumed is told of and left alone. tried is called after the first try.
func (s *server) resume(ctx context.Context, tried func()) {
	done := make(map[string]bool) // by identity
	for wait := time.Second; ; wait = min(2*wait, maxResumeWait) {
		again := s.resumeAll(ctx, done)
		s.resuming.Store(again)
		tried()
		if !again {
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

const maxResumeWait = 15 * time.Second

// resumeAll resumes the jobs that are not done, and says whether to try again.
func (s *server) resumeAll(ctx context.Context, done map[string]bool) (again bool) {
	jobs, err := s.cluster.Resumable(ctx)
	if err != nil {
		s.log.Error("cannot look for jobs to resume, trying again", "error", err)
		return true
	}
	for _, e := range jobs {
		if done[e.Job] {
			continue
		}
		err := s.resumeJob(ctx, e)
		done[e.Job] = err == nil || hopeless(err)
		switch {
		case err == nil:
		case done[e.Job]:
			s.log.Error("cannot resume a job; its checkpoints stay where they are", "job", e.JobID, "name", e.Name, "error", err)
		default:
			s.log.Warn("cannot resume a job now, trying again", "job", e.JobID, "name", e.Name, "error", err)
			again = true
		}
	}
	return again
}

// hopeless: the store was reached, and what it said will not change.
func hopeless(err error) bool {
	var fenced *checkpoint.FencedError
	var corrupt *checkpoint.CorruptError
	var unusable *engine.ResumeError
	return errors.As(err, &fenced) || errors.As(err, &corrupt) || errors.As(err, &unusable) || errors.Is(err, objstore.ErrUnfenced)
}

func (s *server) resumeJob(ctx context.Context, e checkpoint.JobEntry) error {
	if e.Err != nil {
		s.log.Warn("some entries of a job in the store cannot be read", "job", e.Job, "error", e.Err)
	}
	j, err := s.cluster.Resume(ctx, e, func(spec *engine.JobSpec) error {
		adopted, err := s.jobs.Adopt(spec.Pipeline, spec.Options, artifactFiles(*spec))
		if err != nil {
			return err
		}
		adopted.ID, adopted.Name = spec.ID, spec.Name
		// A job that was killed before its first checkpoint begins once more with its savepoint.
		spec.Savepoint = cmp.Or(adopted.Options.Savepoint, s.settings.savepoint)
		spec.AllowNonRestored = adopted.Options.AllowNonRestored || s.settings.allowNonRestored
		spec.Open = s.engine().opener(adopted)
		return nil
	})
	if err != nil {
		return err
	}
	s.jobs.Watch(job{j})
	s.log.Info("resumed a job", "job", j.ID(), "name", j.Name(), "checkpoint", newestID(e))
	return nil
}

func newestID(e checkpoint.JobEntry) any {
	if e.Newest == nil {
		return "none: it begins anew"
	}
	return e.Newest.ID
}

// suspend ends the jobs that can be resumed with a checkpoint. It waits for at most the grace period.
func (s *server) suspend() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.settings.stopGrace)
	defer cancel()
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for _, j := range s.cluster.Jobs() {
		if !j.Checkpoints().Enabled || j.Ended() {
			continue
		}
		wg.Go(func() {
			s.log.Info("stopping with a checkpoint", "job", j.ID())
			if err := j.Suspend(ctx); err != nil && !j.Ended() {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// allSuspended reports whether jobs were stopped, all of them so that they can be resumed.
func (s *server) allSuspended() bool {
	stopped := false
	for _, j := range s.cluster.Jobs() {
		switch j.State() {
		case jobpb.JobState_STOPPED:
			stopped = true
		case jobpb.JobState_DONE, jobpb.JobState_DRAINED:
		default:
			return false
		}
	}
	return stopped
}

// fenced ends the process when its last job was taken over by another one.
func (s *server) fenced(j *engine.Job) {
	var fenced *checkpoint.FencedError
	if !errors.As(j.Err(), &fenced) {
		return
	}
	for _, other := range s.cluster.Jobs() {
		if !other.Ended() {
			return
		}
	}
	s.stopServing(&exitError{code: exitFenced, err: fmt.Errorf("job %s: %w", j.Name(), fenced)})
}

// artifactPath is the name of a staged file in the store.
func artifactPath(local string) string {
	return "artifacts/" + strings.TrimLeft(filepath.Base(local), ".")
}

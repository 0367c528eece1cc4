package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// JobEntry is a job that is in a store.
type JobEntry struct {
	Job         string // identity
	JobID, Name string
	Owner       Owner     // who has, or had it last
	Changed     time.Time // when the newest entry was written
	Ended       bool      // there is nothing to resume
	How         string    // it ended
	Newest      *Manifest // checkpoint; nil: none, or none that can be read
	Err         error     // entries that cannot be read
}

// Jobs lists the jobs below prefix, by identity: those that can be resumed, and those that have ended. It reads listings of all
// objects below prefix, and of each job the newest entries.
func Jobs(ctx context.Context, b objstore.Bucket, prefix string) ([]JobEntry, error) {
	dir := root(prefix)
	seqs := make(map[string][]int64)
	for o, err := range b.List(ctx, dir) {
		if err != nil {
			return nil, fmt.Errorf("list jobs: %w", err)
		}
		job, name, _ := strings.Cut(o.Name[len(dir):], "/")
		if seq, ok := parseLog(name); ok && validJob(job) == nil {
			seqs[job] = append(seqs[job], seq)
		}
	}
	var jobs []JobEntry
	for _, job := range slices.Sorted(maps.Keys(seqs)) {
		j, err := readJob(ctx, jobLog{bucket: b, dir: root(prefix, job), job: job}, seqs[job])
		if err != nil {
			return nil, fmt.Errorf("list jobs: %w", err)
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// readJob reads the newest entries of a job.
func readJob(ctx context.Context, l jobLog, seqs []int64) (JobEntry, error) {
	j := JobEntry{Job: l.job}
	slices.Sort(seqs)
	var previous []int64 // that a claim names
	described, claimed := false, false
	for _, seq := range slices.Backward(seqs) {
		if claimed && !slices.Contains(previous, seq) {
			continue
		}
		e, _, err := l.read(ctx, seq)
		switch {
		case errors.Is(err, objstore.ErrNotExist):
			continue
		case errors.As(err, new(*NewerError)):
			j.Err = errors.Join(j.Err, err)
			continue
		case err != nil:
			return j, err
		case e.err != nil:
			j.Err = errors.Join(j.Err, e.err)
			continue
		}
		if !described {
			described = true
			j.JobID, j.Name, j.Owner, j.Changed = e.m.JobID, e.m.JobName, e.m.Owner, e.m.Created
			j.Ended, j.How = e.m.Kind == KindEnd, e.m.How
		}
		switch e.m.Kind {
		case KindCheckpoint:
			j.Newest = e.m
			return j, nil
		case KindEnd:
			return j, nil
		case KindClaim:
			claimed, previous = true, e.m.Previous
		}
	}
	return j, nil
}

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// Forgotten is what Forget has removed.
type Forgotten struct {
	Objects int   // checkpoints, their files, the job's own
	Bytes   int64 // of all
}

// BusyError refuses to forget a job that another process may be running.
type BusyError struct {
	Job     string
	Owner   Owner     // who has it, or had it last
	Changed time.Time // when that owner wrote its newest entry
}

// Error names the owner.
func (e *BusyError) Error() string {
	return fmt.Sprintf("job %s may be running: process %d on host %s has last written something of it at %s", e.Job, e.Owner.PID, e.Owner.Host,
		e.Changed.UTC().Format(time.RFC3339))
}

// Forget ends a job that nobody runs, so that nothing goes on with it, and deletes all of it but the entry that says so; savepoints
// are not touched. Whoever did run it is fenced. It may be repeated until it succeeds; when there is nothing more to delete, it deletes
// nothing.
//
// The store does not know who is alive. So a job is taken for running, with a BusyError, if another process has written an entry
// since quiet ago, or writes one meanwhile; that this process does not run it, the caller knows.
func Forget(ctx context.Context, cfg Config, quiet time.Duration) (Forgotten, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Forgotten{}, err
	}
	f, err := newStore(cfg).forget(ctx, quiet)
	if err != nil {
		return f, fmt.Errorf("forget job %s: %w", cfg.Job, err)
	}
	return f, nil
}

func (s *Store) forget(ctx context.Context, quiet time.Duration) (Forgotten, error) {
	before, err := s.objects(ctx)
	if err != nil || len(before) == 0 {
		return Forgotten{}, err
	}
	top, newest, _, err := s.log.head(ctx)
	switch {
	case err != nil:
		return Forgotten{}, err
	case newest == nil:
		newest = &Manifest{} // no entry can be read, or there is none
	case newest.Kind == KindEnd && len(before) == 1:
		return Forgotten{}, nil
	case newest.Kind != KindEnd && !s.ours(newest.Owner) && s.now().Sub(newest.Created) < quiet:
		return Forgotten{}, &BusyError{Job: s.cfg.Job, Owner: newest.Owner, Changed: newest.Created}
	}
	if !s.cfg.Unfenced {
		if err := objstore.Probe(ctx, s.cfg.Bucket); err != nil {
			return Forgotten{}, err
		}
	}
	if err := s.endAfter(ctx, top, newest); err != nil {
		return Forgotten{}, err
	}
	if err := s.clearAll(ctx); err != nil {
		return Forgotten{}, err
	}
	after, err := s.objects(ctx)
	var f Forgotten
	for name, size := range before {
		if _, left := after[name]; !left && err == nil {
			f.Objects++
			f.Bytes += size
		}
	}
	return f, err
}

// ours: the owner is, or was, this process.
func (s *Store) ours(o Owner) bool { return o.Host == s.cfg.Owner.Host && o.PID == s.cfg.Owner.PID }

// endAfter makes an end of its own, which needs no claim: the entry after top, the newest one, of which previous tells the job.
// If that number is taken, somebody was alive.
func (s *Store) endAfter(ctx context.Context, top int64, previous *Manifest) error {
	m := &Manifest{Kind: KindEnd, Job: s.cfg.Job, JobID: previous.JobID, JobName: previous.JobName, Seq: top + 1, Claim: top + 1,
		Owner: s.cfg.Owner, Created: s.now(), How: "forgotten"}
	body, err := m.encode()
	if err != nil {
		return err
	}
	p := pending{m, body}
	err = s.log.create(ctx, p)
	if errors.As(err, new(*uncertainError)) {
		err = s.insist(ctx, p)
	}
	if taken := new(takenError); errors.As(err, &taken) {
		busy := &BusyError{Job: s.cfg.Job, Changed: s.now()}
		if by := taken.by.m; by != nil {
			busy.Owner, busy.Changed = by.Owner, by.Created
		}
		return busy
	}
	if err != nil {
		return err
	}
	s.claim, s.head = m, m.Seq
	s.entries[m.Seq] = entry{m: m}
	return nil
}

// clearAll deletes what older owners have left.
func (s *Store) clearAll(ctx context.Context) error {
	if err := s.look(ctx); err != nil {
		return err
	}
	s.op.Lock()
	defer s.op.Unlock()
	return s.clear(ctx)
}

// objects are all of the job, with their sizes in bytes.
func (s *Store) objects(ctx context.Context) (map[string]int64, error) {
	all := make(map[string]int64)
	for _, dir := range []string{logDir, filesDir, planDir} {
		for o, err := range s.cfg.Bucket.List(ctx, s.log.dir+dir) {
			if err != nil {
				return nil, fmt.Errorf("list objects: %w", err)
			}
			all[o.Name] = o.Size
		}
	}
	return all, nil
}

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// claimTries bounds how often a Claim starts again because the present owner publishes at that moment.
const claimTries = 20

// Claim takes the job over for cfg.Owner: from then on no older owner can publish. Of several that claim at once one
// succeeds; the others get a FencedError that names it. What rec leaves empty is taken from the job's newest entry, so a job
// can be resumed that is known only to the store; files that rec names are uploaded and replace those of the entry. Claim
// probes the store first (objstore.Probe), unless cfg.Unfenced.
//
// The caller then calls Newest and Restore, or StartOver; and Sweep, once, when it has time.
func Claim(ctx context.Context, cfg Config, rec Record) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if !cfg.Unfenced {
		if err := objstore.Probe(ctx, cfg.Bucket); err != nil {
			return nil, fmt.Errorf("claim job %s: %w", cfg.Job, err)
		}
	}
	s := newStore(cfg)
	for range claimTries {
		again, err := s.tryClaim(ctx, rec)
		if err != nil {
			return nil, fmt.Errorf("claim job %s: %w", cfg.Job, err)
		}
		if !again {
			if err := s.look(ctx); err != nil {
				return nil, fmt.Errorf("claim job %s: %w", cfg.Job, err)
			}
			return s, nil
		}
	}
	return nil, fmt.Errorf("claim job %s: its owner published %d times meanwhile", cfg.Job, claimTries)
}

func newStore(cfg Config) *Store {
	return &Store{
		cfg:     cfg,
		log:     jobLog{bucket: cfg.Bucket, dir: root(cfg.Prefix, cfg.Job), job: cfg.Job},
		entries: make(map[int64]entry),
		plans:   make(map[string]plan),
		written: make(map[string]plan),
		uploads: make(map[string]int64),
		ready:   make(map[string]Place),
		index:   make(map[string]hashed),
	}
}

// tryClaim makes a claim after the newest entry. It says whether to try again, because that is not the newest any more.
func (s *Store) tryClaim(ctx context.Context, rec Record) (again bool, err error) {
	top, prev, previous, err := s.log.head(ctx)
	if err != nil {
		return false, err
	}
	m := &Manifest{Kind: KindClaim, Job: s.cfg.Job, JobID: rec.JobID, JobName: rec.JobName, Seq: top + 1, Claim: top + 1, Previous: previous,
		Owner: s.cfg.Owner, Created: s.now()}
	if prev != nil && prev.Kind != KindEnd {
		if rec.JobID == "" {
			m.JobID = prev.JobID
		}
		if rec.JobName == "" {
			m.JobName = prev.JobName
		}
		m.JobFiles = prev.JobFiles
	}
	if len(rec.Files) > 0 {
		clear(s.ready) // what an earlier try has uploaded, an owner since then may have swept away
		if m.JobFiles, err = s.uploadJob(ctx, rec.Files, m); err != nil {
			return false, err
		}
	}
	body, err := m.encode()
	if err != nil {
		return false, err
	}
	p := pending{m, body}
	err = s.log.create(ctx, p)
	if errors.As(err, new(*uncertainError)) {
		err = s.insist(ctx, p)
	}
	if taken := new(takenError); errors.As(err, &taken) {
		if taken.by.m == nil || taken.by.m.Kind == KindClaim {
			return false, s.log.taken(taken.by)
		}
		return true, nil
	}
	if err != nil {
		return false, err
	}
	s.claim, s.head = m, m.Seq
	s.entries[m.Seq] = entry{m: m}
	return false, nil
}

// insist makes the claim p, of which nobody knows whether it was made, a few times more: it stays the same claim.
func (s *Store) insist(ctx context.Context, p pending) error {
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	var err error
	for range settleTries {
		if err = s.log.resolve(wait, p); errors.Is(err, objstore.ErrNotExist) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			err = s.log.create(ctx, p)
		}
		if !errors.As(err, new(*uncertainError)) {
			return err
		}
	}
	return err
}

// head looks at the end of the log: the number of the newest entry (0: none), the newest one that can be read and says what
// the job is, and the newest checkpoint with those to fall back to.
func (l jobLog) head(ctx context.Context) (top int64, prev *Manifest, previous []int64, err error) {
	seqs, err := l.list(ctx)
	if err != nil || len(seqs) == 0 {
		return 0, nil, nil, err
	}
	top = seqs[len(seqs)-1]
	entries := make(map[int64]entry)
	for _, seq := range slices.Backward(seqs) {
		e, _, err := l.read(ctx, seq)
		if errors.Is(err, objstore.ErrNotExist) {
			continue // its owner has just dropped it
		}
		if err != nil {
			return 0, nil, nil, err
		}
		entries[seq] = e
		if e.m == nil || e.m.Kind == KindVoid {
			continue
		}
		if prev == nil {
			prev = e.m
		}
		break // a claim knows the newest checkpoint before it
	}
	previous = line(entries)
	return top, prev, previous[:min(len(previous), maxRetain)], nil
}

// look reads what older owners have left. Their plans come first: a checkpoint that is in one may be half deleted, by us
// later or by its author, who may not yet know that he is fenced.
func (s *Store) look(ctx context.Context) error {
	doomed := make(map[int64]bool)
	plans, err := s.readPlans(ctx)
	if err != nil {
		return err
	}
	for _, p := range plans {
		for _, seq := range p.Entries {
			doomed[seq] = true
		}
	}
	seqs, err := s.log.list(ctx)
	if err != nil {
		return err
	}
	for _, seq := range seqs {
		if seq >= s.claim.Seq || doomed[seq] {
			continue
		}
		e, _, err := s.log.read(ctx, seq)
		switch {
		case errors.Is(err, objstore.ErrNotExist):
			continue
		case err != nil:
			return err
		case e.err != nil:
			s.cfg.Logger.Warn("entry of the checkpoint log is corrupt", "job", s.cfg.Job, "entry", seq, "error", e.err)
		}
		s.entries[seq] = e
	}
	s.plans = plans
	s.found = find(s.entries)
	return nil
}

// readPlans reads the plans of older owners.
func (s *Store) readPlans(ctx context.Context) (map[string]plan, error) {
	var names []string
	for o, err := range s.cfg.Bucket.List(ctx, s.log.dir+planDir) {
		if err != nil {
			return nil, fmt.Errorf("list plans: %w", err)
		}
		if name := o.Name[len(s.log.dir):]; planFileName.MatchString(name) {
			names = append(names, name)
		}
	}
	plans := make(map[string]plan)
	for _, name := range names {
		body, err := readObject(ctx, s.cfg.Bucket, s.log.dir+name)
		if errors.Is(err, objstore.ErrNotExist) {
			continue // carried out meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read plan: %w", err)
		}
		p, err := decodePlan(body)
		switch {
		case errors.As(err, new(*NewerError)):
			return nil, fmt.Errorf("read %s: %w", s.log.dir+name, err)
		case err != nil:
			// What it would delete is found by Sweep as files that nobody names.
			s.cfg.Logger.Warn("plan to delete checkpoints is corrupt", "job", s.cfg.Job, "plan", name, "error", err)
		case p.Claim > s.claim.Seq:
			continue // we are fenced, and shall learn it soon
		}
		plans[name] = p
	}
	return plans, nil
}

// now is the time that is written down.
func (s *Store) now() time.Time { return s.cfg.Clock().UTC().Round(0) }

// named gives the objects that entries name.
func named(entries map[int64]entry) map[string]bool {
	names := make(map[string]bool)
	for _, e := range entries {
		if e.m == nil {
			continue
		}
		for _, f := range e.m.Files {
			names[f.Object] = true
		}
		for _, f := range e.m.JobFiles {
			names[f.Object] = true
		}
	}
	return names
}

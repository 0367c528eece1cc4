package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// Retire deletes what is not needed any more: all checkpoints but the newest Config.Retain, and their files. It is called
// after a checkpoint was saved. Its errors do the job no harm: the next Retire, or the next owner, does what this one left.
func (s *Store) Retire(ctx context.Context) error {
	s.op.Lock()
	defer s.op.Unlock()
	err := s.check()
	if err == nil {
		entries, files := s.retirement()
		err = s.discard(ctx, entries, files)
	}
	if err != nil {
		return fmt.Errorf("retire checkpoints of job %s: %w", s.cfg.Job, err)
	}
	return nil
}

// retirement takes out of the books what may go. Until a checkpoint of ours is complete that is nothing: the next owner may
// need any of those that were found.
func (s *Store) retirement() ([]int64, []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.saved {
		return nil, nil
	}
	keep := map[int64]bool{s.claim.Seq: true, s.head: true}
	for _, seq := range slices.Concat(s.kept, s.line) { // both, until the next Save after a Restore or StartOver
		keep[seq] = true
	}
	return s.take(keep)
}

// take takes entries that are not to be kept out of the books, and files that are then named by none: theirs, and uploads of
// ours that came to nothing.
//
// REQUIRES: mu is held.
func (s *Store) take(keep map[int64]bool) ([]int64, []string) {
	kept, dropped := make(map[int64]entry), make(map[int64]entry)
	var seqs []int64
	for seq, e := range s.entries {
		if keep[seq] {
			kept[seq] = e
			continue
		}
		dropped[seq] = e
		seqs = append(seqs, seq)
	}
	used := named(kept)
	var files []string
	for name := range named(dropped) {
		if _, ours := s.uploads[name]; !ours && !used[name] {
			files = append(files, name)
		}
	}
	for name, seq := range s.uploads {
		// What was uploaded for the entry after our newest one, the next Save may use. A name that is in a plan is never
		// used again: the next upload of this content has a later entry's number in its name.
		if seq <= s.head && !used[name] {
			files = append(files, name)
			delete(s.uploads, name)
		}
	}
	for sha, at := range s.ready {
		if _, ok := s.uploads[at.Object]; !ok {
			delete(s.ready, sha)
		}
	}
	s.entries = kept
	return seqs, files
}

// Sweep clears up after older owners: it carries out their plans, and deletes what no entry names. It is called once after
// a Claim, at any time, beside the other methods; what fails is done by the next owner, or by calling it again.
func (s *Store) Sweep(ctx context.Context) error {
	if err := s.sweep(ctx); err != nil {
		return fmt.Errorf("sweep checkpoints of job %s: %w", s.cfg.Job, err)
	}
	if b, ok := s.cfg.Bucket.(objstore.Sweeper); ok {
		n, err := b.Sweep(ctx, objstore.StaleAfter)
		if err != nil {
			return fmt.Errorf("sweep checkpoints of job %s: %w", s.cfg.Job, err)
		}
		if n > 0 {
			s.cfg.Logger.Info("removed remains of crashed uploads", "store", fmt.Sprint(s.cfg.Bucket), "uploads", n)
		}
	}
	return nil
}

func (s *Store) sweep(ctx context.Context) error {
	found, err := s.foreign(ctx)
	if err != nil {
		return err
	}
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.check(); err != nil {
		return err
	}
	if err := s.carryOutOld(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	useful := make(map[int64]bool, len(s.found))
	for _, c := range s.found {
		useful[c.seq] = true
	}
	var drop []int64
	for seq := range s.entries {
		if seq < s.claim.Seq && !useful[seq] {
			drop = append(drop, seq)
			delete(s.entries, seq)
		}
	}
	used := named(s.entries)
	s.mu.Unlock()
	var orphans []string
	for _, name := range found {
		if !used[name] {
			orphans = append(orphans, name)
		}
	}
	return s.discard(ctx, drop, orphans)
}

// foreign lists files of older owners. What a later owner has uploaded has a number above our claim's.
func (s *Store) foreign(ctx context.Context) ([]string, error) {
	var names []string
	for o, err := range s.cfg.Bucket.List(ctx, s.log.dir+filesDir) {
		if err != nil {
			return nil, fmt.Errorf("list files: %w", err)
		}
		name := o.Name[len(s.log.dir):]
		if seq, tag, ok := parseFile(name); ok && seq <= s.claim.Seq && tag != s.cfg.Owner.tag() {
			names = append(names, name)
		}
	}
	return names, nil
}

// carryOutOld carries out plans of older owners, but for files that an entry names: such a plan came too late, and its
// author has not touched them.
func (s *Store) carryOutOld(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(s.plans)) {
		p := s.plans[name]
		s.mu.Lock()
		used := named(s.entries)
		s.mu.Unlock()
		var files []string
		for _, f := range p.Files {
			if !used[f] {
				files = append(files, f)
			}
		}
		var entries []int64
		for _, seq := range p.Entries {
			if seq < s.claim.Seq {
				entries = append(entries, seq)
			}
		}
		if err := s.carryOut(ctx, name, entries, files); err != nil {
			return err
		}
		delete(s.plans, name)
	}
	return nil
}

// End writes down that the job is over, finished or cancelled, as how says, and deletes all of it but that entry; savepoints
// are not touched. It may be repeated until it succeeds; once the entry is written, the job is not resumed by anybody.
func (s *Store) End(ctx context.Context, how string) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.end(ctx, how); err != nil {
		return fmt.Errorf("end job %s: %w", s.cfg.Job, err)
	}
	return nil
}

func (s *Store) end(ctx context.Context, how string) error {
	err := s.check()
	if errors.As(err, new(*UncertainError)) {
		if _, err = s.settle(ctx); err == nil {
			err = s.check() // it may have been an End
		}
	}
	if err == nil {
		s.mu.Lock()
		m := s.manifest(KindEnd, Cut{})
		s.mu.Unlock()
		m.How, m.JobFiles = how, nil
		_, err = s.publish(ctx, m)
	}
	if err != nil && !errors.Is(err, ErrEnded) {
		return err
	}
	return s.clear(ctx)
}

// clear deletes everything but the newest entry, an end, unless somebody has begun the job anew, who clears up.
func (s *Store) clear(ctx context.Context) error {
	err := s.clearBefore(ctx)
	if errors.As(err, new(*FencedError)) {
		return nil
	}
	return err
}

func (s *Store) clearBefore(ctx context.Context) error {
	found, err := s.foreign(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	seqs, files := s.take(map[int64]bool{s.head: true})
	s.mu.Unlock()
	// Plans of older owners are part of what is there, so that they come to an end too.
	if err := s.discard(ctx, seqs, append(files, found...)); err != nil {
		return err
	}
	return s.carryOutOld(ctx)
}

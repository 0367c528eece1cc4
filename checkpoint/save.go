package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Cut is a consistent state of the job in a directory, which must not change until Save has returned.
type Cut struct {
	Dir            string   // its regular files, at any depth, are in the cut
	Shared         string   // a directory of several cuts
	SharedFiles    []string // those of the cut in Shared: where they would be in Dir, with slashes
	ID             int64    // of the checkpoint; rises
	Trigger        Trigger
	MaxParallelism int
	Slots          int
	Participants   []Participant
	Meta           json.RawMessage // any JSON value, kept as it is; nil: none
}

// Stats says what a Save did. Durations of files add up over those that were worked on at once.
type Stats struct {
	Files    int   // in the cut
	Bytes    int64 // in the cut
	Hashed   int64 // bytes that were read because their hash was not known
	Uploads  int   // objects
	Uploaded int64 // bytes

	Hash    time.Duration
	Upload  time.Duration
	Publish time.Duration
	Total   time.Duration // of all, by the wall
}

// Save uploads what of the cut is not in the store yet and publishes the checkpoint. When it returns nil, the checkpoint is
// complete. FencedError and UncertainError say what they say; after any other error the checkpoint is not published and never
// will be, and what was uploaded is used by the next Save. After a cancellation it may take some seconds until that is certain.
// progress, if not nil, is told of bytes that are in the store, by one goroutine at a time.
func (s *Store) Save(ctx context.Context, cut Cut, progress func(done, total int64)) (*Manifest, Stats, error) {
	s.op.Lock()
	defer s.op.Unlock()
	start := time.Now()
	m, stats, err := s.save(ctx, cut, progress)
	stats.Total = time.Since(start)
	if err != nil {
		return nil, stats, fmt.Errorf("save checkpoint %d: %w", cut.ID, err)
	}
	return m, stats, nil
}

func (s *Store) save(ctx context.Context, cut Cut, progress func(done, total int64)) (*Manifest, Stats, error) {
	if err := s.check(); err != nil {
		return nil, Stats{}, err
	}
	s.mu.Lock()
	ready := s.settled || len(s.found) == 0
	m := s.manifest(KindCheckpoint, cut)
	m.Previous = s.previous()
	known := contents(s.last)
	s.mu.Unlock()
	if !ready {
		return nil, Stats{}, ErrNotRestored
	}
	found, err := scan(cut)
	if err != nil {
		return nil, Stats{}, err
	}
	t := newTransfer(found, progress)
	m.Files = make([]File, len(found))
	hashes := make([]hashed, len(found))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.cfg.Parallel)
	for i, f := range found {
		g.Go(func() error {
			h, err := s.hash(gctx, f, t)
			if err != nil {
				return err
			}
			hashes[i] = h
			m.Files[i] = File{Path: f.path, Role: RoleState, Size: f.info.Size(), SHA256: h.SHA256}
			if f.info.Size() >= smallFile {
				m.Files[i].Place, err = s.store(gctx, f, h.SHA256, m.Seq, known, t)
			}
			return err
		})
	}
	err = g.Wait()
	if err == nil {
		err = s.storeSmall(ctx, found, m.Files, m.Seq, known, t)
	}
	if err != nil {
		return nil, t.stats, err
	}
	s.remember(cut.Dir, hashes)
	m.Bytes, m.Uploaded = t.stats.Bytes, t.stats.Uploaded
	begin := time.Now()
	m, err = s.publish(ctx, m)
	t.stats.Publish = time.Since(begin)
	return m, t.stats, err
}

// manifest begins our next entry.
//
// REQUIRES: mu is held.
func (s *Store) manifest(kind Kind, cut Cut) *Manifest {
	return &Manifest{
		Kind: kind, Job: s.cfg.Job, JobID: s.claim.JobID, JobName: s.claim.JobName,
		Seq: s.head + 1, Claim: s.claim.Seq, ID: cut.ID, Owner: s.cfg.Owner, Created: s.now(), Trigger: cut.Trigger,
		MaxParallelism: cut.MaxParallelism, Slots: cut.Slots, Participants: cut.Participants, Meta: cut.Meta, JobFiles: s.claim.JobFiles,
	}
}

// previous gives the checkpoints that are kept beside the next one.
//
// REQUIRES: mu is held.
func (s *Store) previous() []int64 {
	return slices.Clone(s.line[:min(len(s.line), s.cfg.Retain-1)])
}

// contents gives the places of a manifest's files by hash.
func contents(m *Manifest) map[string]Place {
	places := make(map[string]Place)
	if m != nil {
		for _, f := range m.Files {
			places[f.SHA256] = f.Place
		}
	}
	return places
}

// hash gives the hash of a file, which is known if it is immutable and was seen before.
func (s *Store) hash(ctx context.Context, f scanned, t *transfer) (hashed, error) {
	if immutable(f.path) {
		s.mu.Lock()
		h, ok := s.index[f.path]
		s.mu.Unlock()
		if ok && h.fits(f.info) {
			return h, nil
		}
	}
	begin := time.Now()
	sha, err := hashFile(ctx, f.local, f.info.Size())
	t.hashed(f.info.Size(), time.Since(begin))
	return hashed{Path: f.path, Size: f.info.Size(), Nanos: f.info.ModTime().UnixNano(), SHA256: sha, info: f.info}, err
}

// place gives where a content is already, where known says or where we have uploaded it, unless that is in a thin pack.
func (s *Store) place(sha string, known map[string]Place, thin map[string]bool) (Place, bool) {
	if at, ok := known[sha]; ok && !thin[at.Object] {
		return at, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.ready[sha]
	return at, ok && !thin[at.Object]
}

// store gives the object that has the file's content, which is there already, or a new one.
func (s *Store) store(ctx context.Context, f scanned, sha string, seq int64, known map[string]Place, t *transfer) (Place, error) {
	if at, ok := s.place(sha, known, nil); ok {
		t.done(f.info.Size(), false, 0)
		return at, nil
	}
	return s.storeNew(ctx, f, sha, seq, t)
}

// storeNew uploads a file as an object of its own.
func (s *Store) storeNew(ctx context.Context, f scanned, sha string, seq int64, t *transfer) (Place, error) {
	at := Place{Object: fileName(sha, seq, s.cfg.Owner)}
	s.mu.Lock()
	s.uploads[at.Object] = seq
	s.mu.Unlock()
	begin := time.Now()
	if err := upload(ctx, s.cfg.Bucket, s.log.dir+at.Object, f, sha); err != nil {
		return Place{}, err
	}
	s.mu.Lock()
	s.ready[sha] = at
	s.mu.Unlock()
	t.done(f.info.Size(), true, time.Since(begin))
	return at, nil
}

// remember keeps the hashes for the next Save, and for the next process that finds the cut on its disk.
func (s *Store) remember(dir string, files []hashed) {
	index := make(map[string]hashed)
	for _, h := range files {
		if immutable(h.Path) {
			index[h.Path] = h
		}
	}
	s.mu.Lock()
	s.index = index
	s.mu.Unlock()
	if err := writeIndex(dir, files); err != nil {
		s.cfg.Logger.Warn("no index beside the cut: a restore from the local disk will not be possible", "dir", dir, "error", err)
	}
}

// uploadJob uploads the job's own files for the claim m, which still has those of the entry before.
func (s *Store) uploadJob(ctx context.Context, files []JobFile, m *Manifest) ([]File, error) {
	known := contents(&Manifest{Files: m.JobFiles})
	found, err := statJob(files)
	if err != nil {
		return nil, err
	}
	t := newTransfer(found, nil)
	out := make([]File, len(files))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.cfg.Parallel)
	for i, f := range found {
		g.Go(func() error {
			sha, err := hashFile(gctx, f.local, f.info.Size())
			if err != nil {
				return err
			}
			at, err := s.store(gctx, f, sha, m.Seq, known, t)
			out[i] = File{Path: f.path, Role: files[i].Role, Size: f.info.Size(), SHA256: sha, Place: at}
			return err
		})
	}
	return out, g.Wait()
}

// statJob finds a job's own files.
func statJob(files []JobFile) ([]scanned, error) {
	found := make([]scanned, 0, len(files))
	for _, f := range files {
		info, err := os.Stat(f.Local)
		switch {
		case err != nil:
			return nil, fmt.Errorf("read job's own files: %w", err)
		case !info.Mode().IsRegular():
			return nil, fmt.Errorf("read job's own files: %s is not a regular file", f.Local)
		case f.Role == RoleState || !knownRole(f.Role):
			return nil, fmt.Errorf("read job's own files: %s has the role %q: use pipeline, options or artifact", f.Path, f.Role)
		}
		found = append(found, scanned{path: f.Path, local: f.Local, info: info})
	}
	return found, nil
}

// publish creates the entry m and sees to it that its fate is known.
func (s *Store) publish(ctx context.Context, m *Manifest) (*Manifest, error) {
	body, err := m.encode()
	if err != nil {
		return nil, err
	}
	p := pending{m, body}
	err = s.log.create(ctx, p)
	if err == nil {
		s.adopt(m)
		return m, nil
	}
	if !errors.As(err, new(*uncertainError)) {
		return nil, s.note(err)
	}
	s.mu.Lock()
	s.pending = &p
	s.mu.Unlock()
	switch got, serr := s.settle(ctx); {
	case serr != nil:
		return nil, serr
	case got != nil:
		return got, nil
	}
	return nil, fmt.Errorf("publish: %w", err)
}

// Settle finds out what became of a Save or an End that failed with an UncertainError. It gives the manifest if it was
// published, nil if it was not and never will be. It may be called at any time.
func (s *Store) Settle(ctx context.Context) (*Manifest, error) {
	s.op.Lock()
	defer s.op.Unlock()
	return s.settle(ctx)
}

func (s *Store) settle(ctx context.Context) (*Manifest, error) {
	s.mu.Lock()
	p := s.pending
	s.mu.Unlock()
	if p == nil {
		return nil, nil
	}
	m, err := s.log.settle(ctx, *p)
	if unknown := new(uncertainError); errors.As(err, &unknown) {
		return nil, &UncertainError{Checkpoint: p.m.ID, Err: unknown.err}
	}
	s.mu.Lock()
	s.pending = nil
	s.mu.Unlock()
	if err != nil {
		return nil, s.note(err)
	}
	s.adopt(m)
	if m.Kind == KindVoid {
		return nil, nil
	}
	return m, nil
}

// adopt notes that m is our newest entry.
func (s *Store) adopt(m *Manifest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.head = m.Seq
	s.entries[m.Seq] = entry{m: m}
	switch m.Kind {
	case KindCheckpoint:
		s.last, s.saved = m, true
		s.line = append([]int64{m.Seq}, m.Previous...)
		s.kept = s.line
	case KindEnd:
		s.stopped = ErrEnded
	}
}

// transfer counts what is done; its methods may be called at once.
type transfer struct {
	mu       sync.Mutex // also held during progress
	stats    Stats
	ready    int64
	progress func(done, total int64)
}

func newTransfer(files []scanned, progress func(done, total int64)) *transfer {
	t := &transfer{progress: progress}
	t.stats.Files = len(files)
	for _, f := range files {
		t.stats.Bytes += f.info.Size()
	}
	return t
}

func (t *transfer) hashed(n int64, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.Hashed += n
	t.stats.Hash += d
}

func (t *transfer) done(n int64, uploaded bool, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if uploaded {
		t.stats.Uploads++
		t.stats.Uploaded += n
		t.stats.Upload += d
	}
	t.ready += n
	if t.progress != nil {
		t.progress(t.ready, t.stats.Bytes)
	}
}

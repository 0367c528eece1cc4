package checkpoint

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// Config says whose checkpoints are kept where.
type Config struct {
	Bucket objstore.Bucket
	// Prefix is the directory of all jobs in the bucket: "" or a name without slash at its end.
	Prefix string
	// Job is the job's identity; Identity makes one from its name.
	Job string
	// Owner is this process; NewOwner describes it. Each Claim needs a new one.
	Owner Owner
	// Retain is how many checkpoints are kept. Default 3: one may be corrupt, and one more.
	Retain int
	// Parallel bounds the files that are read, uploaded or downloaded at once. Default 4.
	Parallel int
	// Unfenced skips the probe that finds out whether the store refuses to overwrite.
	Unfenced bool
	// Clock gives the times that are written down. Default time.Now.
	Clock func() time.Time
	// Logger gets what is survived: corrupt entries, plans of others. Default: nowhere.
	Logger *slog.Logger
}

// Defaults of Config.
const (
	defaultRetain   = 3
	defaultParallel = 4
)

// withDefaults fills in what is not set and checks the rest.
func (c Config) withDefaults() (Config, error) {
	c.Retain = cmp.Or(c.Retain, defaultRetain)
	c.Parallel = cmp.Or(c.Parallel, defaultParallel)
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Bucket == nil:
		return c, errors.New("checkpoint config: no bucket")
	case c.Retain < 1 || c.Retain > maxRetain:
		return c, fmt.Errorf("checkpoint config: %d checkpoints to retain, 1 to %d are possible", c.Retain, maxRetain)
	case c.Parallel < 1:
		return c, fmt.Errorf("checkpoint config: %d parallel transfers, at least 1 is needed", c.Parallel)
	}
	if err := validJob(c.Job); err != nil {
		return c, fmt.Errorf("checkpoint config: %w", err)
	}
	if err := c.Owner.validate(); err != nil {
		return c, fmt.Errorf("checkpoint config: owner: %w", err)
	}
	if err := validRoot(root(c.Prefix, c.Job)); err != nil {
		return c, fmt.Errorf("checkpoint config: prefix %q: %w", c.Prefix, err)
	}
	return c, nil
}

// validRoot reports why no job or savepoint can be below dir.
func validRoot(dir string) error {
	longest := fileName(fmt.Sprintf("%064d", 0), 1, Owner{Attempt: "AAAAAAAAAAAAAAAA"})
	if err := objstore.ValidName(dir + longest); err != nil {
		return err
	}
	if len(dir) >= len(objstore.ProbePrefix) && dir[:len(objstore.ProbePrefix)] == objstore.ProbePrefix {
		return fmt.Errorf("what is below %s is deleted by probes", objstore.ProbePrefix)
	}
	return nil
}

// Record is what a job needs to be started again besides its state.
type Record struct {
	JobID, JobName string
	Files          []JobFile
}

// JobFile is one of a job's own files on the local disk.
type JobFile struct {
	Role  string // RolePipeline, RoleOptions, RoleArtifact
	Path  string // its name in the store: relative, with slashes
	Local string // where it lies
}

// Store is a job's checkpoints in the hands of the process that claimed it. Claim makes one.
type Store struct {
	cfg Config
	log jobLog

	op sync.Mutex // held during Save, Restore, Retire, Settle, End

	mu       sync.Mutex // protects what follows; not held during calls of the bucket
	claim    *Manifest
	head     int64             // number of our newest entry
	line     []int64           // the checkpoint that the next one follows, and those to fall back to, newest first
	kept     []int64           // our newest checkpoint and those to fall back to, newest first
	settled  bool              // Restore or StartOver was called
	saved    bool              // a checkpoint of ours is complete
	last     *Manifest         // restored or published last; nil: none
	entries  map[int64]entry   // all of the log that is known, without what is doomed
	found    []candidate       // what could be restored when the job was claimed, newest first
	plans    map[string]plan   // of older owners, to be carried out by Sweep
	written  map[string]plan   // ours that are not known to be carried out, written or not
	nextPlan int               // number of our next plan
	uploads  map[string]int64  // objects that we have created, or tried to: the entry they were for
	ready    map[string]Place  // hash of content -> where we have uploaded it
	index    map[string]hashed // what is known about local files, by path in the cut
	pending  *pending          // an entry of which nobody knows whether it was published
	stopped  error             // FencedError or ErrEnded: nothing may be changed any more
}

// candidate is a checkpoint that could be restored, or an entry that might be one and cannot be read.
type candidate struct {
	seq int64
	entry
}

// Claimed gives the entry of the claim: job id, name and own files, as they are now known.
func (s *Store) Claimed() *Manifest { return s.claim }

// Candidate is a checkpoint that can be restored.
type Candidate struct {
	Seq      int64
	Manifest *Manifest // nil if Err is set
	Err      error     // a *CorruptError: this one cannot be used
}

// Newest gives the checkpoints that can be restored, newest first: what was there when the job was claimed, and after that
// what was saved. Those that cannot be read are among them, so that the caller can say that they are passed over. It
// fails with ErrNoCheckpoint when there is none that can be read.
func (s *Store) Newest() ([]Candidate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped != nil {
		return nil, s.stopped
	}
	var list []Candidate
	usable := false
	for _, c := range s.candidates() {
		list = append(list, Candidate{Seq: c.seq, Manifest: c.m, Err: c.err})
		usable = usable || c.err == nil
	}
	if !usable {
		return list, fmt.Errorf("job %s: %w", s.cfg.Job, ErrNoCheckpoint)
	}
	return list, nil
}

// StartOver gives up the checkpoints that are there: the job begins anew, or from a savepoint. They are deleted once a new
// checkpoint is complete.
func (s *Store) StartOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line, s.last, s.settled = nil, nil, true
}

// candidates gives what could be restored, newest first: until we have saved a checkpoint, that is what was found.
//
// REQUIRES: mu is held.
func (s *Store) candidates() []candidate {
	if !s.saved {
		return s.found
	}
	var list []candidate
	for _, seq := range s.kept {
		if e, ok := s.entries[seq]; ok {
			list = append(list, candidate{seq, e})
		}
	}
	return list
}

// line gives the newest checkpoint among the entries and those to fall back to, newest first. It is what the highest entry
// says that can say it: what a checkpoint does not name, or what lies between a claim and what it names, does not count. Such
// are entries of owners who had been fenced, and entries whose creation took so long that their number was free again.
func line(entries map[int64]entry) []int64 {
	for _, seq := range slices.Backward(slices.Sorted(maps.Keys(entries))) {
		m := entries[seq].m
		if m == nil {
			continue // it may have been the newest checkpoint: the one before takes its place
		}
		switch m.Kind {
		case KindCheckpoint:
			return append([]int64{seq}, m.Previous...)
		case KindClaim:
			return m.Previous
		case KindEnd:
			return nil
		}
	}
	return nil
}

// find gives what a new owner could restore, newest first, and with it the entries that cannot be read and may have been the
// newest checkpoint.
func find(entries map[int64]entry) []candidate {
	seqs := line(entries)
	var list []candidate
	for _, seq := range slices.Backward(slices.Sorted(maps.Keys(entries))) {
		e := entries[seq]
		if len(seqs) > 0 && seq <= seqs[0] || e.m != nil && e.m.Kind == KindEnd {
			break
		}
		if e.err != nil {
			list = append(list, candidate{seq, e})
		}
	}
	for _, seq := range seqs {
		if e, ok := entries[seq]; ok && (e.err != nil || e.m.Kind == KindCheckpoint) {
			list = append(list, candidate{seq, e})
		}
	}
	return list
}

// check says why nothing may be done now.
func (s *Store) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped != nil:
		return s.stopped
	case s.pending != nil:
		return &UncertainError{Checkpoint: s.pending.m.ID, Err: errors.New("it is to be settled first")}
	}
	return nil
}

// note remembers that we are fenced, if err says so, and gives err as the caller is to see it.
func (s *Store) note(err error) error {
	taken, fenced := new(takenError), new(FencedError)
	if errors.As(err, &taken) {
		err = s.log.taken(taken.by)
	}
	if errors.As(err, &fenced) {
		s.mu.Lock()
		s.stopped = fenced
		s.mu.Unlock()
	}
	return err
}

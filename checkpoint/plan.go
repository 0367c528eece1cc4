package checkpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// maxPlan bounds the files of one plan, so that it is a small object.
const maxPlan = 10_000

// plan names what is to be deleted.
type plan struct {
	Kind    Kind      `json:"kind"`
	Job     string    `json:"job"`
	Claim   int64     `json:"claim"` // number of its author's claim
	Owner   Owner     `json:"owner"`
	Created time.Time `json:"created"`
	Entries []int64   `json:"entries,omitempty"` // of the log
	Files   []string  `json:"files,omitempty"`   // objects
}

func (p plan) validate() error {
	switch {
	case p.Kind != KindPlan:
		return fmt.Errorf("kind %.40q is not a plan", p.Kind)
	case p.Claim < 1:
		return fmt.Errorf("claim %d is not a number of an entry", p.Claim)
	case len(p.Files) > maxPlan || len(p.Entries) > maxPlan:
		return fmt.Errorf("it has %d entries and %d files, at most %d are allowed", len(p.Entries), len(p.Files), maxPlan)
	}
	for _, seq := range p.Entries {
		if seq < 1 {
			return fmt.Errorf("%d is not a number of an entry", seq)
		}
	}
	for _, f := range p.Files {
		if _, _, ok := parseFile(f); !ok {
			return fmt.Errorf("%.200q is not a file of a job", f)
		}
	}
	return p.Owner.validate()
}

func decodePlan(b []byte) (plan, error) {
	body, err := unseal(b)
	if err != nil {
		return plan{}, err
	}
	var p plan
	if err := json.Unmarshal(body, &p); err != nil {
		return plan{}, fmt.Errorf("decode plan: %w", err)
	}
	if err := p.validate(); err != nil {
		return plan{}, err
	}
	return p, nil
}

// discard deletes entries of the log and files by plans: each is written down, then carried out unless we are fenced. What
// cannot be carried out now is done by the next Retire, or by the next owner.
//
// REQUIRES: op is held.
func (s *Store) discard(ctx context.Context, entries []int64, files []string) error {
	slices.Sort(entries)
	slices.Sort(files)
	files = slices.Compact(files)
	s.mu.Lock()
	for len(entries) > 0 || len(files) > 0 {
		ne, nf := min(len(entries), maxPlan), min(len(files), maxPlan)
		if ne < len(entries) {
			nf = 0 // entries go before their files
		}
		s.nextPlan++
		s.written[planName(s.claim.Seq, s.nextPlan, s.cfg.Owner)] = plan{Kind: KindPlan, Job: s.cfg.Job, Claim: s.claim.Seq,
			Owner: s.cfg.Owner, Created: s.now(), Entries: entries[:ne], Files: files[:nf]}
		entries, files = entries[ne:], files[nf:]
	}
	open := maps.Clone(s.written)
	s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(open)) { // in the order in which they were made
		if err := s.follow(ctx, name, open[name]); err != nil {
			return err
		}
		s.mu.Lock()
		delete(s.written, name)
		s.mu.Unlock()
	}
	return nil
}

// follow writes a plan, looks whether we still own the job, and carries it out. In this order: whoever claims the job after
// that look sees the plan.
func (s *Store) follow(ctx context.Context, name string, p plan) error {
	body, err := seal(p)
	if err != nil {
		return err
	}
	err = s.cfg.Bucket.Create(ctx, s.log.dir+name, bytes.NewReader(body), int64(len(body)))
	if err != nil && !errors.Is(err, objstore.ErrExists) { // it may exist from an earlier try
		return fmt.Errorf("write plan: %w", err)
	}
	if err := s.owns(ctx); err != nil {
		return err
	}
	return s.carryOut(ctx, name, p.Entries, p.Files)
}

// owns fails if somebody has claimed the job since.
func (s *Store) owns(ctx context.Context) error {
	s.mu.Lock()
	head := s.head
	s.mu.Unlock()
	if err := s.log.confirm(ctx, head); err != nil {
		return s.note(err)
	}
	return nil
}

// carryOut deletes entries, then files, then their plan: an entry never outlives its files, unless the store loses power. All of it may be
// repeated.
func (s *Store) carryOut(ctx context.Context, name string, entries []int64, files []string) error {
	logs := make([]string, 0, len(entries))
	for _, seq := range entries {
		logs = append(logs, s.log.dir+logName(seq))
	}
	objects := make([]string, 0, len(files))
	for _, f := range files {
		objects = append(objects, s.log.dir+f)
	}
	for _, names := range [][]string{logs, objects, {s.log.dir + name}} {
		if len(names) == 0 {
			continue
		}
		if err := s.cfg.Bucket.Delete(ctx, names...); err != nil {
			return fmt.Errorf("carry out plan %s: %w", name, err)
		}
	}
	return nil
}

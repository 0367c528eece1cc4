package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// settleTimeout bounds how long an operation that has failed, or was cancelled, still asks the store what has become of it.
const settleTimeout = 5 * time.Second

// settleTries is how often it asks.
const settleTries = 3

// entry is an entry of the log, or why it cannot be read.
type entry struct {
	m   *Manifest
	err error // a *CorruptError
}

// pending is an entry that may have been created.
type pending struct {
	m    *Manifest
	body []byte
}

// takenError says that an entry's number was taken by another one.
type takenError struct{ by entry }

func (e *takenError) Error() string { return "the number of the entry is taken" }

// uncertainError says that an entry may have been created.
type uncertainError struct{ err error }

func (e *uncertainError) Error() string { return e.err.Error() }
func (e *uncertainError) Unwrap() error { return e.err }

// jobLog is the log of one job.
type jobLog struct {
	bucket objstore.Bucket
	dir    string // root of the job
	job    string
}

// list gives the numbers of the entries, ascending.
func (l jobLog) list(ctx context.Context) ([]int64, error) {
	var seqs []int64
	for o, err := range l.bucket.List(ctx, l.dir+logDir) {
		if err != nil {
			return nil, fmt.Errorf("list entries of job %s: %w", l.job, err)
		}
		if seq, ok := parseLog(o.Name[len(l.dir):]); ok {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	return seqs, nil
}

// read reads an entry. A corrupt one is no error of its own: it is in the entry. ErrNotExist and NewerError are errors.
func (l jobLog) read(ctx context.Context, seq int64) (entry, []byte, error) {
	name := l.dir + logName(seq)
	body, err := readObject(ctx, l.bucket, name)
	if err != nil {
		return entry{}, nil, fmt.Errorf("read entry %d of job %s: %w", seq, l.job, err)
	}
	m, err := DecodeManifest(body)
	switch {
	case errors.As(err, new(*NewerError)):
		return entry{}, nil, fmt.Errorf("read %s: %w", name, err)
	case err == nil && m.Job != l.job:
		return entry{}, nil, fmt.Errorf("read %s: it belongs to the job %q, not to %q: use another prefix", name, m.Job, l.job)
	case err == nil && m.Seq != seq:
		err = fmt.Errorf("it says that it is entry %d", m.Seq)
	}
	if err != nil {
		return entry{err: &CorruptError{Object: name, Err: err}}, body, nil
	}
	return entry{m: m}, body, nil
}

// readObject reads a whole small object.
func readObject(ctx context.Context, b objstore.Bucket, name string) ([]byte, error) {
	r, err := b.Open(ctx, name, 0, maxSealed+1)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r)
	return body, errors.Join(err, r.Close())
}

// create makes the entry p and confirms it. When it fails, the entry was not made (takenError), means nothing because others
// own the job (FencedError), or may have been made (uncertainError).
func (l jobLog) create(ctx context.Context, p pending) error {
	err := l.bucket.Create(ctx, l.dir+logName(p.m.Seq), bytes.NewReader(p.body), int64(len(p.body)))
	switch {
	case err == nil:
		return l.confirm(ctx, p.m.Seq)
	case errors.Is(err, objstore.ErrExists):
		if err := l.resolve(ctx, p); !errors.Is(err, objstore.ErrNotExist) {
			return err
		}
		return l.fenced(ctx, p.m.Seq) // it was deleted meanwhile, so there are newer ones
	}
	return &uncertainError{err}
}

// resolve finds out whether the entry p is there. It gives nil if so, ErrNotExist if its number is free, or an error as
// create does.
func (l jobLog) resolve(ctx context.Context, p pending) error {
	e, body, err := l.read(ctx, p.m.Seq)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		return err
	case err != nil:
		return &uncertainError{err}
	case bytes.Equal(body, p.body):
		return l.confirm(ctx, p.m.Seq)
	}
	return &takenError{e}
}

// confirm finds out whether the entry seq, which is there, is the newest. If not, somebody has claimed the job: before it was
// made, and its number was free again because old entries are deleted, or since.
func (l jobLog) confirm(ctx context.Context, seq int64) error {
	seqs, err := l.list(ctx)
	if err != nil {
		return &uncertainError{err}
	}
	if len(seqs) == 0 || seqs[len(seqs)-1] <= seq {
		return nil
	}
	return l.fencedBy(ctx, seqs[len(seqs)-1])
}

// fenced names the owner of the newest entry, which is known to be newer than seq.
func (l jobLog) fenced(ctx context.Context, seq int64) error {
	seqs, err := l.list(ctx)
	if err != nil || len(seqs) == 0 || seqs[len(seqs)-1] <= seq {
		return &uncertainError{errors.Join(fmt.Errorf("entry %d of job %s comes and goes", seq, l.job), err)}
	}
	return l.fencedBy(ctx, seqs[len(seqs)-1])
}

// fencedBy names the owner of the entry seq if it can be read.
func (l jobLog) fencedBy(ctx context.Context, seq int64) error {
	f := &FencedError{Job: l.job}
	if e, _, err := l.read(ctx, seq); err == nil && e.m != nil {
		f.Winner = e.m.Owner
	}
	return f
}

// settle makes certain whether the entry p was made: it is there, or something else takes its number so that it can never
// be. It gives p's manifest, or the one of the void that was made, or an error as create does.
func (l jobLog) settle(ctx context.Context, p pending) (*Manifest, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	v := *p.m
	v.Kind, v.Trigger, v.How = KindVoid, noTrigger, ""
	v.Previous, v.Files, v.JobFiles, v.Participants, v.Meta, v.Bytes, v.Uploaded = nil, nil, nil, nil, nil, 0, 0
	body, err := v.encode()
	if err != nil {
		return nil, err
	}
	for range settleTries {
		if err = l.resolve(ctx, p); err == nil {
			return p.m, nil
		}
		if errors.Is(err, objstore.ErrNotExist) {
			err = l.create(ctx, pending{&v, body})
		} else if taken := new(takenError); errors.As(err, &taken) && isVoid(taken.by, &v) {
			err = l.confirm(ctx, v.Seq)
		}
		if err == nil {
			return &v, nil
		}
		if !errors.As(err, new(*uncertainError)) && !errors.As(err, new(*takenError)) {
			return nil, err
		}
	}
	return nil, err
}

// isVoid says whether e is the void v, made by an earlier try.
func isVoid(e entry, v *Manifest) bool {
	return e.m != nil && e.m.Kind == KindVoid && e.m.Owner.Attempt == v.Owner.Attempt
}

// taken gives the error of an owner who finds his next number taken by another entry.
func (l jobLog) taken(e entry) error {
	f := &FencedError{Job: l.job}
	if e.m != nil {
		f.Winner = e.m.Owner
	}
	return f
}

package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"
)

// ErrInjected is the error of a Faulty bucket.
var ErrInjected = errors.New("injected fault")

// Point says when a call fails.
type Point int

// The points at which a call can fail. What Midway means depends on the call:
//
//	          Before         Midway                             After
//	Create    nothing done   nothing done: creation is atomic   the object is there, the answer is lost
//	Open      no reader      the reader fails half way          the reader fails at its end
//	List      no object      the listing fails half way         the listing fails at its end
//	Delete    nothing done   the first half of the names gone   all names gone, the answer is lost
const (
	Before Point = iota
	Midway
	After
)

// String gives the point's name.
func (p Point) String() string {
	switch p {
	case Before:
		return "before"
	case Midway:
		return "midway"
	case After:
		return "after"
	}
	return fmt.Sprintf("Point(%d)", int(p))
}

// Call is a call of one of Bucket's methods.
type Call struct {
	Op   string // Create, Open, List or Delete
	Name string // the object, the prefix, or the first of the names
}

// String gives the call in a word or two.
func (c Call) String() string { return c.Op + " " + c.Name }

// Faulty is a Bucket for tests whose calls fail on command. A test runs once to see the Calls, and then once for each of
// them and each Point. Calls are counted from 1, in the order in which they come.
type Faulty struct {
	bucket Bucket

	mu          sync.Mutex // protects what follows
	calls       []Call
	first, last int // the calls that fail; 0, 0: none
	point       Point
}

var (
	_ Bucket  = (*Faulty)(nil)
	_ Sweeper = (*Faulty)(nil)
)

// NewFaulty gives a Bucket that does what b does, until it is told otherwise.
func NewFaulty(b Bucket) *Faulty { return &Faulty{bucket: b} }

// Fail lets the calls first to last fail; (n, n, p) is the n-th alone, (n, math.MaxInt, p) a store that is gone from then
// on. It replaces what was said before and starts to count from 1.
func (f *Faulty) Fail(first, last int, p Point) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.first, f.last, f.point, f.calls = first, last, p, nil
}

// Calls gives the calls since the last Fail.
func (f *Faulty) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Call(nil), f.calls...)
}

// String gives the URL of the bucket behind.
func (f *Faulty) String() string { return fmt.Sprint(f.bucket) }

// Close closes the bucket behind.
func (f *Faulty) Close() error {
	if c, ok := f.bucket.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// never is the point of a call that does not fail.
const never = Point(-1)

// begin counts a call and says where it fails.
func (f *Faulty) begin(op, name string) (Point, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := Call{op, name}
	f.calls = append(f.calls, c)
	if n := len(f.calls); f.first <= n && n <= f.last {
		return f.point, fmt.Errorf("%w: call %d, %s, %v", ErrInjected, n, c, f.point)
	}
	return never, nil
}

// Create fails as told.
func (f *Faulty) Create(ctx context.Context, name string, r io.ReaderAt, size int64) error {
	p, fault := f.begin("Create", name)
	if p == Before || p == Midway {
		return fault
	}
	if err := f.bucket.Create(ctx, name, r, size); err != nil {
		return err
	}
	return fault
}

// Open fails as told.
func (f *Faulty) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	p, fault := f.begin("Open", name)
	if p == Before {
		return nil, fault
	}
	r, err := f.bucket.Open(ctx, name, off, n)
	if err != nil || p == never {
		return r, err
	}
	content, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	if p == Midway {
		content = content[:len(content)/2]
	}
	return &brokenReader{content, fault}, nil
}

// brokenReader gives its content and then its error.
type brokenReader struct {
	content []byte
	err     error
}

// Read gives what is left.
func (r *brokenReader) Read(p []byte) (int, error) {
	if len(r.content) == 0 {
		return 0, r.err
	}
	n := copy(p, r.content)
	r.content = r.content[n:]
	return n, nil
}

// Close does nothing.
func (r *brokenReader) Close() error { return nil }

// List fails as told.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		p, fault := f.begin("List", prefix)
		if p == never {
			f.bucket.List(ctx, prefix)(yield)
			return
		}
		var objects []Object
		for o, err := range f.bucket.List(ctx, prefix) {
			if err != nil {
				yield(Object{}, err)
				return
			}
			objects = append(objects, o)
		}
		switch p {
		case Before:
			objects = nil
		case Midway:
			objects = objects[:len(objects)/2]
		}
		for _, o := range objects {
			if !yield(o, nil) {
				return
			}
		}
		yield(Object{}, fault)
	}
}

// Delete fails as told.
func (f *Faulty) Delete(ctx context.Context, names ...string) error {
	var first string
	if len(names) > 0 {
		first = names[0]
	}
	p, fault := f.begin("Delete", first)
	switch p {
	case Before:
		return fault
	case Midway:
		names = names[:len(names)/2]
	}
	if err := f.bucket.Delete(ctx, names...); err != nil {
		return err
	}
	return fault
}

// Sweep sweeps the bucket behind, if that can be; it never fails on command.
func (f *Faulty) Sweep(ctx context.Context, age time.Duration) (int, error) {
	if s, ok := f.bucket.(Sweeper); ok {
		return s.Sweep(ctx, age)
	}
	return 0, nil
}

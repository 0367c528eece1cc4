package goexec

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"

	"github.com/tinyrunner/tinyrunner/engine/flow"
)

// source is the root of a fast stage: it decodes elements straight from the bundle's blocks.
type source struct {
	uid        exec.UnitID
	id         string // transform
	collection string
	dec        *decoder
	out        exec.Node

	r       *run
	scratch flow.Data
	value   exec.FullValue // nodes do not keep what they are given, so that one does

	mu    sync.Mutex // guards the rest, which split and progress use
	begun int64      // elements whose processing has begun
	limit int64      // of elements to begin
	size  sizes
}

// sizes is the distribution of elements' sizes, in bytes.
type sizes struct{ count, sum, least, most int64 }

func (s *sizes) add(n int64) {
	if s.count == 0 {
		s.least, s.most = n, n
	}
	s.least, s.most = min(s.least, n), max(s.most, n)
	s.count++
	s.sum += n
}

func (s *source) ID() exec.UnitID            { return s.uid }
func (s *source) Up(context.Context) error   { return nil }
func (s *source) Down(context.Context) error { return nil }
func (s *source) String() string             { return "Source[" + s.id + "]" }

func (s *source) StartBundle(ctx context.Context, id string, data exec.DataContext) error {
	s.r = data.Data.(*run)
	s.mu.Lock()
	s.begun, s.limit, s.size = 0, math.MaxInt64, sizes{}
	s.mu.Unlock()
	return s.out.StartBundle(ctx, id, data)
}

// Process implements exec.Root.
func (s *source) Process(ctx context.Context) ([]*exec.Checkpoint, error) {
	done := ctx.Done()
	for i, k := range s.r.b.Input {
		d, err := k.ReadInto(&s.scratch)
		if err != nil {
			return nil, s.r.fail(fmt.Errorf("load input block %d: %w", i, err))
		}
		for j := range d.Len() {
			e := d.Element(j)
			if !s.begin(int64(len(e))) {
				return nil, nil
			}
			select {
			case <-done:
				return nil, ctx.Err()
			default:
			}
			if err := s.dec.decode(e, &s.value); err != nil {
				return nil, fmt.Errorf("decode element %d of block %d of %s: %w", j, i, s.collection, err)
			}
			if err := s.out.ProcessElement(ctx, &s.value); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

// begin takes the next element, unless a split has given it away.
func (s *source) begin(size int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun >= s.limit {
		return false
	}
	s.begun++
	s.size.add(size)
	return true
}

// split gives back about 1-fraction of the elements that have not begun, of n in all. first is the first one given back; ok
// is false when there is none.
func (s *source) split(fraction float64, n int64) (first int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, s.limit)
	// The current element counts as half done.
	at := max(float64(s.begun)-0.5, 0)
	first = max(int64(math.Round(at+min(max(fraction, 0), 1)*(float64(n)-at))), s.begun, 1)
	if first >= n {
		return 0, false
	}
	s.limit = first
	return first, true
}

func (s *source) FinishBundle(ctx context.Context) error {
	s.r = nil
	s.value = exec.FullValue{}
	s.scratch = flow.Data{}
	return s.out.FinishBundle(ctx)
}

// snapshot of the bundle so far.
func (s *source) snapshot() (begun int64, size sizes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun, s.size
}

// sink encodes elements straight into the buffer of an output.
type sink struct {
	uid        exec.UnitID
	id         string // transform
	collection string // "" when the collection counts for itself
	output     int
	enc        *encoder

	r    *run
	size sizes // of the executing goroutine

	mu    sync.Mutex
	known sizes // size when last published: what progress sees
}

func (s *sink) ID() exec.UnitID            { return s.uid }
func (s *sink) Up(context.Context) error   { return nil }
func (s *sink) Down(context.Context) error { return nil }
func (s *sink) String() string             { return "Sink[" + s.id + "]" }

func (s *sink) StartBundle(_ context.Context, _ string, data exec.DataContext) error {
	s.r = data.Data.(*run)
	s.r.task.outs[s.output].buf = s.r.task.outs[s.output].buf[:0]
	s.size = sizes{}
	s.publish()
	return nil
}

func (s *sink) ProcessElement(_ context.Context, v *exec.FullValue, _ ...exec.ReStream) error {
	o := &s.r.task.outs[s.output]
	from := len(o.buf)
	buf, err := s.enc.append(o.buf, v)
	if err != nil {
		return fmt.Errorf("encode %v for %s: %w", v, s.id, err)
	}
	o.buf = buf
	s.size.add(int64(len(buf) - from))
	if len(buf) < outputChunk {
		return nil
	}
	s.publish()
	return s.r.emit(s.output)
}

func (s *sink) FinishBundle(context.Context) error {
	s.publish()
	err := s.r.emit(s.output)
	s.r = nil
	return err
}

func (s *sink) publish() {
	s.mu.Lock()
	s.known = s.size
	s.mu.Unlock()
}

func (s *sink) snapshot() sizes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known
}

// collection counts the elements of a PCollection within the stage.
type collection struct {
	uid exec.UnitID
	id  string
	out exec.Node
	n   atomic.Int64
}

func (c *collection) ID() exec.UnitID            { return c.uid }
func (c *collection) Up(context.Context) error   { return nil }
func (c *collection) Down(context.Context) error { return nil }
func (c *collection) String() string             { return "Collection[" + c.id + "]" }

func (c *collection) StartBundle(ctx context.Context, id string, data exec.DataContext) error {
	c.n.Store(0)
	return c.out.StartBundle(ctx, id, data)
}

func (c *collection) ProcessElement(ctx context.Context, v *exec.FullValue, values ...exec.ReStream) error {
	c.n.Add(1)
	return c.out.ProcessElement(ctx, v, values...)
}

func (c *collection) FinishBundle(ctx context.Context) error { return c.out.FinishBundle(ctx) }

var (
	_ exec.Root = (*source)(nil)
	_ exec.Node = (*sink)(nil)
	_ exec.Node = (*collection)(nil)
)

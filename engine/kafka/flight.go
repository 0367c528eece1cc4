package kafka

import (
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
)

// flight is one Write under way.
type flight struct {
	left   atomic.Int64  // chunks not yet acknowledged, and one for Write itself
	done   chan struct{} // closed when left is 0
	once   sync.Once
	failed chan struct{} // closed with err set
	err    error
}

func newFlight() *flight {
	f := &flight{done: make(chan struct{}), failed: make(chan struct{})}
	f.left.Store(1)
	return f
}

func (f *flight) add(n int64) {
	if f.left.Add(n) == 0 {
		close(f.done)
	}
}

func (f *flight) fail(err error) {
	f.once.Do(func() {
		f.err = err
		close(f.failed)
	})
}

// chunk is the records of one block with the memory behind them. It is used again once all are acknowledged; when something
// fails it is left to the garbage collector, since the client may still have some of it.
type chunk struct {
	flight  *flight
	records []kgo.Record
	arena   []byte
	left    atomic.Int64
	promise func(*kgo.Record, error)
}

// chunk returns a free chunk or a new one.
func (s *sink) chunk() *chunk {
	select {
	case c := <-s.chunks:
		return c
	default:
	}
	c := &chunk{}
	c.promise = func(_ *kgo.Record, err error) {
		if err != nil {
			c.flight.fail(err)
			return
		}
		if c.left.Add(-1) > 0 {
			return
		}
		f := c.flight
		c.flight = nil
		select {
		case s.chunks <- c:
		default:
		}
		f.add(-1)
	}
	return c
}

// reset prepares for n records of at most size bytes.
func (c *chunk) reset(f *flight, n int, size int64) {
	c.flight = f
	c.left.Store(int64(n))
	if cap(c.records) < n {
		c.records = make([]kgo.Record, 0, n)
	}
	c.records = c.records[:0]
	if int64(cap(c.arena)) < size {
		c.arena = make([]byte, 0, size)
	}
	c.arena = c.arena[:0]
}

// keep copies b; nil stays nil. The arena was made large enough: moving it would do no harm, but cost a copy.
func (c *chunk) keep(b []byte) []byte {
	if b == nil {
		return nil
	}
	at := len(c.arena)
	c.arena = append(c.arena, b...)
	return c.arena[at:len(c.arena):len(c.arena)]
}

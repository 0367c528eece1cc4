package kafka

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/engine/flow"
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

// chunk is the records of one block with the memory behind them. It is used again once the client is done with all of them.
type chunk struct {
	flight  *flight
	records []kgo.Record
	arena   []byte
	room    int64        // taken of sink.room, in bytes
	left    atomic.Int64 // records the client has not done with
	promise func(*kgo.Record, error)
}

// chunk returns a chunk for n records of at most size bytes, when there is room for it.
func (s *sink) chunk(ctx context.Context, n int, size int64) (*chunk, error) {
	room := min(size+int64(n)*recordOverhead, s.limit)
	if err := s.room.Acquire(ctx, room); err != nil {
		return nil, err
	}
	var c *chunk
	select {
	case c = <-s.chunks:
	default:
		c = &chunk{}
		c.promise = func(_ *kgo.Record, err error) { s.settled(c, err) }
	}
	c.room = room
	if cap(c.records) < n {
		c.records = make([]kgo.Record, 0, n)
	}
	if int64(cap(c.arena)) < size {
		c.arena = make([]byte, 0, size)
	}
	return c, nil
}

// free takes back a chunk that the client has nothing of. Large ones are not kept.
func (s *sink) free(c *chunk) {
	s.room.Release(c.room)
	c.flight = nil
	clear(c.records) // headers
	c.records, c.arena = c.records[:0], c.arena[:0]
	if cap(c.arena) > 4*flow.DefaultBlockSize {
		return
	}
	select {
	case s.chunks <- c:
	default:
	}
}

// produce hands a chunk's records to the client. The context is not the Write's: the client fails records that wait in a
// partition together with a cancelled one, and those may be another Write's.
func (s *sink) produce(f *flight, c *chunk) {
	c.flight = f
	c.left.Store(int64(len(c.records)))
	f.add(1)
	for i := range c.records {
		s.client.Produce(context.Background(), &c.records[i], c.promise)
	}
}

// settled is called once for each record of a chunk.
func (s *sink) settled(c *chunk, err error) {
	if err != nil {
		c.flight.fail(err)
	}
	if c.left.Add(-1) > 0 {
		return
	}
	f := c.flight
	s.free(c)
	f.add(-1)
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

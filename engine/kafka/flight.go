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

// record implements receiver.
func (f *flight) record(_ *kgo.Record, err error) {
	if err != nil {
		f.fail(err)
	}
}

// settled implements receiver.
func (f *flight) settled() { f.add(-1) }

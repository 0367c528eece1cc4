package kafka

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/engine/native"
)

// flight is one Send under way.
type flight struct {
	writer *writer       // whose records it has
	left   atomic.Int64  // chunks not yet acknowledged, and one for Send itself
	done   chan struct{} // closed when left is 0
	once   sync.Once
	failed chan struct{} // closed with err set
	err    error
}

var _ native.Sent = (*flight)(nil)

func newFlight(w *writer) *flight {
	f := &flight{writer: w, done: make(chan struct{}), failed: make(chan struct{})}
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

// Wait implements native.Sent.
func (f *flight) Wait(ctx context.Context) error {
	select {
	case <-f.done:
	case <-f.failed:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-f.failed:
		return fmt.Errorf("write to kafka %s: %w", f.writer.transform, f.writer.config.explain(f.err))
	default:
		return nil
	}
}

// record implements receiver.
func (f *flight) record(_ *kgo.Record, err error) {
	if err != nil {
		f.fail(err)
	}
}

// settled implements receiver.
func (f *flight) settled() { f.add(-1) }

package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/engine/native"
)

// interval is what is written between two cuts: a transaction, if anything is.
//
// It opens when all of the interval before is acknowledged and its slot is ready. What is committed earlier waits: the two
// have different producers, and the later one must not overtake the other in a partition.
type interval struct {
	sink *transactional
	slot *slot

	gate    sync.RWMutex // protects what follows; readers produce
	open    bool
	dropped bool
	waiting []*chunk
	opened  chan struct{} // closed when open

	left atomic.Int64  // chunks not acknowledged, and one until the cut
	done chan struct{} // closed when left is 0

	// life ends when a record fails; its cause is the error.
	life context.Context
	fail context.CancelCauseFunc

	began   atomic.Int64 // when the first record was handed to the client, ns since the epoch; 0: none was
	witness atomic.Pointer[witness]
}

var _ receiver = (*interval)(nil)

func newInterval(s *transactional, sl *slot) *interval {
	iv := &interval{sink: s, slot: sl, opened: make(chan struct{}), done: make(chan struct{})}
	iv.life, iv.fail = context.WithCancelCause(context.Background())
	iv.left.Store(1)
	return iv
}

// start opens the interval when it may be written; before is the one before, nil for the first.
func (iv *interval) start(before *interval) {
	s := iv.sink
	s.mu.Lock()
	ready := iv.slot.ready
	s.mu.Unlock()
	if before != nil {
		select {
		case <-before.done:
		case <-s.life.Done():
			return
		}
		if before.life.Err() != nil {
			return // the sink has failed
		}
	}
	select {
	case <-ready:
	case <-s.life.Done():
		return
	}
	iv.gate.Lock()
	defer iv.gate.Unlock()
	for _, c := range iv.waiting {
		iv.produce(c)
	}
	iv.waiting, iv.open = nil, true
	close(iv.opened)
}

// add hands chunks to the transaction, in order.
func (iv *interval) add(chunks []*chunk) {
	if len(chunks) == 0 {
		return
	}
	iv.left.Add(int64(len(chunks)))
	iv.gate.RLock()
	open := iv.open
	if open {
		for _, c := range chunks {
			iv.produce(c)
		}
	}
	iv.gate.RUnlock()
	if open {
		return
	}
	iv.gate.Lock()
	defer iv.gate.Unlock()
	for _, c := range chunks {
		switch {
		case iv.open:
			iv.produce(c)
		case iv.dropped:
			iv.sink.free(c)
		default:
			iv.waiting = append(iv.waiting, c)
		}
	}
}

func (iv *interval) produce(c *chunk) {
	if iv.began.Load() == 0 {
		iv.began.CompareAndSwap(0, time.Now().UnixNano())
	}
	c.produce(iv.slot.client, iv)
}

// empty says that no record was ever added. REQUIRES: cut.
func (iv *interval) empty() bool {
	iv.gate.RLock()
	defer iv.gate.RUnlock()
	return iv.began.Load() == 0 && len(iv.waiting) == 0
}

// age is how long the transaction may have been open.
func (iv *interval) age() time.Duration {
	if at := iv.began.Load(); at != 0 {
		return time.Since(time.Unix(0, at))
	}
	return 0
}

// record implements receiver. A record under another epoch than the transaction's is in another transaction, after the
// client had to begin anew: the earlier records are lost.
func (iv *interval) record(r *kgo.Record, err error) {
	p := iv.slot.producer
	switch {
	case err != nil:
		iv.failed(err)
	case r.ProducerID != p.id || r.ProducerEpoch != p.epoch:
		iv.failed(fmt.Errorf("record was written by producer %d epoch %d, not by %d epoch %d", r.ProducerID, r.ProducerEpoch, p.id, p.epoch))
	default:
		if iv.witness.Load() == nil {
			iv.witness.Store(&witness{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset})
		}
	}
}

func (iv *interval) failed(err error) {
	if iv.life.Err() != nil {
		return
	}
	err = iv.sink.lost(err, iv.age())
	iv.sink.fail(err) // first: who hears of it here must not find the sink at work
	iv.fail(err)
}

// settled implements receiver.
func (iv *interval) settled() {
	if iv.left.Add(-1) == 0 {
		close(iv.done)
	}
}

// drop frees what waits and what comes.
func (iv *interval) drop() {
	iv.gate.Lock()
	defer iv.gate.Unlock()
	iv.dropped = true
	for _, c := range iv.waiting {
		iv.sink.free(c)
	}
	iv.waiting = nil
}

// abort ends the transaction without its records.
func (iv *interval) abort(ctx context.Context) error {
	iv.gate.RLock()
	open := iv.open
	iv.gate.RUnlock()
	if !open || iv.began.Load() == 0 {
		return nil
	}
	if err := iv.slot.client.AbortBufferedRecords(ctx); err != nil {
		return err
	}
	return iv.sink.end.abort(ctx, iv.slot.id, iv.slot.producer)
}

// flush waits until all records are acknowledged.
func (iv *interval) flush(ctx context.Context) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(iv.life, cancel)()
	defer context.AfterFunc(iv.sink.life, func() {
		// A failure of the next interval is not ours; one that keeps us from opening is.
		if !iv.isOpen() {
			cancel()
		}
	})()
	err := func() error {
		select {
		case <-iv.opened:
		case <-waiting.Done():
			return waiting.Err()
		}
		if err := iv.slot.client.Flush(waiting); err != nil { // does not wait for the linger
			return err
		}
		select {
		case <-iv.done:
			return nil
		case <-waiting.Done():
			return waiting.Err()
		}
	}()
	switch {
	case iv.life.Err() != nil:
		return context.Cause(iv.life)
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && iv.sink.life.Err() != nil:
		return context.Cause(iv.sink.life)
	}
	return err
}

func (iv *interval) isOpen() bool {
	iv.gate.RLock()
	defer iv.gate.RUnlock()
	return iv.open
}

// prepared is the transaction of a checkpoint that was cut. One goroutine at a time calls it.
type prepared struct {
	interval   *interval
	checkpoint int64
	token      *token
	ended      bool // committed
}

var _ native.Prepared = (*prepared)(nil)

// Prepare implements native.Prepared.
func (p *prepared) Prepare(ctx context.Context) ([]byte, error) {
	iv := p.interval
	t := &token{Version: configVersion, Slot: iv.slot.number}
	if !iv.empty() {
		if err := iv.flush(ctx); err != nil {
			return nil, iv.sink.wrap(err)
		}
		if err := p.alive(ctx); err != nil {
			iv.failed(err)
			return nil, iv.sink.wrap(context.Cause(iv.life))
		}
		own := iv.slot.producer
		t.ID, t.Producer, t.Epoch, t.V2 = iv.slot.id, own.id, own.epoch, own.v2
		t.Witness = iv.witness.Load()
		t.Prepared, t.Timeout = time.Now().UnixMilli(), iv.sink.config.transactionTimeout().Milliseconds()
	}
	p.token = t
	return t.encode()
}

// alive looks whether the transaction is still the one that was written. Its age tells that the broker has not ended it: the
// broker's clock for it started later than ours.
func (p *prepared) alive(ctx context.Context) error {
	iv := p.interval
	id, epoch, err := iv.slot.client.ProducerID(ctx)
	if err != nil {
		return err
	}
	if own := iv.slot.producer; id != own.id || epoch != own.epoch {
		return fmt.Errorf("the producer is now %d epoch %d, it was %d epoch %d", id, epoch, own.id, own.epoch)
	}
	age, timeout := iv.age(), iv.sink.config.transactionTimeout()
	if age >= timeout {
		return errors.New("transaction has timed out")
	}
	if age > timeout/2 {
		iv.sink.log.Warn("kafka: a transaction was open for more than half of its time-out: make checkpoints more often, or raise transaction_timeout_ms",
			"transform", iv.sink.transform, "open", age.Round(time.Second), "timeout", timeout)
	}
	return nil
}

// Commit implements native.Prepared, by the token, as after a crash. Not by the client's EndTransaction: that goes by what
// the client believes to be in the transaction, and aborts without an error when it knows of nothing yet (franz-go 1.22: a
// topic's first records can be acknowledged before its partitions are stored).
func (p *prepared) Commit(ctx context.Context) error {
	s, sl := p.interval.sink, p.interval.slot
	if p.token == nil {
		return s.wrap(errors.New("transaction is committed before it is prepared")) // not reached
	}
	if p.token.ID != "" && !p.ended {
		last, err := s.end.commit(ctx, p.token)
		if err != nil {
			return s.wrap(err)
		}
		sl.last = last
		p.finish()
	}
	s.committed(p)
	return nil
}

// finish notes that the transaction has ended.
func (p *prepared) finish() {
	s := p.interval.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	p.ended = true
	p.interval.slot.ended()
}

// Abort implements native.Prepared.
func (p *prepared) Abort(ctx context.Context) error {
	s := p.interval.sink
	if err := p.interval.abort(ctx); err != nil {
		return s.wrap(fmt.Errorf("abort transaction %s: %w", p.interval.slot.id, err))
	}
	return nil
}

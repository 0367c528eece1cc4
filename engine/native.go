package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
	"github.com/tinyrunner/tinyrunner/engine/plan"
	"github.com/tinyrunner/tinyrunner/state"
)

// newOperator makes what a stage runs.
func (x *execution) newOperator(s *stage) (operator, error) {
	switch s.plan.Kind {
	case plan.User:
		return newUserOp(s)
	case plan.Impulse:
		return &impulseOp{s: s}, nil
	case plan.GroupByKey:
		return newGroupOp(s)
	case plan.Source:
		return newSourceOp(s)
	case plan.Sink:
		return &sinkOp{s: s}, nil
	case plan.TestStream:
		return newTestStreamOp(s)
	}
	return nil, fmt.Errorf("stage kind %v is not known to the engine", s.plan.Kind)
}

// base has the answers of an operator that only processes its queue.
type base struct{}

func (base) open(context.Context) error { return nil }
func (base) close() error               { return nil }
func (base) hold() int64                { return coder.MaxTimestamp }
func (base) idle() bool                 { return true }
func (base) waits() bool                { return false }

// impulseOp emits one empty byte string in the global window at the beginning of time.
type impulseOp struct {
	base
	s    *stage
	done bool // guarded by execution.mu
	busy bool
}

func (o *impulseOp) hold() int64 {
	if o.done {
		return coder.MaxTimestamp
	}
	return coder.MinTimestamp
}

func (o *impulseOp) idle() bool { return o.done }

func (o *impulseOp) save() (any, error)              { return o.done, nil }
func (o *impulseOp) load(data json.RawMessage) error { return json.Unmarshal(data, &o.done) }

func (o *impulseOp) next(slot int) *work {
	if o.done || o.busy {
		return nil
	}
	o.busy = true
	return o.s.newWork(slot, rooted)
}

func (o *impulseOp) run(_ context.Context, w *work) error {
	elem := coder.AppendHeader(nil, coder.MinTimestamp, 1, nil, coder.NoFiring())
	elem = coder.AppendBytes(elem, nil)
	w.onCommit = append(w.onCommit, func() { o.done = true })
	return w.out.emit(elem, coder.MinTimestamp, nil)
}

// eachElement calls f for each element of the blocks.
func eachElement(blocks []*flow.Block, f func(elem []byte) error) error {
	for _, b := range blocks {
		d, err := b.Data()
		if err != nil {
			return err
		}
		for i := range d.Len() {
			if err := f(d.Element(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachKV calls f for each element of the stage's input, which is of KVs.
func (s *stage) eachKV(blocks []*flow.Block, f func(h coder.Header, key, value, elem []byte) error) error {
	return eachElement(blocks, func(elem []byte) error {
		h, err := s.in.Coder.ParseHeader(elem)
		if err != nil {
			return err
		}
		key, value, _, err := coder.SplitKV(s.in.Coder.Elem(), elem[h.ValueOffset:])
		if err != nil {
			return fmt.Errorf("read key: %w", err)
		}
		return f(h, key, value, elem)
	})
}

// sourceOp reads a runner-native source: slot i reads shard i. Each fetch commits its elements and its position together.
type sourceOp struct {
	s    *stage
	src  native.Source
	cell state.Cell

	generation uint32   // of shards
	stale      [][]byte // keys of older generations, guarded by execution.mu
	// by shard, guarded by execution.mu:
	seen    []bool // its position is committed
	wm      []int64
	done    []bool
	backlog []int64
	moved   map[int][]byte // positions that the source was not told are safe
}

// shardKey is where a shard's position is kept. Whenever the source is opened there is a new generation of shards, since what
// they read may be spread differently. The older generation stays until each shard of the new one has a position: until
// then some of what it knows is known nowhere else.
func (o *sourceOp) shardKey(shard int) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(nil, o.generation), uint16(shard))
}

// outlived are the keys of older generations, once nobody needs them.
func (o *sourceOp) outlived() [][]byte {
	o.s.x.mu.Lock()
	defer o.s.x.mu.Unlock()
	for _, seen := range o.seen {
		if !seen {
			return nil
		}
	}
	return o.stale
}

// fetchWait bounds how long a fetch waits for elements, and so how long a slot of a source sleeps.
const fetchWait = 200 * time.Millisecond

// sourceMemory is what a source may read ahead.
const sourceMemory = 16 << 20

func newSourceOp(s *stage) (*sourceOp, error) {
	n := s.x.cfg.Slots
	o := &sourceOp{s: s, wm: make([]int64, n), done: make([]bool, n), backlog: make([]int64, n), moved: make(map[int][]byte)}
	for i := range n {
		o.wm[i] = coder.MinTimestamp
	}
	cell, err := s.x.db.Cell("source\x00" + s.name)
	o.cell = cell
	return o, err
}

func (o *sourceOp) open(ctx context.Context) error {
	x := o.s.x
	tx := x.db.Begin()
	defer tx.Discard()
	var positions [][]byte
	generation := uint32(0)
	o.stale, o.seen = nil, make([]bool, x.cfg.Slots)
	for kv, err := range tx.ScanPrefix(0, o.cell, nil) {
		if err != nil {
			return fmt.Errorf("read positions: %w", err)
		}
		if len(kv.Suffix) != 6 {
			return fmt.Errorf("read positions: a key of %d bytes", len(kv.Suffix))
		}
		generation = binary.BigEndian.Uint32(kv.Suffix)
		o.stale = append(o.stale, bytes.Clone(kv.Suffix))
		positions = append(positions, bytes.Clone(kv.Value))
	}
	o.generation = generation + 1
	src, err := x.cfg.Sources[o.s.plan.Spec.GetUrn()](ctx, native.SourceConfig{
		Transform: o.s.name, Payload: o.s.plan.Spec.GetPayload(), Shards: x.cfg.Slots, Positions: positions,
		Memory: sourceMemory, Logger: x.log,
	})
	o.src = src
	return err
}

func (o *sourceOp) close() error {
	if o.src == nil {
		return nil
	}
	return o.src.Close()
}

func (o *sourceOp) hold() int64 {
	if o.s.x.draining {
		return coder.MaxTimestamp
	}
	return o.least()
}

func (o *sourceOp) idle() bool {
	for _, d := range o.done {
		if !d && !o.s.x.draining {
			return false
		}
	}
	return true
}

func (o *sourceOp) waits() bool { return true }

func (o *sourceOp) next(slot int) *work {
	if o.done[slot] || o.s.x.draining {
		return nil
	}
	w := o.s.newWork(slot, rooted)
	w.hold = o.wm[slot]
	return w
}

func (o *sourceOp) run(ctx context.Context, w *work) error {
	fctx, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	x := o.s.x
	out := x.cfg.Pool.NewBuilder()
	out.Mark(w.out.marker) // a fetch may wait long before the first record
	got, err := o.src.Fetch(fctx, w.slot, out, min(streamBytes, x.cfg.MaxBundleBytes))
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		out.Discard()
		return err
	}
	if err := w.out.emitBlocks(out); err != nil {
		return err
	}
	tx := w.begin()
	if err := tx.Set(0, o.cell, o.shardKey(w.slot), got.Position); err != nil {
		return err
	}
	stale := o.outlived()
	for _, key := range stale {
		if err := tx.Delete(0, o.cell, key); err != nil {
			return err
		}
	}
	w.onCommit = append(w.onCommit, func() {
		o.wm[w.slot] = max(o.wm[w.slot], got.Watermark)
		o.done[w.slot] = got.Done
		o.backlog[w.slot] = got.Backlog
		o.moved[w.slot] = got.Position
		o.seen[w.slot] = true
		if len(stale) > 0 {
			o.stale = nil
		}
		if x.coord == nil {
			o.committed(o.takePositions())
		}
	})
	return nil
}

// takePositions takes the positions that have moved since it was last called. REQUIRES: execution.mu.
func (o *sourceOp) takePositions() map[int][]byte {
	moved := o.moved
	o.moved = make(map[int][]byte)
	return moved
}

// committed tells the source which positions are safe.
func (o *sourceOp) committed(positions map[int][]byte) {
	if c, ok := o.src.(native.Committer); ok {
		for shard, p := range positions {
			c.Committed(shard, p)
		}
	}
}

// save keeps the watermark that all shards have reached: after a restart their partitions may be spread differently.
func (o *sourceOp) save() (any, error) { return o.least(), nil }

// least is the watermark that all shards have reached. REQUIRES: execution.mu.
func (o *sourceOp) least() int64 {
	wm := coder.MaxTimestamp
	for _, w := range o.wm {
		wm = min(wm, w)
	}
	return wm
}

func (o *sourceOp) load(data json.RawMessage) error {
	var wm int64
	if err := json.Unmarshal(data, &wm); err != nil {
		return err
	}
	for i := range o.wm {
		o.wm[i] = wm
	}
	return nil
}

// sinkOp hands blocks to a runner-native sink.
//
// The stage is not keyed, so its slots share a queue. A work is only taken when the one before has been handed over:
// elements of a key are written in the order in which they came.
type sinkOp struct {
	base
	s     *stage
	sink  native.Sink
	exact native.Transactional // the sink, if it writes with the checkpoints
	// handing: the elements of a work are on their way to the sink. Guarded by execution.mu.
	handing bool
}

// sinkMemory bounds a sink's write buffers.
const sinkMemory = 16 << 20

func (o *sinkOp) open(ctx context.Context) error {
	x := o.s.x
	cfg := native.SinkConfig{
		Transform: o.s.name, Payload: o.s.plan.Spec.GetPayload(), Coder: o.s.in.Coder, Memory: sinkMemory, Logger: x.log,
	}
	if d := x.durable; d != nil {
		cfg.Transaction = &native.TransactionConfig{Job: d.transactions(), Prepared: d.token(o.s.name), Settled: d.settled}
	}
	open := x.cfg.Sinks[o.s.plan.Spec.GetUrn()]
	sink, err := open(ctx, cfg)
	if errors.Is(err, native.ErrLost) {
		if !x.durable.cfg.AcceptLost {
			return fmt.Errorf("%w (--accept_lost_transactions goes on without those records)", err)
		}
		x.job.warn(fmt.Sprintf("going on without the records of a lost transaction, as --accept_lost_transactions says: %v", err))
		cfg.Transaction.Settled = true
		sink, err = open(ctx, cfg)
	}
	o.sink = sink
	if x.durable != nil {
		o.exact, _ = sink.(native.Transactional)
	}
	return err
}

func (o *sinkOp) close() error {
	if o.sink == nil {
		return nil
	}
	return o.sink.Close()
}

func (o *sinkOp) waits() bool { return true }

func (o *sinkOp) next(slot int) *work {
	if o.handing {
		return nil
	}
	w := o.s.take(slot, o.s.queue(slot), o.s.x.cfg.MaxBundleElements)
	o.handing = w != nil
	return w
}

func (o *sinkOp) run(ctx context.Context, w *work) error {
	if o.exact != nil {
		return o.stage(ctx, w)
	}
	sent, err := o.sink.Send(ctx, w.blocks)
	o.handedOver()
	if err != nil {
		return err
	}
	return sent.Wait(ctx)
}

// stage hands over in the commit.
func (o *sinkOp) stage(ctx context.Context, w *work) error {
	w.onAbandon = append(w.onAbandon, o.handedOver)
	staged, err := o.exact.Stage(ctx, w.blocks)
	if err != nil {
		return err
	}
	w.onAbandon = append(w.onAbandon, staged.Discard)
	w.onCommit = append(w.onCommit, staged.Commit, func() { o.handing = false })
	return nil
}

// handedOver lets the next work be taken.
func (o *sinkOp) handedOver() {
	x := o.s.x
	x.mu.Lock()
	o.handing = false
	more := o.s.queued() > 0
	x.mu.Unlock()
	if more {
		x.kick()
	}
}

package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// errCrashed is what a process gets that is dead.
var errCrashed = errors.New("the process has crashed")

// gate is between a process and the world. When it is closed the process is as good as dead: a call that has begun before
// may have had its effect, one that begins later has none; either way the process learns only that it failed.
type gate struct {
	dead  atomic.Bool
	count atomic.Int64
	fuse  atomic.Int64 // the call at which the gate closes; 0: none
	after atomic.Bool  // that call has its effect
	hook  func(what string)
}

func (g *gate) crash() { g.dead.Store(true) }

// blow lets the n-th call from now on be the last.
func (g *gate) blow(n int64, after bool) {
	g.after.Store(after)
	g.fuse.Store(g.count.Load() + n)
}

// call runs an effect on the world.
func (g *gate) call(what string, effect func() error) error {
	if g.dead.Load() {
		return fmt.Errorf("%s: %w", what, errCrashed)
	}
	if g.hook != nil {
		g.hook(what)
	}
	if n := g.count.Add(1); n == g.fuse.Load() {
		if g.after.Load() {
			_ = effect()
		}
		g.crash()
	}
	if g.dead.Load() {
		return fmt.Errorf("%s: %w", what, errCrashed)
	}
	err := effect()
	if g.dead.Load() {
		return fmt.Errorf("%s: %w", what, errCrashed)
	}
	return err
}

// memBucket is a Bucket in memory.
type memBucket struct {
	mu      sync.Mutex
	objects map[string][]byte
}

func newMemBucket() *memBucket { return &memBucket{objects: make(map[string][]byte)} }

func (b *memBucket) Create(_ context.Context, name string, r io.ReaderAt, size int64) error {
	data := make([]byte, size)
	if n, err := io.ReadFull(io.NewSectionReader(r, 0, size), data); err != nil {
		return fmt.Errorf("read %d of %d bytes: %w", n, size, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.objects[name]; ok {
		return fmt.Errorf("create %s: %w", name, objstore.ErrExists)
	}
	b.objects[name] = data
	return nil
}

func (b *memBucket) Open(_ context.Context, name string, off, n int64) (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := b.objects[name]
	if !ok {
		return nil, fmt.Errorf("open %s: %w", name, objstore.ErrNotExist)
	}
	data = data[min(off, int64(len(data))):]
	if n >= 0 {
		data = data[:min(n, int64(len(data)))]
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (b *memBucket) List(_ context.Context, prefix string) iter.Seq2[objstore.Object, error] {
	return func(yield func(objstore.Object, error) bool) {
		for _, name := range b.names() {
			if strings.HasPrefix(name, prefix) && !yield(objstore.Object{Name: name, Size: int64(len(b.get(name)))}, nil) {
				return
			}
		}
	}
}

func (b *memBucket) Delete(_ context.Context, names ...string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range names {
		delete(b.objects, name)
	}
	return nil
}

func (b *memBucket) names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.objects))
}

func (b *memBucket) get(name string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.objects[name]
}

// flip changes a byte of an object.
func (b *memBucket) flip(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data := bytes.Clone(b.objects[name])
	data[len(data)/2] ^= 1
	b.objects[name] = data
}

// gatedBucket is a bucket as a process sees it that may crash.
type gatedBucket struct {
	objstore.Bucket
	g *gate
}

func (b gatedBucket) Create(ctx context.Context, name string, r io.ReaderAt, size int64) error {
	return b.g.call("create "+name, func() error { return b.Bucket.Create(ctx, name, r, size) })
}

func (b gatedBucket) Open(ctx context.Context, name string, off, n int64) (r io.ReadCloser, err error) {
	err = b.g.call("open "+name, func() (err error) {
		r, err = b.Bucket.Open(ctx, name, off, n)
		return err
	})
	return r, err
}

func (b gatedBucket) List(ctx context.Context, prefix string) iter.Seq2[objstore.Object, error] {
	return func(yield func(objstore.Object, error) bool) {
		if err := b.g.call("list "+prefix, func() error { return nil }); err != nil {
			yield(objstore.Object{}, err)
			return
		}
		b.Bucket.List(ctx, prefix)(yield)
	}
}

func (b gatedBucket) Delete(ctx context.Context, names ...string) error {
	return b.g.call("delete", func() error { return b.Bucket.Delete(ctx, names...) })
}

// logRecord is a record of a log.
type logRecord struct {
	Value string
	TS    int64 // rises within a partition
}

// eventLog is a partitioned log, the same whenever it is read.
type eventLog struct {
	mu         sync.Mutex
	partitions [][]logRecord
	open       bool // more may come
	committed  map[int]int64
}

func (l *eventLog) appendTo(partition int, r logRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partitions[partition] = append(l.partitions[partition], r)
}

func (l *eventLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = false
}

// offsets are the position of a shard: where it reads on in each partition it owns.
type offsets map[int]int64

// logSource reads an eventLog. Partition p belongs to shard p mod shards.
type logSource struct {
	log    *eventLog
	g      *gate
	shards int
	batch  int
	delay  time.Duration

	at []offsets // by shard
}

// sourceOf makes the factory of a process's source. It gives at most batch records at once, and waits before each fetch.
func sourceOf(l *eventLog, g *gate, batch int, delay time.Duration) native.SourceFactory {
	return func(_ context.Context, cfg native.SourceConfig) (native.Source, error) {
		s := &logSource{log: l, g: g, shards: cfg.Shards, batch: max(batch, 1), delay: delay}
		known := offsets{}
		for _, p := range cfg.Positions {
			var o offsets
			if err := json.Unmarshal(p, &o); err != nil {
				return nil, fmt.Errorf("position %q: %w", p, err)
			}
			maps.Copy(known, o) // the later counts
		}
		for shard := range cfg.Shards {
			o := offsets{}
			for p := range l.partitions {
				if p%cfg.Shards == shard {
					o[p] = known[p]
				}
			}
			s.at = append(s.at, o)
		}
		return s, nil
	}
}

func (s *logSource) Close() error { return nil }

func (s *logSource) Fetch(ctx context.Context, shard int, out *flow.Builder, limit int64) (native.Fetched, error) {
	if s.g.dead.Load() {
		return native.Fetched{}, errCrashed
	}
	select {
	case <-time.After(s.delay):
	case <-ctx.Done():
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	at := s.at[shard]
	wm, done, backlog := coder.MaxTimestamp, !s.log.open, int64(0)
	for p := range s.log.partitions {
		next, mine := at[p]
		if !mine {
			continue
		}
		records := s.log.partitions[p]
		for n := 0; n < s.batch && next < int64(len(records)); n++ {
			r := records[next]
			elem := coder.AppendHeader(nil, r.TS, 1, nil, coder.NoFiring())
			if err := out.Append(coder.AppendBytes(elem, []byte(r.Value)), r.TS); err != nil {
				return native.Fetched{}, err
			}
			next++
		}
		at[p] = next
		backlog += int64(len(records)) - next
		if next == int64(len(records)) && !s.log.open {
			continue
		}
		done = false
		if next == 0 {
			wm = coder.MinTimestamp
		} else {
			wm = min(wm, records[next-1].TS)
		}
	}
	if wm == coder.MaxTimestamp && !done {
		wm = coder.MinTimestamp
	}
	pos, err := json.Marshal(at)
	return native.Fetched{Position: pos, Watermark: wm, Backlog: backlog, Done: done}, err
}

// Committed notes how far the job has come.
func (s *logSource) Committed(_ int, position []byte) {
	var o offsets
	must(json.Unmarshal(position, &o))
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	if s.log.committed == nil {
		s.log.committed = make(map[int]int64)
	}
	maps.Copy(s.log.committed, o)
}

// broker keeps transactions as Kafka does: a transactional id has an epoch and one transaction at most; InitProducerID
// aborts what is open and raises the epoch; an old epoch is fenced.
type broker struct {
	mu         sync.Mutex
	ids        map[string]*transactionalID
	committed  []out // as a read_committed consumer sees them
	violations []string
	refuse     int  // so many produce calls are refused: the transaction is lost
	away       bool // nothing can be committed or flushed

	rng *rand.Rand
}

type transactionalID struct {
	epoch int
	open  []out
	begun bool
	ended string // how the last transaction of this epoch ended: "", "commit", "abort"
}

var (
	errProducerFenced = errors.New("producer is fenced")
	errTxnState       = errors.New("invalid transaction state")
	errBrokerAway     = errors.New("broker is away")
)

func newBroker(seed uint64) *broker {
	return &broker{ids: make(map[string]*transactionalID), rng: rand.New(rand.NewPCG(seed, 2))}
}

func (b *broker) id(name string) *transactionalID {
	t, ok := b.ids[name]
	if !ok {
		t = &transactionalID{}
		b.ids[name] = t
	}
	return t
}

// initProducer takes an id over.
func (b *broker) initProducer(name string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.id(name)
	*t = transactionalID{epoch: t.epoch + 1}
	return t.epoch
}

func (b *broker) produce(name string, epoch int, records []out) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.id(name)
	switch {
	case b.away:
		return errBrokerAway
	case t.epoch != epoch:
		return errProducerFenced
	case b.refuse > 0:
		b.refuse--
		*t = transactionalID{epoch: t.epoch + 1}
		return native.ErrRestart
	}
	if !t.begun {
		t.begun, t.ended = true, ""
	}
	t.open = append(t.open, records...)
	return nil
}

// end commits or aborts; to repeat it is no error.
func (b *broker) end(name string, epoch int, commit bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.id(name)
	how := map[bool]string{true: "commit", false: "abort"}[commit]
	switch {
	case b.away:
		return errBrokerAway
	case t.epoch != epoch:
		return errProducerFenced
	case !t.begun && t.ended == how:
		return nil
	case !t.begun:
		return errTxnState
	}
	if commit {
		b.committed = append(b.committed, t.open...)
	}
	t.open, t.begun, t.ended = nil, false, how
	return nil
}

// expire ends all open transactions, as a broker does with those that take too long.
func (b *broker) expire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.ids {
		if t.begun {
			*t = transactionalID{epoch: t.epoch + 1}
		}
	}
}

func (b *broker) outs() []out {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.committed)
}

// values are the committed values of a sink, in order.
func (b *broker) values(sink string) []string {
	var vs []string
	for _, o := range b.outs() {
		if o.Sink == sink {
			vs = append(vs, o.Value)
		}
	}
	return vs
}

func (b *broker) violated(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.violations = append(b.violations, fmt.Sprintf(format, args...))
}

func (b *broker) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// coin is true half the time.
func (b *broker) coin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rng.IntN(2) == 0
}

// txnToken is what a checkpoint keeps of a transaction.
type txnToken struct {
	Slot  int
	ID    string // "": it was empty
	Epoch int
}

// txnSink is a transactional sink with three ids in rotation.
type txnSink struct {
	b   *broker
	g   *gate
	cfg native.SinkConfig

	mu      sync.Mutex
	slots   [3]struct{ epoch int } // epoch 0: not taken over
	newest  int                    // slot of the newest committed transaction; -1: none
	current *txnInterval
	staged  *txnStaged // the last one
	waiting bool       // a Prepared is neither committed nor aborted
	closed  bool
	lost    error
}

// txnInterval is the transaction between two cuts.
type txnInterval struct {
	slot    int
	records []out // all
	sent    int
}

// exactSink makes the factory of a process's sink.
func exactSink(b *broker, g *gate) native.SinkFactory {
	return func(_ context.Context, cfg native.SinkConfig) (native.Sink, error) {
		if cfg.Transaction == nil {
			return nil, errors.New("the sink needs transactions")
		}
		s := &txnSink{b: b, g: g, cfg: cfg, newest: -1}
		first := 0
		if p := cfg.Transaction.Prepared; p != nil {
			var t txnToken
			if err := json.Unmarshal(p, &t); err != nil {
				return nil, err
			}
			first = (t.Slot + 1) % 3
			if t.ID != "" && !cfg.Transaction.Settled {
				if err := s.end(t, true); err != nil {
					return nil, err
				}
				s.newest, s.slots[t.Slot].epoch = t.Slot, t.Epoch
			}
		}
		for i := range s.slots {
			if i != s.newest {
				if err := s.takeOver(i); err != nil {
					return nil, err
				}
			}
		}
		s.current = &txnInterval{slot: first}
		return s, nil
	}
}

func (s *txnSink) id(slot int) string {
	return fmt.Sprintf("%s/%s/%d", s.cfg.Transaction.Job, s.cfg.Transform, slot)
}

func (s *txnSink) takeOver(slot int) error {
	return s.g.call("init "+s.id(slot), func() error {
		s.slots[slot].epoch = s.b.initProducer(s.id(slot))
		return nil
	})
}

// end ends the transaction of a token.
func (s *txnSink) end(t txnToken, commit bool) error {
	if t.ID == "" {
		return nil
	}
	err := s.g.call("end "+t.ID, func() error { return s.b.end(t.ID, t.Epoch, commit) })
	if errors.Is(err, errProducerFenced) || errors.Is(err, errTxnState) {
		return fmt.Errorf("%s at epoch %d: %w: %w", t.ID, t.Epoch, native.ErrLost, err)
	}
	return err
}

func (s *txnSink) Send(context.Context, []*flow.Block) (native.Sent, error) {
	return nil, errors.New("not reached")
}

func (s *txnSink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.b.violated("closed twice")
	}
	s.closed = true
	if iv := s.current; iv != nil && iv.sent > 0 {
		t := txnToken{ID: s.id(iv.slot), Epoch: s.slots[iv.slot].epoch}
		_ = s.end(t, false)
	}
	return nil
}

func (s *txnSink) Stage(_ context.Context, blocks []*flow.Block) (native.Staged, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.b.violated("Stage after Close")
	}
	if s.lost != nil {
		return nil, fmt.Errorf("stage: %w", s.lost)
	}
	if s.staged != nil && !s.staged.ended {
		s.b.violated("Stage before the Staged before was ended")
	}
	var r recorder
	if err := (&recordingSink{&r, s.cfg}).record(blocks); err != nil {
		return nil, err
	}
	s.staged = &txnStaged{s: s, records: r.got}
	return s.staged, nil
}

type txnStaged struct {
	s       *txnSink
	records []out
	ended   bool
}

func (st *txnStaged) Commit() {
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	st.once()
	if s.closed {
		s.b.violated("Staged.Commit after Close")
	}
	s.current.records = append(s.current.records, st.records...)
	if s.b.coin() {
		_ = s.flush(s.current)
	}
}

func (st *txnStaged) Discard() {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.once()
}

// once REQUIRES: mu.
func (st *txnStaged) once() {
	if st.ended {
		st.s.b.violated("staged records were ended twice")
	}
	st.ended = true
}

// flush sends what has not been sent. REQUIRES: mu.
func (s *txnSink) flush(iv *txnInterval) error {
	if iv.sent == len(iv.records) {
		return nil
	}
	err := s.g.call("produce "+s.id(iv.slot), func() error {
		return s.b.produce(s.id(iv.slot), s.slots[iv.slot].epoch, iv.records[iv.sent:])
	})
	switch {
	case err == nil:
		iv.sent = len(iv.records)
	case errors.Is(err, errProducerFenced):
		s.lost = native.ErrFenced
	case errors.Is(err, native.ErrRestart), errors.Is(err, errCrashed): // an answer that is lost leaves no way but back
		s.lost = native.ErrRestart
	default:
		return err // the broker is away: later
	}
	return s.lost
}

func (s *txnSink) Cut(int64) (native.Prepared, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting {
		s.b.violated("Cut before the Prepared before was committed")
	}
	if s.closed {
		s.b.violated("Cut after Close")
	}
	iv := s.current
	s.waiting = true
	s.current = &txnInterval{slot: (iv.slot + 1) % 3}
	return &txnPrepared{s: s, iv: iv}, nil
}

type txnPrepared struct {
	s        *txnSink
	iv       *txnInterval
	token    txnToken
	prepared bool
	done     bool
}

func (p *txnPrepared) Prepare(context.Context) ([]byte, error) {
	s := p.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != nil {
		return nil, s.lost
	}
	if err := s.flush(p.iv); err != nil {
		return nil, err
	}
	p.prepared, p.token = true, txnToken{Slot: p.iv.slot}
	if len(p.iv.records) > 0 {
		p.token.ID, p.token.Epoch = s.id(p.iv.slot), s.slots[p.iv.slot].epoch
	}
	return json.Marshal(p.token)
}

func (p *txnPrepared) Commit(context.Context) error {
	s := p.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.prepared {
		s.b.violated("Commit before Prepare")
	}
	if s.closed {
		s.b.violated("Commit after Close")
	}
	if err := s.end(p.token, true); err != nil {
		return err
	}
	if s.newest >= 0 && s.newest != p.iv.slot {
		if err := s.takeOver(s.newest); err != nil {
			return err
		}
	}
	s.newest, s.waiting, p.done = p.iv.slot, false, true
	return nil
}

func (p *txnPrepared) Abort(context.Context) error {
	return p.s.end(p.token, false)
}

// flakyBucket fails as long as it is away.
type flakyBucket struct {
	objstore.Bucket
	away atomic.Bool
}

var errAway = errors.New("the store is away")

func (b *flakyBucket) Create(ctx context.Context, name string, r io.ReaderAt, size int64) error {
	if b.away.Load() {
		return errAway
	}
	return b.Bucket.Create(ctx, name, r, size)
}

func (b *flakyBucket) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if b.away.Load() {
		return nil, errAway
	}
	return b.Bucket.Open(ctx, name, off, n)
}

func (b *flakyBucket) List(ctx context.Context, prefix string) iter.Seq2[objstore.Object, error] {
	if b.away.Load() {
		return func(yield func(objstore.Object, error) bool) { yield(objstore.Object{}, errAway) }
	}
	return b.Bucket.List(ctx, prefix)
}

func (b *flakyBucket) Delete(ctx context.Context, names ...string) error {
	if b.away.Load() {
		return errAway
	}
	return b.Bucket.Delete(ctx, names...)
}

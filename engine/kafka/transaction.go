package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// closeTimeout bounds what Close spends on aborting the open transaction.
const closeTimeout = 2 * time.Second

var errNoCheckpoints = errors.New("guarantee=exactly_once needs a job with checkpoints: turn them on, or write at_least_once")

// transactional is the sink that writes exactly once: each interval between two checkpoints is one transaction.
//
// Transactional ids rotate. The transaction that the newest durable checkpoint names must be committed again after a crash,
// by producer id and epoch; brokers without KIP-890 keep both from one transaction to the next. With three ids, no open
// transaction can be taken for the one that is named, and one id more than the prepared and the open transaction need is
// made ready meanwhile.
type transactional struct {
	*writer
	log   *slog.Logger
	base  []kgo.Opt // of any client
	end   *ender
	slots [rotation]*slot

	// life ends with Close, or with the first failure, which is its cause.
	life  context.Context
	fail  context.CancelCauseFunc
	tasks sync.WaitGroup

	current atomic.Pointer[interval]

	mu      sync.Mutex // protects what follows
	pending *prepared  // cut, not yet committed or aborted
	newest  *slot      // of the newest committed transaction; nil: none
}

var _ native.Transactional = (*transactional)(nil)

func openTransactional(ctx context.Context, w *writer, tc native.TransactionConfig, base []kgo.Opt, log *slog.Logger) (native.Sink, error) {
	if tc.Job == "" {
		return nil, errors.New("the job has no identity for transactional ids")
	}
	base = append(base, kgo.RetryBackoffFn(retryBackoff))
	admin, err := kgo.NewClient(base...)
	if err != nil {
		return nil, err
	}
	s := &transactional{writer: w, log: log, base: base, end: &ender{admin: admin, base: base, log: newLogger(log)}}
	s.life, s.fail = context.WithCancelCause(context.Background())
	for i := range s.slots {
		s.slots[i] = &slot{number: i, id: transactionalID(tc.Job, w.transform, i), ready: make(chan struct{})}
	}
	if err := s.open(ctx, tc); err != nil {
		s.shut()
		return nil, w.config.explain(err)
	}
	return s, nil
}

// open commits what the restored checkpoint has prepared, then takes over the other transactional ids: that aborts what
// lingers on them, and fences whoever used them.
func (s *transactional) open(ctx context.Context, tc native.TransactionConfig) error {
	if err := s.check(ctx, s.end.admin, s.log); err != nil {
		return err
	}
	first := 0
	if tc.Prepared != nil {
		t, err := decodeToken(tc.Prepared)
		if err != nil {
			return err
		}
		first = (t.Slot + 1) % rotation
		if t.ID != "" && !tc.Settled {
			if err := s.recover(ctx, t); err != nil {
				return err
			}
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, sl := range s.slots {
		if sl != s.newest {
			g.Go(func() error { return s.begin(gctx, sl) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.next(s.slots[first], nil)
	return nil
}

// recover commits the transaction of the restored checkpoint. Its id is left alone until the next checkpoint is committed: to
// begin on it now would change its epoch, and a crash before that checkpoint could not tell any more what this commit did.
func (s *transactional) recover(ctx context.Context, t *token) error {
	s.log.Info("kafka: committing the transaction of the restored checkpoint", "transform", s.transform, "transactional_id", t.ID,
		"producer_id", t.Producer, "producer_epoch", t.Epoch)
	last, err := s.end.commit(ctx, t)
	if err != nil {
		return err
	}
	if sl := s.slots[t.Slot]; sl.id == t.ID {
		sl.last = last
		s.newest = sl
	}
	return nil
}

// next makes an interval on a slot the current one.
func (s *transactional) next(sl *slot, before *interval) {
	iv := newInterval(s, sl)
	s.current.Store(iv)
	s.tasks.Go(func() { iv.start(before) })
}

// Send implements native.Sink. The engine stages instead.
func (s *transactional) Send(context.Context, []*flow.Block) (native.Sent, error) {
	return nil, fmt.Errorf("write to kafka %s: a transactional sink only stages", s.transform) // not reached
}

// wrap says where an error comes from.
func (s *transactional) wrap(err error) error {
	return fmt.Errorf("write to kafka %s: %w", s.transform, s.config.explain(err))
}

// Stage implements native.Transactional. The memory of all blocks is taken at once: waiting for room while holding some would
// not end, for what is held is only written after the commit.
func (s *transactional) Stage(ctx context.Context, blocks []*flow.Block) (native.Staged, error) {
	var room int64
	for _, b := range blocks {
		room += s.roomFor(b.Len(), b.Size())
	}
	room = min(room, s.limit)
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	if err := s.room.Acquire(waiting, room); err != nil {
		if ctx.Err() == nil && s.life.Err() != nil {
			return nil, s.wrap(context.Cause(s.life))
		}
		return nil, err
	}
	if s.life.Err() != nil {
		s.room.Release(room)
		return nil, s.wrap(context.Cause(s.life))
	}
	st := &staged{sink: s}
	if err := st.read(blocks, room); err != nil {
		st.Discard()
		return nil, s.wrap(err)
	}
	return st, nil
}

// staged are the records of one bundle.
type staged struct {
	sink   *transactional
	chunks []*chunk
}

// read makes chunks of the blocks, which share room. On an error the chunks made hold all of it.
func (st *staged) read(blocks []*flow.Block, room int64) error {
	s := st.sink
	var scratch flow.Data
	for _, b := range blocks {
		if b.Len() == 0 {
			continue
		}
		part := min(s.roomFor(b.Len(), b.Size()), room)
		room -= part
		c := s.newChunk(b.Len(), b.Size(), part)
		st.chunks = append(st.chunks, c)
		data, err := b.ReadInto(&scratch)
		if err == nil {
			err = s.fill(c, data)
		}
		if err == nil {
			err = checkSizes(c)
		}
		if err != nil {
			c.room += room
			return err
		}
	}
	if room > 0 {
		s.room.Release(room) // of empty blocks
	}
	return nil
}

// checkSizes refuses records that the client would refuse: here they fail their bundle, later they would cost the whole
// transaction, again and again.
func checkSizes(c *chunk) error {
	const batchHead, recordHead, headerHead = 61, 31, 10 // the most they take
	for i := range c.records {
		r := &c.records[i]
		n := batchHead + recordHead + len(r.Key) + len(r.Value)
		for _, h := range r.Headers {
			n += headerHead + len(h.Key) + len(h.Value)
		}
		if n > maxBatch {
			return fmt.Errorf("record of %d bytes for topic %q: %w", n, r.Topic, kerr.MessageTooLarge)
		}
	}
	return nil
}

// Commit implements native.Staged.
func (st *staged) Commit() {
	st.sink.current.Load().add(st.chunks)
	st.chunks = nil
}

// Discard implements native.Staged.
func (st *staged) Discard() {
	for _, c := range st.chunks {
		st.sink.free(c)
	}
	st.chunks = nil
}

// Cut implements native.Transactional.
func (s *transactional) Cut(checkpoint int64) (native.Prepared, error) {
	if s.life.Err() != nil {
		return nil, s.wrap(context.Cause(s.life))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending != nil {
		return nil, s.wrap(fmt.Errorf("checkpoint %d is cut before %d has been committed", checkpoint, s.pending.checkpoint)) // not reached
	}
	iv := s.current.Load()
	iv.settled() // nothing more is added
	s.pending = &prepared{interval: iv, checkpoint: checkpoint}
	s.next(s.slots[(iv.slot.number+1)%rotation], iv)
	return s.pending, nil
}

// committed makes the slot of the checkpoint before ready: nothing durable names its transaction any more.
func (s *transactional) committed(p *prepared) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending != p {
		return // committed again
	}
	s.pending = nil
	sl := s.newest
	s.newest = p.interval.slot
	if sl == nil || sl.begun() {
		return
	}
	s.tasks.Go(func() {
		if err := s.begin(s.life, sl); err != nil && s.life.Err() == nil {
			s.fail(err)
		}
	})
}

// Close implements native.Sink.
func (s *transactional) Close() error {
	closed := errors.New("sink is closed")
	s.fail(closed)
	s.tasks.Wait()
	if iv := s.current.Load(); iv != nil {
		if !errors.Is(context.Cause(s.life), native.ErrFenced) {
			ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
			if err := iv.abort(ctx); err != nil {
				s.log.Warn("kafka: the open transaction is left to the next start, or to its time-out", "transform", s.transform,
					"transactional_id", iv.slot.id, "error", err)
			}
			cancel()
		}
		iv.drop()
	}
	s.shut()
	return nil
}

// shut gives up connections.
func (s *transactional) shut() {
	s.fail(errClosed)
	s.tasks.Wait()
	for _, sl := range s.slots {
		if sl.client != nil {
			sl.client.Close()
		}
	}
	s.end.close()
}

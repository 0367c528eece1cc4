package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// tick is how long a Fetch waits at most before it looks at the clock: the resolution of idle watermarks.
const tick = 200 * time.Millisecond

// source reads all partitions of a job with one client.
//
// The client is polled by whichever shard has nothing left: it takes the turn, polls, and hands every partition's records to
// the shard that owns it. So there is no goroutine of our own, and nobody polls when nobody asks.
type source struct {
	config    ReadConfig
	log       *slog.Logger
	transform string
	client    *kgo.Client
	admin     *kadm.Client // over client
	budget    *budget
	now       func() time.Time
	shards    []*shard
	owner     map[topicPartition]*shard
	committer *committer // nil without a group

	turn chan struct{} // holds one token while somebody polls

	// Owned by whoever has the turn:
	looked  time.Time         // when new partitions were looked for
	missing map[string]bool   // topics that were not there then
	ids     map[string]string // of topics

	mu     sync.Mutex // protects what follows, owner, and the mailboxes of shards
	err    error      // of the last poll; final
	ends   map[topicPartition]int64
	endsAt time.Time // when ends were asked for; they are as of then or later
}

// shard is the reader of one slot. Its partitions and what it has taken belong to its Fetch.
type shard struct {
	parts   []*partition
	byName  map[topicPartition]*partition
	current batch
	// watermark last returned; it never goes back.
	watermark int64

	ready chan struct{} // holds a token when the mailbox may have something

	// The mailbox: polled and not yet taken. Protected by source.mu.
	mail   []batch
	bytes  int64
	paused bool
	fresh  []*partition       // new ones, not yet among parts
	all    map[string][]int32 // parts and fresh
}

// batch is what one poll brought of one partition.
type batch struct {
	tp            topicPartition
	records       []*kgo.Record
	highWatermark int64
	bytes         int64
	jump          *jump // the partition goes on elsewhere; there are no records then
}

var (
	_ native.Source    = (*source)(nil)
	_ native.Committer = (*source)(nil)
)

func newSource(cfg native.SourceConfig, rc ReadConfig, base []kgo.Opt, parts []*partition, brokers int) (*source, error) {
	s := &source{
		config:    rc,
		log:       cfg.Logger,
		transform: cfg.Transform,
		budget:    newBudget(cfg.Memory, brokers),
		now:       time.Now,
		shards:    make([]*shard, cfg.Shards),
		owner:     make(map[topicPartition]*shard, len(parts)),
		turn:      make(chan struct{}, 1),
		looked:    time.Now(),
		missing:   make(map[string]bool),
		ids:       make(map[string]string),
	}
	for i := range s.shards {
		s.shards[i] = &shard{byName: map[topicPartition]*partition{}, watermark: coder.MinTimestamp,
			ready: make(chan struct{}, 1), all: map[string][]int32{}}
	}
	assign := make(map[string]map[int32]kgo.Offset)
	for i, p := range parts {
		s.give(s.shards[i%len(s.shards)], p)
		s.ids[p.topic] = p.topicID
		if p.done() {
			continue
		}
		if assign[p.topic] == nil {
			assign[p.topic] = make(map[int32]kgo.Offset)
		}
		assign[p.topic][p.partition] = kgo.NoResetOffset().At(p.next)
	}
	for _, sh := range s.shards {
		sh.adopt()
	}
	client, err := kgo.NewClient(append(base, s.fetchOptions(assign)...)...)
	if err != nil {
		return nil, err
	}
	s.client, s.admin = client, kadm.NewClient(client)
	if rc.Group != "" {
		s.committer = startCommitter(rc.Group, s.admin, cfg.Logger, len(s.shards))
	}
	return s, nil
}

// give makes a shard the owner of a partition. REQUIRES: s.mu, or nobody else has s yet.
func (s *source) give(sh *shard, p *partition) {
	sh.fresh = append(sh.fresh, p)
	sh.all[p.topic] = append(sh.all[p.topic], p.partition)
	s.owner[p.topicPartition] = sh
}

// adopt takes over new partitions. REQUIRES: source.mu; called by the shard's Fetch.
func (sh *shard) adopt() {
	for _, p := range sh.fresh {
		sh.parts = append(sh.parts, p)
		sh.byName[p.topicPartition] = p
	}
	sh.fresh = nil
}

func (s *source) fetchOptions(assign map[string]map[int32]kgo.Offset) []kgo.Opt {
	isolation := kgo.ReadUncommitted()
	if s.config.ReadCommitted {
		isolation = kgo.ReadCommitted()
	}
	maxBytes, maxPartition := s.budget.sizes()
	return []kgo.Opt{
		kgo.ConsumePartitions(assign),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // records that are gone are an error, not a jump
		kgo.FetchIsolationLevel(isolation),
		kgo.FetchMaxBytes(maxBytes),
		kgo.FetchMaxPartitionBytes(maxPartition),
		kgo.MaxConcurrentFetches(s.budget.fetches),
		kgo.FetchMaxWait(500 * time.Millisecond),
		// Transaction markers take offsets: without them a position would never reach the end of a transactional topic.
		kgo.KeepControlRecords(),
		kgo.WithHooks(s.budget),
	}
}

// Fetch implements native.Source.
func (s *source) Fetch(ctx context.Context, shard int, out *flow.Builder, max int64) (native.Fetched, error) {
	sh := s.shards[shard]
	wait := time.NewTimer(tick)
	defer wait.Stop()
	for {
		n, err := s.drain(sh, out, max)
		if err != nil {
			return native.Fetched{}, s.failed(err)
		}
		if n > 0 || s.finished(sh) || ctx.Err() != nil {
			return s.fetched(sh)
		}
		select {
		case <-sh.ready:
		case s.turn <- struct{}{}:
			err := s.poll(ctx, sh)
			<-s.turn
			if err != nil {
				return native.Fetched{}, s.failed(err)
			}
		case <-ctx.Done():
		case <-wait.C:
			if before := sh.watermark; s.watermark(sh) > before {
				return s.fetched(sh)
			}
			wait.Reset(tick)
		}
	}
}

func (s *source) failed(err error) error {
	return fmt.Errorf("read kafka source %s: %w", s.transform, s.config.explain(err))
}

// fetched reports where the shard stands.
func (s *source) fetched(sh *shard) (native.Fetched, error) {
	f := native.Fetched{Watermark: s.watermark(sh), Done: s.finished(sh)}
	for _, p := range sh.parts {
		f.Backlog += p.backlog()
	}
	var err error
	f.Position, err = encodePosition(sh.parts)
	return f, err
}

// finished says that the shard never has anything more to read: not while it may be given a new partition.
func (s *source) finished(sh *shard) bool {
	if s.config.discovery() > 0 {
		return false
	}
	for _, p := range sh.parts {
		if !p.done() {
			return false
		}
	}
	return true
}

// watermark returns the shard's watermark.
func (s *source) watermark(sh *shard) int64 {
	sh.learn(s)
	w, now := coder.MaxTimestamp, s.now()
	if len(sh.parts) == 0 && s.config.discovery() > 0 {
		// It waits for a partition that does not exist, and follows the clock as an idle one does.
		w = now.UnixMilli() - s.config.Timestamps.behind()
	}
	for _, p := range sh.parts {
		w = min(w, p.watermark(&s.config.Timestamps, now))
	}
	sh.watermark = max(sh.watermark, w)
	return sh.watermark
}

// learn takes over what is known of the ends of the shard's partitions.
func (sh *shard) learn(s *source) {
	s.mu.Lock()
	sh.adopt()
	ends, at := s.ends, s.endsAt
	s.mu.Unlock()
	for _, p := range sh.parts {
		end, ok := ends[p.topicPartition]
		if !ok {
			continue
		}
		p.highWatermark = max(p.highWatermark, end)
		if p.next >= end && at.After(p.caughtUp) {
			p.caughtUp = at
		}
	}
}

// idle says that a partition has had nothing for so long that its end is of interest.
func (sh *shard) idle(t *Timestamps, now time.Time) bool {
	if t.Policy == ProcessingTime || t.IdleTimeout < 0 {
		return false
	}
	for _, p := range sh.parts {
		if !p.done() && now.Sub(p.active) >= time.Duration(t.IdleTimeout)*time.Millisecond {
			return true
		}
	}
	return false
}

// drain encodes what the shard has, up to max bytes, and returns the number of records taken, whether they became elements
// or not.
func (s *source) drain(sh *shard, out *flow.Builder, max int64) (int, error) {
	start, n := out.Size(), 0
	for n == 0 || out.Size()-start < max {
		if len(sh.current.records) == 0 && !s.take(sh) {
			break
		}
		took, err := s.encode(sh, out, max-(out.Size()-start))
		n += took
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// take makes the next batch of the mailbox the current one.
func (s *source) take(sh *shard) bool {
	s.mu.Lock()
	if len(sh.mail) == 0 {
		s.mu.Unlock()
		return false
	}
	sh.adopt()
	sh.current = sh.mail[0]
	sh.mail[0] = batch{}
	sh.mail = sh.mail[1:]
	sh.bytes -= sh.current.bytes
	resume := sh.paused && sh.bytes <= s.budget.mailbox(len(s.shards))/2
	var names map[string][]int32
	if resume {
		sh.paused, names = false, sh.names()
	}
	s.mu.Unlock()
	if resume {
		s.client.ResumeFetchPartitions(names)
	}
	return true
}

// encode appends records of the current batch until max bytes are taken.
func (s *source) encode(sh *shard, out *flow.Builder, max int64) (int, error) {
	b := &sh.current
	p := sh.byName[b.tp]
	if b.jump != nil {
		b.jump.apply(p)
		sh.current = batch{}
		return 1, nil // the position has moved, and is to be stored
	}
	p.active = s.now()
	p.highWatermark = b.highWatermark
	start, n := out.Size(), 0
	for _, r := range b.records {
		if n > 0 && out.Size()-start >= max {
			break
		}
		n++
		if p.done() || r.Offset < p.next {
			continue
		}
		if p.bounded && r.Offset >= p.end {
			p.next = p.end
			continue
		}
		if !r.Attrs.IsControl() {
			ts, err := p.timestamp(&s.config.Timestamps, r, p.active)
			if err != nil {
				return n, err
			}
			elem, err := s.element(out.AvailableBuffer(), r, ts)
			if err == nil {
				err = out.Append(elem, ts)
			}
			if err != nil {
				return n, fmt.Errorf("store record %d of %s: %w", r.Offset, p.topicPartition, err)
			}
		}
		p.next = r.Offset + 1
	}
	b.records = b.records[n:]
	if len(b.records) == 0 {
		b.records = nil // let go of the fetch response
	}
	if p.done() {
		s.client.RemoveConsumePartitions(map[string][]int32{p.topic: {p.partition}})
	}
	return n, nil
}

// element appends a record as a windowed value in the global window.
func (s *source) element(dst []byte, r *kgo.Record, ts int64) ([]byte, error) {
	dst = coder.AppendHeader(dst, ts, 1, nil, coder.NoFiring())
	switch s.config.Format {
	case KV:
		dst = coder.AppendBytes(dst, r.Key)
		return coder.AppendBytes(dst, r.Value), nil
	case Records:
		dst = coder.AppendVarint(dst, int64(rowSize(r)))
		return appendRow(dst, r), nil
	default:
		return s.config.Elements.append(dst, s.config.Format, r)
	}
}

// names returns the shard's partitions. REQUIRES: source.mu.
func (sh *shard) names() map[string][]int32 {
	m := make(map[string][]int32, len(sh.all))
	for topic, ps := range sh.all {
		m[topic] = slices.Clone(ps)
	}
	return m
}

// Close implements native.Source.
func (s *source) Close() error {
	if s.committer != nil {
		s.committer.stop()
	}
	s.client.Close()
	return nil
}

// Committed implements native.Committer.
func (s *source) Committed(shard int, position []byte) {
	if s.committer != nil {
		s.committer.note(shard, position)
	}
}

// errClosed is what a Fetch after Close gets.
var errClosed = errors.New("source is closed")

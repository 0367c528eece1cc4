package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// lookTimeout bounds a look for partitions or offsets, while nobody can poll.
const lookTimeout = 2 * time.Second

// discover looks for new partitions when it is time. A look that fails is tried again at the next time: the poll says when
// brokers are in trouble. REQUIRES: the caller has the turn.
//
// Records that came to a new partition before it was found may be older than the watermark by up to the interval.
func (s *source) discover(ctx context.Context) error {
	every, now := s.config.discovery(), s.now()
	if every == 0 || now.Sub(s.looked) < every {
		return nil
	}
	s.looked = now
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	meta, err := s.admin.Metadata(ctx, s.config.Topics...)
	if err != nil {
		s.log.Debug("kafka: look for partitions", "transform", s.transform, "error", err)
		return nil
	}
	var found []topicPartition
	for _, topic := range slices.Sorted(slices.Values(s.config.Topics)) {
		detail, ok := meta.Topics[topic]
		if !ok || errors.Is(detail.Err, kerr.UnknownTopicOrPartition) {
			if s.missing[topic] { // twice: not a broker that has just started
				return fmt.Errorf("topic %q was deleted while it is read: %w", topic, kerr.UnknownTopicOrPartition)
			}
			s.missing[topic] = true
			continue
		}
		delete(s.missing, topic)
		if err := s.recognise(ctx, detail); err != nil {
			return err
		}
		for _, p := range detail.Partitions.Numbers() {
			if tp := (topicPartition{topic, p}); s.owner[tp] == nil {
				found = append(found, tp)
			}
		}
	}
	if len(found) > 0 {
		s.assign(ctx, found)
	}
	return nil
}

// recognise looks whether a topic is still the one that is read, and not another one of its name.
func (s *source) recognise(ctx context.Context, detail kadm.TopicDetail) error {
	id, was := topicID(detail), s.ids[detail.Topic]
	if id == "" || was == "" || id == was {
		return nil
	}
	if !s.config.OutOfRange.jumps() {
		return errAnew(detail.Topic)
	}
	s.ids[detail.Topic] = id
	var gone []topicPartition
	for tp := range s.owner {
		if tp.topic == detail.Topic {
			gone = append(gone, tp)
		}
	}
	s.client.PurgeTopicsFromConsuming(detail.Topic)
	return s.jump(ctx, gone, true)
}

// assign gives new partitions to the shards that have the fewest; nothing that is assigned moves.
func (s *source) assign(ctx context.Context, found []topicPartition) {
	starts, err := s.admin.ListStartOffsets(ctx, s.config.Topics...)
	if err != nil {
		s.log.Debug("kafka: list start offsets of new partitions", "transform", s.transform, "error", err)
		return // they are found again
	}
	add := make(map[string]map[int32]kgo.Offset)
	s.mu.Lock()
	for _, tp := range found {
		start, ok := starts.Lookup(tp.topic, tp.partition)
		if !ok || start.Err != nil {
			continue // no leader yet
		}
		sh := slices.MinFunc(s.shards, func(a, b *shard) int { return a.size() - b.size() })
		s.give(sh, &partition{topicPartition: tp, topicID: s.ids[tp.topic], next: start.Offset, active: s.now(), highWatermark: -1})
		if add[tp.topic] == nil {
			add[tp.topic] = make(map[int32]kgo.Offset)
		}
		add[tp.topic][tp.partition] = kgo.NoResetOffset().At(start.Offset)
		s.log.Info("kafka: new partition", "transform", s.transform, "partition", tp.String(), "offset", start.Offset)
	}
	s.mu.Unlock()
	s.client.AddConsumePartitions(add)
}

// size counts the shard's partitions. REQUIRES: source.mu.
func (sh *shard) size() int {
	n := 0
	for _, ps := range sh.all {
		n += len(ps)
	}
	return n
}

// jumps says that reading goes on when records are gone.
func (p OutOfRange) jumps() bool { return p == EarliestOutOfRange || p == LatestOutOfRange }

// target returns where to go on, given what the broker has.
func (p OutOfRange) target(start, end int64) int64 {
	if p == LatestOutOfRange {
		return end
	}
	return start
}

// jump is where a partition goes on.
type jump struct {
	to         int64
	start, end int64 // of what the broker has
	topicID    string
	anew       bool // the topic is another one
	earliest   bool
}

// apply moves the partition. Earliest leaves it where it is, if there is something: what it had not taken comes again.
func (j *jump) apply(p *partition) {
	if !j.anew && j.earliest && p.next >= j.start && p.next <= j.end {
		return
	}
	p.next, p.topicID, p.highWatermark = j.to, j.topicID, j.end
}

// jump goes on elsewhere in partitions whose next record is gone. Each jump reaches its shard behind the records that were
// polled before it. REQUIRES: the caller has the turn.
func (s *source) jump(ctx context.Context, gone []topicPartition, anew bool) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	starts, ends, err := s.bounds(ctx)
	if err != nil {
		return fmt.Errorf("list offsets after %w: %w", kerr.OffsetOutOfRange, err)
	}
	policy := s.config.OutOfRange
	for _, tp := range gone {
		start, _ := starts.Lookup(tp.topic, tp.partition)
		end, ok := ends.Lookup(tp.topic, tp.partition)
		if !ok {
			end.Err = kerr.UnknownTopicOrPartition
		}
		if err := errors.Join(start.Err, end.Err); err != nil {
			return fmt.Errorf("list offsets of %s after %w: %w", tp, kerr.OffsetOutOfRange, err)
		}
		j := &jump{to: policy.target(start.Offset, end.Offset), start: start.Offset, end: end.Offset,
			topicID: s.ids[tp.topic], anew: anew, earliest: policy == EarliestOutOfRange}
		s.client.RemoveConsumePartitions(map[string][]int32{tp.topic: {tp.partition}})
		s.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{tp.topic: {tp.partition: kgo.NoResetOffset().At(j.to)}})
		s.mu.Lock()
		sh := s.owner[tp]
		sh.mail = append(sh.mail, batch{tp: tp, jump: j})
		sh.wake()
		s.mu.Unlock()
		s.log.Warn("kafka: RECORDS ARE SKIPPED: the next record to read is gone, going on elsewhere as out_of_range says", "transform", s.transform,
			"partition", tp.String(), "policy", string(policy), "to", j.to, "broker_has_from", j.start, "broker_has_to", j.end, "topic_created_anew", anew)
	}
	return nil
}

// bounds asks for the first offsets and the ends of all partitions.
func (s *source) bounds(ctx context.Context) (starts, ends kadm.ListedOffsets, err error) {
	if starts, err = s.admin.ListStartOffsets(ctx, s.config.Topics...); err != nil {
		return nil, nil, err
	}
	ends, err = s.admin.ListEndOffsets(ctx, s.config.Topics...)
	return starts, ends, err
}

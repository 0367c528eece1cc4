package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// poll waits for records, at most a tick, and hands them to their shards. When sh is idle it also learns where the partitions
// end. REQUIRES: the caller has the turn.
func (s *source) poll(ctx context.Context, sh *shard) error {
	s.mu.Lock()
	err, arrived := s.err, len(sh.mail) > 0
	s.mu.Unlock()
	if err != nil || arrived {
		return err // another shard polled between the look into the mailbox and the turn
	}
	waiting, cancel := context.WithTimeout(ctx, tick)
	defer cancel()
	fetches := s.client.PollFetches(waiting)
	err = s.pollError(ctx, fetches)
	if err == nil {
		err = s.discover(ctx)
	}
	if err != nil {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		for _, other := range s.shards {
			other.wake()
		}
		return err
	}
	s.deliver(sh, fetches)
	if now := s.now(); sh.idle(&s.config.Timestamps, now) {
		s.learnEnds(ctx, now)
	}
	s.budget.adapt(s.client)
	return nil
}

// pollError returns the first error that is not for the client to repair.
func (s *source) pollError(ctx context.Context, fetches kgo.Fetches) error {
	var (
		first error
		gone  []topicPartition
	)
	fetches.EachError(func(topic string, partition int32, err error) {
		switch {
		case first != nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		case errors.Is(err, kgo.ErrClientClosed):
			first = errClosed
		case topic == "":
			first = err
		case errors.Is(err, kerr.OffsetOutOfRange) && s.config.OutOfRange.jumps():
			gone = append(gone, topicPartition{topic, partition})
		default:
			first = fmt.Errorf("%s: %w", topicPartition{topic, partition}, err)
		}
	})
	if first == nil && len(gone) > 0 {
		first = s.jump(ctx, gone, false)
	}
	return first
}

// deliver puts records into the mailboxes. The partitions of a shard whose mailbox is full are paused, so that a slow slot
// neither takes the memory of the others nor stops them.
func (s *source) deliver(polling *shard, fetches kgo.Fetches) {
	limit := s.budget.mailbox(len(s.shards))
	var full []map[string][]int32
	s.mu.Lock()
	fetches.EachPartition(func(f kgo.FetchTopicPartition) {
		if len(f.Records) == 0 {
			return
		}
		tp := topicPartition{f.Topic, f.Partition}
		sh := s.owner[tp]
		if sh == nil {
			return // not reached: only assigned partitions are fetched
		}
		b := batch{tp: tp, records: f.Records, highWatermark: f.HighWatermark}
		for _, r := range f.Records {
			b.bytes += int64(len(r.Key)+len(r.Value)) + recordOverhead
		}
		sh.mail = append(sh.mail, b)
		sh.bytes += b.bytes
		if sh != polling && sh.bytes > limit && !sh.paused {
			sh.paused = true
			full = append(full, sh.names())
		}
		sh.wake()
	})
	s.mu.Unlock()
	for _, names := range full {
		s.client.PauseFetchPartitions(names)
	}
}

func (sh *shard) wake() {
	select {
	case sh.ready <- struct{}{}:
	default:
	}
}

// learnEnds asks where the partitions end, for the watermarks of idle ones. An error is no reason to stop: the watermarks
// just do not move, and if the broker is in trouble the poll says so.
func (s *source) learnEnds(ctx context.Context, at time.Time) {
	s.mu.Lock()
	recent := at.Sub(s.endsAt) < s.learnEvery()
	s.mu.Unlock()
	if recent || ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	listed, err := s.admin.ListEndOffsets(ctx, s.config.Topics...)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Debug("kafka: list end offsets", "transform", s.transform, "error", err)
		}
		return
	}
	ends := make(map[topicPartition]int64, len(s.owner))
	for tp := range s.owner {
		if o, ok := listed.Lookup(tp.topic, tp.partition); ok && o.Err == nil {
			ends[tp] = o.Offset
		}
	}
	s.mu.Lock()
	s.ends, s.endsAt = ends, at
	s.mu.Unlock()
}

// learnEvery is how often ends are asked for: once in an idle timeout, within reason.
func (s *source) learnEvery() time.Duration {
	return min(max(tick, time.Duration(s.config.Timestamps.IdleTimeout)*time.Millisecond), 5*time.Second)
}

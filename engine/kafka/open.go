package kafka

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/engine/native"
)

var (
	_ native.SourceFactory = OpenSource
	_ native.SinkFactory   = OpenSink
)

// OpenSource opens the source of a ReadURN transform. It asks the brokers for everything that can be known before
// reading (topics, partitions, offsets), so that what is wrong is told here.
func OpenSource(ctx context.Context, cfg native.SourceConfig) (native.Source, error) {
	rc, err := DecodeReadConfig(cfg.Payload)
	if err != nil {
		return nil, fmt.Errorf("open kafka source %s: %w", cfg.Transform, err)
	}
	open := func(ctx context.Context, cfg native.SourceConfig) (native.Source, error) {
		return openSource(ctx, cfg, rc)
	}
	var s native.Source
	if rc.Limits.set() {
		s, err = openLimited(ctx, cfg, rc.Limits, open)
	} else {
		s, err = open(ctx, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("open kafka source %s: %w", cfg.Transform, err)
	}
	return s, nil
}

func openSource(ctx context.Context, cfg native.SourceConfig, rc ReadConfig) (*source, error) {
	if cfg.Shards < 1 {
		return nil, fmt.Errorf("%d shards", cfg.Shards)
	}
	saved, err := decodePositions(cfg.Positions)
	if err != nil {
		return nil, err
	}
	base, err := rc.options(cfg.Logger)
	if err != nil {
		return nil, err
	}
	scout, err := kgo.NewClient(base...)
	if err != nil {
		return nil, err
	}
	defer scout.Close()
	if err := rc.reach(ctx, scout, cfg.Logger); err != nil {
		return nil, rc.explain(err)
	}
	parts, brokers, err := (&opener{&rc, kadm.NewClient(scout), cfg.Logger}).partitions(ctx, saved)
	if err != nil {
		return nil, rc.explain(err)
	}
	return newSource(cfg, rc, base, parts, brokers)
}

// opener finds what to read and where to begin.
type opener struct {
	*ReadConfig
	admin *kadm.Client
	log   *slog.Logger
}

// partitions returns the partitions of all topics in order, with their offsets, and the number of brokers.
func (o *opener) partitions(ctx context.Context, saved map[topicPartition]partitionPosition) ([]*partition, int, error) {
	meta, err := o.admin.Metadata(ctx, o.Topics...)
	if err != nil {
		return nil, 0, fmt.Errorf("list topics: %w", err)
	}
	var parts []*partition
	now := time.Now()
	for _, topic := range slices.Sorted(slices.Values(o.Topics)) {
		detail, ok := meta.Topics[topic]
		if err := detail.Err; err != nil || !ok || len(detail.Partitions) == 0 {
			if err == nil {
				err = kerr.UnknownTopicOrPartition
			}
			return nil, 0, fmt.Errorf("topic %q: %w", topic, err)
		}
		for _, p := range detail.Partitions.Numbers() {
			parts = append(parts, &partition{topicPartition: topicPartition{topic, p}, topicID: topicID(detail), active: now, highWatermark: -1})
		}
	}
	if err := o.begin(ctx, parts, saved, now); err != nil {
		return nil, 0, err
	}
	return parts, len(meta.Brokers), nil
}

// begin sets where each partition begins and, for a bounded read, ends.
func (o *opener) begin(ctx context.Context, parts []*partition, saved map[topicPartition]partitionPosition, now time.Time) error {
	starts, err := o.list(ctx, parts, o.admin.ListStartOffsets)
	if err != nil {
		return err
	}
	// Positions and idleness go by the high watermark. A bounded read of committed records stops where none is open.
	ends, err := o.list(ctx, parts, o.admin.ListEndOffsets)
	if err != nil {
		return err
	}
	stops := ends
	if o.ReadCommitted {
		if stops, err = o.list(ctx, parts, o.admin.ListCommittedOffsets); err != nil {
			return err
		}
	}
	first := starts // partitions that the saved positions do not know are newer than the job: all of them is to be read
	if saved == nil {
		if first, err = o.first(ctx, parts, starts, ends); err != nil {
			return err
		}
	}
	for i, p := range parts {
		p.next = first[i]
		p.bounded, p.end = o.StopAtEnd, stops[i]
		if at, ok := saved[p.topicPartition]; ok {
			if err := o.restore(p, at, starts[i], ends[i]); err != nil {
				return err
			}
		}
		p.highWatermark = ends[i]
		if p.next >= ends[i] {
			p.caughtUp = now
		}
	}
	return checkKnown(parts, saved)
}

// first returns the offsets of a first start.
func (o *opener) first(ctx context.Context, parts []*partition, starts, ends []int64) ([]int64, error) {
	switch o.Start.At {
	case Latest:
		return ends, nil
	case Timestamp:
		return o.list(ctx, parts, func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return o.admin.ListOffsetsAfterMilli(ctx, o.Start.Timestamp, topics...)
		})
	case Committed:
		group := o.startGroup()
		committed, err := o.admin.FetchOffsetsForTopics(ctx, group, o.Topics...)
		if err != nil {
			return nil, fmt.Errorf("fetch offsets of group %q: %w", group, err)
		}
		first := slices.Clone(starts)
		if o.Start.Else == Latest {
			first = slices.Clone(ends)
		}
		for i, p := range parts {
			if at, ok := committed.Lookup(p.topic, p.partition); ok && at.At >= 0 {
				// Offsets of a group may be older than the log: there is nothing to go back to.
				first[i] = min(max(at.At, starts[i]), ends[i])
			}
		}
		return first, nil
	default:
		return starts, nil
	}
}

// list asks for one kind of offset of all partitions.
func (o *opener) list(ctx context.Context, parts []*partition,
	ask func(context.Context, ...string) (kadm.ListedOffsets, error)) ([]int64, error) {
	listed, err := ask(ctx, o.Topics...)
	if err != nil {
		return nil, fmt.Errorf("list offsets: %w", err)
	}
	out := make([]int64, len(parts))
	for i, p := range parts {
		at, ok := listed.Lookup(p.topic, p.partition)
		if !ok {
			at.Err = kerr.UnknownTopicOrPartition
		}
		if at.Err != nil {
			return nil, fmt.Errorf("list offsets of %s: %w", p.topicPartition, at.Err)
		}
		out[i] = at.Offset
	}
	return out, nil
}

// restore takes over a saved position. start and end are what the broker has now.
func (o *opener) restore(p *partition, at partitionPosition, start, end int64) error {
	p.next = at.Next
	if at.End != nil {
		p.end = *at.End
	}
	if at.Time != nil {
		p.seen, p.latest = true, *at.Time
	}
	anew := at.ID != "" && p.topicID != "" && at.ID != p.topicID
	if p.done() && !anew || at.Next >= start && at.Next <= end && !anew {
		return nil
	}
	if !o.OutOfRange.jumps() {
		if anew {
			return errAnew(p.topic)
		}
		return fmt.Errorf("%s: the saved position %d is not between the broker's first offset %d and its end %d: %w",
			p.topicPartition, at.Next, start, end, kerr.OffsetOutOfRange)
	}
	p.next = o.OutOfRange.target(start, end)
	o.log.Warn("kafka: RECORDS ARE SKIPPED: the saved position is gone, going on elsewhere as out_of_range says",
		"partition", p.String(), "policy", string(o.OutOfRange), "from", at.Next, "to", p.next, "broker_has_from", start, "broker_has_to", end)
	return nil
}

// topicID returns the id of a topic, "" if the brokers have none.
func topicID(t kadm.TopicDetail) string {
	if t.ID == (kadm.TopicID{}) {
		return ""
	}
	return hex.EncodeToString(t.ID[:])
}

// errAnew says that the records of a topic are not those that were read.
func errAnew(topic string) error {
	return fmt.Errorf("topic %q was deleted and created anew: %w", topic, kerr.OffsetOutOfRange)
}

// checkKnown refuses positions of partitions that are gone: their records would be missing without a word.
func checkKnown(parts []*partition, saved map[topicPartition]partitionPosition) error {
	left := make(map[topicPartition]bool, len(saved))
	for tp := range saved {
		left[tp] = true
	}
	for _, p := range parts {
		delete(left, p.topicPartition)
	}
	if len(left) == 0 {
		return nil
	}
	var gone []string
	for tp := range left {
		gone = append(gone, tp.String())
	}
	slices.Sort(gone)
	return fmt.Errorf("the saved positions name partitions that do not exist or are not read any more: %s (start the job without its saved positions)",
		strings.Join(gone, ", "))
}

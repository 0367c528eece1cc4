package kafka

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// partition is what a shard knows of one of its partitions. Owned by the shard's Fetch.
type partition struct {
	topicPartition
	topicID string // as in partitionPosition.ID
	next    int64  // offset of the next record to read

	bounded bool  // reading stops at end
	end     int64 // exclusive

	seen   bool
	latest int64 // greatest timestamp read, ms; valid if seen

	active time.Time // when a record was last read, or the source was opened
	// caughtUp is the last instant of which it is known that the partition had nothing more to read; zero: none.
	caughtUp time.Time
	// highWatermark is the partition's end as last heard of; -1: not heard of.
	highWatermark int64
}

func (p *partition) done() bool { return p.bounded && p.next >= p.end }

// timestamp returns the element timestamp of a record, in ms, and notes it for the watermark.
func (p *partition) timestamp(t *Timestamps, r *kgo.Record, now time.Time) (int64, error) {
	ms := r.Timestamp.UnixMilli()
	switch t.Policy {
	case ProcessingTime:
		return now.UnixMilli(), nil
	case LogAppendTime:
		if r.Attrs.TimestampType() != 1 {
			return 0, fmt.Errorf("read kafka %s: record %d has no log append time: set message.timestamp.type=LogAppendTime on the topic or use another timestamp policy", p.topicPartition, r.Offset)
		}
	case CreateTime:
		if ms == noTimestamp {
			ms = now.UnixMilli() // written by a client older than Kafka 0.10
		}
	}
	ms = min(max(ms, coder.MinTimestamp), coder.EndOfGlobalWindow)
	if !p.seen || ms > p.latest {
		p.seen, p.latest = true, ms
	}
	return ms, nil
}

// watermark returns a lower bound of the timestamps to come, in ms.
//
// A wrong clock of one producer must not make everybody's records late, so a timestamp in the future counts as now. A
// partition without traffic follows the clock, but only up to an instant at which it was known to have been read to its end:
// records that a slow or unreachable broker holds back must not come late either.
func (p *partition) watermark(t *Timestamps, now time.Time) int64 {
	if p.done() {
		return coder.MaxTimestamp
	}
	if t.Policy == ProcessingTime {
		return now.UnixMilli()
	}
	behind := t.behind()
	w := coder.MinTimestamp
	if p.seen {
		w = min(p.latest, now.UnixMilli()) - behind
	}
	if t.IdleTimeout >= 0 && !p.caughtUp.IsZero() && now.Sub(p.active) >= time.Duration(t.IdleTimeout)*time.Millisecond {
		w = max(w, p.caughtUp.UnixMilli()-behind)
	}
	return max(w, coder.MinTimestamp)
}

// behind is how far, in ms, the watermark stays behind what was seen.
func (t *Timestamps) behind() int64 {
	if t.Policy == CreateTime {
		return t.MaxOutOfOrderness
	}
	return 0
}

// backlog counts the records known to wait.
func (p *partition) backlog() int64 {
	end := p.highWatermark
	if p.bounded {
		end = p.end
	}
	return max(0, end-p.next)
}

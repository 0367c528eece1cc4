package kafka

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

func TestPartitionWatermark(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	ago := func(ms int64) time.Time { return now.Add(-time.Duration(ms) * time.Millisecond) }
	create := Timestamps{Policy: CreateTime, MaxOutOfOrderness: 100, IdleTimeout: 1000}
	tests := []struct {
		name string
		t    Timestamps
		p    partition
		want int64
	}{
		{"nothing read", create, partition{active: now}, coder.MinTimestamp},
		{"disorder", create, partition{active: now, seen: true, latest: 900_000}, 899_900},
		{"a clock ahead", create, partition{active: now, seen: true, latest: 5_000_000}, 999_900},
		{"log append time", Timestamps{Policy: LogAppendTime, MaxOutOfOrderness: 100, IdleTimeout: 1000}, partition{active: now, seen: true, latest: 900_000}, 900_000},
		{"processing time", Timestamps{Policy: ProcessingTime}, partition{}, 1_000_000},
		{"read to the end, not yet idle", create, partition{active: ago(999), seen: true, latest: 900_000, caughtUp: ago(10)}, 899_900},
		{"idle", create, partition{active: ago(1000), seen: true, latest: 900_000, caughtUp: ago(10)}, 999_890},
		{"idle and never read", create, partition{active: ago(1000), caughtUp: ago(10)}, 999_890},
		{"no news but not known to be at the end", create, partition{active: ago(9000), seen: true, latest: 900_000}, 899_900},
		{"idle behind the last record", create, partition{active: ago(9000), seen: true, latest: 995_000, caughtUp: ago(8000)}, 994_900},
		{"idle never", Timestamps{Policy: CreateTime, MaxOutOfOrderness: 100, IdleTimeout: -1}, partition{active: ago(9000), seen: true, latest: 900_000, caughtUp: ago(10)}, 899_900},
		{"bounded, read", create, partition{bounded: true, next: 5, end: 5}, coder.MaxTimestamp},
		{"bounded, not read", create, partition{bounded: true, next: 4, end: 5, seen: true, latest: 900_000, active: now}, 899_900},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.p.watermark(&tt.t, now); got != tt.want {
				t.Errorf("watermark %d, want %d", got, tt.want)
			}
		})
	}
}

func TestPartitionTimestamp(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	appended := kgo.NewRecordAttrs(kgo.RecordAttrsOpts{TimestampType: 1})
	tests := []struct {
		name   string
		policy Policy
		r      kgo.Record
		want   int64
		err    string
	}{
		{"create", CreateTime, kgo.Record{Timestamp: time.UnixMilli(7)}, 7, ""},
		{"none", CreateTime, kgo.Record{Timestamp: time.UnixMilli(-1)}, 1_000_000, ""},
		{"beyond Beam's time", CreateTime, kgo.Record{Timestamp: time.UnixMilli(1 << 62)}, coder.EndOfGlobalWindow, ""},
		{"appended", LogAppendTime, kgo.Record{Timestamp: time.UnixMilli(7), Attrs: appended}, 7, ""},
		{"not appended", LogAppendTime, kgo.Record{Timestamp: time.UnixMilli(7), Offset: 3}, 0, "in/0: record 3 has no log append time"},
		{"processing", ProcessingTime, kgo.Record{Timestamp: time.UnixMilli(7)}, 1_000_000, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := partition{topicPartition: topicPartition{"in", 0}}
			got, err := p.timestamp(&Timestamps{Policy: tt.policy}, &tt.r, now)
			checkError(t, err, tt.err)
			if got != tt.want {
				t.Errorf("timestamp %d, want %d", got, tt.want)
			}
		})
	}
}

// Watermarks of a source: held by the partition behind, let go when that one is idle, never going back.
func TestIdlePartitionLetsGo(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(2, "in"))
	now := time.Now().UnixMilli()
	b.produce(t, record("in", 0, "", "", now-50_000), record("in", 1, "", "", now-40_000))
	s := open(t, sourceConfig(readConfig(b, KV, []string{"in"}, WithCreateTime(0), WithIdleTimeout(600*time.Millisecond)), 1))
	es, f := fetchUntil(t, s, 2)
	if len(es) != 2 || f[0].Watermark != now-50_000 {
		t.Fatalf("%d elements, watermark %d", len(es), f[0].Watermark-now)
	}
	last, late := f[0].Watermark, time.Now().Add(time.Minute)
	for last < now {
		_, f := fetch(t, s, 0, 1<<20)
		if f.Watermark < last || f.Watermark > time.Now().UnixMilli() {
			t.Fatalf("watermark went from %d to %d", last-now, f.Watermark-now)
		}
		if last = f.Watermark; time.Now().After(late) {
			t.Fatal("the watermark does not follow the clock")
		}
	}
	// Traffic on one partition does not stop the idle other one from being looked after.
	b.produce(t, record("in", 0, "", "", last+1))
	if es, f := fetchUntil(t, s, 1); len(es) != 1 || f[0].Watermark < last {
		t.Errorf("%d elements, watermark %d", len(es), f[0].Watermark-now)
	}
}

// An unreachable broker must not look like silence: the watermark stays.
func TestUnknownEndHoldsWatermark(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "in"))
	now := time.Now().UnixMilli()
	b.produce(t, record("in", 0, "", "", now-50_000))
	s := open(t, sourceConfig(readConfig(b, KV, []string{"in"}, WithCreateTime(0), WithIdleTimeout(300*time.Millisecond)), 1))
	fetchUntil(t, s, 1)
	b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Topic: "in", Err: kerr.NotLeaderForPartition, Count: -1})
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	f, err := s.Fetch(ctx, 0, newPool(t).NewBuilder(), 1<<20)
	if err != nil || f.Watermark != now-50_000 {
		t.Errorf("watermark moved by %d: %v", f.Watermark-now+50_000, err)
	}
}

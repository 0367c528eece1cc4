package kafka

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

const soon = 100 * time.Millisecond

// Partitions that come while the job runs are read from their first record, by shards that had nothing if there are any, and
// what was assigned stays where it is.
func TestDiscovery(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(2, "in"))
	b.produce(t, numbered("in", 2, 0, 10, 1000)...)
	c := readConfig(b, KV, []string{"in"}, WithDiscovery(soon), WithIdleTimeout(0))
	s := open(t, sourceConfig(c, 3))
	es, last := fetchUntil(t, s, 10)
	for i, f := range last {
		if f.Done || f.Watermark == coder.MaxTimestamp {
			t.Errorf("shard %d is done: %+v", i, f)
		}
	}
	if _, err := b.admin().CreatePartitions(t.Context(), 3, "in"); err != nil {
		t.Fatal(err)
	}
	b.produceAnew(t, numbered("in", 5, 10, 25, 1000)...)
	more, last := fetchUntil(t, s, 25)
	if got := values(append(es, more...)); !slices.Equal(got, wantValues(0, 35)) {
		t.Errorf("read %v", got)
	}
	var at [][]byte
	for i, f := range last {
		if want := [][]string{{`"p":0,`}, {`"p":1,`}, {`"p":2,`}}[i][0]; !strings.Contains(string(f.Position), want) {
			t.Errorf("shard %d: %s", i, f.Position)
		}
		at = append(at, f.Position)
	}
	merged, err := decodePositions(at)
	if err != nil || len(merged) != 5 {
		t.Errorf("positions %v: %v", merged, err)
	}
	// A restart with other shards goes on, with all partitions.
	s.Close()
	b.produceAnew(t, numbered("in", 5, 35, 5, 1000)...)
	es, _ = fetchUntil(t, open(t, sourceConfig(c, 2, at...)), 5)
	if got := values(es); !slices.Equal(got, wantValues(35, 5)) {
		t.Errorf("after the restart %v", got)
	}
}

// produceAnew is produce with a client that knows the topic as it is now.
func (b *broker) produceAnew(t *testing.T, records ...*kgo.Record) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// Partitions that were made while the job was down are read from their first record, too.
func TestDiscoveryAtRestart(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "in"))
	c := readConfig(b, KV, []string{"in"}, FromLatest(), WithIdleTimeout(0))
	s := open(t, sourceConfig(c, 1))
	_, f := fetch(t, s, 0, 1<<20)
	s.Close()
	if _, err := b.admin().CreatePartitions(t.Context(), 1, "in"); err != nil {
		t.Fatal(err)
	}
	b.produceAnew(t, numbered("in", 2, 0, 10, 0)...)
	es, _ := fetchUntil(t, open(t, sourceConfig(c, 1, f.Position)), 10)
	if got := values(es); !slices.Equal(got, wantValues(0, 10)) {
		t.Errorf("read %v", got)
	}
}

// fetchError fetches until there is an error.
func fetchError(t *testing.T, s *source) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		b := newPool(t).NewBuilder()
		_, err := s.Fetch(ctx, 0, b, 1<<20)
		b.Discard()
		if err != nil {
			return err
		}
	}
	return nil
}

func TestDeletedTopic(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "in", "other"))
	b.produce(t, numbered("in", 1, 0, 10, 0)...)
	c := readConfig(b, KV, []string{"in", "other"}, WithDiscovery(soon), WithIdleTimeout(0))
	s := open(t, sourceConfig(c, 1))
	fetchUntil(t, s, 10)
	if err := b.DeleteTopic("in"); err != nil {
		t.Fatal(err)
	}
	err := fetchError(t, s)
	checkError(t, err, `read kafka source test: kafka `+b.addrs+`: topic "in" was deleted while it is read: UNKNOWN_TOPIC_OR_PARTITION`)
}

// A topic that is made anew has other records under the same offsets.
func TestRecreatedTopic(t *testing.T) {
	for _, tt := range []struct {
		policy OutOfRange
		err    string
	}{{FailOutOfRange, "was created anew"}, {EarliestOutOfRange, ""}} {
		t.Run(string(tt.policy), func(t *testing.T) {
			b := newBroker(t, kfake.SeedTopics(1, "in"))
			b.produce(t, numbered("in", 1, 0, 10, 0)...)
			s := open(t, sourceConfig(readConfig(b, KV, []string{"in"}, WithOutOfRange(tt.policy), WithIdleTimeout(0), WithDiscovery(soon)), 1))
			_, before := fetchUntil(t, s, 10)
			if err := b.DeleteTopic("in"); err != nil {
				t.Fatal(err)
			}
			if err := b.CreateTopic("in", 1, nil); err != nil {
				t.Fatal(err)
			}
			b.produceAnew(t, numbered("in", 1, 10, 15, 0)...) // the old position is within the new topic
			restored, err := OpenSource(t.Context(), sourceConfig(s.config, 1, before[0].Position))
			if tt.err != "" {
				checkError(t, err, tt.err)
				checkError(t, fetchError(t, s), tt.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer restored.Close()
			if es, _ := fetchUntil(t, restored.(*source), 15); !slices.Equal(values(es), wantValues(10, 15)) {
				t.Errorf("restored %v", values(es))
			}
			es, last := fetchUntil(t, s, 15)
			if got := values(es); !slices.Equal(got, wantValues(10, 15)) || !strings.Contains(string(last[0].Position), `"next":15`) {
				t.Errorf("read %v, then at %s", got, last[0].Position)
			}
		})
	}
}

// Retention overtakes the reader, while it runs and while it is down.
func TestOutOfRange(t *testing.T) {
	tests := []struct {
		policy OutOfRange
		want   []string
		err    string
	}{
		{"", nil, "OFFSET_OUT_OF_RANGE"},
		{FailOutOfRange, nil, "or say with out_of_range where to go on"},
		{EarliestOutOfRange, wantValues(60, 40), ""},
		{LatestOutOfRange, nil, ""},
	}
	for _, tt := range tests {
		t.Run("restored "+string(tt.policy), func(t *testing.T) {
			b := newBroker(t, kfake.SeedTopics(1, "in"))
			b.produce(t, numbered("in", 1, 0, 100, 0)...)
			if err := b.DeleteRecords("in", 0, 60); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			cfg := sourceConfig(readConfig(b, KV, []string{"in"}, WithOutOfRange(tt.policy), WithIdleTimeout(0)), 1,
				[]byte(`{"v":1,"partitions":[{"t":"in","p":0,"next":20}]}`))
			cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
			src, err := OpenSource(t.Context(), cfg)
			if checkError(t, err, tt.err); err != nil {
				return
			}
			defer src.Close()
			checkJump(t, b, src.(*source), tt.want)
			if got := log.String(); !strings.Contains(got, "RECORDS ARE SKIPPED") || !strings.Contains(got, "from=20") {
				t.Errorf("log %s", got)
			}
		})
		t.Run("running "+string(tt.policy), func(t *testing.T) {
			b := newBroker(t, kfake.SeedTopics(1, "in"))
			b.produce(t, numbered("in", 1, 0, 100, 0)...)
			deleted := make(chan struct{})
			b.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
				b.SleepControl(func() { <-deleted }) // what was fetched before would be read in spite of it
				return nil, nil, false
			})
			s := open(t, sourceConfig(readConfig(b, KV, []string{"in"}, WithOutOfRange(tt.policy), WithIdleTimeout(0)), 1))
			err := b.DeleteRecords("in", 0, 60)
			close(deleted)
			if err != nil {
				t.Fatal(err)
			}
			if tt.err != "" {
				checkError(t, fetchError(t, s), tt.err)
				return
			}
			checkJump(t, b, s, tt.want)
		})
	}
}

// checkJump wants these values, those that come, and a position behind them.
func checkJump(t *testing.T, b *broker, s *source, want []string) {
	t.Helper()
	es, _ := fetchUntil(t, s, len(want))
	deadline := time.Now().Add(time.Minute)
	for len(want) == 0 && time.Now().Before(deadline) {
		_, f := fetch(t, s, 0, 1<<20)
		if strings.Contains(string(f.Position), `"next":100`) {
			break
		}
	}
	b.produce(t, numbered("in", 1, 100, 3, 0)...)
	more, last := fetchUntil(t, s, 3)
	want = append(slices.Clone(want), wantValues(100, 3)...)
	slices.Sort(want)
	if got := values(append(es, more...)); !slices.Equal(got, want) || !strings.Contains(string(last[0].Position), `"next":103`) {
		t.Errorf("read %v, want %v, then at %s", got, want, last[0].Position)
	}
}

// Compaction leaves gaps between offsets: they are neither an error nor a stop, also at the end of a bounded read.
func TestCompactedTopic(t *testing.T) {
	b := newBroker(t)
	compact := "compact"
	if err := b.CreateTopic("in", 1, map[string]string{"cleanup.policy": compact}); err != nil {
		t.Fatal(err)
	}
	var records []*kgo.Record
	for i := range 50 {
		records = append(records, record("in", 0, fmt.Sprint(i%5), fmt.Sprint(i), time.Now().UnixMilli()))
	}
	for _, r := range records {
		b.produce(t, r)
	}
	b.Compact()
	s := open(t, sourceConfig(readConfig(b, KV, []string{"in"}, StopAtEnd()), 1))
	es, last := fetchUntil(t, s, 50)
	if n := len(es); n >= 50 || n < 5 {
		t.Errorf("%d records: was it compacted?", n)
	}
	if !last[0].Done || !strings.Contains(string(last[0].Position), `"next":50`) {
		t.Errorf("ends at %+v %s", last[0], last[0].Position)
	}
}

// A position of a shard that is no more is older than that of the one that took over, in whichever order they come.
func TestStalePositions(t *testing.T) {
	pos := func(next int, time string) []byte {
		return fmt.Appendf(nil, `{"v":1,"partitions":[{"t":"in","p":0,"next":%d%s}]}`, next, time)
	}
	all := [][]byte{pos(7, `,"time":5`), nil, pos(9, `,"time":3`), pos(9, `,"time":4`), pos(9, ``), pos(2, ``)}
	for range 2 {
		slices.Reverse(all)
		got, err := decodePositions(all)
		if err != nil {
			t.Fatal(err)
		}
		p := got[topicPartition{"in", 0}]
		if p.Next != 9 || p.Time == nil || *p.Time != 4 {
			t.Errorf("%+v", p)
		}
	}
}

// Leaders and coordinators move, connections break: reading goes on.
func TestBrokersMove(t *testing.T) {
	b := newBroker(t, kfake.NumBrokers(3), kfake.SeedTopics(3, "in"))
	s := open(t, sourceConfig(readConfig(b, KV, []string{"in"}, WithIdleTimeout(0)), 1))
	var all []element
	for i := range 5 {
		b.produce(t, numbered("in", 3, i*30, 30, 0)...)
		b.ShufflePartitionLeaders()
		es, _ := fetchUntil(t, s, 30)
		all = append(all, es...)
	}
	if got := values(all); !slices.Equal(got, wantValues(0, 150)) {
		t.Errorf("read %d records", len(got))
	}
}

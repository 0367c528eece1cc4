package kafka

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// numbered makes n records spread over partitions, with their number as value and as timestamp after base.
func numbered(topic string, partitions, from, n int, base int64) []*kgo.Record {
	var out []*kgo.Record
	for i := from; i < from+n; i++ {
		out = append(out, record(topic, int32(i%partitions), fmt.Sprintf("k%d", i), fmt.Sprint(i), base+int64(i)))
	}
	return out
}

// values returns the values of elements, as a set must: sorted.
func values(es []element) []string {
	var out []string
	for _, e := range es {
		out = append(out, e.value)
	}
	slices.Sort(out)
	return out
}

func wantValues(from, n int) []string {
	var out []string
	for i := from; i < from+n; i++ {
		out = append(out, fmt.Sprint(i))
	}
	slices.Sort(out)
	return out
}

func TestReadBounded(t *testing.T) {
	for _, tt := range []struct{ partitions, shards int }{{1, 1}, {3, 1}, {5, 2}, {2, 4}} {
		t.Run(fmt.Sprintf("%d partitions %d shards", tt.partitions, tt.shards), func(t *testing.T) {
			b := newBroker(t, kfake.SeedTopics(int32(tt.partitions), "in"))
			b.produce(t, numbered("in", tt.partitions, 0, 500, 1000)...)
			s := open(t, sourceConfig(readConfig(b, KV, []string{"in"}, StopAtEnd()), tt.shards))
			b.produce(t, numbered("in", tt.partitions, 500, 10, 1000)...) // after the start: not read
			es, last := fetchUntil(t, s, 1000)
			if got, want := values(es), wantValues(0, 500); !slices.Equal(got, want) {
				t.Errorf("read %d records %v", len(got), got)
			}
			for i, f := range last {
				if !f.Done || f.Watermark != coder.MaxTimestamp || f.Backlog != 0 {
					t.Errorf("shard %d ends at %+v", i, f)
				}
			}
			for _, e := range es {
				if fmt.Sprintf("k%s", e.value) != e.key || fmt.Sprint(e.ts-1000) != e.value {
					t.Errorf("element %+v", e)
				}
			}
		})
	}
}

func TestFetchTakesNoMoreThanAsked(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "in"))
	b.produce(t, numbered("in", 1, 0, 200, 0)...)
	s := open(t, sourceConfig(readConfig(b, KV, []string{"in"}, StopAtEnd()), 1))
	var all []element
	for !s.finished(s.shards[0]) {
		es, f := fetch(t, s, 0, 100)
		if n := len(es); n < 1 || n > 6 {
			t.Fatalf("%d elements in 100 bytes", n)
		}
		all = append(all, es...)
		if want := int64(200 - len(all)); f.Backlog != want {
			t.Fatalf("backlog %d, want %d", f.Backlog, want)
		}
	}
	if got := values(all); !slices.Equal(got, wantValues(0, 200)) {
		t.Errorf("read %v", got)
	}
}

// A source opened from positions reads on without a gap or a repetition, with any number of shards.
func TestResume(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(4, "in"))
	b.produce(t, numbered("in", 4, 0, 400, 1000)...)
	c := readConfig(b, KV, []string{"in"}, StopAtEnd())
	positions, shards := [][]byte(nil), []int{2, 1, 3, 4}
	var all []element
	for _, n := range shards {
		s := open(t, sourceConfig(c, n, positions...))
		positions = make([][]byte, n)
		for i := range n {
			es, f := fetch(t, s, i, 600)
			all = append(all, es...)
			positions[i] = f.Position
		}
		s.Close()
		b.produce(t, numbered("in", 4, 1000, 4, 1000)...) // beyond the end as of the first start
	}
	s := open(t, sourceConfig(c, 1, positions...))
	es, _ := fetchUntil(t, s, 1000)
	if got := values(append(all, es...)); !slices.Equal(got, wantValues(0, 400)) {
		t.Errorf("read %d records: %v", len(got), got)
	}
	if len(es) == 0 || len(all) == 0 {
		t.Errorf("%d before, %d after: the test resumes nothing", len(all), len(es))
	}
}

func TestStart(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(2, "in"), kfake.DefaultNumPartitions(1))
	b.produce(t, numbered("in", 2, 0, 100, 10_000)...)
	var offsets kadm.Offsets
	offsets.AddOffset("in", 0, 45, -1) // even numbers: 90 is offset 45; partition 1 has no commit
	if err := b.admin().CommitAllOffsets(t.Context(), "g", offsets); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		opt  ReadOption
		want []string
	}{
		{"earliest", FromEarliest(), wantValues(0, 110)},
		{"latest", FromLatest(), wantValues(100, 10)},
		{"time", FromTime(time.UnixMilli(10_070)), wantValues(70, 40)},
		{"time to come", FromTime(time.Now().Add(time.Hour)), wantValues(100, 10)},
		{"group", FromGroup("g"), func() []string {
			var out []string
			for i := range 110 {
				if i%2 == 1 || i >= 90 {
					out = append(out, fmt.Sprint(i))
				}
			}
			slices.Sort(out)
			return out
		}()},
	}
	var sources []*source
	for _, tt := range tests {
		sources = append(sources, open(t, sourceConfig(readConfig(b, KV, []string{"in"}, tt.opt), 1)))
	}
	b.produce(t, numbered("in", 2, 100, 10, 10_000)...)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			es, _ := fetchUntil(t, sources[i], len(tt.want))
			if got := values(es); !slices.Equal(got, tt.want) {
				t.Errorf("read %v, want %v", got, tt.want)
			}
		})
	}
}

// The position of a start at the end is kept even though nothing was read: a restart does not skip what came meanwhile.
func TestLatestIsRemembered(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "in"))
	b.produce(t, numbered("in", 1, 0, 10, 0)...)
	c := readConfig(b, KV, []string{"in"}, FromLatest(), WithIdleTimeout(0))
	s := open(t, sourceConfig(c, 1))
	es, f := fetch(t, s, 0, 1<<20)
	if len(es) != 0 {
		t.Fatalf("read %v", es)
	}
	s.Close()
	b.produce(t, numbered("in", 1, 10, 5, 0)...)
	es, _ = fetchUntil(t, open(t, sourceConfig(c, 1, f.Position)), 5)
	if got := values(es); !slices.Equal(got, wantValues(10, 5)) {
		t.Errorf("read %v", got)
	}
}

func TestNilAndHeaders(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "in"))
	b.produce(t,
		&kgo.Record{Topic: "in", Timestamp: time.UnixMilli(5)},
		&kgo.Record{Topic: "in", Key: []byte{}, Value: []byte{}, Timestamp: time.UnixMilli(6)},
		&kgo.Record{Topic: "in", Key: []byte("k"), Value: []byte("v"), Timestamp: time.UnixMilli(7),
			Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "a"}}})

	es, _ := fetchUntil(t, open(t, sourceConfig(readConfig(b, KV, []string{"in"}, StopAtEnd()), 1)), 3)
	want := []element{{ts: 5}, {ts: 6}, {ts: 7, key: "k", value: "v"}}
	if got := fmt.Sprint(es); got != fmt.Sprint(want) {
		t.Errorf("as KV %v, want %v", got, want)
	}

	es, _ = fetchUntil(t, open(t, sourceConfig(readConfig(b, Records, []string{"in"}, StopAtEnd()), 1)), 3)
	var got []Record
	for _, e := range es {
		got = append(got, e.record)
	}
	wantRecords := []Record{
		{Topic: "in", Timestamp: time.UnixMilli(5)},
		{Topic: "in", Timestamp: time.UnixMilli(6), Offset: 1, Key: []byte{}, Value: []byte{}},
		{Topic: "in", Timestamp: time.UnixMilli(7), Offset: 2, Key: []byte("k"), Value: []byte("v"),
			Headers: []Header{{"a", []byte("1")}, {"a", nil}}},
	}
	if g, w := fmt.Sprintf("%#v", got), fmt.Sprintf("%#v", wantRecords); g != w {
		t.Errorf("as records %s\nwant %s", g, w)
	}
}

// Control records take offsets: a bounded read of committed records must end behind the marker, and without what was aborted.
func TestReadCommitted(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "in"))
	txn, err := kgo.NewClient(kgo.SeedBrokers(b.ListenAddrs()...), kgo.TransactionalID("x"), kgo.DefaultProduceTopic("in"))
	if err != nil {
		t.Fatal(err)
	}
	defer txn.Close()
	transact := func(value string, end kgo.TransactionEndTry) {
		if err := txn.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := txn.ProduceSync(t.Context(), kgo.StringRecord(value)).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := txn.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
	}
	transact("yes", kgo.TryCommit)
	transact("no", kgo.TryAbort)
	for _, tt := range []struct {
		opts []ReadOption
		want []string
	}{
		{[]ReadOption{StopAtEnd(), OnlyCommitted()}, []string{"yes"}},
		{[]ReadOption{StopAtEnd()}, []string{"no", "yes"}},
	} {
		es, last := fetchUntil(t, open(t, sourceConfig(readConfig(b, KV, []string{"in"}, tt.opts...), 1)), 10)
		if got := values(es); !slices.Equal(got, tt.want) || !last[0].Done {
			t.Errorf("read %v, want %v", got, tt.want)
		}
	}
}

func TestFetchEndsWithContext(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "in"))
	s := open(t, sourceConfig(readConfig(b, KV, []string{"in"}, WithIdleTimeout(-1), WithDiscovery(-1)), 2))
	for shard := range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		start := time.Now()
		f, err := s.Fetch(ctx, shard, newPool(t).NewBuilder(), 1<<20)
		cancel()
		if d := time.Since(start); err != nil || d > 5*time.Second {
			t.Errorf("shard %d: %v after %v", shard, err, d)
		}
		if wantDone := shard == 1; f.Done != wantDone { // one partition: nothing for the second shard, ever
			t.Errorf("shard %d: %+v", shard, f)
		}
	}
}

// Shards fetched concurrently share the client; a shard that nobody fetches is paused and does not stop the others.
func TestShardsAreIndependent(t *testing.T) {
	const n = 3000
	b := newBroker(t, kfake.SeedTopics(3, "in"))
	cfg := sourceConfig(readConfig(b, KV, []string{"in"}, StopAtEnd()), 3)
	cfg.Memory = 600 << 10
	value := strings.Repeat("x", 1000)
	var rs []*kgo.Record
	for i := range n {
		rs = append(rs, record("in", int32(i%3), "", value, int64(i)))
	}
	b.produce(t, rs...)
	s := open(t, cfg)
	var wg sync.WaitGroup
	read := func(shard int) {
		defer wg.Done()
		total := 0
		for range 1000 {
			es, f := fetch(t, s, shard, 64<<10)
			if total += len(es); f.Done {
				break
			}
		}
		if total != n/3 {
			t.Errorf("shard %d read %d", shard, total)
		}
	}
	wg.Add(2)
	go read(0)
	go read(1)
	wg.Wait()
	s.mu.Lock()
	bytes, paused := s.shards[2].bytes, s.shards[2].paused
	s.mu.Unlock()
	if limit := s.budget.mailbox(3) + maxFetch; bytes > limit || !paused {
		t.Errorf("the shard without a reader holds %d bytes, paused: %v", bytes, paused)
	}
	wg.Add(1)
	read(2)
}

func TestOpenErrors(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "in"))
	b.produce(t, numbered("in", 1, 0, 10, 0)...)
	var offsets kadm.Offsets
	offsets.AddOffset("in", 0, 5, -1)
	if _, err := b.admin().DeleteRecords(t.Context(), offsets); err != nil {
		t.Fatal(err)
	}
	good := readConfig(b, KV, []string{"in"})
	tests := []struct {
		name, want, position string
		change               func(c *ReadConfig)
	}{
		{"topic", `open kafka source test: kafka ` + b.addrs + `: topic "none": UNKNOWN_TOPIC_OR_PARTITION`, "",
			func(c *ReadConfig) { c.Topics = []string{"in", "none"} }},
		{"remedy", "create the topic or correct its name", "", func(c *ReadConfig) { c.Topics = []string{"none"} }},
		{"retention", "in/0: the saved position 3 is not between the broker's first offset 5 and its end 10: OFFSET_OUT_OF_RANGE",
			`{"v":1,"partitions":[{"t":"in","p":0,"next":3}]}`, nil},
		{"new topic", "the saved position 11 is not between", `{"v":1,"partitions":[{"t":"in","p":0,"next":11}]}`, nil},
		{"gone", "the saved positions name partitions that do not exist or are not read any more: in/7, old/0",
			`{"v":1,"partitions":[{"t":"in","p":7,"next":3},{"t":"old","p":0,"next":3}]}`, nil},
		{"position", "decode kafka position of shard 0: version 9 is not 1", `{"v":9}`, nil},
		{"password variable", "TINYRUNNER_NONE is not set in the runner's environment", "", func(c *ReadConfig) {
			c.SASL = &SASL{Mechanism: Plain, User: "u", PasswordEnv: "TINYRUNNER_NONE"}
		}},
		{"ca file", "read tls.ca_file: open /none: no such file", "", func(c *ReadConfig) { c.TLS = &TLS{CAFile: "/none"} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			if tt.change != nil {
				tt.change(&c)
			}
			_, err := OpenSource(t.Context(), sourceConfig(c, 1, []byte(tt.position)))
			checkError(t, err, tt.want)
		})
	}
}

func TestUnreachableBroker(t *testing.T) {
	c := newReadConfig("127.0.0.1:1", []string{"in"}, KV)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := OpenSource(ctx, sourceConfig(c, 1))
	checkError(t, err, "kafka 127.0.0.1:1: ")
	checkError(t, err, "(no broker answered: check the address")
}

// Records that retention removes under a running reader are an error, not a silent jump.
func TestRetentionOvertakes(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "in"))
	b.produce(t, numbered("in", 1, 0, 10, 0)...)
	s := open(t, sourceConfig(readConfig(b, KV, []string{"in"}, WithIdleTimeout(-1)), 1))
	b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "in", Err: kerr.OffsetOutOfRange, Count: -1})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := s.Fetch(ctx, 0, newPool(t).NewBuilder(), 1<<20); err != nil {
			checkError(t, err, "in/0: OFFSET_OUT_OF_RANGE")
			checkError(t, err, "start the job without its saved positions")
			return
		}
	}
	t.Error("no error")
}

// Errors that pass are the client's to retry.
func TestTransientErrors(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "in"))
	b.produce(t, numbered("in", 1, 0, 10, 0)...)
	s := open(t, sourceConfig(readConfig(b, KV, []string{"in"}, StopAtEnd()), 1))
	b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "in", Err: kerr.NotLeaderForPartition, Count: 2})
	es, _ := fetchUntil(t, s, 10)
	if len(es) != 10 {
		t.Errorf("read %d", len(es))
	}
}

func TestGroupShowsProgress(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(2, "in"))
	b.produce(t, numbered("in", 2, 0, 100, 0)...)
	s := open(t, sourceConfig(readConfig(b, KV, []string{"in"}, StopAtEnd(), ShowAs("watch")), 2))
	_, last := fetchUntil(t, s, 1000)
	for i, f := range last {
		s.Committed(i, f.Position)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	offsets, err := b.admin().FetchOffsets(t.Context(), "watch")
	if err != nil {
		t.Fatal(err)
	}
	for p := range int32(2) {
		if o, ok := offsets.Lookup("in", p); !ok || o.At != 50 {
			t.Errorf("partition %d is shown at %+v", p, o)
		}
	}
}

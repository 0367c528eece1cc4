package kafka

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/engine/kafka/brokertest"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// suicide is kill -9 of this process.
func suicide() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// eachReal runs f against a real broker of each version.
func eachReal(t *testing.T, f func(t *testing.T, b *brokertest.Broker, admin *kadm.Client), settings ...string) {
	if os.Getenv("TINYRUNNER_REAL_KAFKA") != "1" {
		t.Skip("real brokers take minutes: TINYRUNNER_REAL_KAFKA=1 runs them")
	}
	for _, v := range brokertest.Versions() {
		t.Run(v, func(t *testing.T) {
			b := brokertest.Start(t, v, settings...)
			client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			f(t, b, kadm.NewClient(client))
		})
	}
}

func createTopic(t *testing.T, admin *kadm.Client, topic string, partitions int32, configs map[string]*string) {
	t.Helper()
	if r, err := admin.CreateTopic(t.Context(), partitions, 1, configs, topic); err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
}

// runChild runs a child to its end, or to its kill -9.
func (c child) run(t *testing.T, during func()) {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestChild$", "-test.timeout", "60s")
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	out, err := os.Create(filepath.Join(c.Dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if during != nil {
		during()
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if killed != (c.Point != "") || err != nil && !killed {
		text, _ := os.ReadFile(out.Name())
		t.Fatalf("child %+v ends with %v: %s", c, err, text)
	}
}

// kill -9 at every point of a checkpoint, and of the broker: each record of the checkpoints is there once.
func TestKill(t *testing.T) {
	const rounds = 3
	eachReal(t, func(t *testing.T, b *brokertest.Broker, admin *kadm.Client) {
		createTopic(t, admin, "out", 2, nil)
		c := child{Brokers: b.Addr, Dir: t.TempDir()}
		kills := 0
		for range rounds {
			for _, point := range points {
				c.Point, c.Nth, c.Count = point, rand.IntN(4), 10
				if point == "opening" {
					c.Nth = 0
				}
				c.run(t, nil)
				kills++
			}
			c.Point, c.Count = "", 150
			c.run(t, func() {
				time.Sleep(700 * time.Millisecond)
				b.Kill()
				b.Start(t)
			})
		}
		c.Point, c.Count = "", 3
		c.run(t, nil)
		newest := c.job(t).load()
		checkModel(t, visible(t, []string{b.Addr}, "out"), newest.Bundles)
		t.Logf("%d kills of the process, %d of the broker, %d bundles", kills, rounds, newest.Bundles)
	})
}

func realWrite(b *brokertest.Broker, opts ...WriteOption) WriteConfig {
	c := newWriteConfig(b.Addr, "out", KV)
	for _, o := range opts {
		o.applyWrite(&c)
	}
	return c
}

// Time-outs, fencing, and forgotten transactions, as real coordinators answer.
func TestRealTransactions(t *testing.T) {
	eachReal(t, func(t *testing.T, b *brokertest.Broker, admin *kadm.Client) {
		createTopic(t, admin, "out", 1, nil)
		seen := func(want ...string) {
			t.Helper()
			if got := visible(t, []string{b.Addr}, "out"); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("visible %v, want %v", got, want)
			}
		}
		cfg := realWrite(b)

		// The later process goes on.
		first := openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
		put(t, first, "a")
		checkpoint(t, first)
		second := openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
		put(t, first, "b")
		p, err := first.Cut(1)
		if err == nil {
			_, err = p.Prepare(t.Context())
		}
		if !errors.Is(err, native.ErrFenced) {
			t.Errorf("fenced: %v", err)
		}
		first.Close()
		for i := range 4 {
			put(t, second, fmt.Sprint(i))
			checkpoint(t, second)
		}
		seen("a", "0", "1", "2", "3")

		// The commit is done, but not heard of; the coordinator has forgotten.
		put(t, second, "c")
		p, token := prepare(t, second)
		tk, err := decodeToken(token)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := second.end.commit(t.Context(), tk); err != nil {
			t.Fatal(err)
		}
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 4 { // the producer that did not know
			checkpoint(t, second)
		}
		kill(second)
		for range 2 {
			s := openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{Settled: true})) // changes the epochs
			kill(s)
			s = openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{Prepared: token}))
			kill(s)
		}
		seen("a", "0", "1", "2", "3", "c")

		// Time-outs.
		cfg = realWrite(b, WithTransactionTimeout(time.Second))
		s := openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
		put(t, s, "late")
		time.Sleep(4 * time.Second)
		put(t, s, "late too")
		_, err = cut(t, s).Prepare(t.Context())
		if !errors.Is(err, native.ErrRestart) {
			t.Errorf("time-out: %v", err)
		}
		checkError(t, err, "raise transaction_timeout_ms")
		s.Close()
		s = openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
		put(t, s, "d")
		_, token = prepare(t, s)
		kill(s)
		time.Sleep(4 * time.Second)
		_, err = OpenSink(t.Context(), transactionalConfig(t, cfg, native.TransactionConfig{Prepared: token}))
		if !errors.Is(err, native.ErrLost) {
			t.Errorf("lost: %v", err)
		}
		checkError(t, err, "has aborted transaction")
		_, err = OpenSink(t.Context(), transactionalConfig(t, realWrite(b, WithTransactionTimeout(time.Hour)), native.TransactionConfig{}))
		checkError(t, err, "is more than the brokers allow (transaction.max.timeout.ms)")
		seen("a", "0", "1", "2", "3", "c")
	})
}

// fetchInto is fetchUntil for a topic of a real broker, until values has n values.
func fetchInto(t *testing.T, s *source, n int) []string {
	t.Helper()
	var out []string
	for deadline := time.Now().Add(40 * time.Second); len(out) < n; {
		for i := range s.shards {
			es, _ := fetch(t, s, i, 1<<20)
			out = append(out, values(es)...)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d elements after 40 s", len(out), n)
		}
	}
	slices.Sort(out)
	return out
}

// The source against a real broker: transactions, kill -9 of the broker, new partitions, retention, deleted topics.
func TestRealSource(t *testing.T) {
	eachReal(t, func(t *testing.T, b *brokertest.Broker, admin *kadm.Client) {
		createTopic(t, admin, "out", 1, nil)
		c := newReadConfig(b.Addr, []string{"out"}, KV)
		for _, o := range []ReadOption{OnlyCommitted(), WithDiscovery(soon), WithIdleTimeout(0), ShowAs("watch"), WithOutOfRange(EarliestOutOfRange)} {
			o.applyRead(&c)
		}
		s := open(t, sourceConfig(c, 2))
		expect := func(want ...string) {
			t.Helper()
			if got := fetchInto(t, s, len(want)); !slices.Equal(got, want) {
				t.Fatalf("read %v, want %v", got, want)
			}
		}

		sink := openTxn(t, transactionalConfig(t, realWrite(b), native.TransactionConfig{}))
		put(t, sink, "a", "b")
		p, _ := prepare(t, sink)
		if es, _ := fetch(t, s, 0, 1<<20); len(es) > 0 {
			t.Errorf("open transaction is read: %v", es)
		}
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect("a", "b")
		put(t, sink, "aborted")
		p, _ = prepare(t, sink)
		if err := p.Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
		sink.Close()

		b.Kill()
		b.Start(t)
		sink = openTxn(t, transactionalConfig(t, realWrite(b), native.TransactionConfig{}))
		put(t, sink, "c")
		checkpoint(t, sink)
		expect("c")

		if _, err := admin.CreatePartitions(t.Context(), 2, "out"); err != nil {
			t.Fatal(err)
		}
		produce(t, b, record("out", 2, "k", "d", 1), record("out", 1, "k", "e", 1), record("out", 0, "k", "f", 1))
		expect("d", "e", "f")

		var last []native.Fetched
		for i := range s.shards {
			_, f := fetch(t, s, i, 1<<20)
			last = append(last, f)
			s.Committed(i, f.Position)
		}
		s.Close()
		offsets, err := admin.FetchOffsets(t.Context(), "watch")
		if err != nil {
			t.Fatal(err)
		}
		if o, ok := offsets.Lookup("out", 2); !ok || o.At != 1 {
			t.Errorf("group is at %+v", o)
		}

		// Retention while the job is down.
		produce(t, b, record("out", 1, "k", "gone", 1), record("out", 1, "k", "gone too", 1), record("out", 1, "k", "g", 1))
		var del kadm.Offsets
		del.AddOffset("out", 1, 3, -1)
		if _, err := admin.DeleteRecords(t.Context(), del); err != nil {
			t.Fatal(err)
		}
		failing := c
		failing.OutOfRange = FailOutOfRange
		_, err = OpenSource(t.Context(), sourceConfig(failing, 1, last[0].Position, last[1].Position))
		checkError(t, err, "out/1: the saved position 1 is not between the broker's first offset 3 and its end 4")
		s = open(t, sourceConfig(c, 1, last[0].Position, last[1].Position))
		expect("g")

		if _, err := admin.DeleteTopic(t.Context(), "out"); err != nil {
			t.Fatal(err)
		}
		checkError(t, fetchError(t, s), `topic "out" was deleted`)
	})
}

// produce writes records with a client that knows the topics as they are now.
func produce(t *testing.T, b *brokertest.Broker, records ...*kgo.Record) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.UnknownTopicRetries(-1)) // brokers learn of a new topic a moment later
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, r := range records { // one batch each
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// A compacted topic and one that is made anew, as real brokers make them.
func TestRealTopics(t *testing.T) {
	eachReal(t, func(t *testing.T, b *brokertest.Broker, admin *kadm.Client) {
		createTopic(t, admin, "in", 1, map[string]*string{"cleanup.policy": kadm.StringPtr("compact"),
			"segment.ms": kadm.StringPtr("100"), "min.cleanable.dirty.ratio": kadm.StringPtr("0.01")})
		now := time.Now().UnixMilli()
		for i := range 20 {
			produce(t, b, record("in", 0, fmt.Sprint(i%2), fmt.Sprint(i), now+int64(i)*1000))
		}
		var n int
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(500 * time.Millisecond) {
			c := newReadConfig(b.Addr, []string{"in"}, KV)
			StopAtEnd().applyRead(&c)
			s := open(t, sourceConfig(c, 1))
			es, last := fetchUntil(t, s, 20)
			s.Close()
			if n = len(es); n < 20 {
				if !last[0].Done || !strings.Contains(string(last[0].Position), `"next":20`) {
					t.Errorf("ends at %+v", last[0])
				}
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("not compacted after 30 s")
			}
		}
		t.Logf("%d of 20 records are left", n)

		createTopic(t, admin, "again", 1, nil)
		produce(t, b, record("again", 0, "k", "old", 1))
		c := newReadConfig(b.Addr, []string{"again"}, KV)
		for _, o := range []ReadOption{WithDiscovery(soon), WithIdleTimeout(0), WithOutOfRange(EarliestOutOfRange)} {
			o.applyRead(&c)
		}
		s := open(t, sourceConfig(c, 1))
		if got := fetchInto(t, s, 1); got[0] != "old" {
			t.Errorf("read %v", got)
		}
		if _, err := admin.DeleteTopic(t.Context(), "again"); err != nil {
			t.Fatal(err)
		}
		createTopic(t, admin, "again", 1, nil)
		produce(t, b, record("again", 0, "k", "new", 1), record("again", 0, "k", "newer", 1))
		if got := fetchInto(t, s, 2); !slices.Equal(got, []string{"new", "newer"}) {
			t.Errorf("read %v", got)
		}
	}, "log.cleaner.backoff.ms=200")
}

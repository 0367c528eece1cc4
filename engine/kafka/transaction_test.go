package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/tinyrunner/tinyrunner/engine/native"
)

// generations are the two kinds of brokers: before KIP-890 a producer's epoch stays from one transaction to the next.
var generations = []struct {
	name string
	opts []kfake.Opt
}{
	{"transaction.version 2", nil},
	{"transaction.version 0", []kfake.Opt{kfake.MaxVersions(versions39())}},
}

// versions39 are what a broker of 3.9 speaks of transactions.
func versions39() *kversion.Versions {
	v := kversion.V3_9_0()
	return v
}

func transactionalConfig(t *testing.T, c WriteConfig, tc native.TransactionConfig) native.SinkConfig {
	cfg := sinkConfig(t, c)
	if tc.Job == "" {
		tc.Job = "job"
	}
	cfg.Transaction = &tc
	return cfg
}

func openTxn(t *testing.T, cfg native.SinkConfig) *transactional {
	t.Helper()
	s, err := OpenSink(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*transactional)
}

// kill ends a sink as a crash of its process does: nothing more is sent.
func kill(s *transactional) {
	s.fail(errors.New("killed"))
	s.tasks.Wait()
	for _, sl := range s.slots {
		if sl.client != nil {
			sl.client.Close()
		}
	}
	s.end.close()
	s.current.Load().drop()
	s.slots = [rotation]*slot{{}, {}, {}}
	s.current.Store(nil)
}

// put stages and commits values with their own key.
func put(t *testing.T, s *transactional, values ...string) {
	t.Helper()
	var elements [][]byte
	for _, v := range values {
		elements = append(elements, windowed(1, []byte("k"+v), []byte(v)))
	}
	st, err := s.Stage(t.Context(), blocks(t, elements...))
	if err != nil {
		t.Fatal(err)
	}
	st.Commit()
}

func cut(t *testing.T, s *transactional) native.Prepared {
	t.Helper()
	p, err := s.Cut(1)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// prepare cuts and prepares.
func prepare(t *testing.T, s *transactional) (native.Prepared, []byte) {
	t.Helper()
	p := cut(t, s)
	token, err := p.Prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p, token
}

func checkpoint(t *testing.T, s *transactional) {
	t.Helper()
	p, _ := prepare(t, s)
	if err := p.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// visible returns the values that a reader of committed records gets up to the last stable offset, in order of partitions.
func visible(t *testing.T, brokers []string, topic string) []string {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	left := map[int32]int64{}
	for p, o := range ends[topic] {
		if o.Offset > 0 {
			left[p] = o.Offset
		}
	}
	byPartition := map[int32][]string{}
	for len(left) > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("%v left: %v", left, err)
		}
		for r := range fs.RecordsAll() {
			if !r.Attrs.IsControl() {
				byPartition[r.Partition] = append(byPartition[r.Partition], string(r.Value))
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		}
	}
	var out []string
	for p := range int32(len(ends[topic])) {
		out = append(out, byPartition[p]...)
	}
	return out
}

func checkVisible(t *testing.T, b *broker, want ...string) {
	t.Helper()
	if got := visible(t, b.ListenAddrs(), "out"); !slices.Equal(got, want) {
		t.Errorf("visible %v, want %v", got, want)
	}
}

func eachGeneration(t *testing.T, f func(t *testing.T, b *broker)) {
	for _, g := range generations {
		t.Run(g.name, func(t *testing.T) { f(t, newBroker(t, append(g.opts, kfake.SeedTopics(1, "out"))...)) })
	}
}

// Records become visible with their checkpoint, in the order in which they were committed, for many turns of the rotation.
func TestTransactions(t *testing.T) {
	eachGeneration(t, func(t *testing.T, b *broker) {
		s := openTxn(t, transactionalConfig(t, writeConfig(b, KV, "out"), native.TransactionConfig{}))
		var want []string
		for i := range 8 {
			var all []string
			for j := range 3 {
				v := fmt.Sprintf("%d.%d", i, j)
				put(t, s, v, v+"'")
				all = append(all, v, v+"'")
			}
			p, _ := prepare(t, s)
			put(t, s, fmt.Sprintf("%d.next", i)) // belongs to the next one
			checkVisible(t, b, want...)
			if err := p.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			want = append(want, all...)
			checkVisible(t, b, want...)
			checkpoint(t, s)
			want = append(want, fmt.Sprintf("%d.next", i))
			checkVisible(t, b, want...)
		}
		checkpoint(t, s) // empty
		checkVisible(t, b, want...)
	})
}

// The next transaction has another producer: it must not write before all of this one is in the topic.
func TestOrderAcrossTransactions(t *testing.T) {
	eachGeneration(t, func(t *testing.T, b *broker) {
		s := openTxn(t, transactionalConfig(t, writeConfig(b, KV, "out"), native.TransactionConfig{}))
		f := b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "out", Err: kerr.NotEnoughReplicas, Count: 2,
			When: func(r kmsg.Request) bool { return *r.(*kmsg.ProduceRequest).TransactionID == s.slots[0].id }})
		put(t, s, "first")
		if err := f.Wait(t.Context(), 1); err != nil { // refused, and to be sent again
			t.Fatal(err)
		}
		p := cut(t, s)
		put(t, s, "second")
		if _, err := p.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkpoint(t, s)
		checkVisible(t, b, "first", "second")
	})
}

// A prepared transaction survives its process, and is committed by its token once, and again.
func TestRecoverPrepared(t *testing.T) {
	eachGeneration(t, func(t *testing.T, b *broker) {
		cfg := writeConfig(b, KV, "out")
		s := openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
		put(t, s, "a")
		checkpoint(t, s)
		put(t, s, "b")
		_, token := prepare(t, s)
		put(t, s, "lost")
		kill(s)
		checkVisible(t, b, "a")
		for range 3 {
			s = openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{Prepared: token}))
			checkVisible(t, b, "a", "b")
			put(t, s, "lost too")
			kill(s)
		}
		s = openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{Prepared: token}))
		want := []string{"a", "b"}
		for i := range 5 {
			put(t, s, fmt.Sprint(i))
			checkpoint(t, s)
			want = append(want, fmt.Sprint(i))
			checkVisible(t, b, want...)
		}
	})
}

// Prepared, but not durable: the restart from the checkpoint before aborts it.
func TestAbortUnfinished(t *testing.T) {
	eachGeneration(t, func(t *testing.T, b *broker) {
		cfg := writeConfig(b, KV, "out")
		s := openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
		put(t, s, "a")
		p, before := prepare(t, s)
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		put(t, s, "b")
		prepare(t, s)
		put(t, s, "c")
		kill(s)
		s = openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{Prepared: before}))
		put(t, s, "b again")
		checkpoint(t, s)
		checkVisible(t, b, "a", "b again")

		// From nothing, and from a checkpoint whose successors were complete once.
		for _, tc := range []native.TransactionConfig{{}, {Prepared: before, Settled: true}} {
			put(t, s, "d")
			prepare(t, s)
			kill(s)
			s = openTxn(t, transactionalConfig(t, cfg, tc))
			checkVisible(t, b, "a", "b again")
		}
	})
}

func TestAbortAndClose(t *testing.T) {
	eachGeneration(t, func(t *testing.T, b *broker) {
		cfg := writeConfig(b, KV, "out")
		s := openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
		put(t, s, "a")
		p, _ := prepare(t, s)
		if err := p.Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s = openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
		put(t, s, "b")
		p = cut(t, s)
		put(t, s, "c")
		if _, err := p.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		for s.current.Load().witness.Load() == nil {
			time.Sleep(time.Millisecond) // until c is in the topic
		}
		s.Close() // aborts c, so that readers need not wait for its time-out
		checkVisible(t, b, "b")
		ds, err := b.admin().DescribeTransactions(t.Context(), transactionalID("job", "test", 1))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range ds {
			if d.Err != nil || d.State == "Ongoing" {
				t.Errorf("still open: %+v", d)
			}
		}
	})
}

// What the coordinator cannot do now is tried again, and the producer that does not know how its transaction ended is
// replaced before its turn comes again.
func TestEndFaults(t *testing.T) {
	for _, kind := range []*kerr.Error{
		kerr.ConcurrentTransactions, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.UnknownServerError,
	} {
		t.Run(kind.Message, func(t *testing.T) {
			eachGeneration(t, func(t *testing.T, b *broker) {
				t.Parallel()
				cfg := writeConfig(b, KV, "out")
				s := openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
				b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kind, Count: 2})
				var want []string
				for i := range 4 {
					put(t, s, fmt.Sprint(i))
					want = append(want, fmt.Sprint(i))
					checkpoint(t, s)
					checkVisible(t, b, want...)
				}
				put(t, s, "last")
				_, token := prepare(t, s)
				kill(s)
				b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn, kmsg.InitProducerID}, Err: kind, Count: 3})
				openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{Prepared: token}))
				checkVisible(t, b, append(want, "last")...)
			})
		})
	}
}

// The answer of EndTxn is lost: the connection breaks after the coordinator has acted.
func TestLostAnswers(t *testing.T) {
	eachGeneration(t, func(t *testing.T, b *broker) {
		s := openTxn(t, transactionalConfig(t, writeConfig(b, KV, "out"), native.TransactionConfig{}))
		var want []string
		for i := range 5 {
			put(t, s, fmt.Sprint(i))
			want = append(want, fmt.Sprint(i))
			p, tok := prepare(t, s)
			// Somebody else does it first: to the client that is the same as an answer it did not get.
			tk, err := decodeToken(tok)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.end.commit(t.Context(), tk); err != nil {
				t.Fatal(err)
			}
			if err := p.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			checkVisible(t, b, want...)
		}
	})
}

// A commit that ends with its context is tried again by the next call.
func TestCommitAgain(t *testing.T) {
	eachGeneration(t, func(t *testing.T, b *broker) {
		s := openTxn(t, transactionalConfig(t, writeConfig(b, KV, "out"), native.TransactionConfig{}))
		for i := range 4 {
			put(t, s, fmt.Sprint(i))
			p, _ := prepare(t, s)
			f := b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.ConcurrentTransactions, Count: -1})
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
			if err := p.Commit(ctx); err == nil {
				t.Error("committed against all odds")
			}
			cancel()
			f.Remove()
			for range 2 {
				if err := p.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		checkVisible(t, b, "0", "1", "2", "3")
	})
}

// Two processes with one identity: the later one goes on, the earlier one is told, and writes nothing more.
func TestFenced(t *testing.T) {
	eachGeneration(t, func(t *testing.T, b *broker) {
		cfg := writeConfig(b, KV, "out")
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
			t.Errorf("error %v", err)
		}
		if _, err := first.Stage(t.Context(), blocks(t, windowed(1, nil, nil))); !errors.Is(err, native.ErrFenced) {
			t.Errorf("Stage: %v", err)
		}
		first.Close()
		for i := range 4 {
			put(t, second, fmt.Sprint(i))
			checkpoint(t, second)
		}
		checkVisible(t, b, "a", "0", "1", "2", "3")
	})
}

// A zombie that has to make a producer anew does not take the ids back.
func TestZombieDoesNotFence(t *testing.T) {
	eachGeneration(t, func(t *testing.T, b *broker) {
		cfg := writeConfig(b, KV, "out")
		first := openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
		put(t, first, "a")
		p, _ := prepare(t, first)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Commit(ctx); err == nil { // the producer does not know how that ended
			t.Error("committed with a context that has ended")
		}
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		prepare(t, first) // nothing: its commit makes the first slot ready again
		// kfake accepts old epochs here, brokers do not.
		f := b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.ProducerFenced, Count: -1,
			When: func(r kmsg.Request) bool { return r.(*kmsg.InitProducerIDRequest).ProducerID >= 0 }})
		second := openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
		if err := first.pending.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-first.life.Done()
		if err := context.Cause(first.life); !errors.Is(err, native.ErrFenced) {
			t.Errorf("the zombie ends with %v", err)
		}
		f.Remove()
		for i := range 4 {
			put(t, second, fmt.Sprint(i))
			checkpoint(t, second)
		}
		checkVisible(t, b, "a", "0", "1", "2", "3")
	})
}

// A record that is refused costs the transaction, not what was committed.
func TestRefusedRecord(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "out"))
	s := openTxn(t, transactionalConfig(t, writeConfig(b, KV, "out"), native.TransactionConfig{}))
	put(t, s, "a")
	checkpoint(t, s)
	b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "out", Err: kerr.TopicAuthorizationFailed, Count: -1})
	put(t, s, "b")
	p := cut(t, s)
	_, err := p.Prepare(t.Context())
	if !errors.Is(err, native.ErrRestart) {
		t.Errorf("Prepare: %v", err)
	}
	checkError(t, err, "write to kafka test: kafka ")
	checkError(t, err, "TOPIC_AUTHORIZATION_FAILED")
	checkError(t, err, "grant the user the right (ACL)")
	_, err = s.Stage(t.Context(), blocks(t, windowed(1, nil, nil)))
	if !errors.Is(err, native.ErrRestart) {
		t.Errorf("Stage: %v", err)
	}
	if _, err := s.Cut(2); !errors.Is(err, native.ErrRestart) {
		t.Errorf("Cut: %v", err)
	}
	checkVisible(t, b, "a")
}

// What the client would refuse is refused before the bundle commits.
func TestStageErrors(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "out"))
	cfg := transactionalConfig(t, writeConfig(b, KV, "out"), native.TransactionConfig{})
	cfg.Memory = 256 << 10
	s := openTxn(t, cfg)
	for range 3 {
		_, err := s.Stage(t.Context(), blocks(t, windowed(1, []byte("k"), make([]byte, maxBatch-50))))
		checkError(t, err, "raise max.message.bytes")
		if errors.Is(err, native.ErrRestart) {
			t.Errorf("asks for a restart: %v", err)
		}
		_, err = s.Stage(t.Context(), blocks(t, []byte{1, 2, 3}))
		checkError(t, err, "element 0 of block: encoded value is cut short")
	}
	put(t, s, strings.Repeat("v", maxBatch/2-500)) // twice that is more than the memory
	checkpoint(t, s)
	if got := visible(t, b.ListenAddrs(), "out"); len(got) != 1 || len(got[0]) != maxBatch/2-500 {
		t.Errorf("%d records", len(got))
	}
	if !s.room.TryAcquire(s.limit) {
		t.Error("memory is not given back")
	}
}

// The broker ends a transaction that is open for too long: the error says which setting.
func TestTimeouts(t *testing.T) {
	eachGeneration(t, func(t *testing.T, b *broker) {
		t.Parallel()
		cfg := writeConfig(b, KV, "out", WithTransactionTimeout(3*time.Second))
		s := openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
		put(t, s, "a")
		time.Sleep(4 * time.Second)
		_, err := cut(t, s).Prepare(t.Context())
		if !errors.Is(err, native.ErrRestart) {
			t.Errorf("Prepare: %v", err)
		}
		checkError(t, err, "raise transaction_timeout_ms")
		s.Close()

		s = openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
		put(t, s, "b")
		_, token := prepare(t, s)
		kill(s)
		time.Sleep(4 * time.Second)
		_, err = OpenSink(t.Context(), transactionalConfig(t, cfg, native.TransactionConfig{Prepared: token}))
		if !errors.Is(err, native.ErrLost) {
			t.Fatalf("open: %v", err)
		}
		checkError(t, err, "raise transaction_timeout_ms")
		openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{Prepared: token, Settled: true}))
		checkVisible(t, b)
	})
}

// The coordinator has forgotten or moved on, but the records tell.
func TestWitness(t *testing.T) {
	eachGeneration(t, func(t *testing.T, b *broker) {
		cfg := writeConfig(b, KV, "out")
		for _, tt := range []struct {
			name   string
			commit bool
			remove bool
			err    string
		}{
			{"committed", true, false, ""},
			{"aborted", false, false, "has aborted transaction"},
			{"gone", true, true, "the broker does not know"},
		} {
			s := openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{}))
			put(t, s, tt.name)
			p, token := prepare(t, s)
			if tt.commit {
				if err := p.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			kill(s)
			openTxn(t, transactionalConfig(t, cfg, native.TransactionConfig{Settled: true})).Close() // changes the epochs
			if tt.remove {
				info := b.PartitionInfo("out", 0)
				if err := b.DeleteRecords("out", 0, info.HighWatermark); err != nil {
					t.Fatal(err)
				}
			}
			s2, err := OpenSink(t.Context(), transactionalConfig(t, cfg, native.TransactionConfig{Prepared: token}))
			if err == nil {
				s2.Close()
			} else if !errors.Is(err, native.ErrLost) {
				t.Errorf("%s: not ErrLost", tt.name)
			}
			checkError(t, err, tt.err)
		}
	})
}

func TestOpenTransactionalErrors(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "out"))
	cfg := writeConfig(b, KV, "out", WithGuarantee(ExactlyOnce))
	_, err := OpenSink(t.Context(), sinkConfig(t, cfg))
	checkError(t, err, "guarantee=exactly_once needs a job with checkpoints")
	_, err = OpenSink(t.Context(), transactionalConfig(t, cfg, native.TransactionConfig{Prepared: []byte("{}")}))
	checkError(t, err, "decode transaction token: version 0 is not 1")
	cfg.TransactionTimeout = (time.Hour).Milliseconds()
	_, err = OpenSink(t.Context(), transactionalConfig(t, cfg, native.TransactionConfig{}))
	checkError(t, err, "transaction_timeout_ms=3600000 is more than the brokers allow (transaction.max.timeout.ms)")
	s, err := OpenSink(t.Context(), transactionalConfig(t, writeConfig(b, KV, "out", WithGuarantee(AtLeastOnce)), native.TransactionConfig{}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, ok := s.(native.Transactional); ok {
		t.Error("at_least_once is transactional")
	}
}

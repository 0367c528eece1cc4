package kafka

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
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

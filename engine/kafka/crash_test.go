package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"pgregory.net/rapid"

	"github.com/tinyrunner/tinyrunner/engine/native"
)

// points are where a crash may come, in the order of a checkpoint. Those that end in "ing" are some time in a call.
var points = []string{"opening", "stage", "commit", "cut", "commit after cut", "preparing", "prepared", "durable", "committing", "committed"}

// durable is the newest checkpoint of a model job.
type durable struct {
	Bundles int    `json:"bundles"`
	Token   []byte `json:"token"`
}

// modelJob is an engine in miniature: it writes bundles with one record for each of some keys, and makes checkpoints.
type modelJob struct {
	config func(*native.TransactionConfig) native.SinkConfig
	load   func() durable
	store  func(durable)
	// crash is called at each point but those in a call.
	crash func(point string)
	// pick returns a number below n.
	pick func(n int) int
	// during runs a call that a crash may interrupt.
	during func(point string, call func(ctx context.Context) error) error
}

const modelKeys = 3

// run restores the newest checkpoint and writes n more checkpoints, each with some bundles before and after its cut.
func (j *modelJob) run(t *testing.T, n int, opened func(*transactional)) {
	last := j.load()
	var s *transactional
	err := j.during("opening", func(ctx context.Context) error {
		sink, err := OpenSink(ctx, j.config(&native.TransactionConfig{Job: "model", Prepared: last.Token}))
		if err == nil {
			s = sink.(*transactional)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	opened(s)
	next := last.Bundles
	for range n {
		for range 1 + j.pick(3) {
			j.bundle(t, s, &next, "commit")
		}
		p, err := s.Cut(int64(next))
		if err != nil {
			t.Fatal(err)
		}
		at := durable{Bundles: next}
		j.crash("cut")
		for range j.pick(3) {
			j.bundle(t, s, &next, "commit after cut")
		}
		if err := j.during("preparing", func(ctx context.Context) error {
			at.Token, err = p.Prepare(ctx)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		j.crash("prepared")
		j.store(at)
		j.crash("durable")
		if err := j.during("committing", p.Commit); err != nil {
			t.Fatal(err)
		}
		j.crash("committed")
		if next > at.Bundles && j.pick(2) == 0 {
			j.bundle(t, s, &next, "commit")
		}
	}
	// What is open is not in a checkpoint: nobody sees it.
}

func (j *modelJob) bundle(t *testing.T, s *transactional, next *int, point string) {
	var elements [][]byte
	for k := range modelKeys {
		elements = append(elements, windowed(1, fmt.Appendf(nil, "%d", k), fmt.Appendf(nil, "%d:%d", k, *next)))
	}
	st, err := s.Stage(t.Context(), blocks(t, elements...))
	if err != nil {
		t.Fatal(err)
	}
	j.crash("stage")
	st.Commit()
	*next++
	j.crash(point)
}

// checkModel compares what readers of committed records see with the checkpoint: every bundle once, in the order of each key.
func checkModel(t interface {
	Errorf(string, ...any)
}, got []string, bundles int) {
	for k := range modelKeys {
		var ofKey, want []string
		for _, v := range got {
			if strings.HasPrefix(v, fmt.Sprintf("%d:", k)) {
				ofKey = append(ofKey, v)
			}
		}
		for i := range bundles {
			want = append(want, fmt.Sprintf("%d:%d", k, i))
		}
		if !slices.Equal(ofKey, want) {
			t.Errorf("key %d has %v, want %d bundles", k, ofKey, bundles)
		}
	}
}

// crashed ends a run of the model in process.
type crashed struct{}

// A job that crashes anywhere, any number of times, has each record of its checkpoints once.
func TestModelCrashes(t *testing.T) {
	for _, g := range generations {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, append(g.opts, kfake.SeedTopics(2), kfake.DefaultNumPartitions(2))...)
			topics, crashes := 0, 0
			rapid.Check(t, func(rt *rapid.T) {
				topic := fmt.Sprintf("out%d", topics)
				topics++
				if err := b.CreateTopic(topic, 2, nil); err != nil {
					rt.Fatal(err)
				}
				plan := rapid.SliceOfN(rapid.SampledFrom(points), 0, 6).Draw(rt, "crashes")
				var newest durable
				pick := func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "pick") }
				for _, point := range append(plan, "") {
					nth := rapid.IntRange(0, 3).Draw(rt, "nth")
					newest = runModel(t, b, topic, newest, point, nth, pick)
				}
				crashes += len(plan)
				checkModel(rt, visible(t, b.ListenAddrs(), topic), newest.Bundles)
			})
			t.Logf("%d crashes", crashes)
		})
	}
}

// runModel runs the model until it crashes the nth time that it comes to a point; "" lets it run to its end.
func runModel(t *testing.T, b *broker, topic string, from durable, point string, nth int, pick func(n int) int) (newest durable) {
	t.Helper()
	newest = from
	var s *transactional
	crash := func(at string) {
		if at != point {
			return
		}
		if nth--; nth < 0 {
			panic(crashed{})
		}
	}
	j := &modelJob{
		config: func(tc *native.TransactionConfig) native.SinkConfig {
			cfg := transactionalConfig(t, writeConfig(b, KV, topic, WithLinger(0)), *tc)
			cfg.Transform = topic
			return cfg
		},
		load:  func() durable { return newest },
		store: func(d durable) { newest = d },
		crash: crash,
		pick:  pick,
		during: func(at string, call func(context.Context) error) error {
			if at != point || nth > 0 {
				crash(at)
				return call(t.Context())
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(pick(2000))*time.Microsecond)
			defer cancel()
			_ = call(ctx)
			panic(crashed{})
		},
	}
	defer func() {
		if s != nil {
			kill(s)
		}
		if r := recover(); r != nil && r != (crashed{}) {
			panic(r)
		}
	}()
	j.run(t, 4, func(opened *transactional) { s = opened })
	return
}

// childEnv tells the test binary that it is a child of TestKill: a JSON child.
const childEnv = "TINYRUNNER_KAFKA_TEST_CHILD"

// child is what a child of TestKill is told.
type child struct {
	Brokers string
	Dir     string // of the checkpoint
	Point   string // where to kill itself; "": nowhere
	Nth     int
	Count   int // checkpoints
}

// TestChild is not a test but the process that TestKill kills.
func TestChild(t *testing.T) {
	text := os.Getenv(childEnv)
	if text == "" {
		t.Skip("only as a child of TestKill")
	}
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	j := c.job(t)
	var s *transactional
	j.run(t, c.Count, func(opened *transactional) { s = opened })
	if c.Point != "" {
		t.Errorf("did not come to %q", c.Point)
	}
	s.Close()
}

func (c *child) job(t *testing.T) *modelJob {
	file := filepath.Join(c.Dir, "checkpoint")
	crash := func(at string) {
		if at != c.Point {
			return
		}
		if c.Nth--; c.Nth < 0 {
			suicide()
		}
	}
	return &modelJob{
		config: func(tc *native.TransactionConfig) native.SinkConfig {
			cfg := transactionalConfig(t, newWriteConfig(c.Brokers, "out", KV), *tc)
			return cfg
		},
		load: func() durable {
			var d durable
			b, err := os.ReadFile(file)
			if err == nil {
				err = json.Unmarshal(b, &d)
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			return d
		},
		store: func(d durable) {
			b, err := json.Marshal(d)
			if err == nil {
				err = os.WriteFile(file+".new", b, 0o600)
			}
			if err == nil {
				err = os.Rename(file+".new", file)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		crash: crash,
		pick:  rand.IntN,
		during: func(at string, call func(context.Context) error) error {
			if at == c.Point && c.Nth == 0 {
				time.AfterFunc(time.Duration(rand.IntN(15_000))*time.Microsecond, suicide)
				err := call(t.Context())
				time.Sleep(20 * time.Millisecond)
				return err
			}
			crash(at)
			return call(t.Context())
		},
	}
}

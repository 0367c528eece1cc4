package kafka

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

func TestMain(m *testing.M) {
	beam.Init()
	goleak.VerifyTestMain(m)
}

// broker is an embedded Kafka and a client of it.
type broker struct {
	*kfake.Cluster
	client *kgo.Client
	addrs  string
}

func newBroker(t *testing.T, opts ...kfake.Opt) *broker {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	addrs := ""
	for i, a := range c.ListenAddrs() {
		if i > 0 {
			addrs += ","
		}
		addrs += a
	}
	return &broker{c, cl, addrs}
}

// produce writes records and waits for them.
func (b *broker) produce(t *testing.T, records ...*kgo.Record) {
	t.Helper()
	if err := b.client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func (b *broker) admin() *kadm.Client { return kadm.NewClient(b.client) }

func record(topic string, partition int32, key, value string, ms int64) *kgo.Record {
	return &kgo.Record{Topic: topic, Partition: partition, Key: []byte(key), Value: []byte(value), Timestamp: time.UnixMilli(ms)}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// readConfig is the config of Read with options.
func readConfig(b *broker, f Format, topics []string, opts ...ReadOption) ReadConfig {
	c := newReadConfig(b.addrs, topics, f)
	for _, o := range opts {
		o.applyRead(&c)
	}
	return c
}

func sourceConfig(c ReadConfig, shards int, positions ...[]byte) native.SourceConfig {
	return native.SourceConfig{Transform: "test", Payload: encode(c, c.Validate()), Shards: shards, Positions: positions, Logger: quiet()}
}

func open(t *testing.T, cfg native.SourceConfig) *source {
	t.Helper()
	s, err := OpenSource(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*source)
}

// element is a decoded element.
type element struct {
	ts         int64
	key, value string
	record     Record
	shard      int
}

func newPool(t *testing.T) *flow.Pool {
	t.Helper()
	p, err := flow.NewPool(32<<20, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// fetch calls Fetch once, waiting for at most a second.
func fetch(t *testing.T, s *source, shard int, max int64) ([]element, native.Fetched) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	b := newPool(t).NewBuilder()
	f, err := s.Fetch(ctx, shard, b, max)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	var out []element
	for _, k := range blocks {
		out = append(out, parse(t, s.config.Format, k, shard)...)
		k.Release()
	}
	return out, f
}

// parse reads a block as any consumer of the source's output would.
func parse(t *testing.T, f Format, k *flow.Block, shard int) []element {
	t.Helper()
	d, err := k.Data()
	if err != nil {
		t.Fatal(err)
	}
	w := coder.NewWindowedValue(elementCoder(t, f), coder.GlobalWindow())
	var out []element
	for i := range d.Len() {
		b := d.Element(i)
		h, err := w.ParseHeader(b)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := w.Skip(b); err != nil || n != len(b) {
			t.Fatalf("element of %d bytes ends at %d: %v", len(b), n, err)
		}
		if h.NumWindows != 1 || h.Pane != coder.NoFiring() {
			t.Fatalf("header %+v", h)
		}
		e := element{ts: h.Timestamp, shard: shard}
		first, n, _ := coder.ParseBytes(b[h.ValueOffset:])
		if f == KV {
			second, _, _ := coder.ParseBytes(b[h.ValueOffset+n:])
			e.key, e.value = string(first), string(second)
		} else if e.record, err = decodeRecord(first); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// fetchUntil fetches round robin from all shards until there are n elements or all shards are done.
func fetchUntil(t *testing.T, s *source, n int) ([]element, []native.Fetched) {
	t.Helper()
	last := make([]native.Fetched, len(s.shards))
	var out []element
	deadline := time.Now().Add(time.Minute)
	for open := 1; open > 0 && len(out) < n; {
		open = 0
		for i := range s.shards {
			var es []element
			es, last[i] = fetch(t, s, i, 1<<20)
			out = append(out, es...)
			if !last[i].Done {
				open++
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d elements after 10 s", len(out), n)
		}
	}
	return out, last
}

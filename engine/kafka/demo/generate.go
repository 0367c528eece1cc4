package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	variants   = 4000 // different lines
	pages      = 50
	failEvery  = 100 // every 100th request fails
	minLine    = 150 // bytes
	maxLine    = 1000
	chunk      = 256     // records made between two looks at the flow
	retainStep = 4 << 20 // bytes sent between two rounds of retention
)

// generator sends lines as fast as they are read.
type generator struct {
	client *kgo.Client
	lines  []line
	free   sync.Pool // of *kgo.Record

	sent, sentBytes atomic.Int64 // records, and the bytes of their keys and values
	failed          atomic.Int64 // sent records with a failure
	err             atomic.Pointer[error]
}

// line is a record's content. Lines are made once and sent again and again: the demo shows what reading costs, not writing.
type line struct {
	key, value []byte
	failed     bool
}

func newGenerator(brokers string) (*generator, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers),
		kgo.DefaultProduceTopic(inputTopic),
		kgo.DisableClientMetrics(),
		kgo.RecordPartitioner(kgo.RoundRobinPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(256<<10),
	)
	if err != nil {
		return nil, fmt.Errorf("start generator: %w", err)
	}
	return &generator{client: client, lines: makeLines(), free: sync.Pool{New: func() any { return new(kgo.Record) }}}, nil
}

func makeLines() []line {
	r := rand.New(rand.NewPCG(1, 2))
	lines := make([]line, variants)
	for i := range lines {
		user := fmt.Sprintf("u%05d", r.IntN(100_000))
		status := 200
		if i%failEvery == 0 {
			status = 503
		}
		text := fmt.Sprintf(`{"user":%q,"page":"/page/%d","status":%d,"ms":%d,"agent":"`, user, r.IntN(pages), status, r.IntN(900))
		text += strings.Repeat("x", minLine+r.IntN(maxLine-minLine)-len(text)-2) + `"}`
		lines[i] = line{[]byte(user), []byte(text), status >= 500}
	}
	return lines
}

// run sends until ctx ends, and waits until all is acknowledged. It stays at most unread bytes before what flow says is
// read, and calls retain now and then.
func (g *generator) run(ctx context.Context, flow *flow, retain func()) error {
	retained := int64(0)
	for i := 0; ctx.Err() == nil; i += chunk {
		if err := flow.wait(ctx, g); err != nil {
			break
		}
		for j := range chunk {
			g.send(&g.lines[(i+j)%variants])
		}
		if n := g.sentBytes.Load(); n-retained >= retainStep {
			retained = n
			retain()
		}
		if err := g.err.Load(); err != nil {
			return fmt.Errorf("generate: %w", *err)
		}
	}
	if err := g.client.Flush(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("generate: %w", err)
	}
	return nil
}

func (g *generator) send(l *line) {
	r := g.free.Get().(*kgo.Record)
	*r = kgo.Record{Key: l.key, Value: l.value}
	g.sent.Add(1)
	g.sentBytes.Add(int64(len(l.key) + len(l.value)))
	if l.failed {
		g.failed.Add(1)
	}
	g.client.Produce(context.Background(), r, g.acknowledged)
}

func (g *generator) acknowledged(r *kgo.Record, err error) {
	if err != nil {
		g.err.CompareAndSwap(nil, &err)
	}
	g.free.Put(r)
}

func (g *generator) close() { g.client.Close() }

// flow keeps the generator near the reader.
type flow struct {
	read func() int64
	seen int64
}

// wait waits until the generator may send more.
func (f *flow) wait(ctx context.Context, g *generator) error {
	for {
		sent := g.sent.Load()
		if sent == 0 || (sent-f.seen)*(g.sentBytes.Load()/sent) < unread {
			return nil
		}
		if f.seen = f.read(); (sent-f.seen)*(g.sentBytes.Load()/sent) < unread {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

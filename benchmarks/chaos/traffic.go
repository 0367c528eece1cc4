package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/benchmarks/chaos/ledger"
)

const (
	inTopic    = "deposits"
	outTopic   = "entries"
	partitions = 4
)

func createTopics(ctx context.Context, broker string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(broker))
	if err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	defer client.Close()
	made, err := kadm.NewClient(client).CreateTopics(ctx, partitions, 1, nil, inTopic, outTopic)
	if err == nil {
		err = made.Error()
	}
	if err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	return nil
}

// producer makes deposits, as fast as they are answered.
type producer struct {
	client  *kgo.Client
	keys    []string
	backlog int64
	made    map[string]int64 // by key; owned by run
	sent    atomic.Int64
	failed  chan error
}

func newProducer(broker string, keys int, backlog int64) (*producer, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.DefaultProduceTopic(inTopic), kgo.DisableClientMetrics(),
		kgo.StopProducerOnDataLossDetected()) // or it would send again what may be there
	if err != nil {
		return nil, fmt.Errorf("open producer: %w", err)
	}
	p := &producer{client: client, backlog: backlog, made: make(map[string]int64), failed: make(chan error, 1)}
	for i := range keys {
		p.keys = append(p.keys, "account-"+strconv.Itoa(i))
	}
	return p, nil
}

// run produces until stop is closed, then waits until the broker has everything. answered says how far the output is.
func (p *producer) run(ctx context.Context, stop <-chan struct{}, answered func() int64) error {
	for {
		select {
		case <-stop:
			if err := p.client.Flush(ctx); err != nil {
				return fmt.Errorf("produce: %w", err)
			}
		case err := <-p.failed:
			return fmt.Errorf("produce: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		default:
			if p.sent.Load()-answered() >= p.backlog {
				time.Sleep(time.Millisecond)
				continue
			}
			p.some(ctx)
			continue
		}
		select {
		case err := <-p.failed:
			return fmt.Errorf("produce: %w", err)
		default:
			return nil
		}
	}
}

// some produces a few deposits to random accounts.
func (p *producer) some(ctx context.Context) {
	for range 100 {
		key := p.keys[rand.IntN(len(p.keys))]
		p.made[key]++
		p.client.Produce(ctx, &kgo.Record{Key: []byte(key), Value: ledger.AppendDeposit(nil, key, p.made[key])}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case p.failed <- err:
				default:
				}
			}
		})
		p.sent.Add(1)
	}
}

func (p *producer) close() { p.client.Close() }

// reader reads the output as any read_committed consumer would, and has it checked.
type reader struct {
	client  *kgo.Client
	fresh   func(time.Time) // called when new deposits are answered
	entries atomic.Int64
	done    atomic.Int64 // deposits answered
	newest  atomic.Int64 // Unix ns of the newest answer

	mu      sync.Mutex
	checker ledger.Checker
}

func newReader(broker string, repeats bool, fresh func(time.Time)) (*reader, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumeTopics(outTopic), kgo.DisableClientMetrics(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(200*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("open reader: %w", err)
	}
	r := &reader{client: client, fresh: fresh, checker: ledger.Checker{Repeats: repeats}}
	r.newest.Store(time.Now().UnixNano())
	return r, nil
}

func (r *reader) run(ctx context.Context) error {
	for {
		fetches := r.client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		for _, e := range fetches.Errors() {
			var lost *kgo.ErrDataLoss
			if errors.As(e.Err, &lost) {
				return fmt.Errorf("read output: the broker lost records: %w", e.Err)
			}
		}
		if err := r.take(fetches.Records()); err != nil {
			return err
		}
	}
}

func (r *reader) take(records []*kgo.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range records {
		e, err := ledger.ParseEntry(string(rec.Value))
		if err != nil {
			return fmt.Errorf("read output: partition %d, offset %d: %w", rec.Partition, rec.Offset, err)
		}
		r.checker.Add(string(rec.Key), e)
	}
	r.entries.Add(int64(len(records)))
	if n := r.checker.Deposits(); n > r.done.Load() {
		now := time.Now()
		r.done.Store(n)
		r.newest.Store(now.UnixNano())
		r.fresh(now)
	}
	return nil
}

func (r *reader) complete(made map[string]int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.checker.Complete(made)
}

func (r *reader) finish(made map[string]int64) (ledger.Report, []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.checker.Finish(made)
}

// idle is how long nothing new has come.
func (r *reader) idle() time.Duration { return time.Since(time.Unix(0, r.newest.Load())) }

func (r *reader) close() { r.client.Close() }

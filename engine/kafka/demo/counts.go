package demo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// counts reads the output topic, as any consumer would.
type counts struct {
	client *kgo.Client

	mu     sync.Mutex
	total  int64     // failures in all counts
	newest time.Time // window
	rows   []Count   // of the newest window
}

func newCounts(brokers string) (*counts, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.ConsumeTopics(outputTopic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.DisableClientMetrics(), kgo.FetchMaxWait(200*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("read counts: %w", err)
	}
	return &counts{client: client}, nil
}

// run reads until ctx ends.
func (c *counts) run(ctx context.Context) error {
	for {
		fetches := c.client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("read counts: %w", err)
		}
		for _, r := range fetches.Records() {
			var row Count
			if err := json.Unmarshal(r.Value, &row); err != nil {
				return fmt.Errorf("read counts: record %d: %w", r.Offset, err)
			}
			c.add(row)
		}
	}
}

func (c *counts) add(row Count) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total += int64(row.Failed)
	if row.Window.Before(c.newest) {
		return
	}
	if row.Window.After(c.newest) {
		c.newest, c.rows = row.Window, nil
	}
	c.rows = append(c.rows, row)
}

func (c *counts) sum() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// top returns the newest window's end and its n pages with the most failures.
func (c *counts) top(n int) (time.Time, []Count) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rows := slices.Clone(c.rows)
	slices.SortFunc(rows, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.Failed, a.Failed), cmp.Compare(a.Page, b.Page))
	})
	return c.newest, rows[:min(n, len(rows))]
}

func (c *counts) close() { c.client.Close() }

package kafka

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

const commitEvery = 5 * time.Second

// committer shows the job's progress to Kafka's monitoring, and to a runner that the job is handed to: it commits the
// positions that it is told of to a consumer group that has no members. With checkpoints that are those of complete ones only
// (native.Committer). Nothing is ever read from there again but by a first start at Committed.
type committer struct {
	group string
	admin *kadm.Client
	log   *slog.Logger
	done  context.CancelFunc
	ended chan struct{}

	mu        sync.Mutex
	positions [][]byte // latest noted by shard
}

// startCommitter starts the committer's goroutine; stop ends it.
func startCommitter(group string, admin *kadm.Client, log *slog.Logger, shards int) *committer {
	ctx, cancel := context.WithCancel(context.Background())
	c := &committer{group: group, admin: admin, log: log, done: cancel, ended: make(chan struct{}), positions: make([][]byte, shards)}
	go c.run(ctx)
	return c
}

func (c *committer) note(shard int, position []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.positions[shard] = position
}

func (c *committer) run(ctx context.Context) {
	defer close(c.ended)
	t := time.NewTicker(commitEvery)
	defer t.Stop()
	var last [][]byte
	for {
		select {
		case <-ctx.Done():
			// The last figures are worth a moment, not a slow shutdown.
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			c.commit(ctx, last)
			cancel()
			return
		case <-t.C:
			last = c.commit(ctx, last)
		}
	}
}

// commit commits what has changed since last and returns what is committed now.
func (c *committer) commit(ctx context.Context, last [][]byte) [][]byte {
	c.mu.Lock()
	now := append([][]byte(nil), c.positions...)
	c.mu.Unlock()
	var changed [][]byte
	for i, p := range now {
		if p != nil && (last == nil || !bytes.Equal(p, last[i])) {
			changed = append(changed, p)
		}
	}
	at, err := decodePositions(changed)
	if err != nil || len(at) == 0 {
		return now
	}
	offsets := make(kadm.Offsets)
	for tp, p := range at {
		offsets.AddOffset(tp.topic, tp.partition, p.Next, -1)
	}
	if err := c.admin.CommitAllOffsets(ctx, c.group, offsets); err != nil {
		c.log.Warn("kafka: commit offsets for monitoring", "group", c.group, "error", err)
		return last
	}
	return now
}

func (c *committer) stop() {
	c.done()
	<-c.ended
}

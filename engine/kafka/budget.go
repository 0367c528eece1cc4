package kafka

import (
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// defaultMemory is used when the engine names no budget.
	defaultMemory = 16 << 20
	// recordOverhead is about what franz-go takes for a fetched record besides its bytes.
	recordOverhead = 200

	minFetch     = 256 << 10
	maxFetch     = 8 << 20
	maxPartition = 1 << 20 // bytes of one partition in a fetch: larger gains nothing, and delays the others
)

// budget turns a memory budget into the sizes of fetches. A third each goes to fetches under way, to fetches that have
// arrived and wait to be polled, and to mailboxes.
//
// Fetch sizes count bytes as they are on the wire; what they take in memory depends on compression and on the size of
// records, so the sizes follow what was seen.
type budget struct {
	third   int64
	fetches int // at once: one a broker, if the budget allows

	wire, memory atomic.Int64 // bytes of fetched batches, as sent and as held
	factor       int64        // memory bytes for 16 wire bytes, as last applied; owned by the poller
}

var _ kgo.HookFetchBatchRead = (*budget)(nil)

func newBudget(memory int64, brokers int) *budget {
	if memory <= 0 {
		memory = defaultMemory
	}
	b := &budget{third: memory / 3, factor: 2 * 16}
	b.fetches = int(min(int64(max(brokers, 1)), max(1, b.third/(2*minFetch))))
	return b
}

// OnFetchBatchRead implements kgo.HookFetchBatchRead; any goroutine.
func (b *budget) OnFetchBatchRead(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.FetchBatchMetrics) {
	b.wire.Add(int64(m.CompressedBytes))
	b.memory.Add(int64(m.UncompressedBytes) + int64(m.NumRecords)*recordOverhead)
}

// sizes returns the limits of one fetch and of one partition in it, in wire bytes.
func (b *budget) sizes() (fetch, partition int32) {
	n := b.third / int64(b.fetches) * 16 / b.factor
	n = min(max(n, minFetch), maxFetch)
	return int32(n), int32(min(n, maxPartition))
}

// adapt applies what was seen since the last time, when it is enough to tell and differs by a quarter.
func (b *budget) adapt(client *kgo.Client) {
	wire, memory := b.wire.Load(), b.memory.Load()
	if wire < minFetch {
		return
	}
	b.wire.Add(-wire)
	b.memory.Add(-memory)
	factor := max(16, memory*16/wire)
	if d := factor - b.factor; d*4 < b.factor && d*4 > -b.factor {
		return
	}
	b.factor = factor
	client.UpdateFetchMaxBytes(b.sizes())
}

// mailbox is the most a shard may have waiting before its partitions are paused, in bytes.
func (b *budget) mailbox(shards int) int64 { return b.third / int64(shards) }

package native

import (
	"context"
	"log/slog"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
)

// Source reads an outside system for one transform of one job.
type Source interface {
	// Fetch appends elements of a shard to out: whole encoded windowed values (beam:coder:windowed_value:v1 over the element
	// coder that the plan gives the source's output), about max bytes of them at most, one element at least if there is any.
	// It waits until there is something, the watermark has moved, or ctx ends; the end of ctx is no error: Fetch then returns
	// what it has, perhaps nothing.
	//
	// Calls for one shard come one after another, calls for different shards may be concurrent. After an error the source
	// is broken: the job fails, or another source is opened from the committed positions.
	Fetch(ctx context.Context, shard int, out *flow.Builder, max int64) (Fetched, error)
	// Close gives up connections and buffers and waits for the source's goroutines. No Fetch is under way or comes later.
	Close() error
}

// Fetched says where a shard stands after the elements of a Fetch.
type Fetched struct {
	// Position is where the shard reads on after these elements, in a form only the source knows. The engine stores it with
	// their commit and gives it back in SourceConfig.Positions. The source does not change it later.
	Position []byte
	// Watermark is a lower bound, in milliseconds since the epoch, of the timestamps of all later elements of the shard.
	// It never goes back within a shard's life.
	Watermark int64
	// Backlog counts the elements known to wait behind Position; -1: not known. For people and metrics only.
	Backlog int64
	// Done: the shard never has elements again. Watermark is then coder.MaxTimestamp.
	Done bool
}

// Committer is implemented by sources that want to know how far the job has durably come, for instance to show it to the
// monitoring of the outside system. The engine calls it for each shard whose position has moved: with the position that a
// checkpoint holds, once the checkpoint is complete and its Prepared are committed; without checkpoints, now and then with
// a position that is committed to the state. Positions of a shard come in order.
type Committer interface {
	// Committed must not block for longer than it takes to note the position.
	Committed(shard int, position []byte)
}

// SourceConfig is what a source is opened with.
type SourceConfig struct {
	// Transform is the transform's unique name, for messages.
	Transform string
	// Payload of the transform's spec.
	Payload []byte
	// Shards is the number of independent readers, one for each slot of the job, >= 1. The source spreads what it reads over them;
	// a shard may have nothing to read, and is then Done or idle.
	Shards int
	// Positions are what Fetch last returned for each shard there ever was, the oldest first; nil for a first start. When the
	// job was rescaled some are of shards that are no more: where two say something of the same part, the later one counts.
	Positions [][]byte
	// Memory is the most, in bytes, that the source keeps outside the pool for all shards together (read-ahead).
	Memory int64
	Logger *slog.Logger
}

// SourceFactory opens a source. ctx bounds the opening only.
type SourceFactory func(ctx context.Context, cfg SourceConfig) (Source, error)

// Sink writes to an outside system for one transform of one job.
type Sink interface {
	// Send hands over all elements of the blocks, in their order, and does not keep the blocks; it may wait until there is
	// room. The engine calls it for one bundle after the other, in the order in which they came. After an error some
	// elements may be on their way.
	Send(ctx context.Context, blocks []*flow.Block) (Sent, error)
	// Close gives up connections and waits for the sink's goroutines. No Send or Wait is under way or comes later.
	Close() error
}

// Sent are the elements of one bundle on their way.
type Sent interface {
	// Wait returns when the outside system has acknowledged them all, or with the first error. The engine waits for several
	// bundles at once (one for each slot), and goes on sending meanwhile.
	Wait(ctx context.Context) error
}

// SinkConfig is what a sink is opened with.
type SinkConfig struct {
	// Transform is the transform's unique name, for messages.
	Transform string
	// Payload of the transform's spec.
	Payload []byte
	// Coder reads the elements of the blocks: plan.Collection.Coder of the sink's input.
	Coder *coder.WindowedValue
	// Memory is the most, in bytes, that the sink keeps outside the pool (write buffers).
	Memory int64
	// Transaction is set when the job makes checkpoints: a sink that can write exactly once is then Transactional. nil: at
	// least once.
	Transaction *TransactionConfig
	Logger      *slog.Logger
}

// SinkFactory opens a sink. ctx bounds the opening only.
type SinkFactory func(ctx context.Context, cfg SinkConfig) (Sink, error)

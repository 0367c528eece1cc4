// Package kafka reads and writes Kafka topics natively: transforms for Go pipelines (Read, ReadRecords, Write,
// WriteRecords) and, behind their URNs, the source and the sink that the engine runs itself on franz-go. No SDK harness
// and no JVM is involved.
//
// A transform's payload is a small JSON document (ReadConfig, WriteConfig), written by the pipeline and checked on both sides.
//
// The source assigns partitions to shards (the job's slots) by hand and never joins a consumer group: where a shard stands
// is its Position, kept by the engine in the commit that takes the records. It reads ahead no more than franz-go buffers
// (one fetch response for each of a few brokers) plus what one poll brought for the other shards; a shard that falls behind
// has its partitions paused. Nothing is polled while the engine does not call Fetch, so back pressure reaches the broker by
// itself.
//
// The source looks for new partitions now and then and gives them to the shards that have the fewest: what is assigned does
// not move before a restart, which spreads all of it anew. Positions carry the id of their topic, so that a topic that was
// made anew is not read on in the middle.
//
// # Order
//
// Records of a partition reach the first stage behind the source in their order, and what a keyed stage or a source emits for a
// key is written in that order, if the sink comes next, or functions that are fused with the stage do. Functions without state in a stage
// of their own are another matter: as the model has it, their bundles run side by side, and the next stage gets what is ready
// first.
//
// # Exactly once
//
// In a job with checkpoints the sink is native.Transactional: the records between two cuts are one Kafka transaction, and
// the token in the checkpoint (transactional id, producer id, epoch) is enough to commit it from another process. Its records
// are handed to the producer inside the engine's commit; the next transaction, which has another producer, sends nothing
// before all of this one is acknowledged, so that records of a key keep their order.
//
// Three transactional ids take turns. After a crash the sink sends EndTxn for the token of the newest durable checkpoint,
// perhaps once more, and takes over the other two ids by InitProducerID, which aborts what lingers. So no open transaction may
// share id, producer id and epoch with the one that the newest durable checkpoint names, and brokers before KIP-890 keep
// both from one transaction to the next. While a checkpoint is made there are three: the durable one's (committed), the
// prepared one, the open one. For the same reason the id that a restart has committed by its token is not used before the
// next checkpoint is durable.
//
// When a coordinator refuses EndTxn because it has forgotten the transaction, one of its records tells what became of it: the
// token says where it is, and readers of committed records either get it or not.
//
// The transaction lives for transaction_timeout_ms at most: that bounds checkpoints and their interval, and how long the
// runner may be down.
//
// Without checkpoints, or with guarantee=at_least_once, the sink produces idempotently and asynchronously. Bundles are handed
// to the client one after the other, so that records of a key keep their order; their acknowledgements are waited for side by
// side.
//
// File map: beam.go the transforms; config.go their payloads; record.go the Record type and its encoding; client.go and
// logger.go what source and sink share; open.go how a source finds where to begin; source.go, poll.go, discover.go, budget.go
// reading; partition.go timestamps and watermarks; position.go; committer.go progress shown to Kafka; writer.go from elements
// to records; sink.go and flight.go at least once; transaction.go, slot.go, interval.go, token.go, endtxn.go exactly once.
package kafka

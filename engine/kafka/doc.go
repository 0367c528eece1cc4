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
// The sink produces idempotently and asynchronously and answers Write when all records are acknowledged: at least once.
// Exactly once (a transaction per checkpoint, native.Transactional) comes later.
//
// File map: beam.go the transforms; config.go their payloads; record.go the Record type and its encoding; client.go and
// logger.go what source and sink share; open.go how a source finds where to begin; source.go, poll.go, budget.go reading;
// partition.go timestamps and watermarks; position.go; committer.go progress shown to Kafka; sink.go and flight.go writing.
package kafka

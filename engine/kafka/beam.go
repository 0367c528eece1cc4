package kafka

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/typex"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

// The Go SDK's worker finds types and functions by name and never runs the code that builds the pipeline, so they can only
// be registered when the program starts: the one init of this project's library packages.
func init() { //nolint:gochecknoinits // see above
	beam.RegisterType(reflect.TypeFor[Record]())
	register.Function1x1(encodeRecord)
	register.Function1x2(decodeRecord)
	beam.RegisterCoder(reflect.TypeFor[Record](), encodeRecord, decodeRecord)
}

// ReadOption changes how a topic is read.
type ReadOption interface{ applyRead(*ReadConfig) }

// WriteOption changes how a topic is written.
type WriteOption interface{ applyWrite(*WriteConfig) }

// Option is good for reading and for writing.
type Option interface {
	ReadOption
	WriteOption
}

type readOption func(*ReadConfig)

func (o readOption) applyRead(c *ReadConfig) { o(c) }

type writeOption func(*WriteConfig)

func (o writeOption) applyWrite(c *WriteConfig) { o(c) }

type connectionOption func(*Connection)

func (o connectionOption) applyRead(c *ReadConfig)   { o(&c.Connection) }
func (o connectionOption) applyWrite(c *WriteConfig) { o(&c.Connection) }

// WithTLS encrypts connections.
func WithTLS(t TLS) Option { return connectionOption(func(c *Connection) { c.TLS = &t }) }

// WithSASL authenticates; mechanism is Plain, ScramSHA256 or ScramSHA512. The password becomes part of the pipeline: prefer
// WithSASLFromEnv.
func WithSASL(mechanism, user, password string) Option {
	return connectionOption(func(c *Connection) { c.SASL = &SASL{Mechanism: mechanism, User: user, Password: password} })
}

// WithSASLFromEnv is WithSASL with the password in an environment variable of the runner.
func WithSASLFromEnv(mechanism, user, variable string) Option {
	return connectionOption(func(c *Connection) { c.SASL = &SASL{Mechanism: mechanism, User: user, PasswordEnv: variable} })
}

// FromEarliest begins with the oldest record. The default.
func FromEarliest() ReadOption {
	return readOption(func(c *ReadConfig) { c.Start = Start{At: Earliest} })
}

// FromLatest begins with records that come after the job's start.
func FromLatest() ReadOption { return readOption(func(c *ReadConfig) { c.Start = Start{At: Latest} }) }

// FromTime begins with the first record of each partition that is not older than t.
func FromTime(t time.Time) ReadOption {
	return readOption(func(c *ReadConfig) { c.Start = Start{At: Timestamp, Timestamp: t.UnixMilli()} })
}

// FromGroup begins with what a consumer group has committed, or at the oldest record, and shows progress under its name.
func FromGroup(group string) ReadOption {
	return readOption(func(c *ReadConfig) { c.Start, c.Group = Start{At: Committed}, group })
}

// ShowAs commits positions to a consumer group now and then, for monitoring. They are never read again.
func ShowAs(group string) ReadOption { return readOption(func(c *ReadConfig) { c.Group = group }) }

// StopAtEnd reads what is in the topics when the job first starts, then ends: the output is bounded.
func StopAtEnd() ReadOption { return readOption(func(c *ReadConfig) { c.StopAtEnd = true }) }

// OnlyCommitted leaves out records of transactions that are open or were aborted.
func OnlyCommitted() ReadOption { return readOption(func(c *ReadConfig) { c.ReadCommitted = true }) }

// WithCreateTime takes the records' own timestamps, of which each may be older than one before it in its partition by up to
// maxOutOfOrderness without being late. The default, with one second.
func WithCreateTime(maxOutOfOrderness time.Duration) ReadOption {
	return readOption(func(c *ReadConfig) {
		c.Timestamps.Policy, c.Timestamps.MaxOutOfOrderness = CreateTime, maxOutOfOrderness.Milliseconds()
	})
}

// WithLogAppendTime takes the broker's timestamps; topics must have message.timestamp.type=LogAppendTime.
func WithLogAppendTime() ReadOption {
	return readOption(func(c *ReadConfig) { c.Timestamps.Policy = LogAppendTime })
}

// WithProcessingTime takes the time of reading.
func WithProcessingTime() ReadOption {
	return readOption(func(c *ReadConfig) { c.Timestamps.Policy = ProcessingTime })
}

// WithIdleTimeout sets after which time without records a partition no longer holds the watermark back; negative: never.
// Default one second.
func WithIdleTimeout(d time.Duration) ReadOption {
	return readOption(func(c *ReadConfig) {
		if c.Timestamps.IdleTimeout = d.Milliseconds(); d < 0 {
			c.Timestamps.IdleTimeout = -1
		}
	})
}

// WithDiscovery sets how often new partitions are looked for; negative: never. Default one minute.
func WithDiscovery(every time.Duration) ReadOption {
	return readOption(func(c *ReadConfig) {
		if c.Discovery = every.Milliseconds(); every < 0 {
			c.Discovery = -1
		}
	})
}

// WithOutOfRange says what to do when retention removed records before they were read. Default FailOutOfRange.
func WithOutOfRange(p OutOfRange) ReadOption {
	return readOption(func(c *ReadConfig) { c.OutOfRange = p })
}

// WithGuarantee sets how often a record is written; see Guarantee for the default.
func WithGuarantee(g Guarantee) WriteOption {
	return writeOption(func(c *WriteConfig) { c.Guarantee = g })
}

// WithTransactionTimeout sets after which time the broker aborts an open transaction: the longest that the runner may be down
// without losing output. Default 15 minutes; more needs a higher transaction.max.timeout.ms on the brokers.
func WithTransactionTimeout(d time.Duration) WriteOption {
	return writeOption(func(c *WriteConfig) { c.TransactionTimeout = d.Milliseconds() })
}

// WithCompression sets the compression of batches: none, gzip, snappy (the default), lz4 or zstd.
func WithCompression(name string) WriteOption {
	return writeOption(func(c *WriteConfig) { c.Compression = name })
}

// WithLinger sets how long a batch waits for more records. Default 5 ms.
func WithLinger(d time.Duration) WriteOption {
	return writeOption(func(c *WriteConfig) { c.Linger = d.Milliseconds() })
}

// WithEventTime writes the elements' timestamps instead of the time of writing.
func WithEventTime() WriteOption { return writeOption(func(c *WriteConfig) { c.EventTime = true }) }

// Read reads topics as KV<[]byte, []byte>: key and value. A missing key or value is empty; use ReadRecords to tell them apart,
// or for headers, offsets and timestamps. brokers is a comma-separated list of host:port. Like all of Beam's
// constructors it panics when its arguments are wrong.
func Read(s beam.Scope, brokers string, topics []string, opts ...ReadOption) beam.PCollection {
	kv := typex.NewKV(typex.New(reflect.TypeFor[[]byte]()), typex.New(reflect.TypeFor[[]byte]()))
	return read(s.Scope("kafka.Read"), newReadConfig(brokers, topics, KV), kv, opts)
}

// ReadRecords reads topics as Record.
func ReadRecords(s beam.Scope, brokers string, topics []string, opts ...ReadOption) beam.PCollection {
	return read(s.Scope("kafka.ReadRecords"), newReadConfig(brokers, topics, Records), typex.New(reflect.TypeFor[Record]()), opts)
}

func read(s beam.Scope, c ReadConfig, out beam.FullType, opts []ReadOption) beam.PCollection {
	for _, o := range opts {
		o.applyRead(&c)
	}
	payload := encode(c, c.Validate())
	return beam.External(s, ReadURN, payload, nil, []beam.FullType{out}, c.StopAtEnd)[0]
}

// Write writes a collection of KV<[]byte, []byte> to a topic. An empty key is no key; an empty value is an empty value.
func Write(s beam.Scope, brokers, topic string, col beam.PCollection, opts ...WriteOption) {
	write(s.Scope("kafka.Write"), newWriteConfig(brokers, topic, KV), col, opts)
}

// WriteRecords writes a collection of Record with their headers and timestamps; Partition and Offset mean nothing here. With an
// empty topic each record goes to the topic that it names.
func WriteRecords(s beam.Scope, brokers, topic string, col beam.PCollection, opts ...WriteOption) {
	write(s.Scope("kafka.WriteRecords"), newWriteConfig(brokers, topic, Records), col, opts)
}

func write(s beam.Scope, c WriteConfig, col beam.PCollection, opts []WriteOption) {
	for _, o := range opts {
		o.applyWrite(&c)
	}
	payload := encode(c, checkType(c.Format, col), c.Validate())
	beam.External(s, WriteURN, payload, []beam.PCollection{col}, nil, true)
}

func checkType(f Format, col beam.PCollection) error {
	if !col.IsValid() {
		return fmt.Errorf("collection is not valid")
	}
	t, bytes := col.Type(), reflect.TypeFor[[]byte]()
	if f == Records {
		if t.Type() != reflect.TypeFor[Record]() {
			return fmt.Errorf("collection is of %v, not of kafka.Record", t)
		}
		return nil
	}
	if !typex.IsKV(t) || t.Components()[0].Type() != bytes || t.Components()[1].Type() != bytes {
		return fmt.Errorf("collection is of %v, not of KV<[]byte, []byte>", t)
	}
	return nil
}

// encode makes a payload, unless there are errors.
func encode(config any, errs ...error) []byte {
	for _, err := range errs {
		if err != nil {
			panic(fmt.Errorf("kafka: %w", err))
		}
	}
	payload, err := json.Marshal(config)
	if err != nil {
		panic(fmt.Errorf("kafka: encode payload: %w", err)) // not reached: plain data
	}
	return payload
}

package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/semaphore"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// sink produces to Kafka with one idempotent producer. Brokers that are away are waited for, for as long as it takes: the job
// stands still with its records safe in its queues, and goes on by itself.
type sink struct {
	config    WriteConfig
	transform string
	coder     *coder.WindowedValue
	client    *kgo.Client
	chunks    chan *chunk // free ones
	// room is the memory of chunks, in bytes. The client's own limits are not used: what waits for them is cancelled together
	// with records of other Writes.
	room  *semaphore.Weighted
	limit int64
}

var _ native.Sink = (*sink)(nil)

// OpenSink opens the sink of a WriteURN transform.
func OpenSink(ctx context.Context, cfg native.SinkConfig) (native.Sink, error) {
	s, err := openSink(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open kafka sink %s: %w", cfg.Transform, err)
	}
	return s, nil
}

func openSink(ctx context.Context, cfg native.SinkConfig) (*sink, error) {
	wc, err := DecodeWriteConfig(cfg.Payload)
	if err != nil {
		return nil, err
	}
	if err := checkElements(cfg.Coder, wc.Format); err != nil {
		return nil, err
	}
	opts, err := wc.options(cfg.Logger)
	if err != nil {
		return nil, err
	}
	codecs, err := codec(wc.Compression)
	if err != nil {
		return nil, err
	}
	memory := cfg.Memory
	if memory <= 0 {
		memory = defaultMemory
	}
	client, err := kgo.NewClient(append(opts,
		kgo.ProducerBatchCompression(codecs...),
		kgo.ProducerLinger(time.Duration(wc.Linger)*time.Millisecond),
		// Keys go where Java's default partitioner puts them (murmur2); records without a key fill one batch after another.
		kgo.RecordPartitioner(kgo.UniformBytesPartitioner(64<<10, true, true, nil)),
		kgo.MaxBufferedRecords(math.MaxInt32),
	)...)
	if err != nil {
		return nil, err
	}
	s := &sink{
		config: wc, transform: cfg.Transform, coder: cfg.Coder, client: client,
		chunks: make(chan *chunk, 16), room: semaphore.NewWeighted(memory), limit: memory,
	}
	if err := s.check(ctx, cfg.Logger); err != nil {
		client.Close()
		return nil, wc.explain(err)
	}
	return s, nil
}

// checkElements refuses an input whose elements are not what the payload says.
func checkElements(c *coder.WindowedValue, f Format) error {
	elem := c.Elem()
	switch {
	case f == Records && elem.URN() == "beam:coder:length_prefix:v1":
		return nil
	case f == KV && elem.URN() == "beam:coder:kv:v1" &&
		elem.Component(0).URN() == "beam:coder:bytes:v1" && elem.Component(1).URN() == "beam:coder:bytes:v1":
		return nil
	case f == KV:
		return fmt.Errorf("input elements are coded as %s, not as KV<bytes, bytes>: convert them to KV<[]byte, []byte>", elem.URN())
	default:
		return fmt.Errorf("input elements are coded as %s, not as kafka.Record", elem.URN())
	}
}

// check waits for a broker and looks whether the topic is there.
func (s *sink) check(ctx context.Context, log *slog.Logger) error {
	if err := s.config.reach(ctx, s.client, log); err != nil {
		return err
	}
	if s.config.Topic == "" {
		return nil
	}
	topics, err := kadm.NewClient(s.client).ListTopics(ctx, s.config.Topic)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	if !topics.Has(s.config.Topic) {
		err = kerr.UnknownTopicOrPartition
		if t, ok := topics[s.config.Topic]; ok && t.Err != nil {
			err = t.Err
		}
		return fmt.Errorf("topic %q: %w", s.config.Topic, err)
	}
	return nil
}

// Write implements native.Sink.
//
// Keys and values are copied: after an error the caller may release the blocks at once, while a request that still names
// them is on its way. What has been handed to the client before an error is not taken back.
func (s *sink) Write(ctx context.Context, blocks []*flow.Block) error {
	f := newFlight()
	if err := s.launch(ctx, f, blocks); err != nil {
		return fmt.Errorf("write to kafka %s: %w", s.transform, err)
	}
	select {
	case <-f.done:
	case <-f.failed:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-f.failed:
		return fmt.Errorf("write to kafka %s: %w", s.transform, s.config.explain(f.err))
	default:
		return nil
	}
}

// launch hands the blocks to the client; it waits while there is no room, and stops at the first error, also of a record
// on its way: that one is left to Write.
func (s *sink) launch(ctx context.Context, f *flight, blocks []*flow.Block) error {
	defer f.add(-1)
	var scratch flow.Data
	for _, b := range blocks {
		select {
		case <-f.failed:
			return nil
		default:
		}
		data, err := b.ReadInto(&scratch)
		if err != nil {
			return err
		}
		c, err := s.chunk(ctx, data.Len(), b.Size())
		if err != nil {
			return err
		}
		for i := range data.Len() {
			if err := s.record(c, data.Element(i)); err != nil {
				s.free(c)
				return fmt.Errorf("element %d of block: %w", i, err)
			}
		}
		s.produce(f, c)
	}
	return nil
}

// record adds an element to a chunk.
func (s *sink) record(c *chunk, elem []byte) error {
	h, err := s.coder.ParseHeader(elem)
	if err != nil {
		return err
	}
	r := kgo.Record{Topic: s.config.Topic}
	if s.config.EventTime && h.Timestamp > 0 && h.Timestamp < coder.EndOfGlobalWindow {
		r.Timestamp = time.UnixMilli(h.Timestamp)
	}
	body := elem[h.ValueOffset:]
	if s.config.Format == KV {
		err = s.pair(c, &r, body)
	} else {
		err = s.full(c, &r, body)
	}
	if err != nil {
		return err
	}
	c.records = append(c.records, r)
	return nil
}

// pair fills a record from KV<bytes, bytes>.
func (s *sink) pair(c *chunk, r *kgo.Record, body []byte) error {
	key, n, err := coder.ParseBytes(body)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	value, _, err := coder.ParseBytes(body[n:])
	if err != nil {
		return fmt.Errorf("value: %w", err)
	}
	if len(key) > 0 {
		r.Key = c.keep(key)
	}
	r.Value = c.keep(value)
	return nil
}

// full fills a record from a Record.
func (s *sink) full(c *chunk, r *kgo.Record, body []byte) error {
	row, _, err := coder.ParseBytes(body)
	if err != nil {
		return err
	}
	in, _, err := parseRow(row)
	if err != nil {
		return err
	}
	if r.Topic == "" {
		if r.Topic = in.Topic; in.Topic == "" {
			return errors.New("record names no topic, and the transform has none either")
		}
	}
	if !in.Timestamp.IsZero() {
		r.Timestamp = in.Timestamp
	}
	r.Key, r.Value = c.keep(in.Key), c.keep(in.Value)
	for _, h := range in.Headers {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: c.keep(h.Value)})
	}
	return nil
}

// Close implements native.Sink.
func (s *sink) Close() error {
	s.client.Close()
	return nil
}

package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/semaphore"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// writer makes records of elements, within a bounded memory.
type writer struct {
	config    WriteConfig
	transform string
	coder     *coder.WindowedValue
	chunks    chan *chunk // free ones
	// room is the memory of chunks, in bytes. The client's own limits are not used: what waits for them is cancelled together
	// with other records, and its Produce would block.
	room  *semaphore.Weighted
	limit int64
}

func newWriter(cfg native.SinkConfig, wc WriteConfig) *writer {
	memory := cfg.Memory
	if memory <= 0 {
		memory = defaultMemory
	}
	return &writer{
		config: wc, transform: cfg.Transform, coder: cfg.Coder,
		chunks: make(chan *chunk, 16), room: semaphore.NewWeighted(memory), limit: memory,
	}
}

// maxBatch is the most bytes of a batch, and so of a record: the default of Kafka's max.message.bytes and of the client.
const maxBatch = 1_000_012

// produceOptions are what every producer of a transform has; made for each, because the client writes into them.
func (c *WriteConfig) produceOptions() ([]kgo.Opt, error) {
	codecs, err := codec(c.Compression)
	if err != nil {
		return nil, err
	}
	return []kgo.Opt{
		kgo.ProducerBatchCompression(codecs...),
		kgo.ProducerLinger(time.Duration(c.Linger) * time.Millisecond),
		kgo.ProducerBatchMaxBytes(maxBatch),
		// Keys go where Java's default partitioner puts them (murmur2); records without a key fill one batch after another.
		kgo.RecordPartitioner(kgo.UniformBytesPartitioner(64<<10, true, true, nil)),
		kgo.MaxBufferedRecords(math.MaxInt32),
	}, nil
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

// chunk is the records of one block with the memory behind them. It is used again once the client is done with all of them.
type chunk struct {
	to      receiver
	records []kgo.Record
	arena   []byte
	room    int64        // taken of writer.room, in bytes
	left    atomic.Int64 // records the client has not done with
	promise func(*kgo.Record, error)
}

// receiver is told what became of a chunk; any goroutine.
type receiver interface {
	// record is called for each record.
	record(r *kgo.Record, err error)
	// settled is called after all of a chunk's records, and after its memory was given back.
	settled()
}

// roomFor is what a block takes of the writer's memory.
func (w *writer) roomFor(n int, size int64) int64 {
	return min(size+int64(n)*recordOverhead, w.limit)
}

// chunk returns a chunk for n records of at most size bytes, when there is room for it.
func (w *writer) chunk(ctx context.Context, n int, size int64) (*chunk, error) {
	room := w.roomFor(n, size)
	if err := w.room.Acquire(ctx, room); err != nil {
		return nil, err
	}
	return w.newChunk(n, size, room), nil
}

// newChunk returns a chunk that owns room.
func (w *writer) newChunk(n int, size, room int64) *chunk {
	var c *chunk
	select {
	case c = <-w.chunks:
	default:
		c = &chunk{}
		c.promise = func(r *kgo.Record, err error) {
			c.to.record(r, err)
			if c.left.Add(-1) == 0 {
				to := c.to
				w.free(c)
				to.settled()
			}
		}
	}
	c.room = room
	if cap(c.records) < n {
		c.records = make([]kgo.Record, 0, n)
	}
	if int64(cap(c.arena)) < size {
		c.arena = make([]byte, 0, size)
	}
	return c
}

// free takes back a chunk that the client has nothing of. Large ones are not kept.
func (w *writer) free(c *chunk) {
	w.room.Release(c.room)
	c.to = nil
	clear(c.records) // headers
	c.records, c.arena = c.records[:0], c.arena[:0]
	if cap(c.arena) > 4*flow.DefaultBlockSize {
		return
	}
	select {
	case w.chunks <- c:
	default:
	}
}

// produce hands the records to a client. REQUIRES: there is one at least. The chunk is not the caller's any more.
func (c *chunk) produce(client *kgo.Client, to receiver) {
	c.to = to
	n := len(c.records)
	c.left.Store(int64(n))
	records, promise := c.records, c.promise
	for i := range n {
		client.Produce(context.Background(), &records[i], promise)
	}
}

// keep copies b; nil stays nil. The arena was made large enough: moving it would do no harm, but cost a copy.
func (c *chunk) keep(b []byte) []byte {
	if b == nil {
		return nil
	}
	at := len(c.arena)
	c.arena = append(c.arena, b...)
	return c.arena[at:len(c.arena):len(c.arena)]
}

// fill adds all elements of a block to a chunk.
func (w *writer) fill(c *chunk, data flow.Data) error {
	for i := range data.Len() {
		if err := w.record(c, data.Element(i)); err != nil {
			return fmt.Errorf("element %d of block: %w", i, err)
		}
	}
	return nil
}

// record adds an element to a chunk.
func (w *writer) record(c *chunk, elem []byte) error {
	h, err := w.coder.ParseHeader(elem)
	if err != nil {
		return err
	}
	r := kgo.Record{Topic: w.config.Topic}
	if w.config.EventTime && h.Timestamp > 0 && h.Timestamp < coder.EndOfGlobalWindow {
		r.Timestamp = time.UnixMilli(h.Timestamp)
	}
	body := elem[h.ValueOffset:]
	switch w.config.Format {
	case KV:
		err = w.pair(c, &r, body)
	case Records:
		err = w.full(c, &r, body)
	default:
		err = w.typed(c, &r, body)
	}
	if err != nil {
		return err
	}
	c.records = append(c.records, r)
	return nil
}

// pair fills a record from KV<bytes, bytes>.
func (w *writer) pair(c *chunk, r *kgo.Record, body []byte) error {
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
func (w *writer) full(c *chunk, r *kgo.Record, body []byte) error {
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

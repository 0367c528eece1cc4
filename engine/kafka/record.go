package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// Record is a Kafka record with everything that belongs to it.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	// Timestamp is the record's own (milliseconds in Kafka); zero on writing means: now, or the element's timestamp.
	Timestamp time.Time
	// AppendTime says that Timestamp was set by the broker (LogAppendTime).
	AppendTime bool
	// Key and Value may be nil: no key, a tombstone.
	Key, Value []byte
	Headers    []Header
}

// Header of a record. Keys may repeat.
type Header struct {
	Key   string
	Value []byte // may be nil
}

// A Record travels as the Beam row (beam:coder:row:v1)
//
//	topic STRING, partition INT32, offset INT64, timestamp INT64, append_time BOOLEAN,
//	key BYTES nullable, value BYTES nullable, headers ARRAY<ROW<key STRING, value BYTES nullable>>
//
// length-prefixed. A row is the number of fields (varint), the bitmap of nulls (length-prefixed, bit i%8 of byte i/8,
// trailing zero bytes left out), then the fields that are not null; see StandardCoders.ROW in Beam's beam_runner_api.proto.
const (
	recordFields = 8
	keyField     = 5
	valueField   = 6
	headerFields = 2
)

var errNotRecord = errors.New("not an encoded kafka record")

// rowSize returns the length of what appendRow appends.
func rowSize(r *kgo.Record) int {
	n := 1 + 1 + bytesSize(len(r.Topic)) + varintSize(uint64(uint32(r.Partition))) + varintSize(uint64(r.Offset)) +
		varintSize(uint64(r.Timestamp.UnixMilli())) + 1 + 4
	if r.Key == nil || r.Value == nil {
		n++
	}
	if r.Key != nil {
		n += bytesSize(len(r.Key))
	}
	if r.Value != nil {
		n += bytesSize(len(r.Value))
	}
	for i := range r.Headers {
		n += headerSize(&r.Headers[i])
	}
	return n
}

func headerSize(h *kgo.RecordHeader) int {
	n := 1 + 1 + bytesSize(len(h.Key))
	if h.Value == nil {
		return n + 1
	}
	return n + bytesSize(len(h.Value))
}

func bytesSize(n int) int { return varintSize(uint64(n)) + n }

func varintSize(v uint64) int { return max(1, (bits.Len64(v)+6)/7) }

// appendRow appends the row of a record.
func appendRow(dst []byte, r *kgo.Record) []byte {
	dst = append(dst, recordFields)
	var nulls byte
	if r.Key == nil {
		nulls |= 1 << keyField
	}
	if r.Value == nil {
		nulls |= 1 << valueField
	}
	dst = appendNulls(dst, nulls)
	dst = appendString(dst, r.Topic)
	dst = binary.AppendUvarint(dst, uint64(uint32(r.Partition)))
	dst = binary.AppendUvarint(dst, uint64(r.Offset))
	dst = binary.AppendUvarint(dst, uint64(r.Timestamp.UnixMilli()))
	appendTime := byte(0)
	if r.Attrs.TimestampType() == 1 {
		appendTime = 1
	}
	dst = append(dst, appendTime)
	if r.Key != nil {
		dst = coder.AppendBytes(dst, r.Key)
	}
	if r.Value != nil {
		dst = coder.AppendBytes(dst, r.Value)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(r.Headers)))
	for i := range r.Headers {
		dst = appendHeader(dst, r.Headers[i].Key, r.Headers[i].Value)
	}
	return dst
}

func appendHeader(dst []byte, key string, value []byte) []byte {
	dst = append(dst, headerFields)
	if value == nil {
		dst = appendNulls(dst, 1<<1)
		return appendString(dst, key)
	}
	dst = appendNulls(dst, 0)
	dst = appendString(dst, key)
	return coder.AppendBytes(dst, value)
}

func appendNulls(dst []byte, nulls byte) []byte {
	if nulls == 0 {
		return append(dst, 0)
	}
	return append(dst, 1, nulls)
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// encodeRecord is the Beam coder of Record; the SDK puts the length in front.
func encodeRecord(r Record) []byte {
	k := kgo.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value, Timestamp: r.Timestamp}
	if r.Timestamp.IsZero() {
		k.Timestamp = time.UnixMilli(noTimestamp)
	}
	if r.AppendTime {
		k.Attrs = kgo.NewRecordAttrs(kgo.RecordAttrsOpts{TimestampType: 1})
	}
	for _, h := range r.Headers {
		k.Headers = append(k.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return appendRow(make([]byte, 0, rowSize(&k)), &k)
}

// noTimestamp is Kafka's own mark of a record without a timestamp.
const noTimestamp = -1

// decodeRecord is the inverse of encodeRecord. The record does not alias b.
func decodeRecord(b []byte) (Record, error) {
	// One copy for all of the record's slices: b is only valid during the call.
	r, rest, err := parseRow(append([]byte(nil), b...))
	if err != nil {
		return Record{}, fmt.Errorf("decode kafka record: %w", err)
	}
	if len(rest) != 0 {
		return Record{}, fmt.Errorf("decode kafka record: %d bytes too many: %w", len(rest), errNotRecord)
	}
	return r, nil
}

// parseRow reads a row from the beginning of b; the record's slices alias b.
func parseRow(b []byte) (Record, []byte, error) {
	p := rowParser{b: b}
	nulls := p.row(recordFields)
	r := Record{
		Topic:     string(p.bytes()),
		Partition: int32(uint32(p.uvarint())),
		Offset:    int64(p.uvarint()),
	}
	if ms := int64(p.uvarint()); ms != noTimestamp {
		r.Timestamp = time.UnixMilli(ms)
	}
	r.AppendTime = p.byte() == 1
	if nulls&(1<<keyField) == 0 {
		r.Key = p.bytes()
	}
	if nulls&(1<<valueField) == 0 {
		r.Value = p.bytes()
	}
	n := p.count()
	if n > 0 {
		r.Headers = make([]Header, 0, n)
	}
	for range n {
		hn := p.row(headerFields)
		h := Header{Key: string(p.bytes())}
		if hn&(1<<1) == 0 {
			h.Value = p.bytes()
		}
		r.Headers = append(r.Headers, h)
	}
	if p.bad {
		return Record{}, nil, errNotRecord
	}
	return r, p.b, nil
}

// rowParser reads a row's fields; once something is wrong all further reads give zero.
type rowParser struct {
	b   []byte
	bad bool
}

func (p *rowParser) fail() { p.b, p.bad = nil, true }

func (p *rowParser) byte() byte {
	if len(p.b) == 0 {
		p.fail()
		return 0
	}
	c := p.b[0]
	p.b = p.b[1:]
	return c
}

func (p *rowParser) uvarint() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.fail()
		return 0
	}
	p.b = p.b[n:]
	return v
}

// bytes never returns nil for a field that is there.
func (p *rowParser) bytes() []byte {
	n := p.uvarint()
	if n > uint64(len(p.b)) {
		p.fail()
		return nil
	}
	v := p.b[:n:n]
	p.b = p.b[n:]
	if v == nil {
		v = []byte{}
	}
	return v
}

// row reads a row's beginning and returns the first byte of its bitmap of nulls.
func (p *rowParser) row(fields uint64) byte {
	if p.uvarint() != fields {
		p.fail()
		return 0
	}
	nulls := p.bytes()
	if len(nulls) > 1 {
		p.fail()
	}
	if len(nulls) != 1 {
		return 0
	}
	return nulls[0]
}

// count reads the length of an array, of which each element takes 3 bytes at least.
func (p *rowParser) count() int {
	if len(p.b) < 4 {
		p.fail()
		return 0
	}
	n := binary.BigEndian.Uint32(p.b)
	p.b = p.b[4:]
	if uint64(n)*3 > uint64(len(p.b)) {
		p.fail()
		return 0
	}
	return int(n)
}

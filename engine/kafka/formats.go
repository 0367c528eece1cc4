package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// Formats for pipelines of SDKs other than Go's, which package expand makes. What is in their elements is told by Elements.
const (
	// Pairs elements are KV<nullable<K>, nullable<V>>, where K and V have the types Elements.Key and Elements.Value. On
	// writing, a component that cannot be null is as good. No key is a null key, a tombstone a null value.
	Pairs Format = "pairs"
	// Rows elements are Beam rows of Elements.Fields (beam:coder:row:v1, length-prefixed).
	Rows Format = "rows"
)

// ConfigVersion is the version of payloads that are not made by this package.
const ConfigVersion = configVersion

// Elements says what the elements of Pairs and Rows are.
type Elements struct {
	Key    Type    `json:"key_type,omitempty"`   // Pairs
	Value  Type    `json:"value_type,omitempty"` // Pairs
	Fields []Field `json:"fields,omitempty"`     // Rows; in their order, 8 at most when there are nulls
}

// Type is the type of a key or a value. In Kafka it looks as Kafka's own serializer of the type has it
// (org.apache.kafka.common.serialization).
type Type string

// Types of keys and values.
const (
	Bytes   Type = "bytes"   // beam:coder:bytes:v1
	String  Type = "string"  // beam:coder:string_utf8:v1; bytes that are not UTF-8 are read as U+FFFD
	Int32   Type = "int32"   // beam:coder:varint:v1; 4 bytes in Kafka, the highest first
	Int64   Type = "int64"   // beam:coder:varint:v1; 8 bytes in Kafka, the highest first
	Float64 Type = "float64" // beam:coder:double:v1; 8 bytes in Kafka
)

// Coder returns the URN of the type's coder; "" for an unknown type.
func (t Type) Coder() string {
	switch t {
	case Bytes:
		return coder.URNBytes
	case String:
		return coder.URNString
	case Int32, Int64:
		return coder.URNVarint
	case Float64:
		return coder.URNDouble
	}
	return ""
}

// Field is a field of a row.
type Field struct {
	Name FieldName `json:"name"`
	// Nullable says that it may be null. What is missing in a record is empty in a field that may not.
	Nullable bool `json:"nullable,omitempty"`
}

// FieldName says what is in a field. On writing there are only topic, timestamp, key, value and headers.
type FieldName string

// Fields of rows, with their types.
const (
	FieldTopic     FieldName = "topic"     // STRING
	FieldPartition FieldName = "partition" // INT32
	FieldOffset    FieldName = "offset"    // INT64
	FieldTimestamp FieldName = "timestamp" // INT64, ms; -1: none
	FieldKey       FieldName = "key"       // BYTES
	FieldValue     FieldName = "value"     // BYTES
	// FieldHeaders is ARRAY<ROW<key STRING, value BYTES nullable>>.
	FieldHeaders FieldName = "headers"
	// FieldTimestampType is INT32: -1 no timestamp, 0 create time, 1 log append time.
	FieldTimestampType FieldName = "timestamp_type"
	// FieldTimestampTypeName is STRING, as Beam's KafkaTimestampType has it.
	FieldTimestampTypeName FieldName = "timestamp_type_name"
)

func (f FieldName) known(writing bool) bool {
	switch f {
	case FieldTopic, FieldTimestamp, FieldKey, FieldValue, FieldHeaders:
		return true
	case FieldPartition, FieldOffset, FieldTimestampType, FieldTimestampTypeName:
		return !writing
	}
	return false
}

func (e *Elements) validate(f Format, writing bool) error {
	switch f {
	case Pairs:
		if e.Key.Coder() == "" || e.Value.Coder() == "" {
			return fmt.Errorf("key_type=%q, value_type=%q: format %s needs one of bytes, string, int32, int64 and float64 for each", e.Key, e.Value, f)
		}
	case Rows:
		return e.validateFields(writing)
	}
	return nil
}

func (e *Elements) validateFields(writing bool) error {
	if len(e.Fields) == 0 {
		return errors.New("fields is empty: format rows needs one at least")
	}
	for i, f := range e.Fields {
		switch {
		case !f.Name.known(writing):
			return fmt.Errorf("fields: %q is unknown", f.Name)
		case slices.ContainsFunc(e.Fields[:i], func(g Field) bool { return g.Name == f.Name }):
			return fmt.Errorf("fields: %q is named twice", f.Name)
		case f.Nullable && i >= 8:
			return fmt.Errorf("fields: %q is the %dth, only the first 8 may be null", f.Name, i+1)
		}
	}
	return nil
}

// append appends a record as an element of format Pairs or Rows.
func (e *Elements) append(dst []byte, f Format, r *kgo.Record) ([]byte, error) {
	if f == Rows {
		return e.appendFields(dst, r), nil
	}
	dst, err := appendNullable(dst, e.Key, r.Key)
	if err != nil {
		return dst, fmt.Errorf("key: %w", err)
	}
	dst, err = appendNullable(dst, e.Value, r.Value)
	if err != nil {
		return dst, fmt.Errorf("value: %w", err)
	}
	return dst, nil
}

func appendNullable(dst []byte, t Type, b []byte) ([]byte, error) {
	if b == nil {
		return append(dst, 0), nil
	}
	return t.append(append(dst, 1), b)
}

// append appends what b is to Kafka in the type's coder.
func (t Type) append(dst, b []byte) ([]byte, error) {
	switch t {
	case String:
		return coder.AppendBytes(dst, validUTF8(b)), nil
	case Int32:
		if len(b) != 4 {
			return dst, fmt.Errorf("it has %d bytes, an int32 has 4: use another deserializer", len(b))
		}
		return coder.AppendVarint(dst, int64(int32(binary.BigEndian.Uint32(b)))), nil
	case Int64:
		if len(b) != 8 {
			return dst, fmt.Errorf("it has %d bytes, an int64 has 8: use another deserializer", len(b))
		}
		return coder.AppendVarint(dst, int64(binary.BigEndian.Uint64(b))), nil
	case Float64:
		if len(b) != 8 {
			return dst, fmt.Errorf("it has %d bytes, a float64 has 8: use another deserializer", len(b))
		}
		return append(dst, b...), nil // the same in Kafka and in Beam
	default:
		return coder.AppendBytes(dst, b), nil
	}
}

// validUTF8 returns b with U+FFFD for each byte that is not of UTF-8: SDKs refuse such strings.
func validUTF8(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	return []byte(string([]rune(string(b))))
}

// appendFields appends a row with its length in front.
func (e *Elements) appendFields(dst []byte, r *kgo.Record) []byte {
	start := len(dst)
	dst = coder.AppendVarint(dst, int64(len(e.Fields)))
	dst = appendNulls(dst, e.nulls(r))
	for _, f := range e.Fields {
		dst = appendField(dst, f, r)
	}
	// The length is known only now: move the row up by as much as it takes.
	size := len(dst) - start
	dst = coder.AppendVarint(dst, int64(size))
	var prefix [10]byte
	n := copy(prefix[:], dst[start+size:])
	copy(dst[start+n:], dst[start:start+size])
	copy(dst[start:], prefix[:n])
	return dst
}

// nulls returns the bitmap of the fields that are null.
func (e *Elements) nulls(r *kgo.Record) byte {
	var nulls byte
	for i, f := range e.Fields {
		if f.Nullable && (f.Name == FieldKey && r.Key == nil || f.Name == FieldValue && r.Value == nil) {
			nulls |= 1 << i
		}
	}
	return nulls
}

func appendField(dst []byte, f Field, r *kgo.Record) []byte {
	switch f.Name {
	case FieldTopic:
		return appendString(dst, r.Topic)
	case FieldPartition:
		return binary.AppendUvarint(dst, uint64(uint32(r.Partition)))
	case FieldOffset:
		return coder.AppendVarint(dst, r.Offset)
	case FieldTimestamp:
		return coder.AppendVarint(dst, r.Timestamp.UnixMilli())
	case FieldTimestampType:
		return binary.AppendUvarint(dst, uint64(uint32(int32(r.Attrs.TimestampType()))))
	case FieldTimestampTypeName:
		return appendString(dst, timestampTypeName(r.Attrs.TimestampType()))
	case FieldHeaders:
		dst = coder.AppendCount(dst, len(r.Headers))
		for i := range r.Headers {
			dst = appendHeader(dst, r.Headers[i].Key, r.Headers[i].Value)
		}
		return dst
	}
	b := r.Value
	if f.Name == FieldKey {
		b = r.Key
	}
	if b == nil && f.Nullable {
		return dst
	}
	return coder.AppendBytes(dst, b)
}

// timestampTypeName is what Beam calls a record's timestamp type (KafkaTimestampType).
func timestampTypeName(t int8) string {
	switch t {
	case 0:
		return "CreateTime"
	case 1:
		return "LogAppendTime"
	}
	return "NoTimestampType"
}

// checkInput refuses a sink's input whose elements are not what the payload says.
func (c *WriteConfig) checkInput(in *coder.WindowedValue) error {
	if c.Format == Pairs || c.Format == Rows {
		return c.Elements.check(c.Format, in.Elem())
	}
	return checkElements(in, c.Format)
}

// check refuses an input whose elements are not what the payload says.
func (e *Elements) check(f Format, elem *coder.Coder) error {
	if f == Rows {
		if elem.URN() != coder.URNLengthPrefix {
			return fmt.Errorf("input elements are coded as %s, not as rows", elem.URN())
		}
		return nil
	}
	if elem.URN() != coder.URNKV {
		return fmt.Errorf("input elements are coded as %s, not as KVs", elem.URN())
	}
	for i, t := range []Type{e.Key, e.Value} {
		c := elem.Component(i)
		if c.URN() == coder.URNNullable {
			c = c.Component(0)
		}
		if c.URN() != t.Coder() {
			return fmt.Errorf("%s of the input is coded as %s, the serializer wants %s", []string{"key", "value"}[i], c.URN(), t.Coder())
		}
	}
	return nil
}

// parse fills a record from an element of format Pairs or Rows, whose coder is c. The record's slices may alias body.
func (e *Elements) parse(f Format, c *coder.Coder, r *kgo.Record, body []byte) error {
	if f == Rows {
		row, _, err := coder.ParseBytes(body)
		if err != nil {
			return err
		}
		return e.parseFields(r, row)
	}
	key, n, err := parseNullable(e.Key, c.Component(0), body)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	value, _, err := parseNullable(e.Value, c.Component(1), body[n:])
	if err != nil {
		return fmt.Errorf("value: %w", err)
	}
	r.Key, r.Value = key, value
	return nil
}

// parseNullable returns what an encoded value is in Kafka and the length that it has in b.
func parseNullable(t Type, c *coder.Coder, b []byte) ([]byte, int, error) {
	if c.URN() != coder.URNNullable {
		return t.parse(b)
	}
	if len(b) == 0 {
		return nil, 0, coder.ErrShort
	}
	if b[0] == 0 {
		return nil, 1, nil
	}
	v, n, err := t.parse(b[1:])
	return v, n + 1, err
}

// parse is the inverse of append. The value is never nil.
func (t Type) parse(b []byte) ([]byte, int, error) {
	switch t {
	case Int32, Int64:
		v, n, err := coder.ParseVarint(b)
		if err != nil {
			return nil, 0, err
		}
		if t == Int64 {
			return binary.BigEndian.AppendUint64(nil, uint64(v)), n, nil
		}
		if v != int64(int32(v)) {
			return nil, 0, fmt.Errorf("%d is no int32: use LongSerializer", v)
		}
		return binary.BigEndian.AppendUint32(nil, uint32(v)), n, nil
	case Float64:
		if len(b) < 8 {
			return nil, 0, coder.ErrShort
		}
		return b[:8:8], 8, nil
	default:
		v, n, err := coder.ParseBytes(b)
		if v == nil {
			v = []byte{}
		}
		return v, n, err
	}
}

// parseFields fills a record from a row. A topic or timestamp that is null or empty is not set.
func (e *Elements) parseFields(r *kgo.Record, row []byte) error {
	p := rowParser{b: row}
	nulls := p.row(uint64(len(e.Fields)))
	for i, f := range e.Fields {
		if i < 8 && nulls&(1<<i) != 0 {
			if !f.Nullable {
				return fmt.Errorf("%s is null", f.Name)
			}
			continue
		}
		switch f.Name {
		case FieldTopic:
			if topic := p.bytes(); len(topic) > 0 {
				r.Topic = string(topic)
			}
		case FieldTimestamp:
			r.Timestamp = recordTime(int64(p.uvarint()))
		case FieldKey:
			r.Key = p.bytes()
		case FieldValue:
			r.Value = p.bytes()
		case FieldHeaders:
			r.Headers = p.headers()
		}
	}
	if p.bad || len(p.b) != 0 {
		return errNotRow
	}
	return nil
}

var errNotRow = errors.New("not an encoded row of the fields that the transform was made for")

// recordTime is the inverse of UnixMilli for timestamps of records; no time for no timestamp.
func recordTime(ms int64) time.Time {
	if ms == noTimestamp {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func (p *rowParser) headers() []kgo.RecordHeader {
	n := p.count()
	headers := make([]kgo.RecordHeader, 0, n)
	for range n {
		nulls := p.row(headerFields)
		h := kgo.RecordHeader{Key: string(p.bytes())}
		if nulls&(1<<1) == 0 {
			h.Value = p.bytes()
		}
		headers = append(headers, h)
	}
	return headers
}

// typed fills a record from an element of Pairs or Rows.
func (w *writer) typed(c *chunk, r *kgo.Record, body []byte) error {
	if err := w.config.Elements.parse(w.config.Format, w.coder.Elem(), r, body); err != nil {
		return err
	}
	if r.Topic == "" {
		return errors.New("record names no topic, and the transform has none either")
	}
	r.Key, r.Value = c.keep(r.Key), c.keep(r.Value)
	for i := range r.Headers {
		r.Headers[i].Value = c.keep(r.Headers[i].Value)
	}
	return nil
}

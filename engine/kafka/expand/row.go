package expand

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// maxDepth bounds how deep the types of a configuration may nest.
const maxDepth = 32

var errShortRow = errors.New("it ends too early")

// decodeRow reads an encoded Beam row (beam:coder:row:v1). Values are nil for null, bool, int64 (of all integers), float64,
// string, []byte, []any, map[any]any and, for a row in the row, map[string]any. They do not alias b.
//
// Format: StandardCoders.ROW in Beam's beam_runner_api.proto.
func decodeRow(schema *pipepb.Schema, b []byte) (map[string]any, error) {
	d := rowDecoder{b: b}
	row, err := d.row(schema, 0)
	if err != nil {
		return nil, fmt.Errorf("read row: %w", err)
	}
	if len(d.b) > 0 {
		return nil, fmt.Errorf("read row: %d bytes are left over", len(d.b))
	}
	return row, nil
}

// rowDecoder reads from the beginning of b.
type rowDecoder struct {
	b []byte
}

func (d *rowDecoder) row(schema *pipepb.Schema, depth int) (map[string]any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("types nest deeper than %d", maxDepth)
	}
	fields := schema.GetFields()
	order, err := encodingOrder(schema)
	if err != nil {
		return nil, err
	}
	n, err := d.varint()
	if err != nil {
		return nil, err
	}
	if n != int64(len(fields)) {
		return nil, fmt.Errorf("it has %d fields, its schema %d", n, len(fields))
	}
	nulls, err := d.bytes()
	if err != nil {
		return nil, err
	}
	row := make(map[string]any, len(fields))
	for _, i := range order {
		f := fields[i]
		if _, twice := row[f.GetName()]; twice {
			return nil, fmt.Errorf("its schema has two fields %q", f.GetName())
		}
		if i/8 < len(nulls) && nulls[i/8]&(1<<(i%8)) != 0 {
			row[f.GetName()] = nil
			continue
		}
		v, err := d.value(f.GetType(), depth+1)
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", f.GetName(), err)
		}
		row[f.GetName()] = v
	}
	return row, nil
}

// encodingOrder returns the indices of the fields in the order in which they are encoded.
func encodingOrder(schema *pipepb.Schema) ([]int, error) {
	fields := schema.GetFields()
	order := make([]int, len(fields))
	for i := range order {
		order[i] = i
	}
	if !schema.GetEncodingPositionsSet() {
		return order, nil
	}
	seen := make([]bool, len(fields))
	for i, f := range fields {
		at := int(f.GetEncodingPosition())
		if at < 0 || at >= len(fields) || seen[at] {
			return nil, fmt.Errorf("encoding position %d of field %q is out of range or there twice", at, f.GetName())
		}
		seen[at], order[at] = true, i
	}
	return order, nil
}

// element reads an element of an array or map, where a type that may be null has its own coder (beam:coder:nullable:v1).
func (d *rowDecoder) element(t *pipepb.FieldType, depth int) (any, error) {
	if t.GetNullable() {
		there, err := d.take(1)
		if err != nil || there[0] == 0 {
			return nil, err
		}
	}
	return d.value(t, depth)
}

func (d *rowDecoder) value(t *pipepb.FieldType, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("types nest deeper than %d", maxDepth)
	}
	switch info := t.GetTypeInfo().(type) {
	case *pipepb.FieldType_AtomicType:
		return d.atom(info.AtomicType)
	case *pipepb.FieldType_ArrayType:
		return d.list(info.ArrayType.GetElementType(), depth)
	case *pipepb.FieldType_IterableType:
		return d.list(info.IterableType.GetElementType(), depth)
	case *pipepb.FieldType_MapType:
		return d.mapping(info.MapType, depth)
	case *pipepb.FieldType_RowType:
		return d.row(info.RowType.GetSchema(), depth+1)
	}
	return nil, fmt.Errorf("its type %v is not one of a configuration", t)
}

func (d *rowDecoder) atom(t pipepb.AtomicType) (any, error) {
	switch t {
	case pipepb.AtomicType_INT64:
		return d.number(d.varint())
	case pipepb.AtomicType_INT32:
		v, err := d.varint() // the upper half is zero or the sign, as the SDK likes
		return int64(int32(v)), err
	case pipepb.AtomicType_STRING:
		v, err := d.bytes()
		return string(v), err
	case pipepb.AtomicType_BYTES:
		v, err := d.bytes()
		return append([]byte{}, v...), err
	}
	size := map[pipepb.AtomicType]int{
		pipepb.AtomicType_BOOLEAN: 1, pipepb.AtomicType_BYTE: 1, pipepb.AtomicType_INT16: 2, pipepb.AtomicType_FLOAT: 4, pipepb.AtomicType_DOUBLE: 8,
	}[t]
	if size == 0 {
		return nil, fmt.Errorf("its type %v is not one of a configuration", t)
	}
	v, err := d.take(size)
	if err != nil {
		return nil, err
	}
	switch t {
	case pipepb.AtomicType_BOOLEAN:
		return v[0] != 0, nil
	case pipepb.AtomicType_BYTE:
		return int64(int8(v[0])), nil
	case pipepb.AtomicType_INT16:
		return int64(int16(binary.BigEndian.Uint16(v))), nil
	case pipepb.AtomicType_FLOAT:
		return float64(math.Float32frombits(binary.BigEndian.Uint32(v))), nil
	default:
		return math.Float64frombits(binary.BigEndian.Uint64(v)), nil
	}
}

func (d *rowDecoder) number(v int64, err error) (any, error) { return v, err }

// list reads an array: its length, or chunks when the length was not known beforehand (StandardCoders.ITERABLE).
func (d *rowDecoder) list(t *pipepb.FieldType, depth int) (any, error) {
	n, err := d.count()
	if err != nil {
		return nil, err
	}
	list := []any{}
	if n >= 0 {
		return d.elements(list, n, t, depth)
	}
	for {
		n, err := d.varint()
		if err != nil || n == 0 {
			return list, err
		}
		if n < 0 {
			return nil, fmt.Errorf("a chunk of %d elements", n)
		}
		if list, err = d.elements(list, n, t, depth); err != nil {
			return nil, err
		}
	}
}

func (d *rowDecoder) elements(list []any, n int64, t *pipepb.FieldType, depth int) ([]any, error) {
	if n > int64(len(d.b)) {
		return nil, errShortRow // each takes a byte at least
	}
	for range n {
		v, err := d.element(t, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func (d *rowDecoder) mapping(t *pipepb.MapType, depth int) (any, error) {
	if _, ok := t.GetKeyType().GetTypeInfo().(*pipepb.FieldType_AtomicType); !ok || t.GetKeyType().GetAtomicType() == pipepb.AtomicType_BYTES {
		return nil, fmt.Errorf("a map with keys of type %v is not one of a configuration", t.GetKeyType())
	}
	n, err := d.count()
	if err != nil {
		return nil, err
	}
	if n < 0 || n > int64(len(d.b)) {
		return nil, errShortRow
	}
	m := make(map[any]any, n)
	for range n {
		k, err := d.element(t.GetKeyType(), depth+1)
		if err != nil {
			return nil, err
		}
		if m[k], err = d.element(t.GetValueType(), depth+1); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// count reads a length as arrays and maps have it.
func (d *rowDecoder) count() (int64, error) {
	v, err := d.take(4)
	if err != nil {
		return 0, err
	}
	n := int64(int32(binary.BigEndian.Uint32(v)))
	if n < -1 {
		return 0, fmt.Errorf("a length of %d", n)
	}
	return n, nil
}

func (d *rowDecoder) varint() (int64, error) {
	v, n, err := coder.ParseVarint(d.b)
	if err != nil {
		return 0, errShortRow
	}
	d.b = d.b[n:]
	return v, nil
}

func (d *rowDecoder) bytes() ([]byte, error) {
	n, err := d.varint()
	if err != nil {
		return nil, err
	}
	if n < 0 || n > int64(len(d.b)) {
		return nil, errShortRow
	}
	return d.take(int(n))
}

func (d *rowDecoder) take(n int) ([]byte, error) {
	if n > len(d.b) {
		return nil, errShortRow
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v, nil
}

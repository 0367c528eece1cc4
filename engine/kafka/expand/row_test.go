package expand

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"

	beamcoder "github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/coder"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx/schema"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// The rows of the Go SDK's own encoder come back as they were. It has no int16: it writes one as a varint, unlike other SDKs.
func TestDecodeRowOfGo(t *testing.T) {
	type Inner struct {
		Name string
		Raw  []byte
	}
	type Row struct {
		Flag   bool
		Int    int32
		Long   int64
		Float  float32
		Double float64
		Text   string
		None   *string
		There  *int64
		Map    map[string]string
		List   []string
		Inner  Inner
		Rows   []Inner
	}
	there := int64(-1)
	row := Row{
		Flag: true, Int: -3, Long: 1 << 40, Float: 1.5, Double: -0.25, Text: "text", There: &there,
		Map: map[string]string{"a": "b", "": ""}, List: []string{"x", ""}, Inner: Inner{"in", []byte{0}}, Rows: []Inner{{"1", nil}, {"2", []byte("z")}},
	}
	encode, err := beamcoder.RowEncoderForStruct(reflect.TypeFor[Row]())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := encode(row, &b); err != nil {
		t.Fatal(err)
	}
	s, err := schema.FromType(reflect.TypeFor[Row]())
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeRow(s, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"Flag": true, "Int": int64(-3), "Long": int64(1 << 40), "Float": 1.5, "Double": -0.25, "Text": "text", "None": nil, "There": int64(-1),
		"Map": map[any]any{"a": "b", "": ""}, "List": []any{"x", ""}, "Inner": map[string]any{"Name": "in", "Raw": []byte{0}},
		"Rows": []any{map[string]any{"Name": "1", "Raw": nil}, map[string]any{"Name": "2", "Raw": []byte("z")}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for i := range b.Len() {
		if _, err := decodeRow(s, b.Bytes()[:i]); err == nil {
			t.Errorf("the first %d of %d bytes are taken for a row", i, b.Len())
		}
	}
}

func TestDecodeRow(t *testing.T) {
	str := `type { atomic_type: STRING }`
	tests := []struct {
		name, schema string
		row          string // hex
		want         map[string]any
		err          string
	}{
		{"nothing", ``, "00 00", map[string]any{}, ""},
		{"encoding positions", `fields { name: "a" encoding_position: 1 ` + str + ` } fields { name: "b" encoding_position: 0 type { atomic_type: BYTE } } encoding_positions_set: true`,
			"02 00 ff 01 61", map[string]any{"a": "a", "b": int64(-1)}, ""},
		{"null behind another position", `fields { name: "a" encoding_position: 1 type { nullable: true atomic_type: STRING } } fields { name: "b" encoding_position: 0 ` + str + ` } encoding_positions_set: true`,
			"02 01 01 01 62", map[string]any{"a": nil, "b": "b"}, ""},
		{"nullable element", `fields { name: "a" type { iterable_type { element_type { nullable: true atomic_type: STRING } } } }`,
			"01 00 00 00 00 02 00 01 01 78", map[string]any{"a": []any{nil, "x"}}, ""},
		{"chunks", `fields { name: "a" type { array_type { element_type { atomic_type: BOOLEAN } } } }`,
			"01 00 ff ff ff ff 02 01 00 01 01 00", map[string]any{"a": []any{true, false, true}}, ""},
		{"int32 as unsigned", `fields { name: "a" type { atomic_type: INT32 } }`, "01 00 ff ff ff ff 0f", map[string]any{"a": int64(-1)}, ""},
		{"int16", `fields { name: "a" type { atomic_type: INT16 } }`, "01 00 ff fe", map[string]any{"a": int64(-2)}, ""},
		{"other number of fields", `fields { name: "a" ` + str + ` }`, "02 00", nil, "it has 2 fields, its schema 1"},
		{"more follows", ``, "00 00 00", nil, "1 bytes are left over"},
		{"too short", `fields { name: "a" ` + str + ` }`, "01 00 05 61", nil, `field "a": it ends too early`},
		{"a long list", `fields { name: "a" type { array_type { element_type { atomic_type: BYTE } } } }`, "01 00 7f ff ff ff", nil, "it ends too early"},
		{"a long map", `fields { name: "a" type { map_type { key_type { atomic_type: STRING } value_type { atomic_type: STRING } } } }`, "01 00 7f ff ff ff", nil, "it ends too early"},
		{"a negative length", `fields { name: "a" type { array_type { element_type { atomic_type: BYTE } } } }`, "01 00 80 00 00 00", nil, "a length of -2147483648"},
		{"twice the same name", `fields { name: "a" type { atomic_type: BYTE } } fields { name: "a" type { atomic_type: BYTE } }`, "02 00 00 00", nil, `two fields "a"`},
		{"the same position twice", `fields { name: "a" ` + str + ` } fields { name: "b" ` + str + ` } encoding_positions_set: true`, "02 00 00 00", nil, `encoding position 0 of field "b"`},
		{"a map of rows", `fields { name: "a" type { map_type { key_type { row_type { schema {} } } value_type { atomic_type: STRING } } } }`, "01 00 00 00 00 00", nil, "is not one of a configuration"},
		{"a logical type", `fields { name: "a" type { logical_type { urn: "beam:logical_type:decimal:v1" } } }`, "01 00 00", nil, "is not one of a configuration"},
		{"no type", `fields { name: "a" }`, "01 00 00", nil, "is not one of a configuration"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := new(pipepb.Schema)
			if err := prototext.Unmarshal([]byte(test.schema), s); err != nil {
				t.Fatal(err)
			}
			b, err := hex.DecodeString(strings.ReplaceAll(test.row, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			got, err := decodeRow(s, b)
			checkError(t, err, test.err)
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %v\nwant %v", got, test.want)
			}
		})
	}
}

func TestDeepTypes(t *testing.T) {
	ft := &pipepb.FieldType{TypeInfo: &pipepb.FieldType_AtomicType{AtomicType: pipepb.AtomicType_BYTE}}
	for range 10_000 {
		ft = &pipepb.FieldType{TypeInfo: &pipepb.FieldType_ArrayType{ArrayType: &pipepb.ArrayType{ElementType: ft}}}
	}
	_, err := decodeRow(&pipepb.Schema{Fields: []*pipepb.Field{{Name: "a", Type: ft}}}, append([]byte{1, 0}, bytes.Repeat([]byte{0, 0, 0, 1}, 10_000)...))
	checkError(t, err, "types nest deeper than 32")
}

// checkError checks that an error has want in it; "" is no error.
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil {
		t.Errorf("error %v", err)
	}
	if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("error %v, want one with %q", err, want)
	}
}

func FuzzDecodeRow(f *testing.F) {
	for _, name := range []string{"read_everything", "write_headers", "schema_write_updates"} {
		req := readRequest(f, "testdata/python/"+name+".pb")
		p := new(pipepb.ExternalConfigurationPayload)
		if err := proto.Unmarshal(req.GetTransform().GetSpec().GetPayload(), p); err != nil {
			continue // a SchemaTransform
		}
		s, err := proto.Marshal(p.GetSchema())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s, p.GetPayload())
	}
	f.Fuzz(func(t *testing.T, schema, row []byte) {
		s := new(pipepb.Schema)
		if proto.Unmarshal(schema, s) != nil {
			return
		}
		got, err := decodeRow(s, row)
		if err == nil && len(got) != len(s.GetFields()) {
			t.Errorf("%d fields of %d", len(got), len(s.GetFields()))
		}
		_ = newFields(got).err()
	})
}

func FuzzExpand(f *testing.F) {
	for _, name := range []string{"read_metadata", "write_typed", "write_headers", "schema_write"} {
		b, err := proto.Marshal(readRequest(f, "testdata/python/"+name+".pb"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := readRequestBytes(b)
		if req == nil {
			return
		}
		for name, e := range Expanders(discard()) {
			if resp, err := e.Expand(t.Context(), req); err == nil && len(resp.GetTransform().GetSubtransforms()) == 0 {
				t.Errorf("%s expands to nothing", name)
			}
		}
	})
}

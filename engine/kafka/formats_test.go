package kafka

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// coderOf compiles a coder written as urn, or urn<component, component>, of short URNs.
func coderOf(t testing.TB, text string) *coder.Coder {
	t.Helper()
	coders := map[string]*pipepb.Coder{}
	var add func(text string) string
	add = func(text string) string {
		name, rest, _ := strings.Cut(text, "<")
		c := &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: "beam:coder:" + name + ":v1"}}
		rest = strings.TrimSuffix(rest, ">")
		for depth, from, i := 0, 0, 0; rest != "" && i <= len(rest); i++ {
			switch {
			case i == len(rest) || rest[i] == ',' && depth == 0:
				c.ComponentCoderIds = append(c.ComponentCoderIds, add(rest[from:i]))
				from = i + 1
			case rest[i] == '<':
				depth++
			case rest[i] == '>':
				depth--
			}
		}
		coders[text] = c
		return text
	}
	c, err := coder.Compile(&pipepb.Components{Coders: coders}, add(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAppendElements(t *testing.T) {
	key, value := []byte("k"), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe}
	all := kgo.Record{
		Topic: "t", Partition: 2, Offset: 300, Timestamp: time.UnixMilli(5), Key: key, Value: value[:1],
		Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("x")}, {Key: "i"}}, Attrs: kgo.NewRecordAttrs(kgo.RecordAttrsOpts{TimestampType: 1}),
	}
	metadata := Elements{Fields: []Field{
		{Name: FieldTopic}, {Name: FieldPartition}, {Name: FieldOffset}, {Name: FieldTimestamp}, {Name: FieldKey, Nullable: true},
		{Name: FieldValue, Nullable: true}, {Name: FieldHeaders, Nullable: true}, {Name: FieldTimestampType}, {Name: FieldTimestampTypeName},
	}}
	noKey := all
	noKey.Key, noKey.Value, noKey.Headers, noKey.Attrs = nil, nil, nil, kgo.NewRecordAttrs(kgo.RecordAttrsOpts{TimestampType: -1})
	tests := []struct {
		name     string
		elements Elements
		format   Format
		record   kgo.Record
		want     string // hex, spaces do not count
		err      string
	}{
		{"bytes", Elements{Key: Bytes, Value: Bytes}, Pairs, kgo.Record{Key: key, Value: []byte{}}, "01 01 6b  01 00", ""},
		{"null", Elements{Key: Bytes, Value: Int64}, Pairs, kgo.Record{}, "00 00", ""},
		{"int64", Elements{Key: String, Value: Int64}, Pairs, kgo.Record{Key: key, Value: value}, "01 01 6b  01 fe ff ff ff ff ff ff ff ff 01", ""},
		{"int32", Elements{Key: Bytes, Value: Int32}, Pairs, kgo.Record{Value: value[4:]}, "00  01 fe ff ff ff ff ff ff ff ff 01", ""},
		{"float64", Elements{Key: Bytes, Value: Float64}, Pairs, kgo.Record{Value: value}, "00  01 ff ff ff ff ff ff ff fe", ""},
		{"not UTF-8", Elements{Key: String, Value: String}, Pairs, kgo.Record{Key: []byte("a\xffb"), Value: key}, "01 05 61 ef bf bd 62  01 01 6b", ""},
		{"int64 too short", Elements{Key: Bytes, Value: Int64}, Pairs, kgo.Record{Value: key}, "", "value: it has 1 bytes, an int64 has 8: use another deserializer"},
		{"int32 too long", Elements{Key: Int32, Value: Bytes}, Pairs, kgo.Record{Key: value}, "", "key: it has 8 bytes, an int32 has 4: use another deserializer"},
		{"float64 too short", Elements{Key: Float64, Value: Bytes}, Pairs, kgo.Record{Key: key}, "", "key: it has 1 bytes, a float64 has 8: use another deserializer"},
		{"row of all", metadata, Rows, all,
			"2a  09 00  01 74  02  ac 02  05  01 6b  01 ff  00 00 00 02  02 00 01 68 01 78  02 01 02 01 69  01  0d" + hex.EncodeToString([]byte("LogAppendTime")), ""},
		{"row of nulls", metadata, Rows, noKey,
			"22  09 01 30  01 74  02  ac 02  05  00 00 00 00  ff ff ff ff 0f  0f" + hex.EncodeToString([]byte("NoTimestampType")), ""},
		{"value", Elements{Fields: []Field{{Name: FieldValue}}}, Rows, all, "04  01 00  01 ff", ""},
		{"no value", Elements{Fields: []Field{{Name: FieldValue}}}, Rows, noKey, "03  01 00  00", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.elements.append([]byte("before"), test.format, &test.record)
			checkError(t, err, test.err)
			if test.err != "" {
				return
			}
			want, err := hex.DecodeString(strings.ReplaceAll(test.want, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, append([]byte("before"), want...)) {
				t.Errorf("got  %x\nwant %x", got[6:], want)
			}
		})
	}
}

// drawTyped draws what a record may have as key or value of a type.
func drawTyped(t *rapid.T, typ Type, label string) []byte {
	if rapid.Bool().Draw(t, label+" is null") {
		return nil
	}
	switch typ {
	case Int32:
		return rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, label)
	case Int64, Float64:
		return rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, label)
	case String:
		return []byte(rapid.String().Draw(t, label))
	}
	return append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, label)...)
}

// What the source appends is what its coder reads, and what the sink makes the same record of.
func TestPairsRoundTrip(t *testing.T) {
	types := []Type{Bytes, String, Int32, Int64, Float64}
	short := func(typ Type) string {
		return "nullable<" + strings.TrimSuffix(strings.TrimPrefix(typ.Coder(), "beam:coder:"), ":v1") + ">"
	}
	rapid.Check(t, func(rt *rapid.T) {
		e := Elements{Key: rapid.SampledFrom(types).Draw(rt, "key type"), Value: rapid.SampledFrom(types).Draw(rt, "value type")}
		c := coderOf(t, "kv<"+short(e.Key)+","+short(e.Value)+">")
		if err := e.check(Pairs, c); err != nil {
			rt.Fatal(err)
		}
		r := kgo.Record{Key: drawTyped(rt, e.Key, "key"), Value: drawTyped(rt, e.Value, "value")}
		b, err := e.append(nil, Pairs, &r)
		if err != nil {
			rt.Fatal(err)
		}
		if n, err := c.Skip(append(b, 0xff)); err != nil || n != len(b) {
			rt.Fatalf("the coder takes %d of %d bytes: %v", n, len(b), err)
		}
		var got kgo.Record
		if err := e.parse(Pairs, c, &got, b); err != nil || !reflect.DeepEqual(got, r) {
			rt.Fatalf("%+v came back as %+v: %v", r, got, err)
		}
		for i := range b {
			if err := e.parse(Pairs, c, &got, b[:i]); err == nil {
				rt.Fatalf("the first %d of %d bytes are taken for an element", i, len(b))
			}
		}
	})
}

func TestRowsRoundTrip(t *testing.T) {
	names := []FieldName{FieldTopic, FieldTimestamp, FieldKey, FieldValue, FieldHeaders}
	rapid.Check(t, func(t *rapid.T) {
		var e Elements
		for _, name := range rapid.Permutation(names).Draw(t, "fields") {
			e.Fields = append(e.Fields, Field{Name: name, Nullable: name == FieldKey || name == FieldValue})
		}
		if err := e.validate(Rows, true); err != nil {
			t.Fatal(err)
		}
		r := kgo.Record{
			Topic: rapid.String().Draw(t, "topic"), Timestamp: time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "timestamp")),
			Key: drawTyped(t, Bytes, "key"), Value: drawTyped(t, Bytes, "value"), Headers: []kgo.RecordHeader{},
		}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: rapid.String().Draw(t, "header"), Value: drawTyped(t, Bytes, "header value")})
		}
		b, err := e.append(nil, Rows, &r)
		if err != nil {
			t.Fatal(err)
		}
		var got kgo.Record
		if err := e.parse(Rows, nil, &got, b); err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%+v came back as %+v: %v", r, got, err)
		}
		for i := range b {
			if err := e.parse(Rows, nil, &got, b[:i]); err == nil {
				t.Fatalf("the first %d of %d bytes are taken for an element", i, len(b))
			}
		}
	})
}

func TestParseErrors(t *testing.T) {
	value := Elements{Fields: []Field{{Name: FieldValue}}}
	tests := []struct {
		name     string
		elements Elements
		format   Format
		coder    string
		body     string // hex
		err      string
	}{
		{"int32 out of range", Elements{Key: Bytes, Value: Int32}, Pairs, "kv<bytes,varint>", "00 8080808010", "value: 4294967296 is no int32: use LongSerializer"},
		{"null that must not be", value, Rows, "length_prefix<bytes>", "03 01 01 01", "value is null"},
		{"other number of fields", value, Rows, "length_prefix<bytes>", "04 02 00 00 00", "not an encoded row"},
		{"more follows", value, Rows, "length_prefix<bytes>", "04 01 00 00 00", "not an encoded row"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			body, err := hex.DecodeString(strings.ReplaceAll(test.body, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			checkError(t, test.elements.parse(test.format, coderOf(t, test.coder), new(kgo.Record), body), test.err)
		})
	}
}

func TestCheckInput(t *testing.T) {
	typed := Elements{Key: String, Value: Int64}
	tests := []struct {
		coder    string
		elements Elements
		format   Format
		err      string
	}{
		{"kv<string_utf8,varint>", typed, Pairs, ""},
		{"kv<nullable<string_utf8>,nullable<varint>>", typed, Pairs, ""},
		{"kv<bytes,varint>", typed, Pairs, "key of the input is coded as beam:coder:bytes:v1, the serializer wants beam:coder:string_utf8:v1"},
		{"kv<string_utf8,length_prefix<bytes>>", typed, Pairs, "value of the input is coded as beam:coder:length_prefix:v1, the serializer wants beam:coder:varint:v1"},
		{"bytes", typed, Pairs, "not as KVs"},
		{"length_prefix<bytes>", Elements{}, Rows, ""},
		{"bytes", Elements{}, Rows, "not as rows"},
	}
	for _, test := range tests {
		t.Run(test.coder, func(t *testing.T) {
			c := WriteConfig{Format: test.format, Elements: test.elements}
			global, err := coder.NewWindowCoder(coderOf(t, "global_window"))
			if err != nil {
				t.Fatal(err)
			}
			checkError(t, c.checkInput(coder.NewWindowedValue(coderOf(t, test.coder), global)), test.err)
		})
	}
}

func TestValidateElements(t *testing.T) {
	rows := func(names ...FieldName) Elements {
		var e Elements
		for _, n := range names {
			e.Fields = append(e.Fields, Field{Name: n, Nullable: true})
		}
		return e
	}
	tests := []struct {
		name     string
		elements Elements
		format   Format
		writing  bool
		err      string
	}{
		{"pairs", Elements{Key: Int32, Value: Float64}, Pairs, true, ""},
		{"no type", Elements{Key: Int32}, Pairs, true, `value_type=""`},
		{"rows", rows(FieldKey, FieldOffset), Rows, false, ""},
		{"no fields", rows(), Rows, false, "fields is empty"},
		{"unknown", rows("colour"), Rows, false, `"colour" is unknown`},
		{"only to be read", rows(FieldOffset), Rows, true, `"offset" is unknown`},
		{"twice", rows(FieldKey, FieldKey), Rows, true, `"key" is named twice`},
		{"too many", rows(FieldTopic, FieldPartition, FieldOffset, FieldTimestamp, FieldTimestampType, FieldTimestampTypeName, FieldHeaders, FieldValue, FieldKey), Rows, false,
			`"key" is the 9th, only the first 8 may be null`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			checkError(t, test.elements.validate(test.format, test.writing), test.err)
		})
	}
}

// From a topic to a topic with typed elements, by the real source and sink.
func TestTypedThroughBroker(t *testing.T) {
	b := newBroker(t)
	for _, topic := range []string{"in", "out"} {
		if _, err := b.admin().CreateTopic(t.Context(), 1, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	headers := []kgo.RecordHeader{{Key: "h", Value: []byte("x")}}
	b.produce(t, &kgo.Record{Topic: "in", Key: []byte("a"), Value: []byte("1"), Headers: headers}, &kgo.Record{Topic: "in", Value: []byte("2")}, &kgo.Record{Topic: "in", Key: []byte{}})
	e := Elements{Fields: []Field{{Name: FieldHeaders}, {Name: FieldKey, Nullable: true}, {Name: FieldValue, Nullable: true}}}
	rc := readConfig(b, Rows, []string{"in"}, StopAtEnd())
	rc.Elements = e
	builder := newPool(t).NewBuilder()
	s := open(t, sourceConfig(rc, 1))
	for done := false; !done; {
		f, err := s.Fetch(t.Context(), 0, builder, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		done = f.Done
	}
	elems, err := builder.Finish()
	if err != nil {
		t.Fatal(err)
	}
	wc := writeConfig(b, Rows, "out")
	wc.Elements = e
	cfg := sinkConfig(t, wc)
	global, err := coder.NewWindowCoder(coderOf(t, "global_window"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Coder = coder.NewWindowedValue(coderOf(t, "length_prefix<bytes>"), global)
	sink := openWriter(t, cfg)
	if err := deliver(t.Context(), sink, elems); err != nil {
		t.Fatal(err)
	}
	for _, block := range elems {
		block.Release()
	}
	got := b.readBack(t, "out", 3)
	if string(got[0].Key) != "a" || string(got[0].Value) != "1" || !slices.EqualFunc(got[0].Headers, headers, func(a, b kgo.RecordHeader) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) }) {
		t.Errorf("the first record has become %+v", got[0])
	}
	if got[1].Key != nil || string(got[1].Value) != "2" || got[2].Key == nil || len(got[2].Key) != 0 || got[2].Value != nil {
		t.Errorf("null and empty have become %+v and %+v", got[1], got[2])
	}
}

func FuzzParseElements(f *testing.F) {
	e := Elements{Key: String, Value: Int32, Fields: []Field{{Name: FieldHeaders, Nullable: true}, {Name: FieldTopic}, {Name: FieldTimestamp, Nullable: true}, {Name: FieldKey}}}
	pairs := coderOf(f, "kv<nullable<string_utf8>,varint>")
	f.Add([]byte{1, 1, 'k', 5})
	f.Add([]byte{9, 4, 0, 0, 0, 0, 0, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r kgo.Record
		if err := e.parse(Pairs, pairs, &r, b); err == nil && r.Value == nil {
			t.Error("a value that cannot be null is null")
		}
		_ = e.parse(Rows, nil, &r, b) // must only not panic
	})
}

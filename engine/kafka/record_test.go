package kafka

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	beamcoder "github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/coder"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"
)

func drawBytes(t *rapid.T, label string) []byte {
	b := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, label)
	if rapid.Bool().Draw(t, label+" is nil") {
		return nil
	}
	return append([]byte{}, b...)
}

func drawRecord(t *rapid.T) Record {
	r := Record{
		Topic:      rapid.String().Draw(t, "topic"),
		Partition:  rapid.Int32Min(0).Draw(t, "partition"),
		Offset:     rapid.Int64().Draw(t, "offset"),
		AppendTime: rapid.Bool().Draw(t, "append time"),
		Key:        drawBytes(t, "key"),
		Value:      drawBytes(t, "value"),
	}
	if ms := rapid.Int64Range(-2, 1<<42).Draw(t, "timestamp"); ms >= 0 {
		r.Timestamp = time.UnixMilli(ms)
	}
	for range rapid.IntRange(0, 3).Draw(t, "headers") {
		r.Headers = append(r.Headers, Header{Key: rapid.String().Draw(t, "header key"), Value: drawBytes(t, "header value")})
	}
	return r
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t)
		b := encodeRecord(r)
		got, err := decodeRecord(b)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%+v came back as %+v: %v", r, got, err)
		}
		for i := range b {
			if _, err := decodeRecord(b[:i]); err == nil {
				t.Fatalf("the first %d of %d bytes are taken for a record", i, len(b))
			}
		}
		if _, err := decodeRecord(append(b, 0)); err == nil {
			t.Fatal("a byte too many is taken")
		}
	})
}

// The row is what Beam's own row coder writes for the schema in record.go.
func TestRecordIsBeamRow(t *testing.T) {
	type header struct {
		Key   string
		Value *[]byte
	}
	type row struct {
		Topic      string
		Partition  int32
		Offset     int64
		Timestamp  int64
		AppendTime bool
		Key, Value *[]byte
		Headers    []header
	}
	encode, err := beamcoder.RowEncoderForStruct(reflect.TypeFor[row]())
	if err != nil {
		t.Fatal(err)
	}
	pointer := func(b []byte) *[]byte {
		if b == nil {
			return nil
		}
		return &b
	}
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t)
		ms := int64(noTimestamp)
		if !r.Timestamp.IsZero() {
			ms = r.Timestamp.UnixMilli()
		}
		in := row{r.Topic, r.Partition, r.Offset, ms, r.AppendTime, pointer(r.Key), pointer(r.Value), []header{}}
		for _, h := range r.Headers {
			in.Headers = append(in.Headers, header{h.Key, pointer(h.Value)})
		}
		var want bytes.Buffer
		if err := encode(in, &want); err != nil {
			t.Fatal(err)
		}
		if got := encodeRecord(r); !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("%+v is\n%x, Beam writes\n%x", r, got, want.Bytes())
		}
	})
}

func TestRowSize(t *testing.T) {
	r := &kgo.Record{Topic: "t", Offset: 300, Value: []byte("v"), Timestamp: time.UnixMilli(1), Headers: []kgo.RecordHeader{{Key: "h"}}}
	if got, want := rowSize(r), len(appendRow(nil, r)); got != want {
		t.Errorf("size %d, is %d", got, want)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(encodeRecord(Record{Topic: "t", Key: []byte("k"), Headers: []Header{{Key: "h"}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		again, err := decodeRecord(encodeRecord(r))
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Fatalf("%+v came back as %+v: %v", r, again, err)
		}
	})
}

package metric

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// payload encodes values as the SDKs do: int varint, float64 double, string with its length, count the beginning of an
// iterable, []byte and messages as they are.
func payload(values ...any) []byte {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case int:
			b = coder.AppendVarint(b, int64(v))
		case float64:
			b = binary.BigEndian.AppendUint64(b, math.Float64bits(v))
		case string:
			b = coder.AppendBytes(b, []byte(v))
		case count:
			b = binary.BigEndian.AppendUint32(b, uint32(v))
		case proto.Message:
			b = appendMessage(b, v)
		case []byte:
			b = append(b, v...)
		default:
			panic("not reached")
		}
	}
	return b
}

type count int32

func linear(n int32, width float64, recorded int64, counts ...int64) *pipepb.HistogramValue {
	return &pipepb.HistogramValue{
		Count: proto.Int64(recorded), BucketCounts: counts,
		BucketOptions: &pipepb.HistogramValue_BucketOptions{BucketType: &pipepb.HistogramValue_BucketOptions_Linear_{
			Linear: &pipepb.HistogramValue_BucketOptions_Linear{NumberOfBuckets: proto.Int32(n), Width: proto.Float64(width), Start: proto.Float64(0)},
		}},
	}
}

func TestAdd(t *testing.T) {
	tests := []struct {
		name, typ string
		add       [][]byte
		want      []byte
	}{
		{"sum", "sum_int64", [][]byte{payload(3), payload(-5), payload(300)}, payload(298)},
		{"sum of one", "sum_int64", [][]byte{payload(-1)}, payload(-1)},
		{"double sum", "sum_double", [][]byte{payload(1.5), payload(-0.25)}, payload(1.25)},
		{"distribution", "distribution_int64", [][]byte{payload(2, 10, 3, 7), payload(1, -4, -4, -4)}, payload(3, 6, -4, 7)},
		{"distribution above 0", "distribution_int64", [][]byte{payload(1, 5, 5, 5), payload(1, 6, 6, 6)}, payload(2, 11, 5, 6)},
		{"distribution, some without values", "distribution_int64",
			[][]byte{payload(0), payload(1, 5, 5, 5), payload(0, 0, 0, 0)}, payload(1, 5, 5, 5)},
		{"distribution without values", "distribution_int64", [][]byte{payload(0)}, payload(0, 0, math.MaxInt64, math.MinInt64)},
		{"distribution of the TypeScript SDK", "distribution_int64",
			[][]byte{payload(count(4), 2, 10, 3, 7), payload(count(4), 1, -4, -4, -4)}, payload(count(4), 3, 6, -4, 7)},
		{"distribution that begins like one of the TypeScript SDK", "distribution_int64",
			[][]byte{payload(0, 0, 0, 4), payload(1, 5, 5, 5)}, payload(1, 5, 5, 5)},
		{"double distribution", "distribution_double",
			[][]byte{payload(2, 10.5, 3.0, 7.5), payload(1, -4.0, -4.0, -4.0)}, payload(3, 6.5, -4.0, 7.5)},
		{"gauge", "latest_int64", [][]byte{payload(1000, 1), payload(3000, 3), payload(2000, 2)}, payload(3000, 3)},
		{"gauge, same time", "latest_int64", [][]byte{payload(1000, 1), payload(1000, 2)}, payload(1000, 2)},
		{"double gauge", "latest_double", [][]byte{payload(2000, 2.5), payload(1000, 1.5)}, payload(2000, 2.5)},
		{"top", "top_n_int64", [][]byte{payload(count(3), 9, 5, 1), payload(count(2), 7, -3)}, payload(count(3), 9, 7, 5)},
		{"top, longer payload", "top_n_int64", [][]byte{payload(count(1), 5), payload(count(2), 7, 6)}, payload(count(2), 7, 6)},
		{"double top", "top_n_double", [][]byte{payload(count(2), 1.0, 0.5), payload(count(1), 0.75)}, payload(count(2), 1.0, 0.75)},
		{"bottom", "bottom_n_int64", [][]byte{payload(count(2), 1, 5), payload(count(2), -3, 7)}, payload(count(2), -3, 1)},
		{"double bottom", "bottom_n_double", [][]byte{payload(count(1), 2.0), payload(count(1), 1.0)}, payload(count(1), 1.0)},
		{"bottom of nothing", "bottom_n_int64", [][]byte{payload(count(0)), payload(count(1), 4)}, payload(count(1), 4)},
		{"strings", "set_string", [][]byte{payload(count(2), "b", "a"), payload(count(3), "c", "", "b")}, payload(count(4), "", "a", "b", "c")},
		{"strings in chunks", "set_string", [][]byte{payload(count(-1), 2, "b", "a", 1, "c", 0)}, payload(count(3), "a", "b", "c")},
		{"histogram", "histogram_int64",
			[][]byte{payload(linear(3, 10, 6, 1, 2)), payload(linear(3, 10, 7, 4, 0, 3))}, payload(linear(3, 10, 13, 5, 2, 3))},
		{"progress", "progress", [][]byte{payload(count(1), 0.25), payload(count(1), 0.75)}, payload(count(1), 0.75)},
		{"unknown type", "of_next_year", [][]byte{[]byte("longer"), []byte("new")}, []byte("new")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := New("beam:metrics:" + test.typ + ":v1")
			for _, p := range test.add {
				given := bytes.Clone(p)
				if err := v.Add(p); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(p, given) {
					t.Fatalf("Add changed its payload %x to %x", given, p)
				}
				clear(p) // it is the caller's
			}
			if got := v.Append([]byte("x")); !bytes.Equal(got, append([]byte("x"), test.want...)) {
				t.Errorf("got %q, want %q behind x", got, test.want)
			}
		})
	}
}

func TestAddUnreadable(t *testing.T) {
	tests := []struct {
		name, typ string
		good, bad []byte
		err       error
	}{
		{"empty", "sum_int64", payload(3), nil, coder.ErrShort},
		{"more than a sum", "sum_int64", payload(3), payload(4, 4), coder.ErrMalformed},
		{"varint too long", "sum_int64", payload(3), bytes.Repeat([]byte{0xff}, 11), coder.ErrMalformed},
		{"short double", "sum_double", payload(3.0), payload(3.0)[:7], coder.ErrShort},
		{"distribution of 3 numbers", "distribution_int64", payload(1, 2, 2, 2), payload(1, 2, 2), coder.ErrShort},
		{"gauge without value", "latest_int64", payload(1, 1), payload(2), coder.ErrShort},
		{"count too large", "top_n_int64", payload(count(1), 4), payload(count(math.MaxInt32), 5), coder.ErrShort},
		{"count below -1", "bottom_n_double", payload(count(1), 4.0), payload(count(-2)), coder.ErrMalformed},
		{"chunk below 0", "set_string", payload(count(1), "a"), payload(count(-1), 1, "b", -1), coder.ErrMalformed},
		{"no end of chunks", "set_string", payload(count(1), "a"), payload(count(-1), 1, "b"), coder.ErrShort},
		{"string too long", "set_string", payload(count(1), "a"), payload(count(2), "b", math.MaxInt64), coder.ErrMalformed},
		{"trie that is no message", "bounded_trie", payload(trieOf("9", "a")), []byte{0xff}, coder.ErrMalformed},
		{"trie that is not UTF-8", "bounded_trie", payload(trieOf("9", "a")), []byte{0x1a, 1, 0xff}, coder.ErrMalformed},
		{"other buckets", "histogram_int64", payload(linear(2, 10, 1, 1)), payload(linear(2, 20, 1, 1)), coder.ErrMalformed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := New("beam:metrics:" + test.typ + ":v1")
			if err := v.Add(test.good); err != nil {
				t.Fatal(err)
			}
			before := v.Append(nil)
			if err := v.Add(test.bad); !errors.Is(err, test.err) {
				t.Errorf("got the error %v, want %v", err, test.err)
			}
			if got := v.Append(nil); !bytes.Equal(got, before) {
				t.Errorf("an unreadable payload changed the value from %x to %x", before, got)
			}
		})
	}
}

func TestStringSetIsBounded(t *testing.T) {
	v := New("beam:metrics:set_string:v1")
	for _, s := range []string{strings.Repeat("a", 600_000), strings.Repeat("b", 600_000), strings.Repeat("c", 400_000), "d"} {
		if err := v.Add(payload(count(1), s)); err != nil {
			t.Fatal(err)
		}
	}
	want := payload(count(2), strings.Repeat("a", 600_000), strings.Repeat("c", 400_000))
	if got := v.Append(nil); !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, want the first and the third string, %d bytes", len(got), len(want))
	}
}

// FuzzAdd merges hostile payloads: none panics, one that is refused changes nothing, and what comes out can be merged.
func FuzzAdd(f *testing.F) {
	types := []string{
		"sum_int64", "sum_double", "distribution_int64", "distribution_double", "latest_int64", "latest_double", "top_n_int64",
		"top_n_double", "bottom_n_int64", "bottom_n_double", "set_string", "bounded_trie", "histogram_int64", "progress",
	}
	seeds := [][]byte{
		nil, payload(1), payload(1, 2, 3, 4), payload(count(4), 1, 2, 3, 4), payload(0.5), payload(1, 0.5, 0.5, 0.5), payload(count(2), 1, 2), payload(count(-1), 1, "a", 0),
		payload(count(1), math.NaN()), payload(count(math.MaxInt32)), payload(trieOf("2", "a/b", "a/c", "d*")), payload(linear(2, 1, 3, 1, 2)),
		payload(&pipepb.BoundedTrie{Bound: -1, Singleton: []string{"a", ""}}), payload(&pipepb.BoundedTrie{Root: &pipepb.BoundedTrieNode{}}),
	}
	for i := range types {
		for _, a := range seeds {
			f.Add(byte(i), a, seeds[i%len(seeds)])
		}
	}
	f.Fuzz(func(t *testing.T, typ byte, a, b []byte) {
		name := "beam:metrics:" + types[int(typ)%len(types)] + ":v1"
		v := New(name)
		if v.Add(a) != nil {
			return
		}
		before := v.Append(nil)
		if err := v.Add(b); err != nil {
			if got := v.Append(nil); !bytes.Equal(got, before) {
				t.Errorf("%s: %x is refused (%v), but changes %x to %x", name, b, err, before, got)
			}
		}
		sum := v.Append(nil)
		again := New(name)
		if err := again.Add(sum); err != nil {
			t.Fatalf("%s: %x is not readable: %v", name, sum, err)
		}
		if got := again.Append(nil); !bytes.Equal(got, sum) {
			t.Errorf("%s: %x reads as %x", name, sum, got)
		}
	})
}

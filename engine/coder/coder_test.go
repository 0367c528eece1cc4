package coder

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// parseType builds the components for a coder written as name(component, ...) and returns its id. The names are those of
// the model's URNs; any other name is a coder that the runner does not know.
func parseType(t testing.TB, text string) (*pipepb.Components, string) {
	t.Helper()
	c := &pipepb.Components{Coders: map[string]*pipepb.Coder{}}
	id, rest := addType(c, text)
	if rest != "" {
		t.Fatalf("coder %q: trailing %q", text, rest)
	}
	return c, id
}

func addType(c *pipepb.Components, text string) (id, rest string) {
	end := strings.IndexAny(text+",", "(,)")
	proto := &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: "beam:coder:" + text[:end] + ":v1"}}
	id = fmt.Sprintf("c%d", len(c.Coders))
	c.Coders[id] = proto
	rest = text[end:]
	if !strings.HasPrefix(rest, "(") {
		return id, rest
	}
	for rest[0] != ')' {
		var sub string
		sub, rest = addType(c, strings.TrimLeft(rest[1:], " "))
		proto.ComponentCoderIds = append(proto.ComponentCoderIds, sub)
	}
	return id, rest[1:]
}

func mustCompile(t testing.TB, text string) *Coder {
	t.Helper()
	c, err := Compile(parseType(t, text))
	if err != nil {
		t.Fatalf("Compile(%s): %v", text, err)
	}
	return c
}

// unhex decodes hexadecimal bytes; 'text' stands for itself.
func unhex(t testing.TB, text string) []byte {
	t.Helper()
	var out []byte
	for i, part := range strings.Split(text, "'") {
		if i%2 == 1 {
			out = append(out, part...)
			continue
		}
		b, err := hex.DecodeString(strings.Join(strings.Fields(part), ""))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		out = append(out, b...)
	}
	return out
}

// Values of every model coder, in nested context.
var values = []struct{ coder, bytes string }{
	{"bytes", "00"},
	{"bytes", "03 'abc'"},
	{"string_utf8", "02 c3bf"},
	{"bool", "01"},
	{"varint", "00"},
	{"varint", "c801"},
	{"varint", "ffffffffffffffffff01"}, // -1
	{"double", "3fb999999999999a"},
	{"kv(bytes,varint)", "03 'abc' 0a"},
	{"kv(bool,double)", "01 7ff0000000000000"},
	{"kv(global_window,global_window)", ""},
	{"iterable(varint)", "00000000"},
	{"iterable(varint)", "00000004 01 0a c801 e807"},
	{"iterable(bool)", "00000002 01 00"},
	{"iterable(global_window)", "7fffffff"},
	{"iterable(bytes)", "ffffffff 00"},
	{"iterable(bytes)", "ffffffff 01 03'abc' 02 00 01'x' 00"},
	{"iterable(iterable(bool))", "00000002 00000001 01 ffffffff 02 01 00 00"},
	{"state_backed_iterable(varint)", "00000001 05"},
	{"state_backed_iterable(varint)", "ffffffff 01 05 00"},
	{"state_backed_iterable(varint)", "ffffffff 02 05 06 ffffffffffffffffff01 05'token'"},
	{"nullable(varint)", "00"},
	{"nullable(varint)", "01 c801"},
	{"sharded_key(string_utf8)", "00 03'key'"},
	{"sharded_key(string_utf8)", "02 1122 03'key'"},
	{"length_prefix", "02 ffff"},
	{"length_prefix(varint)", "02 c801"},
	{"length_prefix(mystery)", "03 010203"},
	{"kv(length_prefix(kv(bytes,mystery)),length_prefix(mystery))", "01 aa 02 bbcc"},
	{"global_window", ""},
	{"interval_window", "800001529aa49b68 80dddb01"},
	{"custom_window(length_prefix(mystery))", "80000000000003e8 02 abcd"},
	{"custom_window(interval_window)", "80000000000003e7 80000000000003e8 0a"},
	{"windowed_value(varint,global_window)", "800001529aa49b68 00000001 0f 02"},
	{"windowed_value(varint,interval_window)",
		"7fffffffffffff9c 00000002 800001529aa49b68 80dddb01 7fdf3b645a1cad76 ed02 0f 02"},
	{"windowed_value(bytes,length_prefix(mystery))", "8000000000000000 00000001 01ee 29 1e 28 01'v'"},
	{"windowed_value(bytes,global_window)", "8000000000000000 00000001 8f 02 0801 01'v'"}, // with metadata
	{"param_windowed_value(varint,global_window)", "02"},
	{"timer(string_utf8,global_window)",
		"03'key' 03'tag' 00000001 00 80000000000004d2 800000000000162e 0f"},
	{"timer(string_utf8,global_window)", "03'key' 03'tag' 00000001 01"},
	{"timer(varint,interval_window)",
		"05 00 00000001 80000000000003e8 0a 00 80000000000003e7 80000000000003e7 15 02"},
}

// TestSkip skips each value with other bytes behind it, and tries every way to cut it short.
func TestSkip(t *testing.T) {
	for _, test := range values {
		c, b := mustCompile(t, test.coder), unhex(t, test.bytes)
		if n, err := c.Skip(append(slices.Clone(b), 0xff, 0)); n != len(b) || err != nil {
			t.Errorf("%s: Skip(%s) = %d, %v, want %d", test.coder, test.bytes, n, err, len(b))
		}
		for i := range b {
			if _, err := c.Skip(b[:i:i]); !errors.Is(err, ErrShort) {
				t.Errorf("%s: Skip of %d bytes of %s: %v, want ErrShort", test.coder, i, test.bytes, err)
			}
		}
		if allocs := testing.AllocsPerRun(10, func() { _, _ = c.Skip(b) }); allocs != 0 {
			t.Errorf("%s: Skip allocates %v times", test.coder, allocs)
		}
	}
}

func TestSkipMalformed(t *testing.T) {
	for _, test := range []struct{ coder, bytes string }{
		{"varint", "ffffffffffffffffffff01"},
		{"varint", "ffffffffffffffffff7f"},
		{"bytes", "ffffffffffffffffff01"}, // length -1
		{"bytes", "8080808008"},           // length 2^31
		{"iterable(bytes)", "fffffffe"},
		{"iterable(bytes)", "ffffffff ffffffffffffffffff01"}, // not state-backed
		{"state_backed_iterable(bytes)", "ffffffff feffffffffffffffff01"},
		{"nullable(bytes)", "02"},
		{"windowed_value(bytes,global_window)", "8000000000000000 7fffffff 0f 00"},
		{"windowed_value(bytes,interval_window)", "8000000000000000 ffffffff 00 0f 00"},
		{"windowed_value(bytes,global_window)", "8000000000000000 00000001 30 00"},
		{"timer(bytes,global_window)", "00 00 00000001 02"},
	} {
		if n, err := mustCompile(t, test.coder).Skip(unhex(t, test.bytes)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: Skip(%s) = %d, %v, want ErrMalformed", test.coder, test.bytes, n, err)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	for _, test := range []struct{ coder, want string }{
		{"mystery", `coder c0: the runner cannot read "beam:coder:mystery:v1": enclose it in beam:coder:length_prefix:v1`},
		{"kv(bytes,iterable(row))", `coder c3: the runner cannot read "beam:coder:row:v1"`},
		{"kv(bytes)", "coder c0 (beam:coder:kv:v1) has 1 components, want 2"},
		{"bytes(bytes)", "coder c0 (beam:coder:bytes:v1) has 1 components, want 0"},
		{"windowed_value(bytes,varint)", "coder c2 (beam:coder:varint:v1) does not encode windows"},
	} {
		_, err := Compile(parseType(t, test.coder))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Compile(%s): %v, want %s", test.coder, err, test.want)
		}
	}
}

func TestCompileReferences(t *testing.T) {
	spec := func(urn string) *pipepb.FunctionSpec { return &pipepb.FunctionSpec{Urn: urn} }
	c := &pipepb.Components{Coders: map[string]*pipepb.Coder{
		"loop": {Spec: spec(URNKV), ComponentCoderIds: []string{"b", "it"}},
		"it":   {Spec: spec(URNIterable), ComponentCoderIds: []string{"loop"}},
		"gone": {Spec: spec(URNIterable), ComponentCoderIds: []string{"nowhere"}},
		"b":    {Spec: spec(URNBool)},
		"d0":   {Spec: spec(URNBool)},
		// The same opaque coder in two places is not a loop.
		"twice":  {Spec: spec(URNKV), ComponentCoderIds: []string{"lp", "lp2"}},
		"lp":     {Spec: spec(URNLengthPrefix), ComponentCoderIds: []string{"kv"}},
		"lp2":    {Spec: spec(URNLengthPrefix), ComponentCoderIds: []string{"kv"}},
		"kv":     {Spec: spec(URNKV), ComponentCoderIds: []string{"opaque", "opaque"}},
		"opaque": {Spec: spec("custom")},
	}}
	for i := range 300 {
		last := fmt.Sprint("d", i)
		c.Coders[fmt.Sprint("d", i+1)] = &pipepb.Coder{Spec: spec(URNKV), ComponentCoderIds: []string{last, last}}
	}
	for _, test := range []struct{ id, want string }{
		{"loop", "coder loop contains itself"},
		{"gone", "coder nowhere is not in the pipeline"},
		{"d300", "coders nest deeper than 256"},
	} {
		if _, err := Compile(c, test.id); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Compile(%s): %v, want %s", test.id, err, test.want)
		}
	}
	if _, err := Compile(c, "twice"); err != nil {
		t.Error(err)
	}
	// 2^60 booleans: the size must not overflow, nor Skip look at more than it has.
	deep, err := Compile(c, "d60")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := deep.Skip(make([]byte, 1<<20)); !errors.Is(err, ErrShort) {
		t.Errorf("Skip: %v, want ErrShort", err)
	}
}

func TestOpaqueComponent(t *testing.T) {
	c := mustCompile(t, "length_prefix(mystery)")
	if n := c.NumComponents(); n != 1 {
		t.Fatalf("%d components", n)
	}
	in := c.Component(0)
	var unknown *UnknownError
	if _, err := in.Skip([]byte{0}); !errors.As(err, &unknown) || unknown.ID != in.ID() || unknown.URN != in.URN() {
		t.Errorf("Skip of an unknown coder: %v", err)
	}
}

func TestSplitKV(t *testing.T) {
	c := mustCompile(t, "kv(bytes,varint)")
	b := unhex(t, "03 'abc' c801 77")
	key, value, n, err := SplitKV(c, b)
	if string(key) != "\x03abc" || string(value) != "\xc8\x01" || n != 6 || err != nil {
		t.Errorf("SplitKV = %x, %x, %d, %v", key, value, n, err)
	}
	for i := range n {
		if _, _, _, err := SplitKV(c, b[:i]); !errors.Is(err, ErrShort) {
			t.Errorf("SplitKV of %d bytes: %v", i, err)
		}
	}
	if _, _, _, err := SplitKV(mustCompile(t, "bytes"), b); err == nil {
		t.Error("SplitKV with a coder of bytes succeeds")
	}
}

// TestAppendIterables reads what the helpers write.
func TestAppendIterables(t *testing.T) {
	got := AppendGroup(nil, []byte{1, 'k'}, 2, []byte{5, 6})
	if want := unhex(t, "01'k' 00000002 05 06"); !slices.Equal(got, want) {
		t.Errorf("AppendGroup = %x, want %x", got, want)
	}
	got = append(AppendChunk(AppendChunks(nil), 2), 5, 6)
	for _, test := range []struct {
		coder, want string
		bytes       []byte
	}{
		{"iterable(varint)", "ffffffff 02 05 06 00", AppendEnd(slices.Clone(got))},
		{"state_backed_iterable(varint)", "ffffffff 02 05 06 ffffffffffffffffff01 02'tk'",
			AppendToken(slices.Clone(got), []byte("tk"))},
	} {
		if want := unhex(t, test.want); !slices.Equal(test.bytes, want) {
			t.Errorf("%s: appended %x, want %x", test.coder, test.bytes, want)
		}
		if n, err := mustCompile(t, test.coder).Skip(test.bytes); n != len(test.bytes) || err != nil {
			t.Errorf("%s: Skip = %d, %v, want %d", test.coder, n, err, len(test.bytes))
		}
	}
}

// FuzzSkip: whatever the bytes, Skip keeps to them, and what it took for a value is one: no more and no less.
func FuzzSkip(f *testing.F) {
	var coders []*Coder
	for i, test := range values {
		coders = append(coders, mustCompile(f, test.coder))
		f.Add(byte(i), unhex(f, test.bytes))
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		c := coders[int(which)%len(coders)]
		n, err := c.Skip(b[:len(b):len(b)])
		if err != nil {
			if !errors.Is(err, ErrShort) && !errors.Is(err, ErrMalformed) {
				t.Fatalf("%s: Skip(%x): %v", c.URN(), b, err)
			}
			return
		}
		if n < 0 || n > len(b) {
			t.Fatalf("%s: Skip(%x) = %d", c.URN(), b, n)
		}
		if m, err := c.Skip(b[:n:n]); m != n || err != nil {
			t.Fatalf("%s: Skip(%x) = %d, %v, but %d with more bytes", c.URN(), b[:n], m, err, n)
		}
		if n > 0 {
			if _, err := c.Skip(b[: n-1 : n-1]); !errors.Is(err, ErrShort) {
				t.Fatalf("%s: Skip(%x): %v, want ErrShort", c.URN(), b[:n-1], err)
			}
		}
	})
}

func BenchmarkSkipKV(b *testing.B) {
	c := mustCompile(b, "kv(length_prefix(mystery),varint)")
	elem := append(AppendBytes(nil, []byte("a key of some length")), 0xe8, 0x07)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Skip(elem); err != nil {
			b.Fatal(err)
		}
	}
}

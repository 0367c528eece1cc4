package coder

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func windowed(t testing.TB, text string) *WindowedValue {
	t.Helper()
	w, err := CompileWindowedValue(parseType(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestParseHeader(t *testing.T) {
	for _, test := range []struct {
		name, coder, bytes string
		want               Header
		windows            []string
	}{
		{
			name:    "global window",
			coder:   "windowed_value(varint,global_window)",
			bytes:   "800001529aa49b68 00000001 0f 02",
			want:    Header{Timestamp: 1454293425000, NumWindows: 1, Pane: NoFiring(), ValueOffset: 13},
			windows: []string{""},
		},
		{
			name:    "two intervals",
			coder:   "windowed_value(varint,interval_window)",
			bytes:   "7fffffffffffff9c 00000002 800001529aa49b68 80dddb01 7fdf3b645a1cad76 ed02 0f 02",
			want:    Header{Timestamp: -100, NumWindows: 2, Pane: NoFiring(), ValueOffset: 35},
			windows: []string{"800001529aa49b68 80dddb01", "7fdf3b645a1cad76 ed02"},
		},
		{
			name:  "pane with two indices, opaque window",
			coder: "windowed_value(bytes,length_prefix(mystery))",
			bytes: "8000000000000000 00000001 01ee 26 1e 28 01'v'",
			want: Header{NumWindows: 1, ValueOffset: 17,
				Pane: Pane{Last: true, Timing: OnTime, Index: 30, NonSpeculativeIndex: 40}},
			windows: []string{"01ee"},
		},
		{
			name:  "metadata behind the pane",
			coder: "windowed_value(bytes,global_window)",
			bytes: "8000000000000000 00000001 99 05 02 0801 01'v'",
			want: Header{NumWindows: 1, ValueOffset: 17,
				Pane: Pane{First: true, Timing: Late, Index: 5, NonSpeculativeIndex: 5}},
			windows: []string{""},
		},
		{
			name:  "no windows",
			coder: "windowed_value(bytes,interval_window)",
			bytes: "ffffffffffffffff 00000000 0f 00",
			want:  Header{Timestamp: 1<<63 - 1, Pane: NoFiring(), ValueOffset: 13},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, b := windowed(t, test.coder), unhex(t, test.bytes)
			h, err := w.ParseHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			got := h
			got.Windows, got.PaneBytes = nil, nil
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
			var windows []string
			for x := range w.EachWindow(h) {
				windows = append(windows, string(x))
			}
			for i := range test.windows {
				test.windows[i] = string(unhex(t, test.windows[i]))
			}
			if !slices.Equal(windows, test.windows) {
				t.Errorf("windows %x, want %x", windows, test.windows)
			}
			again := AppendRawHeader(nil, h.Timestamp, h.NumWindows, h.Windows, h.PaneBytes)
			if !slices.Equal(again, b[:h.ValueOffset]) {
				t.Errorf("AppendRawHeader = %x, want %x", again, b[:h.ValueOffset])
			}
			if n, err := w.Skip(b); n != len(b) || err != nil {
				t.Errorf("Skip = %d, %v, want %d", n, err, len(b))
			}
			for i := range h.ValueOffset {
				if _, err := w.ParseHeader(b[:i]); !errors.Is(err, ErrShort) {
					t.Errorf("ParseHeader of %d bytes: %v, want ErrShort", i, err)
				}
			}
		})
	}
}

// TestHeaderAllocates nothing: it runs for each element.
func TestHeaderAllocates(t *testing.T) {
	w := windowed(t, "windowed_value(varint,interval_window)")
	b := unhex(t, "7fffffffffffff9c 00000002 800001529aa49b68 80dddb01 7fdf3b645a1cad76 ed02 0f 02")
	dst := make([]byte, 0, 64)
	bytes := 0
	allocs := testing.AllocsPerRun(100, func() {
		h, _ := w.ParseHeader(b)
		for x := range w.EachWindow(h) {
			dst = AppendHeader(dst[:0], h.Timestamp, 1, x, h.Pane)
			bytes += len(dst)
		}
		n, _ := w.Skip(b)
		bytes += n
	})
	if allocs != 0 || bytes == 0 {
		t.Errorf("%v allocations for %d bytes, want none", allocs, bytes)
	}
}

func TestPane(t *testing.T) {
	for _, test := range []struct {
		bytes string
		want  Pane
	}{
		{"0f", NoFiring()},
		{"07", Pane{First: true, Last: true, Timing: OnTime}},
		{"11 00", Pane{First: true, Timing: Early, NonSpeculativeIndex: -1}},
		{"10 03", Pane{Timing: Early, Index: 3, NonSpeculativeIndex: -1}},
		{"14 07", Pane{Timing: OnTime, Index: 7, NonSpeculativeIndex: 7}},
		{"2a 09 02", Pane{Last: true, Timing: Late, Index: 9, NonSpeculativeIndex: 2}},
	} {
		b := unhex(t, test.bytes)
		if p, n, err := ParsePane(b); p != test.want || n != len(b) || err != nil {
			t.Errorf("ParsePane(%s) = %+v, %d, %v, want %+v", test.bytes, p, n, err, test.want)
		}
		if got := AppendPane(nil, test.want); !slices.Equal(got, b) {
			t.Errorf("AppendPane(%+v) = %x, want %s", test.want, got, test.bytes)
		}
	}
}

// panes draws panes that have an encoding of their own.
func panes() *rapid.Generator[Pane] {
	return rapid.Custom(func(t *rapid.T) Pane {
		p := Pane{First: rapid.Bool().Draw(t, "first"), Last: rapid.Bool().Draw(t, "last"),
			Timing: Timing(rapid.IntRange(0, 3).Draw(t, "timing"))}
		if p.Timing != Unknown {
			p.Index = rapid.Int64Min(0).Draw(t, "index")
			p.NonSpeculativeIndex = rapid.Int64Min(0).Draw(t, "non-speculative")
		}
		if p.Timing == Early {
			p.NonSpeculativeIndex = -1
		}
		return p
	})
}

func TestRoundTrips(t *testing.T) {
	elem := mustCompile(t, "bytes")
	w := NewWindowedValue(elem, IntervalWindow())
	timers := NewTimerCoder(elem, w.Window())
	rapid.Check(t, func(t *rapid.T) {
		start, span := rapid.Int64Range(MinTimestamp, MaxTimestamp).Draw(t, "start"), rapid.Int64Range(0, 1<<40).Draw(t, "span")
		n := rapid.IntRange(0, 3).Draw(t, "windows")
		var windows []byte
		for i := range n {
			windows = AppendInterval(windows, start+int64(i), start+span+int64(i))
		}
		pane := panes().Draw(t, "pane")
		ts := rapid.Int64().Draw(t, "timestamp")
		b := AppendBytes(AppendHeader(nil, ts, n, windows, pane), rapid.SliceOf(rapid.Byte()).Draw(t, "value"))
		h, err := w.ParseHeader(b)
		if err != nil || h.Timestamp != ts || h.NumWindows != n || !slices.Equal(h.Windows, windows) || h.Pane != pane {
			t.Fatalf("ParseHeader(%x) = %+v, %v", b, h, err)
		}
		if size, err := w.Skip(b); size != len(b) || err != nil {
			t.Fatalf("Skip(%x) = %d, %v", b, size, err)
		}
		want := Timer{Key: b[h.ValueOffset:], Tag: rapid.String().Draw(t, "tag"), NumWindows: n, Windows: windows}
		if want.Clear = rapid.Bool().Draw(t, "clear"); !want.Clear {
			want.Fire, want.Hold, want.Pane = ts, start, pane
		}
		b = timers.Append(nil, want)
		got, size, err := timers.Parse(b)
		if len(windows) == 0 {
			got.Windows = nil
		}
		if err != nil || size != len(b) || !reflect.DeepEqual(got, want) {
			t.Fatalf("Parse(%x) = %+v, %d, %v, want %+v", b, got, size, err, want)
		}
	})
}

func TestTimer(t *testing.T) {
	c, err := CompileTimer(parseType(t, "timer(string_utf8,global_window)"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		bytes string
		want  Timer
	}{
		{"03'key' 03'tag' 00000001 00 80000000000004d2 800000000000162e 0f",
			Timer{Key: []byte("\x03key"), Tag: "tag", NumWindows: 1, Windows: []byte{}, Fire: 1234, Hold: 5678, Pane: NoFiring()}},
		{"03'key' 00 00000001 01", Timer{Key: []byte("\x03key"), NumWindows: 1, Windows: []byte{}, Clear: true}},
	} {
		b := unhex(t, test.bytes)
		if got, n, err := c.Parse(b); n != len(b) || err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("Parse(%s) = %+v, %d, %v, want %+v", test.bytes, got, n, err, test.want)
		}
		if got := c.Append(nil, test.want); !slices.Equal(got, b) {
			t.Errorf("Append(%+v) = %x, want %x", test.want, got, b)
		}
	}
}

func TestMaxTimestamp(t *testing.T) {
	for _, test := range []struct {
		coder, bytes string
		want         int64
	}{
		{"global_window", "", 9223371950454775},
		{"interval_window", "800001529aa49b68 80dddb01", 1454293424999},
		{"custom_window(length_prefix(mystery))", "80000000000003e8 02 abcd", 1000},
		{"length_prefix(interval_window)", "09 80000000000003e8 0a", 999},
		{"length_prefix(custom_window(bytes))", "09 80000000000003e8 00", 1000},
	} {
		w, err := CompileWindow(parseType(t, test.coder))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := w.MaxTimestamp(unhex(t, test.bytes)); got != test.want || err != nil {
			t.Errorf("%s: MaxTimestamp(%s) = %d, %v, want %d", test.coder, test.bytes, got, err, test.want)
		}
	}
	w, err := CompileWindow(parseType(t, "length_prefix(mystery)"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := w.MaxTimestamp([]byte{1, 2}); err == nil {
		t.Errorf("MaxTimestamp of an unknown window = %d, want an error", got)
	}
}

func TestInterval(t *testing.T) {
	b := AppendInterval(nil, 1454293425000-3600000, 1454293425000)
	if want := unhex(t, "800001529aa49b68 80dddb01"); !slices.Equal(b, want) {
		t.Errorf("AppendInterval = %x, want %x", b, want)
	}
	start, end, n, err := ParseInterval(b)
	if start != 1454289825000 || end != 1454293425000 || n != len(b) || err != nil {
		t.Errorf("ParseInterval = %d, %d, %d, %v", start, end, n, err)
	}
}

func TestTimestampSorts(t *testing.T) {
	var last []byte
	for _, ms := range []int64{-1 << 63, MinTimestamp, -255, -1, 0, 1, 256, EndOfGlobalWindow, MaxTimestamp, 1<<63 - 1} {
		b := AppendTimestamp(nil, ms)
		if got, err := ParseTimestamp(b); got != ms || err != nil {
			t.Errorf("ParseTimestamp(%x) = %d, %v, want %d", b, got, err, ms)
		}
		if slices.Compare(last, b) >= 0 {
			t.Errorf("%d encodes as %x, not after %x", ms, b, last)
		}
		last = b
	}
	if MinTimestamp != -9223372036854775 || MaxTimestamp != 9223372036854775 {
		t.Errorf("time ends at %d and %d", MinTimestamp, MaxTimestamp)
	}
}

// TestKeyGroup compares with groups that a Flink cluster assigned.
func TestKeyGroup(t *testing.T) {
	for _, test := range []struct {
		key  string
		want int
	}{
		{"\x05alpha", 0}, {"\x04beta", 68}, {"\x01k", 80}, {"\x04zeta", 34}, {"\x00", 123},
	} {
		if got := KeyGroup([]byte(test.key), 128); got != test.want {
			t.Errorf("KeyGroup(%q, 128) = %d, want %d", test.key, got, test.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		key, max := rapid.SliceOf(rapid.Byte()).Draw(t, "key"), rapid.IntRange(1, 1<<15).Draw(t, "max")
		if g := KeyGroup(key, max); g < 0 || g >= max {
			t.Fatalf("KeyGroup(%x, %d) = %d", key, max, g)
		}
	})
}

func FuzzParseTimer(f *testing.F) {
	c := NewTimerCoder(mustCompile(f, "bytes"), IntervalWindow())
	f.Add(c.Append(nil, Timer{Key: []byte{0}, NumWindows: 1, Windows: AppendInterval(nil, 0, 10), Fire: 9, Hold: 9}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if tm, n, err := c.Parse(b); err == nil && (n > len(b) || len(tm.Key)+len(tm.Tag)+len(tm.Windows) > n) {
			t.Fatalf("Parse(%x) = %+v, %d", b, tm, n)
		}
	})
}

func BenchmarkParseHeader(b *testing.B) {
	for _, name := range []string{"global_window", "interval_window"} {
		b.Run(name, func(b *testing.B) {
			w := windowed(b, "windowed_value(bytes,"+name+")")
			var window []byte
			if name == "interval_window" {
				window = AppendInterval(nil, 0, 60_000)
			}
			elem := AppendBytes(AppendHeader(nil, 1, 1, window, NoFiring()), make([]byte, 100))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.ParseHeader(elem); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

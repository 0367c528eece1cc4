package state

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestSplitKey(t *testing.T) {
	key := func(cell Cell, suffix string) []byte { return append(appendPrefix(nil, 7, cell), suffix...) }
	tests := []struct {
		name string
		key  []byte
		want int
	}{
		{"a bag's chunk", key(16, "\x03keychunk"), prefixLen + 4},
		{"nothing behind the component", key(16, "\x03key"), prefixLen + 4},
		{"an empty component", key(16, "\x00window"), prefixLen + 1},
		{"a long component", key(16, "\x80\x01"+string(make([]byte, 128))+"x"), prefixLen + 2 + 128},
		{"a component that is cut off", key(16, "\x03ke"), prefixLen + 3},
		{"a length that is cut off", key(16, "\x80"), prefixLen + 1},
		{"no suffix", key(16, ""), prefixLen},
		{"a timer, of whose key the owner comes first", key(cellTimer, "\x00\x00\x00\x10\x03key"), prefixLen + 8},
		{"not even a cell", []byte("ab"), 2},
	}
	for _, test := range tests {
		if got := splitKey(test.key); got != test.want {
			t.Errorf("%s: the prefix of %x has %d bytes, want %d", test.name, test.key, got, test.want)
		}
	}
}

// What Pebble demands of Split and ImmediateSuccessor (see base.Split).
func TestComparerLaws(t *testing.T) {
	c := comparer()
	// Few values, so that keys often share prefixes.
	keys := rapid.Custom(func(t *rapid.T) []byte {
		k := appendPrefix(nil, rapid.SampledFrom([]uint16{0, 1, 0xfffe, 0xffff}).Draw(t, "group"), rapid.SampledFrom([]Cell{0, 1, 16, 17}).Draw(t, "cell"))
		for range rapid.IntRange(0, 6).Draw(t, "n") {
			k = append(k, rapid.SampledFrom([]byte{0, 1, 2, 3, 0x7f, 0x80, 0xff}).Draw(t, "byte"))
		}
		return k[rapid.SampledFrom([]int{0, 0, 0, 0, 5}).Draw(t, "cut"):]
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := keys.Draw(t, "a"), keys.Draw(t, "b")
		pa, pb := a[:c.Split(a)], b[:c.Split(b)]
		if n := c.Split(pa); n != len(pa) {
			t.Fatalf("the prefix %x of %x has itself a prefix of %d bytes", pa, a, n)
		}
		if ab := c.Compare(pa, pb); ab != 0 {
			if got := c.Compare(a, b); got != ab {
				t.Fatalf("%x and %x compare %d, their prefixes %d", a, b, got, ab)
			}
		} else if got, want := c.Compare(a, b), c.ComparePointSuffixes(a[len(pa):], b[len(pb):]); got != want {
			t.Fatalf("%x and %x compare %d, their suffixes %d", a, b, got, want)
		}
		next := c.ImmediateSuccessor(nil, pa)
		if bytes.Equal(pa, bytes.Repeat([]byte{0xff}, len(pa))) {
			return // it is none of ours
		}
		if c.Compare(next, pa) <= 0 || c.Split(next) != len(next) {
			t.Fatalf("the successor of the prefix %x is %x, which is not greater or not a prefix", pa, next)
		}
		if c.Compare(b, pa) > 0 && c.Compare(b, next) < 0 && !bytes.HasPrefix(b, pa) {
			t.Fatalf("%x is between the prefix %x and its successor %x", b, pa, next)
		}
	})
}

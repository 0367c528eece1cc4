package state

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// TestCensus compares the sizes of cells with what was written into them.
func TestCensus(t *testing.T) {
	const groups, keys = 16, 3000
	db, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var cells []Cell
	for _, name := range []string{"spread", "first group", "timers", "empty"} {
		c, err := db.Cell(name)
		if err != nil {
			t.Fatal(err)
		}
		cells = append(cells, c)
	}
	if got := db.Cells(func(name string) bool { return name != "empty" }); len(got) != 3 {
		t.Errorf("%d cells of 3", len(got))
	}
	c := db.NewCensus(groups)
	if _, ok := c.Size(cells); ok {
		t.Error("sizes are known before the first step")
	}

	tx := db.Begin()
	var want [4]int64
	for k := range keys {
		key, value := fmt.Appendf(nil, "%06d", k), make([]byte, k%1000)
		if err := tx.Set(uint16(k%groups), cells[0], key, value); err != nil {
			t.Fatal(err)
		}
		want[0] += int64(prefixLen + len(key) + len(value))
	}
	if err := tx.Set(0, cells[1], []byte("position"), make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	want[1] = prefixLen + 8 + 10
	if err := tx.SetTimer(Timer{Group: 3, Owner: cells[2], Domain: EventTime, Family: "f", Key: []byte("key"), Fire: 5, Hold: 4}); err != nil {
		t.Fatal(err)
	}
	if err := tx.SetHold(cells[2], 4, []byte("key"), []byte("window"), 7); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	size := func(cell int) int64 {
		n, ok := c.Size(cells[cell : cell+1])
		if !ok {
			return -1
		}
		return n
	}
	// The first pass, in small steps: sizes are about right long before its end.
	steps := 0
	for ; c.last == nil; steps++ {
		if err := c.Step(0); err != nil {
			t.Fatal(err)
		}
		if got := size(0); c.group > 4 && (got < want[0]*9/10 || got > want[0]*11/10 || size(1) != want[1]) {
			t.Errorf("at group %d: %d and %d bytes, want about %d and %d", c.group, got, size(1), want[0], want[1])
		}
	}
	if steps < keys/censusBatch/2 {
		t.Errorf("the pass took %d steps", steps)
	}
	check := func(when string) {
		t.Helper()
		if size(0) != want[0] || size(1) != want[1] || size(2) < 40 || size(2) > 200 || size(3) != 0 {
			t.Errorf("%s: %d, %d, %d, %d bytes, want %v", when, size(0), size(1), size(2), size(3), want)
		}
	}
	check("after a pass")
	if err := c.Step(0); err != nil {
		t.Fatal(err)
	}
	check("at the beginning of the second pass")

	tx = db.Begin()
	for g := range uint16(groups) {
		if err := tx.DeletePrefix(g, cells[0], nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	want[0] = 0
	for range 2 {
		if err := c.Step(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	check("after all is deleted")
	one := db.NewCensus(1)
	if err := one.Step(time.Minute); err != nil {
		t.Fatal(err)
	}
	if n, ok := one.Size(cells[1:2]); !ok || n != want[1] {
		t.Errorf("with one group: %d bytes, want %d", n, want[1])
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Step(time.Minute); !errors.Is(err, ErrClosed) {
		t.Errorf("of a closed database: %v", err)
	}
}

// BenchmarkCensus measures a pass over 100,000 entries.
func BenchmarkCensus(b *testing.B) {
	db, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	cell, err := db.Cell("cell")
	if err != nil {
		b.Fatal(err)
	}
	tx := db.Begin()
	for k := range 100_000 {
		if err := tx.Set(uint16(k%128), cell, fmt.Appendf(nil, "%08d", k), make([]byte, 100)); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
	if err := db.pdb.Flush(); err != nil {
		b.Fatal(err)
	}
	c := db.NewCensus(128)
	for b.Loop() {
		if err := c.Step(time.Hour); err != nil {
			b.Fatal(err)
		}
	}
}

package state

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Pebble leaves this one behind when Open fails. A database that is not closed leaves more.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/cockroachdb/pebble/v2.(*ConcurrencyLimitScheduler).periodicGranter"))
}

// openTest opens a database in a new directory with a small cache, and closes it when the test ends.
func openTest(t testing.TB, dir string, opts Options) *DB {
	t.Helper()
	db, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func cellOf(t testing.TB, db *DB, name string) Cell {
	t.Helper()
	c, err := db.Cell(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fataler is what *testing.T and *rapid.T have in common here.
type fataler interface {
	Helper()
	Fatal(...any)
}

func bagOf(t fataler, tx *Tx, group uint16, cell Cell, prefix string) string {
	t.Helper()
	var out []byte
	for kv, err := range tx.ScanPrefix(group, cell, []byte(prefix)) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, kv.Value...)
	}
	return string(out)
}

func TestCutAndReopen(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, filepath.Join(dir, "a"), Options{})
	cell := cellOf(t, db, "words")
	tx := db.Begin()
	must(t, tx.Append(3, cell, []byte("k"), []byte("one ")))
	must(t, tx.Append(3, cell, []byte("k"), []byte("two ")))
	must(t, tx.SetTimer(Timer{Group: 3, Owner: cell, Domain: EventTime, Family: "f", Key: []byte("k"), Fire: 7, Hold: 5, Payload: []byte("p")}))
	must(t, tx.Commit())
	must(t, db.Cut(filepath.Join(dir, "b")))

	tx = db.Begin() // not in the cut
	must(t, tx.Append(3, cell, []byte("k"), []byte("lost ")))
	must(t, tx.Commit())

	cut := openTest(t, filepath.Join(dir, "b"), Options{})
	if got := cellOf(t, cut, "words"); got != cell {
		t.Errorf("cell is %d after reopening, was %d", got, cell)
	}
	tx = cut.Begin()
	must(t, tx.Append(3, cell, []byte("k"), []byte("three ")))
	if got := bagOf(t, tx, 3, cell, "k"); got != "one two three " {
		t.Errorf("bag is %q", got)
	}
	must(t, tx.Commit())
	if fire, ok := cut.NextTimer(cell, EventTime, 0, 128); !ok || fire != 7 {
		t.Errorf("next timer %d, %v", fire, ok)
	}
	if hold, ok := cut.MinHold(cell); !ok || hold != 5 {
		t.Errorf("hold %d, %v", hold, ok)
	}
	for timer, err := range cut.DueTimers(cell, EventTime, 0, 128, 7) {
		must(t, err)
		if string(timer.Key) != "k" || timer.Family != "f" || timer.Hold != 5 || string(timer.Payload) != "p" {
			t.Errorf("timer %+v", timer)
		}
	}
}

// Slots commit side by side, each on its own groups, while others look at timers and holds, and Cuts are taken. Every Cut
// has whole transactions only.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, filepath.Join(dir, "db"), Options{MemTable: 256 << 10})
	cell, owner := cellOf(t, db, "c"), cellOf(t, db, "o")
	const slots, bundles = 4, 150
	var wg sync.WaitGroup
	failed := make(chan error, slots)
	for slot := range uint16(slots) {
		wg.Go(func() {
			for i := range bundles {
				if err := pairBundle(db, slot, cell, owner, i); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	for i := range 5 {
		db.NextTimer(owner, EventTime, 0, slots)
		db.MinHold(owner)
		cut := filepath.Join(dir, fmt.Sprint("cut", i))
		must(t, db.Cut(cut))
		checkPairs(t, cut, slots)
	}
	wg.Wait()
	close(failed)
	must(t, <-failed)
	if _, ok := db.NextTimer(owner, EventTime, 0, slots); ok {
		t.Error("a timer is left")
	}
	if hold, ok := db.MinHold(owner); ok {
		t.Errorf("hold %d is left", hold)
	}
}

// pairBundle adds a byte to two bags, and sets or fires a timer.
func pairBundle(db *DB, slot uint16, cell, owner Cell, i int) error {
	tx := db.Begin()
	defer tx.Discard()
	err := errors.Join(
		tx.Append(slot, cell, []byte("left"), []byte("x")), tx.Append(slot, cell, []byte("right"), []byte("x")))
	if i%2 == 0 {
		err = errors.Join(err, tx.SetTimer(Timer{Group: slot, Owner: owner, Domain: EventTime, Fire: int64(i), Hold: int64(i)}))
	} else {
		for timer, e := range db.DueTimers(owner, EventTime, slot, slot+1, int64(i)) {
			err = errors.Join(err, e, tx.ClearTimer(timer.ID()))
		}
	}
	return errors.Join(err, tx.Commit())
}

func checkPairs(t *testing.T, cut string, slots uint16) {
	t.Helper()
	db := openTest(t, cut, Options{CacheBytes: 1 << 20})
	cell, owner := cellOf(t, db, "c"), cellOf(t, db, "o")
	tx := db.Begin()
	defer tx.Discard()
	timers := 0
	for slot := range slots {
		left, right := bagOf(t, tx, slot, cell, "left"), bagOf(t, tx, slot, cell, "right")
		if left != right {
			t.Errorf("group %d of a cut has %d and %d appends of the same bundles", slot, len(left), len(right))
		}
		if _, ok := db.NextTimer(owner, EventTime, slot, slot+1); ok != (len(left)%2 == 1) {
			t.Errorf("group %d of a cut: %d bundles, timer set: %v", slot, len(left), ok)
		} else if ok {
			timers++
		}
	}
	if _, ok := db.MinHold(owner); ok != (timers > 0) {
		t.Errorf("a cut with %d timers has a hold: %v", timers, ok)
	}
}

// The first chunk after a clear overwrites the one before it. Clearing by a shorter prefix deletes it under the bag's feet.
func TestAppendAfterClears(t *testing.T) {
	db := openTest(t, t.TempDir(), Options{})
	cell := cellOf(t, db, "c")
	for i, clears := range []string{"", "pq", "p", "pq p", "p pq", "pq p pq"} {
		for range 2 { // the second time, what the first one committed is below
			tx := db.Begin()
			must(t, tx.DeletePrefix(uint16(i), cell, []byte("pq")))
			must(t, tx.Append(uint16(i), cell, []byte("pq"), []byte("first"))) // has sequence 0
			must(t, tx.Commit())
			tx = db.Begin()
			for p := range strings.FieldsSeq(clears) {
				must(t, tx.DeletePrefix(uint16(i), cell, []byte(p)))
				must(t, tx.Append(uint16(i), cell, []byte("pq"), []byte(p+" ")))
			}
			must(t, tx.DeletePrefix(uint16(i), cell, []byte("p")))
			must(t, tx.Append(uint16(i), cell, []byte("pq"), []byte("last")))
			must(t, tx.Commit())
			if got := bagOf(t, db.Begin(), uint16(i), cell, "pq"); got != "last" {
				t.Errorf("after clearing %q the bag is %q", clears, got)
			}
		}
	}
}

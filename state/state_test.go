package state

import (
	"path/filepath"
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

func bagOf(t testing.TB, tx *Tx, group uint16, cell Cell, prefix string) string {
	t.Helper()
	var out []byte
	for kv, err := range tx.ScanPrefix(group, cell, []byte(prefix)) {
		must(t, err)
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

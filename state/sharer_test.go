package state

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// linkCounter counts links.
type linkCounter struct {
	vfs.FS
	links atomic.Int64
}

func (c *linkCounter) Link(oldname, newname string) error {
	c.links.Add(1)
	return c.FS.Link(oldname, newname)
}

// cutShared makes a cut, removes from pool what it does not have, and copies it to a directory of its own.
func cutShared(t *testing.T, db *DB, pool, to string) {
	t.Helper()
	point, err := db.BeginCut()
	must(t, err)
	names, err := point.Finish(t.Context(), to, pool)
	must(t, err)
	in := make(map[string]bool)
	for _, n := range names {
		in[n] = true
	}
	there, err := os.ReadDir(pool)
	must(t, err)
	for _, n := range there {
		if !in[n.Name()] {
			must(t, os.Remove(filepath.Join(pool, n.Name())))
		}
	}
	for _, n := range names {
		must(t, os.Link(filepath.Join(pool, n), filepath.Join(to, n)))
	}
}

// fill commits generation to 100 keys, many of them in a table of their own.
func fill(t *testing.T, db *DB, generation string) {
	t.Helper()
	for i := range 100 {
		tx := db.Begin()
		must(t, tx.Set(uint16(i%10), cellOf(t, db, "c"), fmt.Append(nil, i), append(make([]byte, 10_000), generation...)))
		must(t, tx.Commit())
	}
}

// generationOf gives what fill committed last.
func generationOf(t *testing.T, dir string) string {
	t.Helper()
	db := openTest(t, dir, Options{})
	first := ""
	for i := range 100 {
		v, ok, err := db.Begin().Get(uint16(i%10), cellOf(t, db, "c"), fmt.Append(nil, i))
		if err != nil || !ok {
			t.Fatalf("%s: key %d: %v, %v", dir, i, ok, err)
		}
		g := string(v[10_000:])
		if first == "" {
			first = g
		}
		if g != first {
			t.Fatalf("%s: key %d has %q, others have %q", dir, i, g, first)
		}
	}
	must(t, db.Close())
	return first
}

// Cuts that share their files are whole, and link each file once. A database that goes on from an older cut gives the numbers of files
// to other content: what the pool still has of these must not come into a cut.
func TestSharedCuts(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	pool := path("pool")
	must(t, os.Mkdir(pool, 0o777))
	counter := &linkCounter{FS: vfs.Default}
	opts := Options{FS: counter, MemTable: 64 << 10}
	db := openTest(t, path("db"), opts)
	for i := range 5 {
		fill(t, db, fmt.Sprint("first ", i))
		cutShared(t, db, pool, path(fmt.Sprint("cut", i)))
	}
	before := counter.links.Load()
	cutShared(t, db, pool, path("idle"))
	if made := counter.links.Load() - before; before < 20 || made > 6 {
		t.Errorf("a cut after which nothing changed made %d links, those before it %d", made, before)
	}
	// Its process dies when the next cut is not complete.
	fill(t, db, "lost")
	point, err := db.BeginCut()
	must(t, err)
	_, err = point.Finish(t.Context(), path("lost"), pool)
	must(t, err)
	must(t, db.Close())

	restored := openTest(t, path("cut3"), opts) // as restored
	fill(t, restored, "second")
	cutShared(t, restored, pool, path("again"))
	must(t, restored.Close())
	for name, want := range map[string]string{"cut0": "first 0", "cut4": "first 4", "idle": "first 4", "again": "second"} {
		if got := generationOf(t, path(name)); got != want {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
}

// A cut that could not be finished says nothing of what is in the pool.
func TestSharedCutFails(t *testing.T) {
	dir := t.TempDir()
	pool := filepath.Join(dir, "pool")
	must(t, os.Mkdir(pool, 0o777))
	db := openTest(t, filepath.Join(dir, "db"), Options{MemTable: 64 << 10})
	fill(t, db, "one")
	point, err := db.BeginCut()
	must(t, err)
	taken := filepath.Join(dir, "taken")
	must(t, os.Mkdir(taken, 0o777))
	if names, err := point.Finish(t.Context(), taken, pool); err == nil {
		t.Errorf("finished into a directory that exists: %v", names)
	}
	cutShared(t, db, pool, filepath.Join(dir, "cut"))
	must(t, db.Close())
	if got := generationOf(t, filepath.Join(dir, "cut")); got != "one" {
		t.Errorf("the cut has %q", got)
	}
}

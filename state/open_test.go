package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

func TestOpenRefuses(t *testing.T) {
	denied := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpLock {
			return &os.PathError{Op: "open", Path: op.Path, Err: syscall.EACCES}
		}
		return nil
	})
	tests := []struct {
		name    string
		prepare func(t *testing.T, dir string) vfs.FS
		want    string
	}{
		{"a file in the place of the directory", func(t *testing.T, dir string) vfs.FS {
			must(t, os.WriteFile(dir, nil, 0o600))
			return vfs.Default
		}, "not a directory"},
		{"no permission", func(t *testing.T, dir string) vfs.FS {
			return errorfs.Wrap(vfs.Default, denied)
		}, "permission denied; the directory must be writable by this process"},
		{"other files", func(t *testing.T, dir string) vfs.FS {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600))
			return vfs.Default
		}, "the directory holds other files (notes.txt); give an empty directory or remove them"},
		{"another program's database", func(t *testing.T, dir string) vfs.FS {
			p, err := pebble.Open(dir, &pebble.Options{Logger: pebbleLogger{}})
			must(t, err)
			must(t, p.Set([]byte("k"), []byte("v"), pebble.Sync))
			must(t, p.Close())
			return vfs.Default
		}, "it is a Pebble database of another program, or of an older version of this one; give an empty directory"},
		{"another format", func(t *testing.T, dir string) vfs.FS {
			db, err := Open(dir, Options{})
			must(t, err)
			must(t, db.pdb.Set(metaKey(metaFormat), []byte("tinyrunner state 9"), pebble.NoSync))
			must(t, db.pdb.Flush())
			must(t, db.Close())
			return vfs.Default
		}, `it has format "tinyrunner state 9", this program reads "tinyrunner state 2"`},
		{"a newer Pebble", func(t *testing.T, dir string) vfs.FS {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "marker.format-version.000001.999"), nil, 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "marker.manifest.000001.MANIFEST-000001"), nil, 0o600))
			return vfs.Default
		}, "unknown format major version"},
		{"in use", func(t *testing.T, dir string) vfs.FS {
			openTest(t, dir, Options{})
			return vfs.Default
		}, "lock held by current process; another process uses the directory"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			db, err := Open(dir, Options{FS: test.prepare(t, dir)})
			if err == nil {
				db.Close()
				t.Fatal("it was opened")
			}
			if !strings.HasPrefix(err.Error(), "open state "+dir) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %q, want %q in it", err, test.want)
			}
		})
	}
}

// Each write that Open makes may fail: then Open fails, and succeeds the next time.
func TestOpenFaults(t *testing.T) {
	for i := int32(0); ; i++ {
		if i == 500 {
			t.Fatal("Open writes without end")
		}
		mem := vfs.NewMem()
		index := errorfs.OnIndex(i)
		faults := errorfs.InjectorFunc(func(op errorfs.Op) error {
			// Pebble panics, on purpose, when it cannot write its list of files or sync a directory.
			directory := op.Kind == errorfs.OpFileSync && op.Path == "db"
			if op.Kind.ReadOrWrite() == errorfs.OpIsRead || directory || strings.Contains(op.Path, "MANIFEST") {
				return nil
			}
			return index.MaybeError(op)
		})
		db, err := Open("db", Options{FS: errorfs.Wrap(mem, faults)})
		if err == nil {
			err = db.Close()
			if index.Load() >= 0 { // no write was left to fail
				must(t, err)
				return
			}
			continue
		}
		if !errors.Is(err, errorfs.ErrInjected) {
			t.Fatalf("write %d: %v", i, err)
		}
		db, err = Open("db", Options{FS: mem})
		if err != nil {
			t.Fatalf("after write %d failed: %v", i, err)
		}
		must(t, db.Close())
	}
}

// While files cannot be written commits fail instead of waiting for ever, and go on when they can be.
func TestCommitFaults(t *testing.T) {
	sst := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			return syscall.ENOSPC
		}
		return nil
	})
	full := &errorfs.Toggle{Injector: sst}
	db := openTest(t, "db", Options{FS: errorfs.Wrap(vfs.NewMem(), full), MemTable: 256 << 10})
	cell := cellOf(t, db, "c")
	full.On()
	value := bytes.Repeat([]byte("x"), 1000)
	write := func(i int) error {
		tx := db.Begin()
		for j := range 50 {
			must(t, tx.Set(1, cell, fmt.Appendf(nil, "%d-%d", i, j), value))
		}
		return tx.Commit()
	}
	var err error
	written := 0
	for deadline := time.Now().Add(time.Minute); err == nil && time.Now().Before(deadline); written++ {
		// The flush that fails runs meanwhile.
		time.Sleep(2 * time.Millisecond)
		if db.Metrics().MemTableBytes < 400<<10 || db.Metrics().BackgroundError != "" {
			err = write(written)
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("commit on a full disk gave %v", err)
	}
	if err := db.Cut("cut"); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("cut on a full disk gave %v", err)
	}
	full.Off()
	for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
		err = write(written)
	}
	must(t, err)
	must(t, db.Cut("cut"))
}

func TestClosed(t *testing.T) {
	db, err := Open(t.TempDir(), Options{})
	must(t, err)
	cell := cellOf(t, db, "c")
	tx := db.Begin()
	must(t, tx.Set(0, cell, nil, []byte("v")))
	must(t, db.Close())
	must(t, db.Close())
	if err := tx.Commit(); !errors.Is(err, ErrClosed) {
		t.Errorf("Commit gave %v", err)
	}
	if err := tx.Commit(); !errors.Is(err, ErrTxDone) {
		t.Errorf("second Commit gave %v", err)
	}
	if _, err := db.Cell("d"); !errors.Is(err, ErrClosed) {
		t.Errorf("Cell gave %v", err)
	}
	for _, err := range db.ScanPrefix(0, cell, nil) {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("scan gave %v", err)
		}
	}
	if err := db.Cut("x"); !errors.Is(err, ErrClosed) {
		t.Errorf("Cut gave %v", err)
	}
}

func TestReserved(t *testing.T) {
	db := openTest(t, t.TempDir(), Options{})
	cell := cellOf(t, db, "c")
	tx := db.Begin()
	defer tx.Discard()
	if err := tx.Set(metaGroup, cell, nil, nil); err == nil || !strings.Contains(err.Error(), "reserved") {
		t.Errorf("a key in the reserved group gave %v", err)
	}
	if err := tx.SetTimer(Timer{Owner: cellTimer, Domain: EventTime}); err == nil || !strings.Contains(err.Error(), "reserved") {
		t.Errorf("a timer of a reserved cell gave %v", err)
	}
	if err := tx.SetTimer(Timer{Owner: cell}); err == nil || !strings.Contains(err.Error(), "time domain") {
		t.Errorf("a timer of no domain gave %v", err)
	}
}

// Many databases share one cache and are independent.
func TestSharedCache(t *testing.T) {
	cache := NewCache(8 << 20)
	defer cache.Close()
	for i := range 10 {
		db := openTest(t, t.TempDir(), Options{Cache: cache})
		cell := cellOf(t, db, "c")
		tx := db.Begin()
		must(t, tx.Set(0, cell, []byte("k"), fmt.Append(nil, i)))
		must(t, tx.Commit())
		must(t, db.pdb.Flush())
		v, ok, err := db.Get(0, cell, []byte("k"))
		if err != nil || !ok || string(v) != fmt.Sprint(i) {
			t.Errorf("database %d has %q, %v, %v", i, v, ok, err)
		}
	}
}

package state

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// TestCutIsAnInstant: while writers commit as fast as they can, each cut has exactly what was committed when it began, though
// commits go on before it is finished.
func TestCutIsAnInstant(t *testing.T) {
	dir := t.TempDir()
	db, err := Open(filepath.Join(dir, "db"), Options{MemTable: 512 << 10, CacheBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	cell, err := db.Cell("values")
	if err != nil {
		t.Fatal(err)
	}
	const writers, cuts, size = 4, 8, 3000
	var instant sync.RWMutex // held for writing when a cut begins, as the engine does
	var committed [writers]uint64
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	key := func(w int, n uint64) []byte { return fmt.Appendf(nil, "%d/%d", w, n%500) }
	for w := range writers {
		wg.Go(func() {
			for n := uint64(1); ctx.Err() == nil; n++ {
				value := binary.BigEndian.AppendUint64(make([]byte, 0, size), n)[:size]
				instant.RLock()
				tx := db.Begin()
				err := tx.Set(uint16(w), cell, key(w, n), value)
				if err == nil {
					err = tx.Set(uint16(w), cell, []byte("newest"), value[:8])
				}
				if err == nil {
					err = tx.Commit()
				}
				if err != nil {
					t.Error(err)
				}
				committed[w] = n
				instant.RUnlock()
			}
		})
	}
	for i := range cuts {
		if err := db.PrepareCut(); err != nil {
			t.Fatal(err)
		}
		instant.Lock()
		want := committed
		point, err := db.BeginCut()
		instant.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, fmt.Sprint("cut", i))
		if _, err := point.Finish(ctx, name, ""); err != nil {
			t.Fatal(err)
		}
		instant.Lock()
		went := committed
		instant.Unlock()
		checkCut(t, name, want)
		if i == cuts-1 && went == want {
			t.Log("no commit came while the last cut was finished")
		}
	}
	stop()
	wg.Wait()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func checkCut(t *testing.T, name string, want [4]uint64) {
	t.Helper()
	db, err := Open(name, Options{})
	if err != nil {
		t.Fatal(err)
	}
	cell, err := db.Cell("values")
	if err != nil {
		t.Fatal(err)
	}
	for w, n := range want {
		highest, newest := uint64(0), uint64(0)
		for kv, err := range db.Scan(uint16(w), cell, nil, nil) {
			if err != nil {
				t.Fatal(err)
			}
			v := binary.BigEndian.Uint64(kv.Value)
			if string(kv.Suffix) == "newest" {
				newest = v
			} else {
				highest = max(highest, v)
			}
		}
		if newest != n || highest != n {
			t.Errorf("%s: writer %d had committed %d; the cut has %d, and values up to %d", filepath.Base(name), w, n, newest, highest)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestIdleCutsAreSmall: a cut of a database that nothing was committed to has next to nothing that the one before did not have.
// (Descriptions shared tables with data, which were written again for each cut.)
func TestIdleCutsAreSmall(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, filepath.Join(dir, "db"), Options{MemTable: 1 << 20, CacheBytes: 4 << 20})
	cell, err := db.Cell("values")
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 100) // too small to be apart from its key
	random := rand.NewChaCha8([32]byte{})
	for n := range 40 {
		tx := db.Begin()
		for k := range 1000 {
			_, _ = random.Read(value)
			if err := tx.Set(uint16(k%128), cell, binary.BigEndian.AppendUint64(nil, uint64(n*1000+k)), value); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	const quiet = 20 // cuts one after another that add next to nothing, once the compactions are done
	seen := make(map[string]bool)
	var added []int64
	for deadline := time.Now().Add(time.Minute); ; {
		to := filepath.Join(dir, "cuts", strconv.Itoa(len(added)))
		if err := db.Cut(to); err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir(to)
		if err != nil {
			t.Fatal(err)
		}
		var total, news int64
		for _, f := range files {
			info, err := f.Info()
			if err != nil {
				t.Fatal(err)
			}
			total += info.Size()
			if !seen[f.Name()] {
				news += info.Size()
			}
			seen[f.Name()] = filepath.Ext(f.Name()) == ".sst" || filepath.Ext(f.Name()) == ".blob"
		}
		added = append(added, news)
		if last := len(added) - quiet; last >= 0 {
			var sum int64
			for _, n := range added[last:] {
				sum += n
			}
			if sum <= total/10 {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("cuts of %d bytes had new bytes: %v", total, added)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestCutLargeCommit: a commit that Pebble makes a table of at once waits until the cut is finished.
func TestCutLargeCommit(t *testing.T) {
	const memTable = 1 << 20
	dir := t.TempDir()
	db, err := Open(filepath.Join(dir, "db"), Options{MemTable: memTable})
	must(t, err)
	cell, err := db.Cell("values")
	must(t, err)
	set := func(key string, size int) {
		tx := db.Begin()
		must(t, tx.Set(0, cell, []byte(key), make([]byte, size)))
		must(t, tx.Commit())
	}
	for i := range 100 {
		set(strconv.Itoa(i), memTable/10)
	}
	must(t, db.PrepareCut())
	for _, size := range []int{memTable / 3, memTable/2 - 2*entryOverhead, memTable / 2, memTable * 3 / 4, memTable * 2} {
		point, err := db.BeginCut()
		must(t, err)
		set("before", 1) // does not wait
		done := make(chan struct{})
		go func() {
			defer close(done)
			set("late", size)
		}()
		time.Sleep(50 * time.Millisecond) // for what went too far to become a table
		name := filepath.Join(dir, fmt.Sprint("cut", size))
		_, err = point.Finish(t.Context(), name, "")
		must(t, err)
		<-done
		cut, err := Open(name, Options{})
		must(t, err)
		for _, key := range []string{"before", "late"} {
			if v, ok, err := cut.Begin().Get(0, cell, []byte(key)); ok || err != nil {
				t.Errorf("%d: the cut has %q of %d bytes, which was committed after its instant, %v", size, key, len(v), err)
			}
		}
		must(t, cut.Close())
		tx := db.Begin()
		must(t, tx.Delete(0, cell, []byte("late")))
		must(t, tx.Delete(0, cell, []byte("before")))
		must(t, tx.Commit())
	}
	must(t, db.Close())
}

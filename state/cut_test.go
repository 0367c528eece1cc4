package state

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
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
		if err := db.Flush(); err != nil {
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
		if err := point.Finish(ctx, name); err != nil {
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

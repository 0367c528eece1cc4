package state

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// rss returns the resident memory of the process in MiB; 0 where /proc is missing.
func rss() float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f", &kb); n == 1 {
			return kb / 1024
		}
	}
	return 0
}

// BenchmarkAppend is a GroupByKey's writing side: 16-byte keys, 180-byte values, bundles of 10,000. Run it with
// -benchtime=1000000x, or more to see that memory stays where it is.
func BenchmarkAppend(b *testing.B) {
	for _, keys := range []struct {
		name string
		draw func(i int, r *rand.Rand) uint64
	}{
		{"distinct", func(_ int, r *rand.Rand) uint64 { return r.Uint64() }},
		{"hot", func(_ int, r *rand.Rand) uint64 { return r.Uint64N(100) }},
	} {
		b.Run(keys.name, func(b *testing.B) {
			db := openTest(b, b.TempDir(), Options{})
			cell := cellOf(b, db, "c")
			r := rand.New(rand.NewPCG(1, 2))
			key, value := make([]byte, 16), make([]byte, 180)
			for i := range value {
				value[i] = byte(r.Uint64())
			}
			b.ReportAllocs()
			tx, peak := db.Begin(), 0.0
			for i := 0; b.Loop(); i++ {
				k := keys.draw(i, r)
				binary.BigEndian.PutUint64(key, k)
				binary.BigEndian.PutUint64(value, k*31)
				must(b, tx.Append(uint16(k%128), cell, key, value))
				if i%10_000 == 9_999 {
					must(b, tx.Commit())
					tx = db.Begin()
					peak = max(peak, rss())
				}
			}
			must(b, tx.Commit())
			m := db.Metrics()
			b.ReportMetric(peak, "peak-RSS-MiB")
			b.ReportMetric(float64(m.DiskBytes)/(1<<20), "disk-MiB")
			b.ReportMetric(float64(m.CompactionDebt)/(1<<20), "debt-MiB")
		})
	}
}

// BenchmarkValue is a value state: read, clear, write, once per element, over 100 k keys or one.
func BenchmarkValue(b *testing.B) {
	for _, keys := range []uint64{1, 100_000} {
		b.Run(fmt.Sprint("keys=", keys), func(b *testing.B) {
			db := openTest(b, b.TempDir(), Options{})
			cell := cellOf(b, db, "c")
			r := rand.New(rand.NewPCG(1, 2))
			key, value := make([]byte, 16), make([]byte, 16)
			tx := db.Begin()
			for i := 0; b.Loop(); i++ {
				k := r.Uint64N(keys)
				binary.BigEndian.PutUint64(key, k)
				for kv, err := range tx.ScanPrefix(uint16(k%128), cell, key) {
					must(b, err)
					copy(value, kv.Value)
				}
				binary.BigEndian.PutUint64(value, binary.BigEndian.Uint64(value)+1)
				must(b, tx.DeletePrefix(uint16(k%128), cell, key))
				must(b, tx.Append(uint16(k%128), cell, key, value))
				if i%1000 == 999 {
					must(b, tx.Commit())
					tx = db.Begin()
				}
			}
			must(b, tx.Commit())
		})
	}
}

// BenchmarkTimers sets a timer for each of many keys at the same instant, then fires all, in bundles of 1,000.
func BenchmarkTimers(b *testing.B) {
	db := openTest(b, b.TempDir(), Options{})
	owner := cellOf(b, db, "owner")
	const n = 100_000
	for b.Loop() {
		tx := db.Begin()
		for i := range n {
			key := binary.BigEndian.AppendUint64(nil, uint64(i))
			must(b, tx.SetTimer(Timer{Group: uint16(i % 128), Owner: owner, Domain: EventTime, Key: key, Fire: 1000, Hold: 999}))
			if i%1000 == 999 {
				must(b, tx.Commit())
				tx = db.Begin()
			}
		}
		fired := 0
		for {
			if _, ok := db.NextTimer(owner, EventTime, 0, 128); !ok {
				break
			}
			count := 0
			for t, err := range db.DueTimers(owner, EventTime, 0, 128, 1000) {
				must(b, err)
				must(b, tx.ClearTimer(t.ID()))
				if count++; count == 1000 {
					break
				}
			}
			fired += count
			must(b, tx.Commit())
			tx = db.Begin()
		}
		if fired != n {
			b.Fatalf("%d timers fired", fired)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/timer")
}

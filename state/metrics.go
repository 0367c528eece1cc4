package state

import "time"

// Metrics of a database, for people and dashboards.
type Metrics struct {
	DiskBytes       int64 // files of the database; those shared with Cuts are counted once
	MemTableBytes   int64 // allocated for writes that are not in files yet
	CacheBytes      int64 // used blocks of the Cache, by all databases that share it
	CacheHits       int64
	CacheMisses     int64
	CompactionDebt  int64 // estimated bytes that compactions have to rewrite until the levels are in shape
	Compactions     int64 // so far
	CompactionTime  time.Duration
	Flushes         int64  // so far
	ReadAmp         int    // files that one read may have to look into
	TombstoneKeys   int64  // estimated
	Cells           int    // names numbered
	HoldBuckets     int    // distinct holds kept in memory
	BackgroundError string // why files cannot be written at present; "": they can
}

// Metrics returns the present figures. It costs some microseconds. A closed DB has zero figures.
func (db *DB) Metrics() Metrics {
	if err := db.enter(); err != nil {
		return Metrics{}
	}
	defer db.leave()
	p := db.pdb.Metrics()
	m := Metrics{
		DiskBytes:      int64(p.DiskSpaceUsage()),
		MemTableBytes:  int64(p.MemTable.Size + p.MemTable.ZombieSize),
		CacheBytes:     p.BlockCache.Size,
		CacheHits:      p.BlockCache.Hits,
		CacheMisses:    p.BlockCache.Misses,
		CompactionDebt: int64(p.Compact.EstimatedDebt),
		Compactions:    p.Compact.Count,
		CompactionTime: p.Compact.Duration,
		Flushes:        p.Flush.Count,
		ReadAmp:        p.ReadAmp(),
		TombstoneKeys:  int64(p.Keys.TombstoneCount),
	}
	if b := db.background.Load(); b != nil {
		m.BackgroundError = b.err.Error()
	}
	db.cellsMu.Lock()
	m.Cells = len(db.cells)
	db.cellsMu.Unlock()
	db.memory.Lock()
	defer db.memory.Unlock()
	for _, s := range db.holds {
		m.HoldBuckets += s.buckets.Len()
	}
	return m
}

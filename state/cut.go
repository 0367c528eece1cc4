package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// CutPoint is an instant of the database, between two commits, that becomes a Cut. To take it costs no more than a change of
// memtables: what was committed before is in tables and in memtables that take no more writes, and Finish waits for these
// to become tables, too. Commits go on meanwhile, as long as they fit into the memtable that began at this instant: were it
// full, it would become a table that the Cut must not have.
type CutPoint struct {
	db      *DB
	flushed <-chan struct{}
}

// gate lets commits pass during a cut as long as there is room.
type gate struct {
	mu       sync.Mutex
	cutting  chan struct{} // closed by the end of the cut; nil: there is none
	room     int64         // bytes of the memtable that are left, at least
	memTable int64         // bytes of the largest memtable seen: Pebble makes none that is smaller than the one before
	table    int64         // bytes from which on a batch may become a table of its own, and what was committed before it another
}

// entryOverhead is more than what an entry takes in a memtable besides its key and value, bytes (arenaskl.MaxNodeSize).
const entryOverhead = 240

// smallestMemTable is what Pebble begins with, bytes.
const smallestMemTable = 256 << 10

// pass waits until a batch may be applied.
func (g *gate) pass(b *pebble.Batch) {
	need := int64(b.Len()) + entryOverhead*int64(b.Count())
	for {
		g.mu.Lock()
		cutting := g.cutting
		fits := need <= g.room && need < g.table
		if cutting != nil && fits {
			g.room -= need
		}
		g.mu.Unlock()
		if cutting == nil || fits {
			return
		}
		<-cutting
	}
}

func (g *gate) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cutting, g.room = make(chan struct{}), max(g.memTable, smallestMemTable)*7/8
}

// see is told of a memtable.
func (g *gate) see(size int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.memTable = max(g.memTable, size)
}

// enough reports whether commits will have room for as long as memtables of that size take to become tables.
func (g *gate) enough(size int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.memTable >= size
}

func (g *gate) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.cutting)
	g.cutting = nil
}

// PrepareCut sees to it, shortly before a cut, that commits need not wait while it is finished. A flush that is not needed for
// that would make one more small table, which all reads must look into.
func (db *DB) PrepareCut() error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.leave()
	m := db.pdb.Metrics().MemTable
	if m.Count > 1 && !db.gate.enough(int64(m.Size)/m.Count) {
		if err := db.pdb.Flush(); err != nil {
			return fmt.Errorf("flush state %s: %w", db.dir, err)
		}
		m = db.pdb.Metrics().MemTable
	}
	if m.Count == 1 { // of several, one may be a batch that is larger than any memtable
		db.gate.see(int64(m.Size))
	}
	return nil
}

// BeginCut takes an instant; commits wait for a moment. Finish or Abandon must be called. There is one cut at a time.
func (db *DB) BeginCut() (*CutPoint, error) {
	if err := db.enter(); err != nil {
		return nil, err
	}
	c, err := db.beginCut()
	if err != nil {
		db.leave()
		return nil, fmt.Errorf("cut state %s: %w", db.dir, err)
	}
	return c, nil
}

func (db *DB) beginCut() (*CutPoint, error) {
	db.cut.Lock()
	defer db.cut.Unlock()
	if err := db.backgroundErr(); err != nil {
		return nil, err
	}
	if err := db.writeHolds(); err != nil {
		return nil, err
	}
	flushed, err := db.pdb.AsyncFlush()
	if err = errors.Join(err, db.dropHolds()); err != nil {
		return nil, err
	}
	db.gate.begin()
	return &CutPoint{db: db, flushed: flushed}, nil
}

// Finish makes dir, which must not exist and must be on the same file system, a copy of the database as of the instant: hard
// links to immutable files and a few small ones. Open takes a Cut or a copy of it.
//
// With a pool, another directory, the links are made there, unless the cut before has them there, too, and Finish gives their names:
// the Cut is dir with these files. What else is in pool is the caller's to remove, if no cut needs it.
func (c *CutPoint) Finish(ctx context.Context, dir, pool string) (shared []string, err error) {
	defer c.Abandon()
	if err = c.wait(ctx); err == nil {
		shared, err = c.db.links.share(dir, pool, func() error { return c.db.pdb.Checkpoint(dir) })
	}
	if err != nil {
		return nil, fmt.Errorf("cut state to %s: %w", dir, err)
	}
	return shared, nil
}

// wait waits until everything of the instant is in tables.
func (c *CutPoint) wait(ctx context.Context) error {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-c.flushed:
			return c.db.backgroundErr()
		case <-look.C:
			if err := c.db.backgroundErr(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Abandon gives the cut up, if it is not finished.
func (c *CutPoint) Abandon() {
	if c.db == nil {
		return
	}
	c.db.gate.end()
	c.db.leave()
	c.db = nil
}

// Cut is BeginCut and Finish.
func (db *DB) Cut(dir string) error {
	c, err := db.BeginCut()
	if err != nil {
		return err
	}
	_, err = c.Finish(context.Background(), dir, "")
	return err
}

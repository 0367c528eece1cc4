package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	defaultCacheBytes = 32 << 20
	defaultMemTable   = 8 << 20

	// format is written into every database. Change it when old databases can no longer be read.
	format = "tinyrunner state 2"

	// pebbleFormat is pinned, because a database that was opened with a newer one can never be opened with an older one.
	pebbleFormat = pebble.FormatValueSeparation

	// Values from this size on are in files of their own: a compaction moves only keys, so that little is written again, and
	// uploaded again by the next checkpoint. To read one that is apart costs a third block, which is felt below 100 bytes.
	separateValue = 128
	// How many of these files a table may refer to in one place before a compaction collects all of its values again, which is
	// most of the state at once: enough for 16 GB in files of a memtable's size.
	blobDepth = 2000
	// Share of these files that may be garbage. To collect costs as much again as (1-share)/share of what is written.
	blobGarbage = 0.4
	blobAge     = 10 * time.Second // before which nothing is collected

	bloomBitsPerKey = 10 // 1 % false positives
	blockSize       = 8 << 10
	flushFileSize   = 32 << 20 // of level 0, values included: a flush makes one table, and one file of values
	baseFileSize    = 16 << 20 // of the level that level 0 goes to; doubles with each level

	// The list of tables is part of each Cut, with all its changes since it was last written afresh.
	maxManifest = 256 << 10

	epochShift = 40 // lower bits of a sequence count chunks, upper bits count how often the database was opened
)

// keys of the meta group, after its prefix
const (
	metaFormat = "format"
	metaEpoch  = "epoch"
	metaCell   = "cell/"  // + name -> number
	metaHolds  = "holds/" // + owner -> holdSet
	metaHeld   = "holds"  // present: the holds/ entries are complete and up to date
)

func metaKey(name string) []byte { return append(appendPrefix(nil, metaGroup, cellMeta), name...) }

// Open opens the database in dir, creating dir and the database when they do not exist. It refuses a directory that
// holds anything else.
func Open(dir string, opts Options) (*DB, error) {
	if opts.FS == nil {
		opts.FS = vfs.Default
	}
	if opts.MemTable == 0 {
		opts.MemTable = defaultMemTable
	}
	if err := inspect(dir, opts.FS); err != nil {
		return nil, fmt.Errorf("open state %s: %w", dir, err)
	}
	var err error
	db := &DB{
		dir: dir, fs: opts.FS, links: &sharer{FS: lazySync{opts.FS}}, cache: opts.Cache, gate: gate{table: opts.MemTable * 7 / 16},
		queues: make(map[timerClass][]front), holds: make(map[Cell]*holdSet), cells: make(map[string]Cell), unused: make(map[string]Cell),
	}
	if db.cache == nil {
		if opts.CacheBytes == 0 {
			opts.CacheBytes = defaultCacheBytes
		}
		db.cache, db.ownCache = NewCache(opts.CacheBytes), true
	}
	if db.pdb, err = pebble.Open(dir, db.pebbleOptions(opts)); err == nil {
		if err = db.load(); err != nil {
			err = errors.Join(err, db.pdb.Close())
		}
	}
	if err != nil {
		if db.ownCache {
			db.cache.Close()
		}
		return nil, fmt.Errorf("open state %s: %w", dir, explain(err))
	}
	return db, nil
}

// inspect refuses a directory that holds other files than a Pebble database's, and creates dir when there is none.
func inspect(dir string, fsys vfs.FS) error {
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return explain(err)
	}
	names, err := fsys.List(dir)
	if err != nil {
		return explain(err)
	}
	for _, name := range names {
		if !pebbleFile(name) {
			return fmt.Errorf("the directory holds other files (%s); give an empty directory or remove them", name)
		}
	}
	return nil
}

// pebbleFile reports whether a database may have a file of this name.
func pebbleFile(name string) bool {
	for _, p := range []string{"marker.", "MANIFEST-", "OPTIONS-", "temporary.", "lost+found"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	for _, s := range []string{".sst", ".log", ".blob", ".dbtmp"} {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	return name == "LOCK" || name == "CURRENT"
}

// explain adds the remedy to errors that have one.
func explain(err error) error {
	msg := err.Error()
	switch {
	case errors.Is(err, fs.ErrPermission) || strings.Contains(msg, "read-only file system"):
		return fmt.Errorf("%w; the directory must be writable by this process", err)
	case strings.Contains(msg, "resource temporarily unavailable"), strings.Contains(msg, "lock held"):
		return fmt.Errorf("%w; another process uses the directory", err)
	case strings.Contains(msg, "comparer name from file"):
		return fmt.Errorf("it is a Pebble database of another program, or of an older version of this one; give an empty directory: %w", err)
	case strings.Contains(msg, "unknown format major version"):
		return fmt.Errorf("%w; it was written by a newer version of this program", err)
	}
	return err
}

func (db *DB) pebbleOptions(opts Options) *pebble.Options {
	o := &pebble.Options{
		Comparer:                    comparer(),
		Cache:                       db.cache.blocks,
		FileCache:                   db.cache.files,
		FS:                          db.links,
		DisableWAL:                  true,
		FormatMajorVersion:          pebbleFormat,
		MemTableSize:                uint64(opts.MemTable),
		MemTableStopWritesThreshold: 3,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		// One compaction at a time, two when there is a debt: each needs buffers for its input and output blocks.
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		MaxOpenFiles:               openFiles(),
		MaxManifestFileSize:        maxManifest,
		Logger:                     pebbleLogger{opts.Logger},
		EventListener:              db.listener(opts.Logger),
	}
	o.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
		return pebble.ValueSeparationPolicy{
			Enabled: true, MinimumSize: separateValue, MaxBlobReferenceDepth: blobDepth, RewriteMinimumAge: blobAge, TargetGarbageRatio: blobGarbage,
		}
	}
	// Pebble's guess that keys with a common prefix are versions of one value is wrong here. The description, which each Cut
	// changes, is in tables of its own: else each compaction of it writes a table of data again, which is uploaded again.
	description := appendPrefix(nil, metaGroup, 0)
	o.Experimental.SpanPolicyFunc = func(start []byte) (_ pebble.SpanPolicy, end []byte, _ error) {
		if bytes.Compare(start, description) < 0 {
			end = description
		}
		return pebble.SpanPolicy{DisableValueSeparationBySuffix: true}, end, nil
	}
	o.TargetFileSizes[0], o.TargetFileSizes[1] = flushFileSize, baseFileSize
	for i := range o.Levels {
		o.Levels[i].BlockSize = blockSize
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(bloomBitsPerKey)
	}
	return o
}

// listener remembers whether background writes fail, so that commits do not go on for ever.
func (db *DB) listener(logger *slog.Logger) *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			db.background.Store(&backgroundError{err})
			if logger != nil {
				logger.Error("state: background work failed", "dir", db.dir, "error", err)
			}
		},
		FlushEnd: func(info pebble.FlushInfo) {
			if info.Err == nil {
				db.background.Store(nil)
			}
		},
		// Pebble's default for this ends the process. The read that met it fails, which is enough.
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			if logger != nil {
				logger.Error("state: corrupt file", "dir", db.dir, "path", info.Path, "error", info.Details)
			}
		},
		DiskSlow: func(info pebble.DiskSlowInfo) {
			if logger != nil {
				logger.Warn("state: slow disk", "dir", db.dir, "path", info.Path, "op", info.OpType.String(), "duration", info.Duration)
			}
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			if logger != nil {
				logger.Debug("state: writes wait", "dir", db.dir, "reason", info.Reason)
			}
		},
	}
}

// load reads the description of the database, or writes that of a new one.
func (db *DB) load() error {
	got, ok, err := db.getCopy(metaKey(metaFormat))
	switch {
	case err != nil:
		return fmt.Errorf("read format: %w", err)
	case ok && string(got) != format:
		return fmt.Errorf("it has format %q, this program reads %q", got, format)
	case !ok:
		if err := db.pdb.Set(metaKey(metaFormat), []byte(format), pebble.NoSync); err != nil {
			return fmt.Errorf("write format: %w", err)
		}
	}
	if err := db.nextEpoch(); err != nil {
		return err
	}
	if err := db.loadCells(); err != nil {
		return err
	}
	return db.loadHolds()
}

// nextEpoch begins a new range of sequences. The epoch is written before any chunk that uses it, and Pebble flushes in
// order, so no files hold a chunk of an epoch that they do not name.
func (db *DB) nextEpoch() error {
	value, ok, err := db.getCopy(metaKey(metaEpoch))
	if err != nil {
		return fmt.Errorf("read epoch: %w", err)
	}
	var epoch uint64
	if ok && len(value) == 8 {
		epoch = binary.BigEndian.Uint64(value)
	}
	epoch++
	if err := db.pdb.Set(metaKey(metaEpoch), binary.BigEndian.AppendUint64(nil, epoch), pebble.NoSync); err != nil {
		return fmt.Errorf("write epoch: %w", err)
	}
	db.seq.Store(epoch << epochShift)
	return nil
}

// scanMeta calls f with what follows prefix in the name of each meta entry, and its value. Both are valid during f only.
func (db *DB) scanMeta(prefix string, f func(name, value []byte) error) error {
	lo := metaKey(prefix)
	it, err := db.pdb.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: prefixEnd(metaKey(prefix))})
	if err != nil {
		return err
	}
	for valid := it.First(); valid; valid = it.Next() {
		if err := f(it.Key()[len(lo):], it.Value()); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return it.Close()
}

// Cell returns the number of a cell, giving it one the first time. The same name has the same number for ever, in this
// database and in all that descend from its Cuts.
func (db *DB) Cell(name string) (Cell, error) {
	if err := db.enter(); err != nil {
		return 0, err
	}
	defer db.leave()
	db.cellsMu.Lock()
	defer db.cellsMu.Unlock()
	delete(db.unused, name)
	if c, ok := db.cells[name]; ok {
		return c, nil
	}
	c := db.nextCell
	if err := db.pdb.Set(metaKey(metaCell+name), binary.BigEndian.AppendUint32(nil, uint32(c)), pebble.NoSync); err != nil {
		return 0, fmt.Errorf("number cell %q: %w", name, err)
	}
	db.cells[name] = c
	db.nextCell++
	return c, nil
}

// UnusedCells names, in order, the cells that were in the database when it was opened, hold something or own timers, and that
// nobody has asked for since: state of a job that has changed.
func (db *DB) UnusedCells() ([]string, error) {
	if err := db.enter(); err != nil {
		return nil, err
	}
	defer db.leave()
	db.cellsMu.Lock()
	defer db.cellsMu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(db.unused)) {
		c := db.unused[name]
		holds, err := db.holdsAny(c)
		if err != nil {
			return nil, fmt.Errorf("look into cell %q: %w", name, err)
		}
		if holds {
			names = append(names, name)
		}
	}
	return names, nil
}

// holdsAny reports whether a cell has an entry or owns a timer in any key group. It seeks from group to group.
func (db *DB) holdsAny(c Cell) (bool, error) {
	it, err := db.pdb.NewIter(nil)
	if err != nil {
		return false, err
	}
	found := false
	for valid := it.First(); valid && !found; {
		group := binary.BigEndian.Uint16(it.Key())
		if group == metaGroup {
			break
		}
		owned := binary.BigEndian.AppendUint32(appendPrefix(nil, group, cellTimer), uint32(c))
		for _, prefix := range [][]byte{owned, appendPrefix(nil, group, c)} {
			found = found || it.SeekGE(prefix) && bytes.HasPrefix(it.Key(), prefix)
		}
		valid = it.SeekGE(appendPrefix(nil, group+1, 0))
	}
	return found, it.Close()
}

func (db *DB) loadCells() error {
	db.nextCell = firstUserCell
	err := db.scanMeta(metaCell, func(name, value []byte) error {
		if len(value) != 4 {
			return errCorrupt
		}
		c := Cell(binary.BigEndian.Uint32(value))
		db.cells[string(name)] = c
		db.unused[string(name)] = c
		db.nextCell = max(db.nextCell, c+1)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read cells: %w", err)
	}
	return nil
}

// writeHolds stores the counts of holds, so that opening the Cut need not read all timers. REQUIRES: db.cut is held.
func (db *DB) writeHolds() error {
	db.memory.Lock()
	defer db.memory.Unlock()
	b := db.pdb.NewBatch()
	defer b.Close()
	for owner, s := range db.holds {
		name := binary.BigEndian.AppendUint32([]byte(metaHolds), uint32(owner))
		if err := b.Set(metaKey(string(name)), s.encode(nil), nil); err != nil {
			return err
		}
	}
	if err := b.Set(metaKey(metaHeld), nil, nil); err != nil {
		return err
	}
	return db.pdb.Apply(b, pebble.NoSync)
}

// dropHolds removes what writeHolds wrote: the next commit makes it wrong. Files that hold a later commit hold the
// removal too, because Pebble flushes in order.
func (db *DB) dropHolds() error {
	b := db.pdb.NewBatch()
	defer b.Close()
	if err := b.Delete(metaKey(metaHeld), nil); err != nil {
		return err
	}
	if err := b.DeleteRange(metaKey(metaHolds), prefixEnd(metaKey(metaHolds)), nil); err != nil {
		return err
	}
	return db.pdb.Apply(b, pebble.NoSync)
}

// loadHolds fills the sets of holds from what a Cut stored, or else from all timers and holds.
func (db *DB) loadHolds() error {
	_, held, err := db.getCopy(metaKey(metaHeld))
	if err != nil {
		return fmt.Errorf("read holds: %w", err)
	}
	if !held {
		return db.rebuildHolds()
	}
	err = db.scanMeta(metaHolds, func(name, value []byte) error {
		if len(name) != 4 {
			return errCorrupt
		}
		s, err := decodeHoldSet(value, maxHoldBuckets)
		db.holds[Cell(binary.BigEndian.Uint32(name))] = s
		return err
	})
	if err != nil {
		return fmt.Errorf("read holds: %w", err)
	}
	return db.dropHolds()
}

// pebbleLogger hands Pebble's messages to slog.
type pebbleLogger struct{ *slog.Logger }

func (l pebbleLogger) Infof(format string, args ...any) {
	if l.Logger != nil && l.Enabled(context.Background(), slog.LevelDebug) {
		l.Debug("state: " + fmt.Sprintf(format, args...))
	}
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	if l.Logger != nil {
		l.Error("state: " + fmt.Sprintf(format, args...))
	}
}

// Fatalf is called when the database cannot go on, for instance when its list of files cannot be written. Pebble's
// contract is that it does not return.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	msg := "state: database cannot go on: " + fmt.Sprintf(format, args...)
	if l.Logger != nil {
		l.Error(msg)
	}
	panic(msg)
}

var _ pebble.Logger = pebbleLogger{}

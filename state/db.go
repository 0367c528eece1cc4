package state

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrClosed is returned by operations on a closed DB.
var ErrClosed = errors.New("state database is closed")

// Options of a database. The zero value works.
type Options struct {
	// Cache is shared by the databases of a process and stays the caller's. nil: the database has its own of CacheBytes.
	Cache *Cache
	// CacheBytes is the size of the database's own cache. Default 32 MiB.
	CacheBytes int64
	// MemTable is the size, in bytes, of what is collected in memory before it becomes a file; up to three times as much is held.
	// Default 8 MiB: larger ones make fewer files and cost memory per database.
	MemTable int64
	// FS is the file system. Default: the operating system's.
	FS vfs.FS
	// Logger takes what Pebble has to say: problems, and at debug level its flushes and compactions. Default: nothing is
	// logged.
	Logger *slog.Logger
}

// DB is the state of one job. All methods may be called from any goroutine; see Tx for what a transaction may.
type DB struct {
	pdb      *pebble.DB
	dir      string
	fs       vfs.FS
	links    *sharer
	cache    *Cache
	ownCache bool

	seq atomic.Uint64 // last sequence of a bag's chunk; the upper bits are the epoch

	use    sync.RWMutex   // protects closed, and active from being waited for while it grows from zero
	closed bool           // no new operation may begin
	active sync.WaitGroup // operations that use pdb

	cut  sync.RWMutex // a commit holds it for reading, BeginCut for writing
	gate gate         // for commits while a cut is finished

	memory sync.Mutex // protects queues and holds; taken last
	queues map[timerClass][]front
	holds  map[Cell]*holdSet

	cellsMu  sync.Mutex // protects cells, unused and nextCell
	cells    map[string]Cell
	unused   map[string]Cell // of cells: there when the database was opened, and not asked for since
	nextCell Cell

	background atomic.Pointer[backgroundError]
}

// backgroundError is why flushes fail at present.
type backgroundError struct{ err error }

// enter announces the use of pdb until leave.
func (db *DB) enter() error {
	db.use.RLock()
	defer db.use.RUnlock()
	if db.closed {
		return ErrClosed
	}
	db.active.Add(1)
	return nil
}

func (db *DB) leave() { db.active.Done() }

// view calls f with the committed value of a whole key, if there is one. The value is valid during f only.
func (db *DB) view(key []byte, f func(value []byte) error) (ok bool, err error) {
	if err := db.enter(); err != nil {
		return false, err
	}
	defer db.leave()
	value, closer, err := db.pdb.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, errors.Join(f(value), closer.Close())
}

// Close waits for operations that are going on, scans included, and closes the database. What was not Cut is lost.
func (db *DB) Close() error {
	db.use.Lock()
	if db.closed {
		db.use.Unlock()
		return nil
	}
	db.closed = true
	db.use.Unlock()
	db.active.Wait()
	err := db.pdb.Close()
	if db.ownCache {
		db.cache.Close()
	}
	if err != nil {
		return fmt.Errorf("close state %s: %w", db.dir, err)
	}
	return nil
}

// backgroundErr says why data cannot be written to files at present; nil: it can.
func (db *DB) backgroundErr() error {
	if b := db.background.Load(); b != nil {
		return fmt.Errorf("write files in %s: %w", db.dir, b.err)
	}
	return nil
}

// nextSeq returns the sequence of a new chunk: unique, and greater than all that went before.
func (db *DB) nextSeq() uint64 { return db.seq.Add(1) }

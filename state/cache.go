package state

import (
	"syscall"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// maxOpenFiles is how many tables and files of values are kept open by all databases of a Cache, a few KB each. A state of
	// 1 GB under random updates has 700; to open one for each value that is read costs more than to read it.
	maxOpenFiles    = 2048
	fileCacheShards = 4
)

// openFiles is maxOpenFiles, or half of what the process may open.
func openFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return maxOpenFiles / 4
	}
	return int(min(maxOpenFiles, max(limit.Cur/2, 64)))
}

// Cache holds the blocks and the open files of all databases of a process. Safe for concurrent use.
type Cache struct {
	blocks *pebble.Cache
	files  *pebble.FileCache
}

// NewCache returns a cache of so many bytes of uncompressed blocks. Memtables of the databases that use it are charged to
// it, so it should have at least twice the memtable size per busy database, and room for the blocks that are often read.
func NewCache(bytes int64) *Cache {
	return &Cache{blocks: pebble.NewCache(bytes), files: pebble.NewFileCache(fileCacheShards, openFiles())}
}

// Bytes returns how many bytes the cache may hold.
func (c *Cache) Bytes() int64 { return c.blocks.MaxSize() }

// Close gives up the owner's reference. The memory is freed when the last database that uses the cache is closed.
func (c *Cache) Close() {
	c.files.Unref()
	c.blocks.Unref()
}

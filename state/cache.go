package state

import "github.com/cockroachdb/pebble/v2"

const (
	openFiles       = 512 // SST files kept open by all databases of a Cache
	fileCacheShards = 4
)

// Cache holds the blocks and the open files of all databases of a process. Safe for concurrent use.
type Cache struct {
	blocks *pebble.Cache
	files  *pebble.FileCache
}

// NewCache returns a cache of so many bytes of uncompressed blocks. Memtables of the databases that use it are charged to
// it, so it should have at least twice the memtable size per busy database, and room for the blocks that are often read.
func NewCache(bytes int64) *Cache {
	return &Cache{blocks: pebble.NewCache(bytes), files: pebble.NewFileCache(fileCacheShards, openFiles)}
}

// Bytes returns how many bytes the cache may hold.
func (c *Cache) Bytes() int64 { return c.blocks.MaxSize() }

// Close gives up the owner's reference. The memory is freed when the last database that uses the cache is closed.
func (c *Cache) Close() {
	c.files.Unref()
	c.blocks.Unref()
}

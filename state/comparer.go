package state

import (
	"encoding/binary"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// comparer orders keys by their bytes. Its prefixes, by which tables keep bloom filters, are those of a user key's entries in
// a cell: a scan of one bag need not look into tables that have nothing of its key.
func comparer() *pebble.Comparer {
	c := *pebble.DefaultComparer
	c.Name = "tinyrunner.state"
	c.Split = splitKey
	c.ImmediateSuccessor = func(dst, prefix []byte) []byte {
		return append(dst, prefixEnd(slices.Clone(prefix))...)
	}
	return &c
}

// splitKey returns the length of a key's prefix: group, cell and first component. A key that has none is all prefix, and so
// are those of the package's own cells. No prefix begins with another one, as Pebble demands.
func splitKey(key []byte) int {
	if n, ok := componentEnd(key); ok {
		return n
	}
	return len(key)
}

// componentEnd returns where the first component of a key in a cell of callers ends.
func componentEnd(key []byte) (end int, ok bool) {
	if len(key) < prefixLen || Cell(binary.BigEndian.Uint32(key[2:])) < firstUserCell {
		return 0, false
	}
	_, rest, ok := CutComponent(key[prefixLen:])
	return len(key) - len(rest), ok
}

package state

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Census adds up how many bytes the entries of each cell have, a few entries at a time: it goes through the key groups, again
// and again. Timers and holds are their owner's. Values are not read, only their lengths. Not safe for concurrent use.
//
// It counts what is there, keys and values as they are, and not what files take: to ask Pebble for the size of a range in files
// is right to a block only, and a cell has a range in each key group.
type Census struct {
	db     *DB
	groups uint16
	// Where it goes on: at a key of a group.
	at    []byte
	group uint16
	open  map[Cell]int64 // of that group so far
	first map[Cell]int64 // of group 0, which has what is not spread over groups; nil: not known
	pass  map[Cell]int64 // of the groups from 1 to the open one, in this pass
	last  map[Cell]int64 // of all groups from 1 on, in the pass before; nil: there was none
}

// NewCensus makes a census of the key groups below groups.
func (db *DB) NewCensus(groups int) *Census {
	c := &Census{db: db, groups: uint16(min(groups, MaxGroup+1)), open: make(map[Cell]int64)}
	c.begin()
	return c
}

// begin begins a pass.
func (c *Census) begin() {
	c.pass = make(map[Cell]int64)
	c.group, c.at = 0, appendPrefix(c.at[:0], 0, cellTimer)
}

// censusBatch is how many entries are counted between two looks at the clock.
const censusBatch = 64

// Step counts for about so long, and at most to the end of a pass. A closed DB has ErrClosed.
func (c *Census) Step(d time.Duration) (err error) {
	if err := c.db.enter(); err != nil {
		return err
	}
	defer c.db.leave()
	it, err := c.db.pdb.NewIter(&pebble.IterOptions{UpperBound: appendPrefix(nil, c.groups, 0)})
	if err != nil {
		return fmt.Errorf("count state: %w", err)
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("count state: %w", cerr)
		}
	}()
	until := time.Now().Add(d)
	valid := it.SeekGE(c.at)
	for n := 1; ; n++ {
		group := c.groups // behind the last
		if valid {
			group = binary.BigEndian.Uint16(it.Key())
		}
		if it.Error() != nil {
			return nil // Close tells
		}
		if group != c.group {
			c.leave()
			c.group = group // those in between are empty
		}
		if group == c.groups {
			c.last = c.pass
			c.begin()
			return nil
		}
		if err := c.count(it.Key(), it.LazyValue()); err != nil {
			return err
		}
		if n%censusBatch == 0 && time.Now().After(until) {
			c.at = append(append(c.at[:0], it.Key()...), 0) // the next key there can be
			return nil
		}
		valid = it.Next()
	}
}

// count counts an entry of the open group.
func (c *Census) count(key []byte, value pebble.LazyValue) error {
	if len(key) < prefixLen {
		return fmt.Errorf("count state: %w", errCorrupt)
	}
	cell := Cell(binary.BigEndian.Uint32(key[2:]))
	if cell == cellTimer || cell == cellTimerIndex || cell == cellHold {
		if len(key) < prefixLen+4 {
			return fmt.Errorf("count state: %w", errCorrupt)
		}
		cell = Cell(binary.BigEndian.Uint32(key[prefixLen:]))
	}
	c.open[cell] += int64(len(key) + value.Len())
	return nil
}

// leave ends the open group.
func (c *Census) leave() {
	if c.group == 0 {
		c.first, c.open = c.open, make(map[Cell]int64)
		return
	}
	for cell, n := range c.open {
		c.pass[cell] += n
	}
	clear(c.open)
}

// minPass is which part of the groups a pass must have behind it so that it tells more than the one before.
const minPass = 8

// Size returns the bytes of cells. Before the first pass has ended it is what the groups so far make likely; false: not even
// that is known.
func (c *Census) Size(cells []Cell) (int64, bool) {
	rest, done, all := c.pass, max(0, int64(c.group)-1), int64(c.groups)-1
	if c.last != nil && done*minPass < all {
		rest, done = c.last, all
	}
	if c.first == nil || done == 0 && all > 0 {
		return 0, false
	}
	first, sum := int64(0), int64(0)
	for _, cell := range cells {
		first += c.first[cell]
		sum += rest[cell]
	}
	return first + int64(float64(sum)*float64(all)/float64(max(1, done))), true
}

package state

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

	"github.com/RaduBerinde/btreemap"
	"github.com/cockroachdb/pebble/v2"
)

// KV is an entry met by a scan. Both slices are valid until the next step of the loop.
type KV struct {
	Suffix []byte
	Value  []byte
}

// Scan yields the entries of a cell with lo <= suffix < hi in order, the Tx's own writes included. hi nil: to the end of
// the cell. The Tx may be written to during the loop; the loop may or may not meet what is written after it began. An
// error is the last thing yielded.
func (tx *Tx) Scan(group uint16, cell Cell, lo, hi []byte) iter.Seq2[KV, error] {
	return func(yield func(KV, error) bool) {
		klo, khi := scanBounds(group, cell, lo, hi)
		tx.yieldScan(group, cell, cursor{tx: tx, lo: klo, hi: khi}, yield)
	}
}

// ScanPrefix yields the entries whose suffix begins with prefix: a bag's chunks, for instance. See Scan.
func (tx *Tx) ScanPrefix(group uint16, cell Cell, prefix []byte) iter.Seq2[KV, error] {
	return tx.ScanPrefixFrom(group, cell, prefix, nil)
}

// ScanPrefixFrom is ScanPrefix without the entries before suffix prefix+from: it goes on where an earlier scan ended.
func (tx *Tx) ScanPrefixFrom(group uint16, cell Cell, prefix, from []byte) iter.Seq2[KV, error] {
	return func(yield func(KV, error) bool) {
		c := prefixCursor(tx, group, cell, prefix)
		klo := c.lo
		c.bag = tx.bags[string(klo)]
		if len(from) > 0 {
			c.lo = append(klo, from...)
		} else if !tx.done {
			if c.bag == nil {
				c.bag = tx.bag(string(klo))
			}
			c.learn = !c.bag.cleared && !c.bag.complete
		}
		tx.yieldScan(group, cell, c, yield)
	}
}

// Scan yields committed entries of a cell with lo <= suffix < hi in order; hi nil: to the end of the cell. It sees the
// database as it was when the loop began.
func (db *DB) Scan(group uint16, cell Cell, lo, hi []byte) iter.Seq2[KV, error] {
	return func(yield func(KV, error) bool) {
		tx := &Tx{db: db}
		klo, khi := scanBounds(group, cell, lo, hi)
		tx.yieldScan(group, cell, cursor{tx: tx, lo: klo, hi: khi}, yield)
	}
}

// ScanPrefix yields the committed entries whose suffix begins with prefix. See Scan.
func (db *DB) ScanPrefix(group uint16, cell Cell, prefix []byte) iter.Seq2[KV, error] {
	return db.ScanPrefixFrom(group, cell, prefix, nil)
}

// ScanPrefixFrom is ScanPrefix without the entries before suffix prefix+from.
func (db *DB) ScanPrefixFrom(group uint16, cell Cell, prefix, from []byte) iter.Seq2[KV, error] {
	return func(yield func(KV, error) bool) {
		c := prefixCursor(&Tx{db: db}, group, cell, prefix)
		c.lo = append(c.lo, from...)
		c.tx.yieldScan(group, cell, c, yield)
	}
}

func scanBounds(group uint16, cell Cell, lo, hi []byte) (klo, khi []byte) {
	klo = append(appendPrefix(nil, group, cell), lo...)
	if hi == nil {
		return klo, prefixEnd(appendPrefix(nil, group, cell))
	}
	return klo, append(appendPrefix(nil, group, cell), hi...)
}

func prefixBounds(group uint16, cell Cell, prefix []byte) (klo, khi []byte) {
	klo = append(appendPrefix(nil, group, cell), prefix...)
	return klo, prefixEnd(slices.Clone(klo))
}

// prefixCursor is for the entries whose suffix begins with prefix.
func prefixCursor(tx *Tx, group uint16, cell Cell, prefix []byte) cursor {
	lo, hi := prefixBounds(group, cell, prefix)
	_, oneKey := componentEnd(lo)
	return cursor{tx: tx, lo: lo, hi: hi, oneKey: oneKey}
}

func (tx *Tx) yieldScan(group uint16, cell Cell, c cursor, yield func(KV, error) bool) {
	err := tx.check(group, cell)
	if err == nil {
		err = c.scan(func(key, value []byte) bool {
			return yield(KV{Suffix: key[prefixLen:], Value: value}, nil)
		})
	}
	if err != nil {
		yield(KV{}, fmt.Errorf("scan state: %w", err))
	}
}

// cursor merges the pending writes of a Tx over the committed entries.
type cursor struct {
	tx     *Tx
	lo, hi []byte
	oneKey bool // all keys from lo to hi have one prefix, by splitKey
	bag    *bag // of the prefix that [lo, hi) lies below; nil: the Tx knows nothing of it

	it    *pebble.Iterator // nil: only pending writes
	valid bool             // it is at an entry

	learn bool     // lo is the prefix: remember in bag which keys are committed
	keys  []string // learnt so far

	cur     []byte // copy of pending's key
	pending *op    // first pending write that was not met yet
	version int    // of the Tx when pending was looked up
}

// scan calls f with the visible entries in order until f returns false.
func (c *cursor) scan(f func(key, value []byte) bool) error {
	if string(c.lo) >= string(c.hi) {
		return nil
	}
	if c.bag == nil || !c.bag.cleared {
		if err := c.open(); err != nil {
			return err
		}
		defer c.close()
	}
	return c.run(f)
}

func (c *cursor) open() error {
	if err := c.tx.db.enter(); err != nil {
		return err
	}
	it, err := c.tx.db.pdb.NewIter(&pebble.IterOptions{LowerBound: c.lo, UpperBound: c.hi, UseL6Filters: c.oneKey})
	if err != nil {
		c.tx.db.leave()
		return err
	}
	c.it = it
	return nil
}

func (c *cursor) close() {
	c.it.Close()
	c.tx.db.leave()
}

func (c *cursor) run(f func(key, value []byte) bool) error {
	switch {
	case c.it == nil:
	case c.oneKey:
		c.valid = c.it.SeekPrefixGE(c.lo)
	default:
		c.valid = c.it.First()
	}
	c.skipHidden()
	c.lookup(btreemap.GE(string(c.lo)))
	for {
		switch {
		case !c.valid && c.pending == nil:
			return c.end()
		case c.pending == nil || (c.valid && string(c.it.Key()) < c.pending.key):
			value, err := c.it.ValueAndErr()
			if err != nil {
				return err
			}
			if !f(c.it.Key(), value) {
				return nil
			}
			c.follow(c.it.Key())
			c.next()
		default:
			o := c.pending
			if c.valid && string(c.it.Key()) == o.key {
				c.next()
			}
			c.cur = append(c.cur[:0], o.key...)
			if !o.del && !f(c.cur, o.value) {
				return nil
			}
			c.lookup(btreemap.GT(o.key))
		}
	}
}

// next steps to the next committed entry.
func (c *cursor) next() {
	if c.learn {
		c.keys = append(c.keys, string(c.it.Key()))
		c.learn = len(c.keys) <= maxPointDeletes
	}
	c.valid = c.it.Next()
	c.skipHidden()
}

// end is called when all entries were met.
func (c *cursor) end() error {
	if c.it == nil {
		return nil
	}
	if err := c.it.Error(); err != nil {
		return err
	}
	if c.learn {
		c.bag.complete, c.bag.keys = true, c.keys
	}
	return nil
}

// skipHidden moves the iterator over ranges that the Tx deleted.
func (c *cursor) skipHidden() {
	for c.valid {
		end, hidden := c.tx.ranges.find(c.it.Key())
		if !hidden {
			return
		}
		c.valid = c.it.SeekGE([]byte(end))
	}
}

// lookup finds the first pending write from a place on.
func (c *cursor) lookup(from btreemap.LowerBound[string]) {
	c.pending, c.version = nil, c.tx.version
	if len(c.tx.ops) == 0 {
		return
	}
	c.tx.buildIndex()
	for _, o := range c.tx.index.Ascend(from, btreemap.LT(string(c.hi))) {
		c.pending = o
		return
	}
}

// follow looks pending up again when the loop's body wrote to the Tx.
func (c *cursor) follow(key []byte) {
	if c.version != c.tx.version {
		c.lookup(btreemap.GT(string(key)))
	}
}

const indexDegree = 32

func (tx *Tx) buildIndex() {
	if tx.index != nil {
		return
	}
	tx.index = btreemap.New[string, *op](indexDegree, cmp.Compare[string])
	for k, o := range tx.ops {
		tx.index.ReplaceOrInsert(k, o)
	}
}

// maxPointDeletes is up to how many committed entries are deleted one by one. Range tombstones are small but slow every
// read of their memtable, and bags of a key are cleared by the thousand.
const maxPointDeletes = 32

// DeletePrefix removes all entries whose suffix begins with prefix: a whole bag, or all bags of a key. It reads a few
// keys of the range.
func (tx *Tx) DeletePrefix(group uint16, cell Cell, prefix []byte) error {
	if err := tx.check(group, cell); err != nil {
		return fmt.Errorf("delete state: %w", err)
	}
	lo, hi := prefixBounds(group, cell, prefix)
	b := tx.bag(string(lo))
	switch {
	case b.cleared:
		tx.removePending(lo, hi)
	case b.complete:
		tx.removePending(lo, hi)
		tx.deleteKeys(b.keys)
	default:
		if err := tx.deleteRange(lo, hi); err != nil {
			return fmt.Errorf("delete state: %w", err)
		}
	}
	*b = bag{cleared: true, fresh: true}
	return nil
}

// DeleteRange removes the entries of a cell with lo <= suffix < hi; hi nil: to the end of the cell.
func (tx *Tx) DeleteRange(group uint16, cell Cell, lo, hi []byte) error {
	if err := tx.check(group, cell); err != nil {
		return fmt.Errorf("delete state: %w", err)
	}
	klo, khi := scanBounds(group, cell, lo, hi)
	if err := tx.deleteRange(klo, khi); err != nil {
		return fmt.Errorf("delete state: %w", err)
	}
	return nil
}

// pendingIn returns the ops of [lo, hi).
func (tx *Tx) pendingIn(lo, hi []byte) []*op {
	if len(tx.ops) == 0 {
		return nil
	}
	tx.buildIndex()
	var out []*op
	for _, o := range tx.index.Ascend(btreemap.GE(string(lo)), btreemap.LT(string(hi))) {
		out = append(out, o)
	}
	return out
}

func (tx *Tx) removePending(lo, hi []byte) {
	for _, o := range tx.pendingIn(lo, hi) {
		tx.remove(o)
	}
}

func (tx *Tx) deleteRange(lo, hi []byte) error {
	if string(lo) >= string(hi) {
		return nil
	}
	tx.removePending(lo, hi)
	var keys []string
	c := cursor{tx: tx, lo: lo, hi: hi}
	err := c.scan(func(key, _ []byte) bool {
		keys = append(keys, string(key))
		return len(keys) <= maxPointDeletes
	})
	if err != nil {
		return err
	}
	if len(keys) <= maxPointDeletes {
		tx.deleteKeys(keys)
		return nil
	}
	for _, o := range tx.pendingIn(lo, hi) {
		tx.forget(o)
	}
	tx.ranges.add(string(lo), string(hi))
	tx.size += int64(len(lo) + len(hi))
	return nil
}

// deleteKeys deletes committed keys that have no live pending write.
func (tx *Tx) deleteKeys(keys []string) {
	for _, k := range keys {
		o := tx.put([]byte(k), true)
		o.base, o.del = true, true
	}
}

// keyRange is [lo, hi) of whole keys.
type keyRange struct{ lo, hi string }

// rangeSet is a set of disjoint ranges in order.
type rangeSet struct{ list []keyRange }

// add puts a range into the set, joining those that it overlaps or touches.
func (s *rangeSet) add(lo, hi string) {
	i, _ := slices.BinarySearchFunc(s.list, lo, func(r keyRange, k string) int { return cmp.Compare(r.hi, k) })
	j := i
	for j < len(s.list) && s.list[j].lo <= hi {
		lo, hi = min(lo, s.list[j].lo), max(hi, s.list[j].hi)
		j++
	}
	s.list = slices.Replace(s.list, i, j, keyRange{lo, hi})
}

// find returns the end of the range that the key is in.
func (s *rangeSet) find(key []byte) (end string, ok bool) {
	if len(s.list) == 0 {
		return "", false
	}
	k := string(key)
	i, found := slices.BinarySearchFunc(s.list, k, func(r keyRange, k string) int { return cmp.Compare(r.lo, k) })
	if !found {
		i--
	}
	if i < 0 || s.list[i].hi <= k {
		return "", false
	}
	return s.list[i].hi, true
}

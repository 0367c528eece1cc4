package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/RaduBerinde/btreemap"
	"github.com/cockroachdb/pebble/v2"
)

// maxChunk is how large a chunk of a bag grows by joining appended values. A single value may be larger.
const maxChunk = 64 << 10

// ErrTxDone is returned by operations on a transaction that was committed or discarded.
var ErrTxDone = errors.New("transaction is done")

// Tx is one bundle's transaction. It belongs to one goroutine at a time. All of its writes are in memory until Commit, so
// the caller bounds it by Size.
//
// Suffixes, prefixes and values given to a Tx are copied.
type Tx struct {
	db   *DB
	done bool
	size int64

	ops    map[string]*op // by whole key
	bags   map[string]*bag
	ranges rangeSet // committed entries in here are deleted, and hidden from reads
	// index has the keys of ops in order. It exists from the first scan on: a Tx that only appends and sets does not pay
	// for it.
	index   *btreemap.BTreeMap[string, *op]
	version int // grows when index gains or loses a key

	timers map[string]*timerOp // by key of the record
	holds  map[string]*holdOp

	slab []op   // allocation in bulk
	mem  []byte // the same for values
	buf  []byte // key being looked up
}

// op is the pending write of one key.
type op struct {
	key   string
	value []byte
	del   bool
	// base: the key may be committed, so taking the write back needs a tombstone.
	base bool
	// gone: the op is no longer in tx.ops.
	gone bool
}

// bag is what a Tx knows of a prefix that it appended to or cleared.
type bag struct {
	// chunk takes the next value, while it is neither full, nor deleted, nor gone.
	chunk *op
	// cleared: no committed entry below the prefix is visible but through ops. Scans need not look into the database.
	cleared bool
	// complete: keys are all committed entries below the prefix that no range hides. A scan found out, so that clearing the
	// bag after reading it does not read it again.
	complete bool
	keys     []string
	// fresh: the prefix has no entry, so that the next chunk may have sequence 0.
	fresh bool
}

// Begin starts a transaction. It costs nothing until it is used, and must end with Commit or Discard.
func (db *DB) Begin() *Tx { return &Tx{db: db} }

// check refuses uses that would damage the database.
func (tx *Tx) check(group uint16, cell Cell) error {
	switch {
	case tx.done:
		return ErrTxDone
	case group > MaxGroup:
		return fmt.Errorf("key group %d is reserved", group)
	case cell < firstUserCell:
		return fmt.Errorf("cell %d is reserved; numbers come from DB.Cell", cell)
	}
	return nil
}

// key puts a whole key into tx.buf.
func (tx *Tx) key(group uint16, cell Cell, suffix []byte) []byte {
	tx.buf = append(appendPrefix(tx.buf[:0], group, cell), suffix...)
	return tx.buf
}

const (
	slabOps   = 128
	slabBytes = 32 << 10
)

// put returns the op of a key, making one when there is none.
func (tx *Tx) put(key []byte, base bool) *op {
	if o := tx.ops[string(key)]; o != nil {
		return o
	}
	if len(tx.slab) == 0 {
		tx.slab = make([]op, slabOps)
	}
	o := &tx.slab[0]
	tx.slab = tx.slab[1:]
	o.key, o.base = string(key), base
	if tx.ops == nil {
		tx.ops = make(map[string]*op)
	}
	tx.ops[o.key] = o
	if tx.index != nil {
		tx.index.ReplaceOrInsert(o.key, o)
	}
	tx.version++
	tx.size += int64(len(key))
	return o
}

// copyValue returns a copy of v that may be appended to (which then moves it).
func (tx *Tx) copyValue(v []byte) []byte {
	if len(v) > slabBytes/4 {
		return append([]byte(nil), v...)
	}
	if len(v) > len(tx.mem) {
		tx.mem = make([]byte, slabBytes)
	}
	c := tx.mem[:len(v):len(v)]
	tx.mem = tx.mem[len(v):]
	copy(c, v)
	return c
}

// remove takes back the pending write of a key; what is committed there, if anything, is deleted.
func (tx *Tx) remove(o *op) {
	tx.size -= int64(len(o.value))
	o.value = nil
	if o.base {
		o.del = true
		return
	}
	tx.forget(o)
}

// forget drops an op. What is committed under its key becomes visible again, unless it is in tx.ranges.
func (tx *Tx) forget(o *op) {
	o.gone = true
	tx.size -= int64(len(o.key))
	delete(tx.ops, o.key)
	if tx.index != nil {
		tx.index.Delete(o.key)
	}
	tx.version++
}

// Get returns a copy of the value of a key.
func (tx *Tx) Get(group uint16, cell Cell, suffix []byte) (value []byte, ok bool, err error) {
	if err := tx.check(group, cell); err != nil {
		return nil, false, fmt.Errorf("get state: %w", err)
	}
	key := tx.key(group, cell, suffix)
	if o := tx.ops[string(key)]; o != nil {
		if o.del {
			return nil, false, nil
		}
		return append([]byte{}, o.value...), true, nil
	}
	if _, hidden := tx.ranges.find(key); hidden {
		return nil, false, nil
	}
	return tx.db.getCopy(key)
}

func (db *DB) getCopy(key []byte) (value []byte, ok bool, err error) {
	ok, err = db.view(key, func(v []byte) error {
		value = append([]byte{}, v...)
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("get state: %w", err)
	}
	return value, ok, nil
}

// Get returns a copy of the committed value of a key.
func (db *DB) Get(group uint16, cell Cell, suffix []byte) (value []byte, ok bool, err error) {
	return db.getCopy(append(appendPrefix(nil, group, cell), suffix...))
}

// Set writes the value of a key. It does not read.
func (tx *Tx) Set(group uint16, cell Cell, suffix, value []byte) error {
	if err := tx.check(group, cell); err != nil {
		return fmt.Errorf("set state: %w", err)
	}
	o := tx.put(tx.key(group, cell, suffix), true)
	tx.size += int64(len(value) - len(o.value))
	o.value, o.del = tx.copyValue(value), false
	return nil
}

// Delete removes a key. It does not read.
func (tx *Tx) Delete(group uint16, cell Cell, suffix []byte) error {
	if err := tx.check(group, cell); err != nil {
		return fmt.Errorf("delete state: %w", err)
	}
	tx.remove(tx.put(tx.key(group, cell, suffix), true))
	return nil
}

// Append adds a value to the bag at prefix: entries below prefix, in the order of appending, whose values concatenated
// are all values appended. A value is never cut: it lies in one entry, maybe with others. Append does not read.
func (tx *Tx) Append(group uint16, cell Cell, prefix, value []byte) error {
	if err := tx.check(group, cell); err != nil {
		return fmt.Errorf("append state: %w", err)
	}
	tx.size += int64(len(value))
	key := tx.key(group, cell, prefix)
	b := tx.bags[string(key)]
	if b != nil && b.chunk != nil && !b.chunk.gone && !b.chunk.del && len(b.chunk.value)+len(value) <= maxChunk {
		b.chunk.value = append(b.chunk.value, value...)
		return nil
	}
	var seq uint64
	if b == nil || !b.fresh {
		seq = tx.db.nextSeq()
	}
	tx.buf = binary.BigEndian.AppendUint64(key, seq)
	o := tx.put(tx.buf, false)
	o.value, o.del = tx.copyValue(value), false
	if b == nil {
		b = tx.bag(o.key[:len(o.key)-seqLen])
	}
	b.chunk, b.fresh = o, false
	return nil
}

// bag returns what is known of a prefix. The key is kept.
func (tx *Tx) bag(key string) *bag {
	b := tx.bags[key]
	if b == nil {
		if tx.bags == nil {
			tx.bags = make(map[string]*bag)
		}
		b = new(bag)
		tx.bags[key] = b
	}
	return b
}

// Size returns how many bytes the transaction holds: keys and values written, timers, holds.
func (tx *Tx) Size() int64 { return tx.size }

// Discard forgets the transaction. It does nothing after Commit or Discard.
func (tx *Tx) Discard() {
	tx.done = true
	tx.ops, tx.bags, tx.index, tx.timers, tx.holds = nil, nil, nil, nil, nil
	tx.ranges, tx.slab, tx.mem = rangeSet{}, nil, nil
}

// Commit applies all writes, or none when it fails. The transaction is done in both cases.
func (tx *Tx) Commit() error {
	if tx.done {
		return fmt.Errorf("commit state: %w", ErrTxDone)
	}
	defer tx.Discard()
	if err := tx.commit(); err != nil {
		return fmt.Errorf("commit state: %w", err)
	}
	return nil
}

func (tx *Tx) commit() error {
	db := tx.db
	if err := db.enter(); err != nil {
		return err
	}
	defer db.leave()
	db.cut.RLock()
	defer db.cut.RUnlock()
	// Refuse while files cannot be written: memory would fill up, and then Pebble waits without end.
	if err := db.backgroundErr(); err != nil {
		return err
	}
	b := db.pdb.NewBatchWithSize(int(tx.size) + 16*len(tx.ops) + 64)
	defer b.Close()
	var m memoryChange
	if err := tx.write(b, &m); err != nil {
		return err
	}
	if b.Empty() {
		return nil
	}
	db.gate.pass(b)
	if err := db.pdb.Apply(b, pebble.NoSync); err != nil {
		return err
	}
	db.apply(&m)
	return nil
}

// write puts all writes into a batch. Ranges go first, because later operations of a batch win.
func (tx *Tx) write(b *pebble.Batch, m *memoryChange) error {
	for _, r := range tx.ranges.list {
		if err := b.DeleteRange([]byte(r.lo), []byte(r.hi), nil); err != nil {
			return err
		}
	}
	for _, o := range tx.ops {
		if o.del {
			d := b.DeleteDeferred(len(o.key))
			copy(d.Key, o.key)
			if err := d.Finish(); err != nil {
				return err
			}
			continue
		}
		d := b.SetDeferred(len(o.key), len(o.value))
		copy(d.Key, o.key)
		copy(d.Value, o.value)
		if err := d.Finish(); err != nil {
			return err
		}
	}
	for k, op := range tx.timers {
		if err := op.write(b, k, m); err != nil {
			return err
		}
	}
	for k, op := range tx.holds {
		if err := op.write(b, k, m); err != nil {
			return err
		}
	}
	return nil
}

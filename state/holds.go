package state

import (
	"cmp"
	"encoding/binary"
	"fmt"

	"github.com/RaduBerinde/btreemap"
)

// maxHoldBuckets bounds the distinct holds kept per owner (about 2 MB of memory). Above it, holds are counted in buckets
// of twice the width.
const maxHoldBuckets = 64 << 10

const holdDegree = 32

// holdSet is a multiset of timestamps that knows its least one.
// INVARIANT: min is never later than the least timestamp in the set.
type holdSet struct {
	shift   uint // timestamps are counted in buckets of 1<<shift ms
	buckets *btreemap.BTreeMap[int64, int64]
	limit   int
}

func newHoldSet(limit int) *holdSet {
	return &holdSet{buckets: btreemap.New[int64, int64](holdDegree, cmp.Compare[int64]), limit: limit}
}

// add changes the count of ts by n. Buckets nest, so a timestamp counted before coarsening is found in its wider bucket.
func (s *holdSet) add(ts, n int64) {
	if n == 0 {
		return
	}
	b := ts >> s.shift
	_, c, _ := s.buckets.Get(b)
	if c += n; c == 0 {
		s.buckets.Delete(b)
		return
	}
	s.buckets.ReplaceOrInsert(b, c)
	for s.buckets.Len() > s.limit {
		s.coarsen()
	}
}

func (s *holdSet) coarsen() {
	old := s.buckets
	s.shift++
	s.buckets = btreemap.New[int64, int64](holdDegree, cmp.Compare[int64])
	for b, n := range old.Ascend(btreemap.Min[int64](), btreemap.Max[int64]()) {
		_, c, _ := s.buckets.Get(b >> 1)
		s.buckets.ReplaceOrInsert(b>>1, c+n)
	}
}

func (s *holdSet) min() (int64, bool) {
	b, _, ok := s.buckets.Min()
	if !ok {
		return 0, false
	}
	return b << s.shift, true
}

// encode appends the set: shift, number of buckets, then bucket and count of each.
func (s *holdSet) encode(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(s.shift))
	dst = binary.AppendUvarint(dst, uint64(s.buckets.Len()))
	for b, n := range s.buckets.Ascend(btreemap.Min[int64](), btreemap.Max[int64]()) {
		dst = binary.AppendVarint(dst, b)
		dst = binary.AppendVarint(dst, n)
	}
	return dst
}

func decodeHoldSet(b []byte, limit int) (*holdSet, error) {
	s := newHoldSet(limit)
	shift, k := binary.Uvarint(b)
	if k <= 0 || shift > 63 {
		return nil, errCorrupt
	}
	b = b[k:]
	count, k := binary.Uvarint(b)
	if k <= 0 {
		return nil, errCorrupt
	}
	b = b[k:]
	for range count {
		bucket, k := binary.Varint(b)
		if k <= 0 {
			return nil, errCorrupt
		}
		n, m := binary.Varint(b[k:])
		if m <= 0 {
			return nil, errCorrupt
		}
		b = b[k+m:]
		s.buckets.ReplaceOrInsert(bucket, n)
	}
	s.shift = uint(shift)
	return s, nil
}

// MinHold returns the least hold, in ms, of all timers and holds of an owner; ok is false when it has none. With more than
// 64 k distinct holds the answer is rounded down, so it is never later than the true one.
func (db *DB) MinHold(owner Cell) (hold int64, ok bool) {
	db.memory.Lock()
	defer db.memory.Unlock()
	s := db.holds[owner]
	if s == nil {
		return 0, false
	}
	return s.min()
}

// holdsOf returns the owner's set. REQUIRES: db.memory is held, or nobody else has db yet.
func (db *DB) holdsOf(owner Cell) *holdSet {
	s := db.holds[owner]
	if s == nil {
		s = newHoldSet(maxHoldBuckets)
		db.holds[owner] = s
	}
	return s
}

// rebuildHolds counts the holds of all committed timers and of all committed holds: one pass over them.
func (db *DB) rebuildHolds() error {
	it, err := db.pdb.NewIter(nil)
	if err != nil {
		return fmt.Errorf("read holds: %w", err)
	}
	defer it.Close()
	var seek []byte
	for valid := it.SeekGE(appendPrefix(nil, 0, cellTimer)); valid; {
		k := it.Key()
		if len(k) < prefixLen {
			return fmt.Errorf("read holds: %w", errCorrupt)
		}
		group, cell := binary.BigEndian.Uint16(k), Cell(binary.BigEndian.Uint32(k[2:]))
		switch {
		case group == metaGroup:
			return it.Error()
		case cell == cellTimer || cell == cellHold:
			if err := db.countHold(cell, k, it.Value()); err != nil {
				return err
			}
			valid = it.Next()
			continue
		case cell < cellHold:
			seek = appendPrefix(seek[:0], group, cellHold)
		default:
			seek = appendPrefix(seek[:0], group+1, cellTimer)
		}
		valid = it.SeekGE(seek)
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("read holds: %w", err)
	}
	return nil
}

func (db *DB) countHold(cell Cell, key, value []byte) error {
	if len(key) < prefixLen+4 {
		return fmt.Errorf("read holds: %w", errCorrupt)
	}
	owner := Cell(binary.BigEndian.Uint32(key[prefixLen:]))
	if cell == cellHold {
		if len(value) != 8 {
			return fmt.Errorf("read hold: %w", errCorrupt)
		}
		db.holdsOf(owner).add(readTime(value), 1)
		return nil
	}
	r, err := decodeTimerRecord(value)
	if err != nil {
		return err
	}
	if r.hold != NoHold {
		db.holdsOf(owner).add(r.hold, 1)
	}
	return nil
}

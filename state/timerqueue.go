package state

import (
	"bytes"
	"container/heap"
	"encoding/binary"
	"fmt"
	"iter"
	"math"

	"github.com/cockroachdb/pebble/v2"
)

// timerClass is a queue of timers: they fire in time order within a group.
type timerClass struct {
	owner  Cell
	domain Domain
}

// noTimer is greater than every index key.
const noTimer = "\xff\xff\xff"

// front is what is known of the beginning of the index of one class and group. It is kept as whole keys rather than as
// times, because thousands of timers may fire at one instant: a seek from the last removed key meets each tombstone once,
// a seek from its time would meet all of them again and again.
type front struct {
	// first is a lower bound of all index keys; when exact is set, that key exists.
	first string
	exact bool
	// rest is a lower bound of all keys but first. Only meaningful when exact is set.
	rest string
}

func (f *front) add(key string) {
	switch {
	case key == f.first:
		if !f.exact {
			f.exact, f.rest = true, key+"\x00"
		}
	case key < f.first:
		f.first, f.rest, f.exact = key, f.first, true
	case f.exact && key < f.rest:
		f.rest = key
	}
}

func (f *front) remove(key string) {
	if f.exact && key == f.first {
		f.first, f.exact = f.rest, false
	}
}

// fire is a lower bound, in ms, of the group's next fire time.
func (f *front) fire() int64 {
	switch {
	case f.first == noTimer:
		return math.MaxInt64
	case len(f.first) < indexIdentity:
		return math.MinInt64
	}
	return readTime([]byte(f.first[indexFire:indexIdentity]))
}

// frontOf returns what is known of a group's queue. REQUIRES: db.memory is held.
func (db *DB) frontOf(c timerClass, group uint16) *front {
	q := db.queues[c]
	for len(q) <= int(group) {
		start := appendTimerClass(nil, uint16(len(q)), c.owner, c.domain)
		q = append(q, front{first: string(start)})
		db.queues[c] = q
	}
	return &q[group]
}

// frontOfKey is frontOf for an index key.
func (db *DB) frontOfKey(key string) *front {
	k := []byte(key[:indexFire])
	c := timerClass{Cell(binary.BigEndian.Uint32(k[prefixLen:])), Domain(k[indexFire-1])}
	return db.frontOf(c, binary.BigEndian.Uint16(k))
}

// resolve finds the first committed timer of the queue. REQUIRES: db.memory is held.
func (db *DB) resolve(c timerClass, group uint16, f *front) error {
	if f.exact || f.first == noTimer {
		return nil
	}
	end := prefixEnd(appendTimerClass(nil, group, c.owner, c.domain))
	it, err := db.pdb.NewIter(&pebble.IterOptions{LowerBound: []byte(f.first), UpperBound: end})
	if err != nil {
		return err
	}
	if it.First() {
		f.first, f.exact = string(it.Key()), true
		f.rest = f.first + "\x00"
	} else if it.Error() == nil {
		f.first = noTimer
	}
	return it.Close()
}

// NextTimer returns the least fire time, in ms, of the owner's timers in groups [g0, g1); ok is false when there is none.
// It looks into memory, and into the database only for groups whose first timer was removed since the last call. When
// that fails the answer is earlier than the true one, and DueTimers will report the error.
func (db *DB) NextTimer(owner Cell, domain Domain, g0, g1 uint16) (fire int64, ok bool) {
	if err := db.enter(); err != nil {
		return 0, false
	}
	defer db.leave()
	db.memory.Lock()
	defer db.memory.Unlock()
	c := timerClass{owner, domain}
	fire = math.MaxInt64
	for g := g0; g < g1; g++ {
		f := db.frontOf(c, g)
		if f.first == noTimer || (ok && f.fire() >= fire) {
			continue
		}
		// An error leaves the lower bound, which is an answer.
		if db.resolve(c, g, f) == nil && f.first == noTimer {
			continue
		}
		if t := f.fire(); !ok || t < fire {
			fire, ok = t, true
		}
	}
	return fire, ok
}

// dueCursor walks the due timers of one group.
type dueCursor struct {
	group uint16
	from  []byte // index key to go on from
	end   []byte // exclusive
	page  []Timer
	more  bool // the group may have timers after page
	size  int  // of the next page
}

const (
	firstPage = 8 // timers a group is asked for at first; it doubles with each page
	lastPage  = 128
)

// fill loads the next page of the cursor.
func (c *dueCursor) fill(it *pebble.Iterator) error {
	c.page = c.page[:0]
	c.more = false
	for valid := it.SeekGE(c.from); valid; valid = it.Next() {
		if bytes.Compare(it.Key(), c.end) >= 0 {
			break
		}
		if len(c.page) == c.size {
			c.from, c.more = append(c.from[:0], it.Key()...), true
			break
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		t, err := decodeIndexEntry(it.Key(), v)
		if err != nil {
			return err
		}
		c.page = append(c.page, t)
	}
	c.size = min(2*c.size, lastPage)
	return it.Error()
}

// dueQueue is a heap of cursors, the one with the earliest timer first.
type dueQueue []*dueCursor

func (q dueQueue) Len() int { return len(q) }
func (q dueQueue) Less(i, j int) bool {
	a, b := &q[i].page[0], &q[j].page[0]
	if a.Fire != b.Fire {
		return a.Fire < b.Fire
	}
	return a.Group < b.Group
}
func (q dueQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *dueQueue) Push(x any)   { *q = append(*q, x.(*dueCursor)) }
func (q *dueQueue) Pop() any {
	old := *q
	c := old[len(old)-1]
	*q = old[:len(old)-1]
	return c
}

// DueTimers yields the owner's committed timers in groups [g0, g1) whose fire time is upTo (ms) or earlier, in order of
// fire time. It sees the database as it was when the loop began: what open transactions set or clear is not seen. A timer
// goes away when the caller commits a Tx that cleared it. At most a page of timers per group is in memory.
func (db *DB) DueTimers(owner Cell, domain Domain, g0, g1 uint16, upTo int64) iter.Seq2[Timer, error] {
	return func(yield func(Timer, error) bool) {
		if err := db.dueTimers(timerClass{owner, domain}, g0, g1, upTo, yield); err != nil {
			yield(Timer{}, fmt.Errorf("read due timers: %w", err))
		}
	}
}

func (db *DB) dueTimers(c timerClass, g0, g1 uint16, upTo int64, yield func(Timer, error) bool) error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.leave()
	cursors := db.dueCursors(c, g0, g1, upTo)
	if len(cursors) == 0 {
		return nil
	}
	it, err := db.pdb.NewIter(&pebble.IterOptions{
		LowerBound: appendPrefix(nil, g0, cellTimerIndex),
		UpperBound: appendPrefix(nil, g1, cellMeta),
	})
	if err != nil {
		return err
	}
	defer it.Close()
	var q dueQueue
	for _, cur := range cursors {
		if err := cur.fill(it); err != nil {
			return err
		}
		if len(cur.page) > 0 {
			q = append(q, cur)
		}
	}
	heap.Init(&q)
	for len(q) > 0 {
		cur := q[0]
		if !yield(cur.page[0], nil) {
			return nil
		}
		cur.page = cur.page[1:]
		if len(cur.page) == 0 && cur.more {
			if err := cur.fill(it); err != nil {
				return err
			}
		}
		if len(cur.page) == 0 {
			heap.Pop(&q)
		} else {
			heap.Fix(&q, 0)
		}
	}
	return nil
}

// dueCursors returns a cursor, not yet filled, for each group that may have a due timer.
func (db *DB) dueCursors(c timerClass, g0, g1 uint16, upTo int64) []*dueCursor {
	db.memory.Lock()
	defer db.memory.Unlock()
	var out []*dueCursor
	for g := g0; g < g1; g++ {
		f := db.frontOf(c, g)
		if f.first == noTimer || f.fire() > upTo {
			continue
		}
		end := appendTimerClass(nil, g, c.owner, c.domain)
		if upTo == math.MaxInt64 {
			end = prefixEnd(end)
		} else {
			end = appendTime(end, upTo+1)
		}
		out = append(out, &dueCursor{group: g, from: []byte(f.first), end: end, size: firstPage})
	}
	return out
}

// memoryChange is what a commit changes in what is kept in memory.
type memoryChange struct {
	added, removed []string // index keys
	holds          map[Cell]map[int64]int64
}

func (m *memoryChange) hold(owner Cell, ts, n int64) {
	if ts == NoHold {
		return
	}
	if m.holds == nil {
		m.holds = make(map[Cell]map[int64]int64)
	}
	if m.holds[owner] == nil {
		m.holds[owner] = make(map[int64]int64)
	}
	m.holds[owner][ts] += n
}

// apply brings the memory up to date with a batch that was just applied.
func (db *DB) apply(m *memoryChange) {
	if len(m.added)+len(m.removed)+len(m.holds) == 0 {
		return
	}
	db.memory.Lock()
	defer db.memory.Unlock()
	for _, k := range m.removed {
		db.frontOfKey(k).remove(k)
	}
	for _, k := range m.added {
		db.frontOfKey(k).add(k)
	}
	for owner, counts := range m.holds {
		s := db.holdsOf(owner)
		// Additions first: a set that coarsens in between must not see a count below zero.
		for ts, n := range counts {
			if n > 0 {
				s.add(ts, n)
			}
		}
		for ts, n := range counts {
			if n < 0 {
				s.add(ts, n)
			}
		}
	}
}

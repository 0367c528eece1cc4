package state

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Domain is the clock that fires a timer. Values are those of Beam's TimeDomain.
type Domain uint8

// The domains.
const (
	EventTime      Domain = 1 // the watermark
	ProcessingTime Domain = 2 // the time of day
)

// TimerKey identifies a timer: setting a timer with the same TimerKey replaces it, whatever its domain and times.
// Group follows from Key.
type TimerKey struct {
	Group       uint16
	Owner       Cell
	Key, Window []byte // encoded; may be empty
	Family, Tag string
}

// Timer is a timer that is set.
type Timer struct {
	Group   uint16
	Owner   Cell // the transform (or stage) that the timer belongs to
	Domain  Domain
	Family  string
	Tag     string
	Key     []byte
	Window  []byte
	Fire    int64  // ms
	Hold    int64  // ms: output timestamp, holds the owner's watermark while the timer is set; NoHold: does not hold
	Payload []byte // opaque, given back when the timer fires
}

// ID returns the timer's identity. It shares Key and Window with t.
func (t *Timer) ID() TimerKey {
	return TimerKey{Group: t.Group, Owner: t.Owner, Key: t.Key, Window: t.Window, Family: t.Family, Tag: t.Tag}
}

// appendIdentity appends what tells timers of one owner apart.
func appendIdentity(dst, key, window []byte, family, tag string) []byte {
	dst = AppendComponent(dst, key)
	dst = AppendComponent(dst, window)
	dst = binary.AppendUvarint(dst, uint64(len(family)))
	dst = append(dst, family...)
	dst = binary.AppendUvarint(dst, uint64(len(tag)))
	return append(dst, tag...)
}

// appendTimerKey appends the key of the timer's record.
func appendTimerKey(dst []byte, k TimerKey) []byte {
	dst = appendPrefix(dst, k.Group, cellTimer)
	dst = binary.BigEndian.AppendUint32(dst, uint32(k.Owner))
	return appendIdentity(dst, k.Key, k.Window, k.Family, k.Tag)
}

// recordIdentity is where the identity begins in a record's key; indexFire and indexIdentity are places in an index key.
const (
	recordIdentity = prefixLen + 4
	indexFire      = prefixLen + 4 + 1
	indexIdentity  = indexFire + 8
)

// appendTimerClass appends the prefix of the index entries of one group, owner and domain.
func appendTimerClass(dst []byte, group uint16, owner Cell, d Domain) []byte {
	dst = appendPrefix(dst, group, cellTimerIndex)
	dst = binary.BigEndian.AppendUint32(dst, uint32(owner))
	return append(dst, byte(d))
}

// appendIndexKey appends the key of the timer's entry in firing order.
func appendIndexKey(dst []byte, group uint16, owner Cell, d Domain, fire int64, identity []byte) []byte {
	dst = appendTimerClass(dst, group, owner, d)
	dst = appendTime(dst, fire)
	return append(dst, identity...)
}

// timerRecord is what is needed to take a timer out of the index.
type timerRecord struct {
	domain     Domain
	fire, hold int64
}

func (r timerRecord) append(dst []byte) []byte {
	dst = append(dst, byte(r.domain))
	dst = appendTime(dst, r.fire)
	return appendTime(dst, r.hold)
}

func decodeTimerRecord(b []byte) (timerRecord, error) {
	if len(b) != 17 {
		return timerRecord{}, fmt.Errorf("read timer: %w", errCorrupt)
	}
	return timerRecord{domain: Domain(b[0]), fire: readTime(b[1:]), hold: readTime(b[9:])}, nil
}

// decodeIndexEntry makes a timer of an index entry. The timer shares no memory with its arguments.
func decodeIndexEntry(key, value []byte) (Timer, error) {
	if len(key) < indexIdentity || len(value) < 8 {
		return Timer{}, fmt.Errorf("read timer: %w", errCorrupt)
	}
	t := Timer{
		Group:  binary.BigEndian.Uint16(key),
		Owner:  Cell(binary.BigEndian.Uint32(key[prefixLen:])),
		Domain: Domain(key[indexFire-1]),
		Fire:   readTime(key[indexFire:]),
		Hold:   readTime(value),
	}
	own := make([]byte, 0, len(key)-indexIdentity+len(value)-8)
	own = append(own, key[indexIdentity:]...)
	identity := own
	own = append(own, value[8:]...)
	t.Payload = own[len(identity):]
	var ok1, ok2, ok3, ok4 bool
	var family, tag []byte
	t.Key, identity, ok1 = CutComponent(identity)
	t.Window, identity, ok2 = CutComponent(identity)
	family, identity, ok3 = CutComponent(identity)
	tag, _, ok4 = CutComponent(identity)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return Timer{}, fmt.Errorf("read timer: %w", errCorrupt)
	}
	t.Family, t.Tag = string(family), string(tag)
	return t, nil
}

// timerOp is what a Tx does to one timer.
type timerOp struct {
	group   uint16
	owner   Cell
	old     timerRecord // the committed timer
	hadOld  bool
	cur     timerRecord
	set     bool // false: cleared
	payload []byte
}

// SetTimer sets a timer, or replaces the one with the same identity together with its place in the firing order and its
// hold. It copies t. It reads the committed timer, which costs a bloom filter lookup when there is none.
func (tx *Tx) SetTimer(t Timer) error {
	op, err := tx.timer(t.ID())
	if err != nil {
		return fmt.Errorf("set timer: %w", err)
	}
	if t.Domain != EventTime && t.Domain != ProcessingTime {
		return fmt.Errorf("set timer %s: unknown time domain %d", t.Family, t.Domain)
	}
	op.set = true
	op.cur = timerRecord{domain: t.Domain, fire: t.Fire, hold: t.Hold}
	op.payload = append(op.payload[:0], t.Payload...)
	tx.size += int64(2*(len(t.Key)+len(t.Window)+len(t.Family)+len(t.Tag)) + len(t.Payload) + 64)
	return nil
}

// ClearTimer removes a timer, its place in the firing order and its hold. Clearing a timer that is not set does nothing.
func (tx *Tx) ClearTimer(k TimerKey) error {
	op, err := tx.timer(k)
	if err != nil {
		return fmt.Errorf("clear timer: %w", err)
	}
	op.set, op.payload = false, nil
	tx.size += int64(2*(len(k.Key)+len(k.Window)+len(k.Family)+len(k.Tag)) + 64)
	return nil
}

// timer returns the Tx's entry for a timer, loading the committed timer the first time.
func (tx *Tx) timer(k TimerKey) (*timerOp, error) {
	if err := tx.check(k.Group, k.Owner); err != nil {
		return nil, err
	}
	tx.buf = appendTimerKey(tx.buf[:0], k)
	if op := tx.timers[string(tx.buf)]; op != nil {
		return op, nil
	}
	op := &timerOp{group: k.Group, owner: k.Owner}
	var err error
	op.hadOld, err = tx.db.view(tx.buf, func(value []byte) (err error) {
		op.old, err = decodeTimerRecord(value)
		return err
	})
	if err != nil {
		return nil, err
	}
	if tx.timers == nil {
		tx.timers = make(map[string]*timerOp)
	}
	tx.timers[string(tx.buf)] = op
	return op, nil
}

// write adds the op to the batch and says what it means for the queues and holds kept in memory.
func (op *timerOp) write(b *pebble.Batch, recordKey string, m *memoryChange) error {
	identity := []byte(recordKey[recordIdentity:])
	var oldIndex, newIndex []byte
	if op.hadOld {
		oldIndex = appendIndexKey(nil, op.group, op.owner, op.old.domain, op.old.fire, identity)
		m.hold(op.owner, op.old.hold, -1)
	}
	if op.set {
		newIndex = appendIndexKey(nil, op.group, op.owner, op.cur.domain, op.cur.fire, identity)
		m.hold(op.owner, op.cur.hold, +1)
		value := append(appendTime(nil, op.cur.hold), op.payload...)
		if err := b.Set(newIndex, value, nil); err != nil {
			return err
		}
		if err := b.Set([]byte(recordKey), op.cur.append(nil), nil); err != nil {
			return err
		}
	}
	if op.hadOld && string(oldIndex) != string(newIndex) {
		if err := b.Delete(oldIndex, nil); err != nil {
			return err
		}
		m.removed = append(m.removed, string(oldIndex))
	}
	if op.set && (!op.hadOld || string(oldIndex) != string(newIndex)) {
		m.added = append(m.added, string(newIndex))
	}
	if op.hadOld && !op.set {
		return b.Delete([]byte(recordKey), nil)
	}
	return nil
}

// holdOp is what a Tx does to one hold.
type holdOp struct {
	owner    Cell
	old, cur int64 // NoHold: none
}

// SetHold holds the owner's watermark at ts (ms) for (key, window), replacing the hold that was there. Such holds have
// nothing to do with timers' holds.
func (tx *Tx) SetHold(owner Cell, group uint16, key, window []byte, ts int64) error {
	op, err := tx.hold(owner, group, key, window)
	if err != nil {
		return fmt.Errorf("set hold: %w", err)
	}
	op.cur = ts
	return nil
}

// ClearHold removes the hold of (key, window), if there is one.
func (tx *Tx) ClearHold(owner Cell, group uint16, key, window []byte) error {
	op, err := tx.hold(owner, group, key, window)
	if err != nil {
		return fmt.Errorf("clear hold: %w", err)
	}
	op.cur = NoHold
	return nil
}

func (tx *Tx) hold(owner Cell, group uint16, key, window []byte) (*holdOp, error) {
	if err := tx.check(group, owner); err != nil {
		return nil, err
	}
	k := appendPrefix(tx.buf[:0], group, cellHold)
	k = binary.BigEndian.AppendUint32(k, uint32(owner))
	k = AppendComponent(AppendComponent(k, key), window)
	tx.buf = k
	if op := tx.holds[string(k)]; op != nil {
		return op, nil
	}
	op := &holdOp{owner: owner, old: NoHold}
	_, err := tx.db.view(k, func(value []byte) error {
		if len(value) != 8 {
			return errCorrupt
		}
		op.old = readTime(value)
		return nil
	})
	if err != nil {
		return nil, err
	}
	op.cur = op.old
	if tx.holds == nil {
		tx.holds = make(map[string]*holdOp)
	}
	tx.holds[string(k)] = op
	tx.size += int64(len(k) + 8)
	return op, nil
}

func (op *holdOp) write(b *pebble.Batch, key string, m *memoryChange) error {
	if op.cur == op.old {
		return nil
	}
	m.hold(op.owner, op.old, -1)
	m.hold(op.owner, op.cur, +1)
	if op.cur == NoHold {
		return b.Delete([]byte(key), nil)
	}
	return b.Set([]byte(key), appendTime(nil, op.cur), nil)
}

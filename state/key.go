package state

import (
	"encoding/binary"
	"errors"
	"math"
)

// Cell is a namespace of keys within a database: one user state, one GroupByKey buffer, one side input. See DB.Cell.
type Cell uint32

// MaxGroup is the greatest key group that callers may use.
const MaxGroup = 0xfffe

const (
	metaGroup = 0xffff // holds the description of the database, sorts after all data

	cellMeta       Cell = 0  // only in metaGroup
	cellTimer      Cell = 1  // owner | identity -> domain, fire, hold
	cellTimerIndex Cell = 2  // owner | domain | fire | identity -> hold, payload
	cellHold       Cell = 3  // owner | key | window -> hold
	firstUserCell  Cell = 16 // cells below are the package's own

	prefixLen = 6 // group and cell
	seqLen    = 8 // sequence of a bag's chunk
)

var errCorrupt = errors.New("entry is corrupt")

// AppendComponent appends b to dst in a form of which no value is a prefix of another: its length as uvarint, then b.
// Suffixes made of components can be scanned and deleted by prefix without meeting other keys. Empty components are legal.
func AppendComponent(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// CutComponent returns the first component of b and what follows it. ok is false when b does not begin with one.
func CutComponent(b []byte) (component, rest []byte, ok bool) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, b, false
	}
	end := k + int(n)
	return b[k:end:end], b[end:], true
}

// appendPrefix appends the group and the cell that every key begins with.
func appendPrefix(dst []byte, group uint16, cell Cell) []byte {
	dst = binary.BigEndian.AppendUint16(dst, group)
	return binary.BigEndian.AppendUint32(dst, uint32(cell))
}

// prefixEnd returns the least key greater than all keys that begin with p, in place. p is never all 0xff, because it
// begins with a group or a meta cell number.
func prefixEnd(p []byte) []byte {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] != 0xff {
			p[i]++
			return p[:i+1]
		}
	}
	return nil
}

// appendTime appends t so that byte order is time order.
func appendTime(dst []byte, t int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(t)^(1<<63))
}

func readTime(b []byte) int64 { return int64(binary.BigEndian.Uint64(b) ^ (1 << 63)) }

// NoHold is the hold of a timer that does not hold the watermark.
const NoHold int64 = math.MaxInt64

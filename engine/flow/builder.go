package flow

import (
	"fmt"
	"math"
	"time"
)

const (
	// DefaultBlockSize is how many bytes of elements a block holds at most, unless it is a single larger one.
	DefaultBlockSize = 64 << 10
	// maxElements bounds the elements of a block.
	maxElements = 8 << 10
	// The first block of a builder grows from these, so that a bundle with little output takes little memory.
	firstBytes    = 512
	firstElements = 8
)

// Builder collects elements into blocks. One goroutine uses it at a time. The buffer that it fills is charged to the pool
// by its capacity; each block that closes while the pool is over its limit goes to disk.
type Builder struct {
	pool   *Pool
	blocks []*Block // closed
	closed struct {
		n    int
		size int64
	}
	marker Marker
	// The open block.
	bytes []byte
	ends  []uint32
	min   int64 // event time, ms
}

// Mark sets the marker of the blocks to come, up to the next Finish or Discard. One that has not entered yet enters with the
// first element. REQUIRES: nothing was appended yet.
func (b *Builder) Mark(m Marker) { b.marker = m }

// Append copies an element with its event time, ms, into the open block. An error (of type *SpillError, or of an element
// over 4 GiB) means that the element was not taken; Discard, or try again when there is disk space.
func (b *Builder) Append(elem []byte, timestamp int64) error {
	if len(elem) > cap(b.bytes)-len(b.bytes) || len(b.ends) == cap(b.ends) {
		if err := b.grow(len(elem)); err != nil {
			return err
		}
	}
	if len(b.ends) == 0 || timestamp < b.min {
		b.min = timestamp
	}
	b.bytes = append(b.bytes, elem...)
	b.ends = append(b.ends, uint32(len(b.bytes)))
	return nil
}

// AvailableBuffer returns the empty slice before the free bytes of the open block. An element that is appended to it and
// then handed to Append, with no other call in between, is written only once if it fits.
func (b *Builder) AvailableBuffer() []byte { return b.bytes[len(b.bytes):] }

// grow makes room for an element of n bytes, in a new block if need be.
func (b *Builder) grow(n int) error {
	if uint64(n) > math.MaxUint32 {
		return fmt.Errorf("append element of %d bytes: the limit is %d", n, uint32(math.MaxUint32))
	}
	if len(b.ends) > 0 && (len(b.bytes)+n > DefaultBlockSize || len(b.ends) == maxElements) {
		if err := b.close(); err != nil {
			return err
		}
	}
	if b.marker.Source != 0 && b.marker.Entered == 0 {
		b.marker.Entered = time.Now().UnixNano()
	}
	before := b.openCharge()
	if want := len(b.bytes) + n; want > cap(b.bytes) {
		size := DefaultBlockSize // which a block before has filled
		if len(b.blocks) == 0 {
			size = min(max(2*cap(b.bytes), firstBytes), DefaultBlockSize)
		}
		b.bytes = reserve(b.bytes, max(want, size))
	}
	if len(b.ends) == cap(b.ends) {
		b.ends = reserve(b.ends, min(max(2*cap(b.ends), firstElements), maxElements))
	}
	b.pool.charge(b.openCharge() - before)
	return nil
}

// reserve returns s with the given capacity.
func reserve[T any](s []T, capacity int) []T {
	return append(make([]T, 0, capacity), s...)
}

// openCharge is what the open block's buffers are charged.
func (b *Builder) openCharge() int64 { return int64(cap(b.bytes)) + endSize*int64(cap(b.ends)) }

// close makes the open block a closed one, in memory or on disk. REQUIRES: there is an element in it.
func (b *Builder) close() error {
	block := &Block{pool: b.pool, n: len(b.ends), size: int64(len(b.bytes)), min: b.min, marker: b.marker, charged: blockOverhead}
	block.refs.Store(1)
	if b.pool.Used() > b.pool.limit {
		place, err := b.pool.spill(Data{Bytes: b.bytes, Ends: b.ends})
		if err != nil {
			return err
		}
		// The buffers stay for the next block.
		block.place = place
		b.bytes, b.ends = b.bytes[:0], b.ends[:0]
		b.pool.charge(blockOverhead)
	} else {
		open := b.openCharge()
		block.data = Data{Bytes: clip(b.bytes), Ends: clip(b.ends)}
		block.charged += int64(cap(block.data.Bytes)) + endSize*int64(cap(block.data.Ends))
		b.bytes, b.ends = nil, nil
		b.pool.charge(block.charged - open)
	}
	b.blocks = append(b.blocks, block)
	b.closed.n += block.n
	b.closed.size += block.size
	return nil
}

// clip returns s in memory of about its size.
func clip[T any](s []T) []T {
	if cap(s)-len(s) <= cap(s)/4 {
		return s
	}
	return reserve(s, len(s))
}

// Finish closes the open block and hands all blocks to the caller, with one reference of each; nil if nothing was
// appended. The builder is then as new. After an error it is as before.
func (b *Builder) Finish() ([]*Block, error) {
	if len(b.ends) > 0 {
		if err := b.close(); err != nil {
			return nil, err
		}
	}
	out := b.blocks
	b.blocks = nil
	b.Discard()
	return out, nil
}

// Discard drops all that was appended since the last Finish. The builder is then as new.
func (b *Builder) Discard() {
	for _, block := range b.blocks {
		block.Release()
	}
	b.pool.charge(-b.openCharge())
	*b = Builder{pool: b.pool}
}

// Len returns the number of elements that Finish would hand over.
func (b *Builder) Len() int { return b.closed.n + len(b.ends) }

// Size returns the bytes of these elements.
func (b *Builder) Size() int64 { return b.closed.size + int64(len(b.bytes)) }

package flow

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// Data are the elements of a block. It must not be changed, nor used after the block's release.
type Data struct {
	Bytes []byte   // all elements, one after the other
	Ends  []uint32 // where in Bytes each element ends
}

// Len returns the number of elements.
func (d Data) Len() int { return len(d.Ends) }

// Element returns the i-th element.
func (d Data) Element(i int) []byte {
	from := d.start(i)
	return d.Bytes[from:d.Ends[i]:d.Ends[i]]
}

// start returns where the i-th element begins; that of Len is the end of the last.
func (d Data) start(i int) uint32 {
	if i == 0 {
		return 0
	}
	return d.Ends[i-1]
}

// slice returns the elements [from, to), sharing the bytes.
func (d Data) slice(from, to int) Data {
	base := d.start(from)
	out := Data{Bytes: d.Bytes[base:d.Ends[to-1]:d.Ends[to-1]], Ends: make([]uint32, to-from)}
	for i := range out.Ends {
		out.Ends[i] = d.Ends[from+i] - base
	}
	return out
}

// blockOverhead is what a block takes in memory besides its elements, about, in bytes.
const blockOverhead = 192

// Block is a run of at least one element. It never changes. It lives until each reference (one at its making, one a Retain)
// is given back by Release. Any goroutine that holds a reference may call its methods.
type Block struct {
	pool *Pool
	refs atomic.Int32
	n    int
	size int64 // of elements, bytes
	min  int64 // event time, ms
	// marker of the oldest record behind the elements; never changes.
	marker Marker
	// parent is the block whose bytes this one shares, of which it holds a reference; nil if it is not a slice.
	parent *Block
	place  extent // where it lies on disk, if it spilled

	mu      sync.Mutex // guards what follows, in a block that spilled: it is set when loaded
	data    Data       // zero while only on disk
	charged int64      // bytes, to pool
}

// Len returns the number of elements.
func (b *Block) Len() int { return b.n }

// Size returns the bytes of all elements.
func (b *Block) Size() int64 { return b.size }

// MinTimestamp returns a lower bound of the event times of the elements, ms: the least of them, or of the block that this
// is a slice of.
func (b *Block) MinTimestamp() int64 { return b.min }

// Marker tells of the oldest record behind the elements, or of the block that this is a slice of.
func (b *Block) Marker() Marker { return b.marker }

// Data returns the elements. A block that spilled is read back, and stays in memory until its release; errors are of type
// *SpillError.
func (b *Block) Data() (Data, error) {
	b.check()
	if b.place.segment == nil {
		return b.data, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.data.Ends != nil {
		return b.data, nil
	}
	d, err := b.pool.load(b.place, b.n, Data{})
	if err != nil {
		return Data{}, err
	}
	b.data = d
	b.pool.charge(b.place.size)
	b.charged += b.place.size
	return d, nil
}

// ReadInto is Data for those who read a block in passing: one that is only on disk is read into scratch, whose memory is
// replaced where it is too small, and is neither kept nor charged. The result is good until scratch is used again.
func (b *Block) ReadInto(scratch *Data) (Data, error) {
	b.check()
	if b.place.segment == nil {
		return b.data, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.data.Ends != nil {
		return b.data, nil
	}
	d, err := b.pool.load(b.place, b.n, *scratch)
	if err != nil {
		return Data{}, err
	}
	*scratch = d
	return d, nil
}

// Retain adds a reference.
func (b *Block) Retain() {
	b.check()
	b.refs.Add(1)
}

// Release gives back a reference. The last one frees the block's memory and its place on disk.
func (b *Block) Release() {
	switch left := b.refs.Add(-1); {
	case left > 0:
		return
	case left < 0:
		panic("not reached: flow.Block released more often than retained")
	}
	b.mu.Lock()
	charged := b.charged
	b.data, b.charged = Data{}, 0
	b.mu.Unlock()
	b.pool.charge(-charged)
	if b.place.segment != nil {
		b.pool.free(b.place)
	}
	if b.parent != nil {
		b.parent.Release()
	}
}

// check stops a use after the last release, which would read another bundle's elements or none.
func (b *Block) check() {
	if b.refs.Load() <= 0 {
		panic("not reached: flow.Block used after its release")
	}
}

// Slice returns the elements [from, to) as a block with a reference of its own, which keeps b's memory. A block that
// spilled is read back. It is an error to ask for elements that are not there, or for none.
func (b *Block) Slice(from, to int) (*Block, error) {
	b.check()
	if from < 0 || to > b.n || from >= to {
		return nil, fmt.Errorf("slice block: elements %d to %d of %d", from, to, b.n)
	}
	if from == 0 && to == b.n {
		b.Retain()
		return b, nil
	}
	d, err := b.Data()
	if err != nil {
		return nil, fmt.Errorf("slice block: %w", err)
	}
	root := b
	if b.parent != nil {
		root = b.parent
	}
	root.Retain()
	out := &Block{pool: b.pool, n: to - from, min: b.min, marker: b.marker, parent: root, data: d.slice(from, to)}
	out.size = int64(len(out.data.Bytes))
	out.charged = blockOverhead + endSize*int64(out.n)
	out.refs.Store(1)
	b.pool.charge(out.charged)
	return out, nil
}

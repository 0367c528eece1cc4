package flow

import "iter"

// Queue is a FIFO of blocks, of each of which it holds a reference. The zero value is an empty queue. It is not safe for
// concurrent use.
type Queue struct {
	blocks ring[*Block]
	first  int64 // number of the first block; they are numbered in sequence
	// mins are the blocks that have no earlier event time behind them, in order: the first is the least of all.
	mins ring[minimum]
	n    int
	size int64
}

type minimum struct {
	block     int64 // number
	timestamp int64 // ms
}

// Push appends blocks. The queue takes over the caller's references.
func (q *Queue) Push(blocks ...*Block) {
	for _, b := range blocks {
		number := q.first + int64(q.blocks.n)
		q.blocks.pushBack(b)
		q.n += b.Len()
		q.size += b.Size()
		for q.mins.n > 0 && q.mins.at(q.mins.n-1).timestamp >= b.min {
			q.mins.popBack()
		}
		q.mins.pushBack(minimum{block: number, timestamp: b.min})
	}
}

// PushFront puts blocks before all others, in the order given. The queue takes over the caller's references.
func (q *Queue) PushFront(blocks ...*Block) {
	for i := len(blocks) - 1; i >= 0; i-- {
		b := blocks[i]
		q.first--
		q.blocks.pushFront(b)
		q.n += b.Len()
		q.size += b.Size()
		// A block with a lesser one behind it leaves before that matters.
		if q.mins.n == 0 || b.min < q.mins.at(0).timestamp {
			q.mins.pushFront(minimum{block: q.first, timestamp: b.min})
		}
	}
}

func (q *Queue) pop() *Block {
	b := q.blocks.popFront()
	if q.mins.at(0).block == q.first {
		q.mins.popFront()
	}
	q.first++
	q.n -= b.Len()
	q.size -= b.Size()
	return b
}

// Take removes blocks from the front and hands over their references: as many as have at most maxElements elements and
// maxBytes bytes together (a bound of 0 or less is none), the first one whatever its bytes. A block with too many elements is
// cut. If it cannot be, because it spilled and cannot be read, it is taken whole when it is the first: its Data fails
// again and says why.
func (q *Queue) Take(maxElements int, maxBytes int64) []*Block {
	var out []*Block
	var n int
	var size int64
	for q.blocks.n > 0 {
		b := q.blocks.at(0)
		if maxBytes > 0 && len(out) > 0 && size+b.Size() > maxBytes {
			break
		}
		if maxElements > 0 && n+b.Len() > maxElements {
			if cut := q.cut(maxElements - n); cut != nil {
				out = append(out, cut)
			} else if len(out) == 0 {
				out = append(out, q.pop())
			}
			break
		}
		n += b.Len()
		size += b.Size()
		out = append(out, q.pop())
	}
	return out
}

// cut removes the first n elements of the first block, which has more; nil if n is 0 or the block cannot be read.
func (q *Queue) cut(n int) *Block {
	if n == 0 {
		return nil
	}
	b := q.blocks.at(0)
	head, err := b.Slice(0, n)
	if err != nil {
		return nil
	}
	tail, err := b.Slice(n, b.Len())
	if err != nil {
		head.Release()
		return nil
	}
	q.pop().Release()
	q.PushFront(tail)
	return head
}

// Len returns the number of elements.
func (q *Queue) Len() int { return q.n }

// Size returns the bytes of all elements.
func (q *Queue) Size() int64 { return q.size }

// MinTimestamp returns the least MinTimestamp of the blocks, ms; false when the queue is empty.
func (q *Queue) MinTimestamp() (int64, bool) {
	if q.mins.n == 0 {
		return 0, false
	}
	return q.mins.at(0).timestamp, true
}

// Clear releases all blocks.
func (q *Queue) Clear() {
	for q.blocks.n > 0 {
		q.pop().Release()
	}
}

// All yields the blocks in order. They stay the queue's, which must not change meanwhile.
func (q *Queue) All() iter.Seq[*Block] {
	return func(yield func(*Block) bool) {
		for i := range q.blocks.n {
			if !yield(q.blocks.at(i)) {
				return
			}
		}
	}
}

// ring is a double-ended queue. Its zero value is empty.
type ring[T any] struct {
	buf  []T // of a power of two
	head int
	n    int
}

// keepRing is the capacity up to which an empty ring keeps its memory.
const keepRing = 256

func (r *ring[T]) index(i int) int { return (r.head + i) & (len(r.buf) - 1) }

func (r *ring[T]) at(i int) T { return r.buf[r.index(i)] }

func (r *ring[T]) pushBack(v T) {
	r.reserve()
	r.buf[r.index(r.n)] = v
	r.n++
}

func (r *ring[T]) pushFront(v T) {
	r.reserve()
	r.head = r.index(-1)
	r.buf[r.head] = v
	r.n++
}

func (r *ring[T]) popFront() T {
	v := r.take(0)
	r.head = r.index(1)
	r.n--
	r.shrink()
	return v
}

func (r *ring[T]) popBack() T {
	v := r.take(r.n - 1)
	r.n--
	r.shrink()
	return v
}

// take returns the i-th value and forgets it.
func (r *ring[T]) take(i int) T {
	var zero T
	at := r.index(i)
	v := r.buf[at]
	r.buf[at] = zero
	return v
}

// reserve makes room for one more value.
func (r *ring[T]) reserve() {
	if r.n < len(r.buf) {
		return
	}
	buf := make([]T, max(4, 2*len(r.buf)))
	for i := range r.n {
		buf[i] = r.at(i)
	}
	r.buf, r.head = buf, 0
}

func (r *ring[T]) shrink() {
	if r.n == 0 && len(r.buf) > keepRing {
		r.buf, r.head = nil, 0
	}
}

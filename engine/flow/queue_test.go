package flow

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestQueueModel compares a queue with a slice of blocks under random operations, in pools so small that some blocks
// spill.
func TestQueueModel(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		p, err := NewPool(2000, dir)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		m := queueModel{pool: p}
		t.Repeat(map[string]func(*rapid.T){
			"push":      func(t *rapid.T) { m.push(t, false) },
			"pushFront": func(t *rapid.T) { m.push(t, true) },
			"take":      m.take,
			"clear": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "rare") == 0 {
					m.q.Clear()
					m.blocks = nil
				}
			},
			"": m.check,
		})
		m.q.Clear()
		checkEmpty(t, p)
	})
}

// modelBlock is what a block in the queue is known to hold.
type modelBlock struct {
	elems []string
	min   int64
}

type queueModel struct {
	pool   *Pool
	q      Queue
	blocks []modelBlock
	next   int
}

func (m *queueModel) push(t *rapid.T, front bool) {
	var blocks []*Block
	var model []modelBlock
	for range rapid.IntRange(0, 4).Draw(t, "blocks") {
		b := m.pool.NewBuilder()
		k := modelBlock{min: 1 << 62}
		for range rapid.IntRange(1, 5).Draw(t, "elements") {
			m.next++
			elem := fmt.Sprintf("%*d", rapid.IntRange(1, 300).Draw(t, "width"), m.next)
			ts := rapid.Int64Range(-20, 20).Draw(t, "timestamp")
			if err := b.Append([]byte(elem), ts); err != nil {
				t.Fatal(err)
			}
			k.elems = append(k.elems, elem)
			k.min = min(k.min, ts)
		}
		out, err := b.Finish()
		if err != nil || len(out) != 1 {
			t.Fatal(out, err)
		}
		blocks, model = append(blocks, out[0]), append(model, k)
	}
	if front {
		m.q.PushFront(blocks...)
		m.blocks = append(model, m.blocks...)
	} else {
		m.q.Push(blocks...)
		m.blocks = append(m.blocks, model...)
	}
}

func (m *queueModel) take(t *rapid.T) {
	maxElements := rapid.IntRange(0, 12).Draw(t, "max elements")
	maxBytes := rapid.Int64Range(0, 2000).Draw(t, "max bytes")
	var want []string
	size := int64(0)
	for first := true; len(m.blocks) > 0; first = false {
		k := &m.blocks[0]
		n := int64(len(strings.Join(k.elems, "")))
		if maxBytes > 0 && !first && size+n > maxBytes {
			break
		}
		if room := maxElements - len(want); maxElements > 0 && len(k.elems) > room {
			want = append(want, k.elems[:room]...)
			k.elems = k.elems[room:]
			break
		}
		want = append(want, k.elems...)
		size += n
		m.blocks = m.blocks[1:]
	}
	var got []string
	for _, b := range m.q.Take(maxElements, maxBytes) {
		d, err := b.Data()
		if err != nil {
			t.Fatal(err)
		}
		for i := range d.Len() {
			got = append(got, string(d.Element(i)))
		}
		b.Release()
	}
	if !slices.Equal(got, want) {
		t.Fatalf("Take(%d, %d) = %q, want %q", maxElements, maxBytes, got, want)
	}
}

func (m *queueModel) check(t *rapid.T) {
	n, size, least := 0, 0, int64(1<<62)
	for _, k := range m.blocks {
		n += len(k.elems)
		size += len(strings.Join(k.elems, ""))
		least = min(least, k.min)
	}
	if m.q.Len() != n || m.q.Size() != int64(size) {
		t.Fatalf("queue of %d elements, %d bytes; want %d, %d", m.q.Len(), m.q.Size(), n, size)
	}
	if got, ok := m.q.MinTimestamp(); ok != (n > 0) || ok && got != least {
		t.Fatalf("MinTimestamp = %d, %v, want %d", got, ok, least)
	}
	i := 0
	for b := range m.q.All() {
		if b.Len() != len(m.blocks[i].elems) {
			t.Fatalf("block %d of %d elements, want %d", i, b.Len(), len(m.blocks[i].elems))
		}
		i++
	}
	if i != len(m.blocks) {
		t.Fatalf("%d blocks, want %d", i, len(m.blocks))
	}
}

// TestTakeUnreadable: a block that cannot be cut is taken whole rather than left for ever.
func TestTakeUnreadable(t *testing.T) {
	p := newPool(t, 1)
	b := p.NewBuilder()
	mustAppend(t, b, "a", 0)
	mustAppend(t, b, "b", 0)
	var q Queue
	q.Push(mustFinish(t, b)...)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	got := q.Take(1, 0)
	if len(got) != 1 || q.Len() != 0 {
		t.Fatalf("took %d blocks, left %d elements", len(got), q.Len())
	}
	if _, err := got[0].Data(); err == nil {
		t.Error("Data succeeds")
	}
	release(got)
}

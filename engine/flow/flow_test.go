package flow

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// newPool returns a pool; at the end of the test nothing of it may be left in memory or on disk.
func newPool(t testing.TB, limit int64) *Pool {
	t.Helper()
	dir := t.TempDir()
	p, err := NewPool(limit, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		checkEmpty(t, p)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
			t.Errorf("files left: %v, %v", files, err)
		}
	})
	return p
}

func checkEmpty(t interface{ Errorf(string, ...any) }, p *Pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.Used() != 0 || p.Spilled() != 0 || len(p.segments) != 0 || p.active != nil {
		t.Errorf("after all is released: %d bytes used, %d spilled, %d segments", p.Used(), p.Spilled(), len(p.segments))
	}
}

func mustAppend(t testing.TB, b *Builder, elem string, timestamp int64) {
	t.Helper()
	if err := b.Append([]byte(elem), timestamp); err != nil {
		t.Fatal(err)
	}
}

func mustFinish(t testing.TB, b *Builder) []*Block {
	t.Helper()
	blocks, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

func release(blocks []*Block) {
	for _, b := range blocks {
		b.Release()
	}
}

// elements returns the elements of a block, and checks that the block says the truth about them.
func elements(t testing.TB, b *Block) []string {
	t.Helper()
	d, err := b.Data()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	size := 0
	for i := range d.Len() {
		e := d.Element(i)
		out = append(out, string(e))
		size += len(e)
	}
	if len(out) != b.Len() || int64(size) != b.Size() || size != len(d.Bytes) {
		t.Errorf("block says %d elements of %d bytes, has %d of %d in %d", b.Len(), b.Size(), len(out), size, len(d.Bytes))
	}
	return out
}

func TestBuilder(t *testing.T) {
	big := strings.Repeat("x", DefaultBlockSize+1)
	half := strings.Repeat("h", DefaultBlockSize/2)
	for _, test := range []struct {
		name  string
		elems []string
		want  []int // elements of each block
	}{
		{"nothing", nil, nil},
		{"empty elements", []string{"", ""}, []int{2}},
		{"one block", []string{"a", "", "bc"}, []int{3}},
		{"exactly full", []string{half, half, ""}, []int{3}},
		{"one too many", []string{half, half, "a"}, []int{2, 1}},
		{"large element alone", []string{"a", big, "b", big}, []int{1, 1, 1, 1}},
		{"many small ones", make([]string, maxElements+1), []int{maxElements, 1}},
	} {
		for _, limit := range []int64{1 << 30, 1} {
			t.Run(fmt.Sprintf("%s/limit %d", test.name, limit), func(t *testing.T) {
				p := newPool(t, limit)
				b := p.NewBuilder()
				for round := range 2 { // a finished builder is as new
					for i, e := range test.elems {
						mustAppend(t, b, e, int64(10-i))
					}
					if b.Len() != len(test.elems) || b.Size() != int64(len(strings.Join(test.elems, ""))) {
						t.Errorf("round %d: Len = %d, Size = %d", round, b.Len(), b.Size())
					}
					blocks := mustFinish(t, b)
					if b.Len() != 0 || b.Size() != 0 {
						t.Errorf("round %d: after Finish: Len = %d, Size = %d", round, b.Len(), b.Size())
					}
					var got []string
					var lens []int
					for _, k := range blocks {
						got = append(got, elements(t, k)...)
						lens = append(lens, k.Len())
						if want := int64(10 - len(got) + 1); k.MinTimestamp() != want {
							t.Errorf("round %d: MinTimestamp = %d, want %d", round, k.MinTimestamp(), want)
						}
					}
					if !slices.Equal(got, test.elems) || !slices.Equal(lens, test.want) {
						t.Errorf("round %d: got %d elements in blocks of %v, want %d in %v", round, len(got), lens, len(test.elems), test.want)
					}
					release(blocks)
				}
			})
		}
	}
}

func TestMinTimestampPerBlock(t *testing.T) {
	b := newPool(t, 1<<30).NewBuilder()
	full := strings.Repeat("x", DefaultBlockSize)
	for _, ts := range []int64{5, 7, -3} {
		mustAppend(t, b, full, ts)
	}
	blocks := mustFinish(t, b)
	defer release(blocks)
	for i, want := range []int64{5, 7, -3} {
		if got := blocks[i].MinTimestamp(); got != want {
			t.Errorf("block %d: MinTimestamp = %d, want %d", i, got, want)
		}
	}
}

// TestAvailableBuffer writes elements in place, over the ends of buffers and of blocks.
func TestAvailableBuffer(t *testing.T) {
	b := newPool(t, 1<<30).NewBuilder()
	var want []string
	for i := range 3000 {
		elem := append(b.AvailableBuffer(), strings.Repeat("x", i%200)...)
		elem = fmt.Append(elem, i)
		want = append(want, string(elem))
		if err := b.Append(elem, 0); err != nil {
			t.Fatal(err)
		}
	}
	blocks := mustFinish(t, b)
	defer release(blocks)
	var got []string
	for _, k := range blocks {
		got = append(got, elements(t, k)...)
	}
	if !slices.Equal(got, want) {
		t.Error("elements differ")
	}
}

func TestAppendAllocatesPerBlock(t *testing.T) {
	b := newPool(t, 1<<30).NewBuilder()
	elem := make([]byte, 64)
	const n = 20000 // some 20 blocks
	allocs := testing.AllocsPerRun(5, func() {
		for i := range n {
			if err := b.Append(elem, int64(i)); err != nil {
				t.Fatal(err)
			}
		}
		release(mustFinish(t, b))
	})
	if allocs > n/50 {
		t.Errorf("%v allocations for %d elements", allocs, n)
	}
}

// TestSmallOutput: a builder with little in it must not take a block's worth of the pool.
func TestSmallOutput(t *testing.T) {
	p := newPool(t, 1<<30)
	b := p.NewBuilder()
	mustAppend(t, b, "small", 0)
	if p.Used() > 1024 {
		t.Errorf("open: %d bytes used", p.Used())
	}
	blocks := mustFinish(t, b)
	defer release(blocks)
	if p.Used() > 256 {
		t.Errorf("closed: %d bytes used", p.Used())
	}
	if p.Peak() < p.Used() || p.Over(0.5) {
		t.Errorf("Peak = %d, Over(0.5) = %v", p.Peak(), p.Over(0.5))
	}
}

func TestSpill(t *testing.T) {
	p := newPool(t, 3*DefaultBlockSize)
	b := p.NewBuilder()
	var want []string
	for i := range 600 { // some 10 blocks
		want = append(want, fmt.Sprintf("%1000d", i))
		mustAppend(t, b, want[i], int64(i))
	}
	blocks := mustFinish(t, b)
	if p.Used() > 4*DefaultBlockSize || p.Spilled() < 5*DefaultBlockSize {
		t.Errorf("%d bytes used, %d spilled", p.Used(), p.Spilled())
	}
	var got []string
	var scratch Data
	before := p.Used()
	for _, k := range blocks {
		d, err := k.ReadInto(&scratch)
		if err != nil {
			t.Fatal(err)
		}
		for i := range d.Len() {
			got = append(got, string(d.Element(i)))
		}
	}
	if !slices.Equal(got, want) {
		t.Error("ReadInto: elements differ")
	}
	if p.Used() != before {
		t.Errorf("ReadInto charges %d bytes", p.Used()-before)
	}
	got = nil
	for _, k := range blocks {
		got = append(got, elements(t, k)...)
	}
	if !slices.Equal(got, want) {
		t.Error("Data: elements differ")
	}
	if p.Used() < 600*1000 {
		t.Errorf("all loaded, but %d bytes used", p.Used())
	}
	release(blocks)
}

// TestSegments: disk space is given back as blocks are released, not only at the end.
func TestSegments(t *testing.T) {
	p := newPool(t, 1)
	b := p.NewBuilder()
	elem := make([]byte, 1<<20)
	for range 3 * segmentSize / len(elem) {
		if err := b.Append(elem, 0); err != nil {
			t.Fatal(err)
		}
	}
	blocks := mustFinish(t, b)
	if len(p.segments) != 3 {
		t.Fatalf("%d segments, want 3", len(p.segments))
	}
	first := blocks[0].place.segment
	for i, k := range blocks {
		last := i+1 < len(blocks) && blocks[i+1].place.segment != first
		k.Release()
		if last {
			break
		}
	}
	if _, err := first.file.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) || len(p.segments) != 2 {
		t.Errorf("after the release of all its blocks: %v, %d segments", err, len(p.segments))
	}
	for _, k := range blocks {
		if k.place.segment != first {
			k.Release()
		}
	}
}

// fullFile is a file on a disk with room for a number of bytes.
type fullFile struct {
	segmentFile
	room *int
}

func (f fullFile) WriteAt(b []byte, off int64) (int, error) {
	if *f.room < len(b) {
		return 0, &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
	}
	*f.room -= len(b)
	return f.segmentFile.WriteAt(b, off)
}

func TestDiskFull(t *testing.T) {
	for _, room := range []int{0, DefaultBlockSize + 8, 3*DefaultBlockSize + 100} {
		t.Run(fmt.Sprint(room), func(t *testing.T) {
			p := newPool(t, 1)
			create, left := p.create, room
			p.create = func() (segmentFile, error) {
				f, err := create()
				return fullFile{f, &left}, err
			}
			b := p.NewBuilder()
			elem, n := make([]byte, DefaultBlockSize/2), 0
			var err error
			for ; err == nil && n < 100; n++ {
				err = b.Append(elem, int64(n))
			}
			var spill *SpillError
			if !errors.As(err, &spill) || !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("after %d elements: %v", n, err)
			}
			for _, want := range []string{p.dir, "free disk space", "raise the limit of the buffer pool (now 1 bytes)"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if b.Len() != n-1 {
				t.Errorf("Len = %d, want %d: the last element was not taken", b.Len(), n-1)
			}
			if _, err := b.Finish(); !errors.As(err, &spill) {
				t.Errorf("Finish: %v", err)
			}
			left = 1 << 30 // someone frees space: the same builder goes on
			if err := b.Append(elem, 0); err != nil {
				t.Error(err)
			}
			if blocks := mustFinish(t, b); len(blocks) == 0 {
				t.Error("no blocks")
			} else {
				release(blocks)
			}
			left = 0
			for err = nil; err == nil; {
				err = b.Append(elem, 0)
			}
			b.Discard()
			checkEmpty(t, p)
		})
	}
}

func TestClosedPool(t *testing.T) {
	p := newPool(t, 1)
	b := p.NewBuilder()
	mustAppend(t, b, "a", 0)
	blocks := mustFinish(t, b)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	var spill *SpillError
	if _, err := blocks[0].Data(); !errors.As(err, &spill) || !strings.Contains(err.Error(), "read spilled elements from") {
		t.Errorf("Data after Close: %v", err)
	}
	mustAppend(t, b, "b", 0)
	if _, err := b.Finish(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Finish after Close: %v", err)
	}
	b.Discard()
	release(blocks)
}

func TestNewPoolErrors(t *testing.T) {
	if _, err := NewPool(0, t.TempDir()); err == nil || !strings.Contains(err.Error(), "must be positive") {
		t.Errorf("limit 0: %v", err)
	}
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewPool(1, file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file for a directory: %v", err)
	}
}

func TestSlice(t *testing.T) {
	for _, limit := range []int64{1 << 30, 1} {
		p := newPool(t, limit)
		b := p.NewBuilder()
		for i := range 10 {
			mustAppend(t, b, strings.Repeat(fmt.Sprint(i), i), int64(i))
		}
		whole := mustFinish(t, b)[0]
		all := elements(t, whole)
		for from := range 10 {
			for to := from + 1; to <= 10; to++ {
				s, err := whole.Slice(from, to)
				if err != nil {
					t.Fatal(err)
				}
				if got := elements(t, s); !slices.Equal(got, all[from:to]) {
					t.Errorf("Slice(%d, %d) = %q", from, to, got)
				}
				s.Release()
			}
		}
		mid, err := whole.Slice(2, 8)
		if err != nil {
			t.Fatal(err)
		}
		whole.Release() // the slices keep the memory
		part, err := mid.Slice(1, 3)
		if err != nil {
			t.Fatal(err)
		}
		mid.Release()
		if got := elements(t, part); !slices.Equal(got, all[3:5]) {
			t.Errorf("slice of a slice = %q", got)
		}
		for _, bad := range [][2]int{{-1, 1}, {0, 3}, {1, 1}, {2, 1}} {
			if _, err := part.Slice(bad[0], bad[1]); err == nil {
				t.Errorf("Slice(%d, %d) of 2 elements succeeds", bad[0], bad[1])
			}
		}
		part.Release()
	}
}

func TestMisuse(t *testing.T) {
	p := newPool(t, 1<<30)
	b := p.NewBuilder()
	mustAppend(t, b, "a", 0)
	k := mustFinish(t, b)[0]
	k.Release()
	for name, f := range map[string]func(){
		"Data":    func() { _, _ = k.Data() },
		"Retain":  k.Retain,
		"Release": k.Release,
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s after the last Release passes unnoticed", name)
				}
			}()
			f()
		}()
	}
}

// TestConcurrent has goroutines build, share, read and release blocks, with the race detector in mind.
func TestConcurrent(t *testing.T) {
	p := newPool(t, 4*DefaultBlockSize)
	shared := make(chan *Block, 64)
	var readers, writers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			var scratch Data
			for k := range shared {
				d, err := k.ReadInto(&scratch)
				if rand.IntN(2) == 0 {
					d, err = k.Data()
				}
				if err != nil {
					t.Error(err)
				} else if want := d.Element(0); string(want) != string(d.Element(d.Len()-1)) {
					t.Errorf("block of %q and %q", want, d.Element(d.Len()-1))
				}
				k.Release()
			}
		})
	}
	for w := range 4 {
		writers.Go(func() {
			b := p.NewBuilder()
			for round := range 20 {
				elem := []byte(fmt.Sprint("writer ", w, " round ", round))
				for range rand.IntN(10000) + 1 {
					if err := b.Append(elem, 0); err != nil {
						t.Error(err)
					}
				}
				if round%5 == 4 {
					b.Discard()
					continue
				}
				for _, k := range mustFinish(t, b) {
					k.Retain()
					shared <- k
					shared <- k
				}
			}
		})
	}
	writers.Wait()
	close(shared)
	readers.Wait()
}

func BenchmarkAppend(b *testing.B) {
	p := newPool(b, 1<<30)
	builder := p.NewBuilder()
	elem := make([]byte, 100)
	b.ReportAllocs()
	b.SetBytes(int64(len(elem)))
	for i := 0; b.Loop(); i++ {
		if err := builder.Append(elem, int64(i)); err != nil {
			b.Fatal(err)
		}
		if i%10000 == 0 {
			builder.Discard()
		}
	}
	builder.Discard()
}

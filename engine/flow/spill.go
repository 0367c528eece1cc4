package flow

import (
	"encoding/binary"
	"fmt"
	"os"
)

// segmentSize is how far a segment grows before the next one is begun.
const segmentSize = 16 << 20

// segmentFile is what a segment needs of its file. Close also deletes it.
type segmentFile interface {
	Name() string
	ReadAt(b []byte, off int64) (int, error)
	WriteAt(b []byte, off int64) (int, error)
	Close() error
}

// segment is a file of spilled blocks. Its fields are guarded by Pool.mu; the file may be read and written in different
// places at once, by those who hold a block in it.
type segment struct {
	file segmentFile
	size int64 // where the next block goes
	live int   // blocks that are not released
}

// extent is a block's place on disk: its elements, then their ends as 32-bit little-endian numbers.
type extent struct {
	segment *segment // nil: none
	offset  int64
	size    int64 // of both
}

// SpillError says that a block could not be brought to disk or back.
type SpillError struct {
	Op    string // create, write or read
	File  string
	Limit int64 // of the pool, bytes
	Err   error
}

func (e *SpillError) Error() string {
	if e.Op == "read" {
		return fmt.Sprintf("read spilled elements from %s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s file of spilled elements %s: %v: free disk space there, or raise the limit of the buffer pool (now %d bytes)",
		e.Op, e.File, e.Err, e.Limit)
}

// Unwrap returns the cause.
func (e *SpillError) Unwrap() error { return e.Err }

// spill writes a block's data to the active segment.
func (p *Pool) spill(d Data) (extent, error) {
	x, err := p.reserve(int64(len(d.Bytes)) + endSize*int64(len(d.Ends)))
	if err != nil {
		return extent{}, err
	}
	ends := make([]byte, 0, endSize*len(d.Ends))
	for _, e := range d.Ends {
		ends = binary.LittleEndian.AppendUint32(ends, e)
	}
	file := x.segment.file
	if _, err = file.WriteAt(d.Bytes, x.offset); err == nil {
		_, err = file.WriteAt(ends, x.offset+int64(len(d.Bytes)))
	}
	if err != nil {
		p.free(x)
		return extent{}, &SpillError{Op: "write", File: file.Name(), Limit: p.limit, Err: err}
	}
	return x, nil
}

// endSize is the size of one of Data.Ends, in memory and on disk.
const endSize = 4

// reserve takes size bytes at the end of the active segment; the caller frees them.
func (p *Pool) reserve(size int64) (extent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return extent{}, &SpillError{Op: "create", File: p.dir, Limit: p.limit, Err: os.ErrClosed}
	}
	if p.active == nil || p.active.size >= segmentSize {
		f, err := p.create()
		if err != nil {
			return extent{}, &SpillError{Op: "create", File: p.dir, Limit: p.limit, Err: err}
		}
		p.active = &segment{file: f}
		p.segments[p.active] = struct{}{}
	}
	x := extent{segment: p.active, offset: p.active.size, size: size}
	p.active.size += size
	p.active.live++
	p.spilled.Add(size)
	return x, nil
}

// free gives back a block's place, and deletes its segment if it was the last there.
func (p *Pool) free(x extent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spilled.Add(-x.size)
	s := x.segment
	s.live--
	if _, open := p.segments[s]; s.live > 0 || !open {
		return
	}
	delete(p.segments, s)
	if p.active == s {
		p.active = nil
	}
	// The file has no more use. An error could only say that its space is not free yet.
	_ = s.file.Close()
}

// load reads a spilled block of n elements into d's memory, which it replaces where it is too small.
func (p *Pool) load(x extent, n int, d Data) (Data, error) {
	ends := make([]byte, endSize*n)
	size := x.size - int64(len(ends))
	d = Data{Bytes: resize(d.Bytes, int(size)), Ends: resize(d.Ends, n)}
	file := x.segment.file
	_, err := file.ReadAt(d.Bytes, x.offset)
	if err == nil {
		_, err = file.ReadAt(ends, x.offset+size)
	}
	if err != nil {
		return Data{}, &SpillError{Op: "read", File: file.Name(), Limit: p.limit, Err: err}
	}
	for i := range d.Ends {
		d.Ends[i] = binary.LittleEndian.Uint32(ends[endSize*i:])
	}
	return d, nil
}

func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// tempFile is a file that Close deletes. Where the system allows, it has no name from the beginning, so that it goes with
// the process.
type tempFile struct {
	*os.File
	named bool
}

func createSegmentFile(dir string) (segmentFile, error) {
	f, err := os.CreateTemp(dir, "spill-*")
	if err != nil {
		return nil, err
	}
	return &tempFile{File: f, named: os.Remove(f.Name()) != nil}, nil
}

func (f *tempFile) Close() error {
	err := f.File.Close()
	if f.named {
		if e := os.Remove(f.Name()); err == nil {
			err = e
		}
	}
	return err
}

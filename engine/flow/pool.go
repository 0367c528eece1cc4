package flow

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// Pool accounts for the memory of blocks and owns the files that they spill to. All methods may be called from any
// goroutine.
type Pool struct {
	limit int64
	dir   string
	// create makes the file of a segment. Tests replace it.
	create func() (segmentFile, error)

	used, peak, spilled atomic.Int64

	mu       sync.Mutex            // guards what follows and all segments
	active   *segment              // the one that grows; nil before the first spill
	segments map[*segment]struct{} // that have live blocks
	closed   bool
}

// NewPool returns a pool that keeps about limit bytes of blocks in memory and the rest in files in the directory dir,
// which it makes if it does not exist. An empty dir is the system's directory for temporary files.
func NewPool(limit int64, dir string) (*Pool, error) {
	if limit <= 0 {
		return nil, fmt.Errorf("buffer pool: limit of %d bytes: it must be positive", limit)
	}
	if dir == "" {
		dir = os.TempDir()
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("buffer pool: make directory for spilled blocks: %w", err)
	}
	p := &Pool{limit: limit, dir: dir, segments: map[*segment]struct{}{}}
	p.create = func() (segmentFile, error) { return createSegmentFile(dir) }
	// Better now than when memory runs out.
	f, err := p.create()
	if err != nil {
		return nil, fmt.Errorf("buffer pool: write to the directory for spilled blocks: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("buffer pool: write to the directory for spilled blocks: %w", err)
	}
	return p, nil
}

// Limit returns the bytes of memory above which blocks spill.
func (p *Pool) Limit() int64 { return p.limit }

// Used returns the bytes of memory in blocks and open builders.
func (p *Pool) Used() int64 { return p.used.Load() }

// Peak returns the most that Used has been.
func (p *Pool) Peak() int64 { return p.peak.Load() }

// Spilled returns the bytes of blocks on disk.
func (p *Pool) Spilled() int64 { return p.spilled.Load() }

// Over says whether more than the given fraction of the limit is used.
func (p *Pool) Over(fraction float64) bool { return float64(p.Used()) > fraction*float64(p.limit) }

// NewBuilder returns an empty builder. It takes no memory until an element is appended.
func (p *Pool) NewBuilder() *Builder { return &Builder{pool: p} }

// Close deletes the files. Blocks in them can no longer be read; those in memory can, and all may still be released.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.active = nil
	var errs []error
	for s := range p.segments {
		errs = append(errs, s.file.Close())
	}
	clear(p.segments)
	return errors.Join(errs...)
}

// charge adds n, which may be negative, to the memory in use.
func (p *Pool) charge(n int64) {
	used := p.used.Add(n)
	for {
		peak := p.peak.Load()
		if used <= peak || p.peak.CompareAndSwap(peak, used) {
			return
		}
	}
}

package engine

import (
	"time"

	"github.com/tinyrunner/tinyrunner/engine/flow"
)

const (
	// firstBundle is how many elements a bundle has before it is known how long they take.
	firstBundle = 256
	// streamBytes is how much of a stream a native stage takes at once, and a bundle of user code before it is known how long that
	// takes; the bound of its elements is then the tighter one, mostly.
	streamBytes = 512 << 10
)

// pace chooses how many elements and bytes of a stream a bundle takes, so that it ends in half to all of the target's time.
// Nothing of a bundle is seen by others, or safe, before its end, and a bundle that is lost runs again from its beginning:
// without a bound a job with slow functions whose workers die now and then would never get on.
type pace struct {
	elements, mostElements int
	bytes, mostBytes       int64
	target                 time.Duration
}

func newPace(mostElements int, mostBytes int64, target time.Duration) *pace {
	return &pace{
		elements: min(firstBundle, mostElements), mostElements: mostElements,
		bytes: min(streamBytes, mostBytes), mostBytes: mostBytes, target: target,
	}
}

// observe learns from a bundle of n elements and so many bytes that ran for so long.
func (p *pace) observe(n int, size int64, took time.Duration) {
	if n <= 0 {
		return
	}
	switch fits := float64(p.target) / float64(took); {
	case took > p.target:
		p.elements = min(p.elements, max(1, int(float64(n)*fits)))
		p.bytes = min(p.bytes, max(1, int64(float64(size)*fits)))
	case took < p.target/2:
		if n >= p.elements {
			p.elements = min(p.mostElements, 2*p.elements)
		}
		if 2*size > p.bytes { // blocks are not cut for their bytes
			p.bytes = min(p.mostBytes, 2*p.bytes)
		}
	}
}

// bundleBytes bounds the input of a stage's next bundle. REQUIRES: x.mu.
func (s *stage) bundleBytes() int64 {
	if s.in == nil || s.in.Bounded {
		return s.x.cfg.MaxBundleBytes
	}
	if o, ok := s.op.(*userOp); ok {
		return o.pace.bytes
	}
	return min(streamBytes, s.x.cfg.MaxBundleBytes)
}

// highWater is how many bytes wait for a stage before its producers stop: of a stream as many as its slots take next, because
// a checkpoint saves them; never more than a share of the pool. REQUIRES: x.mu.
func (s *stage) highWater() int64 {
	share := s.x.cfg.Pool.Limit() / 8
	if !s.in.Bounded {
		share = min(share, int64(s.x.cfg.Slots)*s.bundleBytes())
	}
	return max(1<<20, share)
}

func countElements(blocks []*flow.Block) int {
	n := 0
	for _, b := range blocks {
		n += b.Len()
	}
	return n
}

func countBytes(blocks []*flow.Block) int64 {
	n := int64(0)
	for _, b := range blocks {
		n += b.Size()
	}
	return n
}

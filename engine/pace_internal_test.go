package engine

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		perElement   time.Duration
		size         int64 // of an element
		queued       int
		wantElements int
		wantBytes    int64
	}{
		"fast":               {time.Microsecond, 10, 1 << 20, 50_000, 2 * streamBytes}, // more than half of it is used
		"fast and large":     {time.Microsecond, 1 << 20, 1 << 20, firstBundle, 4 << 20},
		"slow":               {10 * ms, 10, 1 << 20, 10, 100},
		"a second each":      {time.Second, 10, 1 << 20, 1, 1},
		"fast but little":    {time.Microsecond, 10, 10, firstBundle, streamBytes}, // nothing is learned
		"10 MB a second":     {100 * time.Microsecond, 1000, 1 << 20, 512, streamBytes},
		"a MB in 0.1 second": {100 * ms, 1 << 20, 1 << 20, firstBundle, streamBytes},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPace(50_000, 4<<20, 100*ms)
			for range 20 {
				n := min(p.elements, test.queued, int(max(1, p.bytes/test.size)))
				p.observe(n, int64(n)*test.size, time.Duration(n)*test.perElement)
			}
			if p.elements != test.wantElements || p.bytes != test.wantBytes {
				t.Errorf("%d elements and %d bytes, want %d and %d", p.elements, p.bytes, test.wantElements, test.wantBytes)
			}
		})
	}
	p := newPace(50_000, 4<<20, 500*ms)
	for range 20 {
		p.observe(p.elements, p.bytes, ms)
	}
	p.observe(p.elements, p.bytes, 5*time.Second) // it became slow
	if p.elements != 5000 || p.bytes != 4<<20/10 {
		t.Errorf("%d elements and %d bytes, want 5000 and %d", p.elements, p.bytes, 4<<20/10)
	}
	if p := newPace(2, 1, time.Second); p.elements != 2 || p.bytes != 1 {
		t.Errorf("%d elements and %d bytes, want 2 and 1", p.elements, p.bytes)
	}
}

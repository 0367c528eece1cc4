package engine

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		perElement time.Duration
		queued     int
		want       int
	}{
		"fast":            {time.Microsecond, 1 << 20, 50_000},
		"slow":            {10 * ms, 1 << 20, 50},
		"a second each":   {time.Second, 1 << 20, 1},
		"fast but little": {time.Microsecond, 10, firstBundle}, // nothing is learned
	} {
		t.Run(name, func(t *testing.T) {
			p := newPace(50_000, 500*ms)
			for range 20 {
				n := min(p.limit, test.queued)
				p.observe(n, time.Duration(n)*test.perElement)
			}
			if p.limit != test.want {
				t.Errorf("%d elements, want %d", p.limit, test.want)
			}
		})
	}
	p := newPace(50_000, 500*ms)
	for range 20 {
		p.observe(p.limit, ms)
	}
	p.observe(p.limit, 5*time.Second) // it became slow
	if p.limit != 5000 {
		t.Errorf("%d elements, want 5000", p.limit)
	}
	if p := newPace(2, time.Second); p.limit != 2 {
		t.Errorf("%d elements, want 2", p.limit)
	}
}

package engine

import (
	"time"

	"github.com/tinyrunner/tinyrunner/engine/flow"
)

// firstBundle is how many elements a bundle has before it is known how long they take.
const firstBundle = 256

// pace chooses how many elements of a stream a bundle takes, so that it ends in about the target's time. Nothing of a bundle
// is seen by others, or safe, before its end, and a bundle that is lost runs again from its beginning: without a bound a job
// with slow functions whose workers die now and then would never get on.
type pace struct {
	limit, most int
	target      time.Duration
}

func newPace(most int, target time.Duration) *pace {
	return &pace{limit: min(firstBundle, most), most: most, target: target}
}

// observe learns from a bundle of n elements that ran for so long.
func (p *pace) observe(n int, took time.Duration) {
	switch {
	case n <= 0:
	case took > p.target:
		p.limit = min(p.limit, max(1, int(float64(n)*float64(p.target)/float64(took))))
	case took < p.target/2 && n >= p.limit:
		p.limit = min(p.most, 2*p.limit)
	}
}

func countElements(blocks []*flow.Block) int {
	n := 0
	for _, b := range blocks {
		n += b.Len()
	}
	return n
}

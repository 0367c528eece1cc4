package engine

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tinyrunner/tinyrunner/state"
)

const (
	// sizesAge is how old sizes are at least before the state is looked at again.
	sizesAge = 10 * time.Second
	// sizesBudget is how long such a look takes, about, whatever the number of stages: some 25,000 entries. Of a larger state each
	// look sees a part.
	sizesBudget = 4 * time.Millisecond
)

// stageSizes tells how large the stages' state is: the keys and values of user state or groups, of timers, and of what a
// source or a side input keeps. Goroutine safe.
type stageSizes struct {
	cells [][]state.Cell // by stage; never changes

	mu     sync.Mutex // guards the rest
	census *state.Census
	at     time.Time // of the last look
}

// newStageSizes REQUIRES: all cells of the stages are made.
func newStageSizes(x *execution) *stageSizes {
	s := &stageSizes{census: x.db.NewCensus(x.cfg.MaxParallelism)}
	for _, st := range x.stages {
		s.cells = append(s.cells, x.db.Cells(st.owns))
	}
	return s
}

// errNotCounted says that the state is so large that nothing is known of its size yet.
var errNotCounted = errors.New("the state is still being counted")

// all returns the bytes of each stage's state; -1: not known yet. It looks at the state if the last look is long enough ago.
func (s *stageSizes) all() ([]int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.at) >= sizesAge {
		s.at = now
		if err := s.census.Step(sizesBudget); err != nil {
			return nil, fmt.Errorf("size of stages: %w", err)
		}
	}
	out := make([]int64, len(s.cells))
	for k, cells := range s.cells {
		if n, ok := s.census.Size(cells); ok {
			out[k] = n
		} else if len(cells) > 0 {
			out[k] = -1
		}
	}
	return out, nil
}

// StateSize tells how many bytes the keys and values of a stage's state have, as they are and not compressed: of its user
// state or groups, its timers, and what a source or a side input keeps. It may be some time old, and an estimate if the state
// is large. A job that does not run has state.ErrClosed.
func (j *Job) StateSize(name string) (int64, error) {
	x := j.running()
	if x == nil {
		return 0, state.ErrClosed
	}
	k := slices.IndexFunc(x.stages, func(s *stage) bool { return s.name == name })
	if k < 0 {
		return 0, fmt.Errorf("job %s has no stage %q", j.ID(), name)
	}
	sizes, err := x.sizes.all()
	if err != nil {
		return 0, err
	}
	if sizes[k] < 0 {
		return 0, fmt.Errorf("stage %s of job %s: %w", name, j.ID(), errNotCounted)
	}
	return sizes[k], nil
}

// parts tells of the stages in a cut. Sizes that cannot be known are -1.
func (cut *cutting) parts(sizes []int64) []StageCheckpoint {
	out := make([]StageCheckpoint, len(cut.snap.meta.Stages))
	for k, m := range cut.snap.meta.Stages {
		out[k] = StageCheckpoint{Name: m.Name, State: -1, InFlight: cut.snap.sizes[k]}
		if sizes != nil {
			out[k].State = sizes[k]
		}
	}
	return out
}

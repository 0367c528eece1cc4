package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tinyrunner/tinyrunner/state"
)

// running returns the job's execution while it runs, else nil.
func (j *Job) running() *execution {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.exec
}

// Workers returns the workers of the environments in use by their ids; none unless the job runs.
func (j *Job) Workers() map[string]Workers {
	x := j.running()
	if x == nil {
		return nil
	}
	return maps.Clone(x.envs) // complete before the execution became visible
}

// StateMetrics returns the figures of the job's database; false unless the job runs.
func (j *Job) StateMetrics() (state.Metrics, bool) {
	x := j.running()
	if x == nil {
		return state.Metrics{}, false
	}
	return x.db.Metrics(), true
}

// StateSize estimates how many bytes of the state's files belong to a stage: its user state or groups, its timers, and what
// a source or a side input keeps. What is in memtables is not counted. A job that does not run has state.ErrClosed.
func (j *Job) StateSize(name string) (int64, error) {
	x := j.running()
	if x == nil {
		return 0, state.ErrClosed
	}
	k := slices.IndexFunc(x.stages, func(s *stage) bool { return s.name == name })
	if k < 0 {
		return 0, fmt.Errorf("job %s has no stage %q", j.ID(), name)
	}
	return x.db.Size(x.stages[k].owns, x.cfg.MaxParallelism)
}

// owns reports whether a cell of the state is the stage's, by its name.
func (s *stage) owns(cell string) bool {
	if cell == "source\x00"+s.name {
		return true
	}
	if o, ok := s.op.(*sideOp); ok {
		return cell == "side\x00"+s.in.UniqueName+"\x00"+o.pattern
	}
	if s.plan == nil || s.plan.Owner == "" {
		return false
	}
	return cell == s.plan.Owner || strings.HasPrefix(cell, s.plan.Owner+"\x00")
}

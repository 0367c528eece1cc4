package engine

import (
	"maps"
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

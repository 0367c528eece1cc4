package goexec

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/metrics"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// stage is what a worker knows of one program.
type stage struct {
	prog    *bundle.Program
	outputs map[string]int // sink transform id -> output number

	free []*task // guarded by Worker.mu

	mu     sync.Mutex
	slow   bool                                 // known not to be a fast stage
	labels map[metrics.Labels]map[string]string // shared by the monitoring infos of all bundles
}

// newStage makes a stage; stock: as exec.UnmarshalPlan makes it, never a fast one.
func newStage(prog *bundle.Program, stock bool) *stage {
	st := &stage{
		prog:    prog,
		slow:    stock,
		outputs: make(map[string]int, len(prog.Outputs)),
		labels:  map[metrics.Labels]map[string]string{},
	}
	for i, id := range prog.Outputs {
		st.outputs[id] = i
	}
	return st
}

// task is a plan with its buffers. One bundle at a time uses it.
type task struct {
	plan *exec.Plan
	fast *fastPlan // nil: source and sinks are exec's
	born time.Time // expiration time of a plan that has no finalizers
	outs []output
}

func (st *stage) newTask() (*task, error) {
	t := &task{outs: make([]output, len(st.prog.Outputs))}
	err := noPanic(func() error { return st.compile(t) })
	if err != nil {
		return nil, fmt.Errorf("compile stage %s: %w\n(a Go function must be linked into this binary and registered "+
			"before beam.Init)", st.prog.Descriptor.GetId(), err)
	}
	t.born = t.plan.GetExpirationTime()
	return t, nil
}

func (st *stage) compile(t *task) (err error) {
	st.mu.Lock()
	slow := st.slow
	st.mu.Unlock()
	if !slow {
		t.plan, t.fast, err = newFast(st)
		var not *notFast
		if !errors.As(err, &not) {
			return err
		}
		st.mu.Lock()
		st.slow = true
		st.mu.Unlock()
	}
	t.plan, err = exec.UnmarshalPlan(st.prog.Descriptor, nil)
	return err
}

// down runs the DoFns' teardowns.
func (t *task) down() error {
	return t.plan.Down(context.Background())
}

// noPanic turns a panic of user code into an error with its stack.
func noPanic(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return f()
}

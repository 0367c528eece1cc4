package goexec

import (
	"context"
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
	stock   bool
	outputs map[string]int // sink transform id -> output number

	free []*task // guarded by Worker.mu

	mu     sync.Mutex
	labels map[metrics.Labels]map[string]string // shared by the monitoring infos of all bundles
}

func newStage(prog *bundle.Program, stock bool) *stage {
	st := &stage{
		prog:    prog,
		stock:   stock,
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
	born time.Time // expiration time of a plan that has no finalizers
	outs []output
}

func (st *stage) newTask() (*task, error) {
	var plan *exec.Plan
	err := noPanic(func() (err error) {
		plan, err = exec.UnmarshalPlan(st.prog.Descriptor, nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compile stage %s: %w\n(a Go function must be linked into this binary and registered "+
			"before beam.Init)", st.prog.Descriptor.GetId(), err)
	}
	return &task{plan: plan, born: plan.GetExpirationTime(), outs: make([]output, len(st.prog.Outputs))}, nil
}

// down runs the DoFns' teardowns. A plan that failed reports its failure again: that one is known.
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

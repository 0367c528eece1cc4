package goexec

import (
	"context"
	"fmt"
	"sync"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/metrics"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// run is one bundle while it executes: the exec.DataManager and exec.StateReader of its plan. Only the executing goroutine
// touches it, but for what mu guards.
type run struct {
	worker string
	st     *stage
	task   *task
	b      *bundle.Bundle
	store  *metrics.Store
	n      int64 // elements of the input

	sampler metrics.StateSampler // of the sampling goroutine

	ctx     context.Context // of the execution, as exec hands it to the streams it opens
	pending appending
	err     error // first failure of the runner's own side: input, sink, state

	mu    sync.Mutex // held by split and progress; the plan is theirs until ended
	ended bool
}

func newRun(worker string, st *stage, t *task, b *bundle.Bundle, store *metrics.Store) *run {
	return &run{worker: worker, st: st, task: t, b: b, store: store, n: int64(b.Elements()), sampler: metrics.NewSampler(store, 0)}
}

// end closes the run for split and progress: the plan will run another bundle.
func (r *run) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
}

// verdict decides what the end of Execute means.
func (r *run) verdict(ctx context.Context, execErr error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("run bundle %s: %w", r.b.ID, err)
	}
	if r.err == nil && execErr == nil {
		execErr = r.flush(ctx)
	}
	if r.err != nil {
		return fmt.Errorf("run bundle %s: %w", r.b.ID, r.err)
	}
	if execErr != nil {
		return &bundle.UserError{Worker: r.worker, Message: r.st.message(execErr)}
	}
	return nil
}

// fail keeps the first error of the runner's side and returns err.
func (r *run) fail(err error) error {
	if err != nil && r.err == nil {
		r.err = err
	}
	return err
}

func (r *run) split(ctx context.Context, fraction float64) (*bundle.Split, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil, nil
	}
	if f := r.task.fast; f != nil {
		first, ok := f.source.split(fraction, r.n)
		if !ok {
			return nil, nil
		}
		return &bundle.Split{LastPrimary: first - 1, FirstResidual: first}, nil
	}
	var sr exec.SplitResult
	err := noPanic(func() (err error) {
		sr, err = r.task.plan.Split(ctx, exec.SplitPoints{Frac: fraction, BufSize: r.n})
		return err
	})
	if err != nil {
		return nil, &bundle.UserError{Worker: r.worker, Message: fmt.Sprintf("split bundle %s: %v", r.b.ID, err)}
	}
	if sr.Unsuccessful || (sr.RI >= r.n && len(sr.RS) == 0) {
		return nil, nil
	}
	s := &bundle.Split{LastPrimary: sr.PI, FirstResidual: sr.RI, Residuals: delayed(&sr)}
	for _, e := range sr.PS {
		s.Primaries = append(s.Primaries, &fnpb.BundleApplication{TransformId: sr.TId, InputId: sr.InId, Element: e})
	}
	return s, nil
}

func (r *run) progress() *bundle.Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil
	}
	if f := r.task.fast; f != nil {
		begun, _ := f.source.snapshot()
		return &bundle.Progress{Consumed: begun, Metrics: r.metrics()}
	}
	snap, _ := r.task.plan.Progress()
	// The snapshot counts elements that are done; the next one has begun.
	return &bundle.Progress{Consumed: min(snap.Source.Count+1, r.n), Metrics: r.metrics()}
}

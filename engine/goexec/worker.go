package goexec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/metrics"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// Config of a Worker.
type Config struct {
	// ID names the worker in errors and cache tokens. Default "go".
	ID string
	// Logger takes what cannot be returned: failing teardowns. Default: discarded.
	Logger *slog.Logger
	// Stock turns the fast stages off: every stage runs as exec.UnmarshalPlan makes it. For tests and comparisons.
	Stock bool
}

// Worker runs bundles in this process. It serves all slots of one environment of one job and keeps what it compiled until
// Close. All methods may be called from any goroutine.
type Worker struct {
	id    string
	log   *slog.Logger
	stock bool

	sampling context.CancelFunc
	sampled  chan struct{} // closed when the sampler has ended

	mu       sync.Mutex
	closed   bool
	stages   map[*bundle.Program]*stage
	running  map[string]*run
	awaiting map[string]*finalizable // by bundle id
}

// finalizable is a task whose DoFns registered finalizers during a bundle.
type finalizable struct {
	task    *task
	expires time.Time
}

// New starts a worker. The caller must Close it.
func New(cfg Config) *Worker {
	if cfg.ID == "" {
		cfg.ID = "go"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &Worker{
		id:       cfg.ID,
		log:      cfg.Logger,
		stock:    cfg.Stock,
		sampling: cancel,
		sampled:  make(chan struct{}),
		stages:   map[*bundle.Program]*stage{},
		running:  map[string]*run{},
		awaiting: map[string]*finalizable{},
	}
	go w.sample(ctx)
	return w
}

// ID returns the configured name: the process is always the same one.
func (w *Worker) ID() string { return w.id }

// Run executes one bundle on the calling goroutine, from which Sink and State are called too. It returns a
// *bundle.UserError when user code failed or cannot be run here, and ctx's error when ctx ended before the bundle did.
func (w *Worker) Run(ctx context.Context, b *bundle.Bundle) (*bundle.Result, error) {
	st, t, err := w.acquire(b.Program)
	if err != nil {
		return nil, err
	}
	bctx := metrics.SetBundleID(ctx, b.ID)
	r := newRun(w.id, st, t, b, metrics.GetStore(bctx))
	if err := w.start(r); err != nil {
		w.drop(t)
		return nil, err
	}
	execErr := t.plan.Execute(bctx, b.ID, exec.DataContext{Data: r, State: r})
	w.finish(r)
	if err := r.verdict(ctx, execErr); err != nil {
		_ = t.down() // reports the DoFn's error once more
		return nil, err
	}
	res := &bundle.Result{Residuals: residuals(t.plan.Checkpoint()), Metrics: r.metrics()}
	res.RequiresFinalization = w.release(st, t, b.ID)
	return res, nil
}

// acquire returns a task for a bundle of prog, compiling prog when no set up one is free.
func (w *Worker) acquire(prog *bundle.Program) (*stage, *task, error) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil, nil, fmt.Errorf("%s: worker closed: %w", w.id, bundle.ErrWorkerLost)
	}
	st, ok := w.stages[prog]
	if !ok {
		st = newStage(prog, w.stock)
		w.stages[prog] = st
	}
	if n := len(st.free); n > 0 {
		t := st.free[n-1]
		st.free = st.free[:n-1]
		w.mu.Unlock()
		return st, t, nil
	}
	w.mu.Unlock()
	t, err := st.newTask()
	if err != nil {
		return nil, nil, &bundle.UserError{Worker: w.id, Message: err.Error()}
	}
	return st, t, nil
}

func (w *Worker) start(r *run) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("%s: worker closed: %w", w.id, bundle.ErrWorkerLost)
	}
	if _, ok := w.running[r.b.ID]; ok {
		return fmt.Errorf("%s: bundle %s is already running", w.id, r.b.ID)
	}
	w.running[r.b.ID] = r
	return nil
}

func (w *Worker) finish(r *run) {
	w.mu.Lock()
	delete(w.running, r.b.ID)
	w.mu.Unlock()
	r.end()
}

// release gives a task back after a good bundle and says whether finalizers wait for the bundle to become durable.
func (w *Worker) release(st *stage, t *task, id string) (finalize bool) {
	now := time.Now()
	expires := t.plan.GetExpirationTime()
	spent := !expires.Equal(t.born)

	w.mu.Lock()
	var drop []*task
	for id, f := range w.awaiting {
		if now.After(f.expires) {
			drop = append(drop, f.task)
			delete(w.awaiting, id)
		}
	}
	switch {
	case w.closed:
		drop = append(drop, t)
	case spent && now.Before(expires):
		w.awaiting[id] = &finalizable{task: t, expires: expires}
		finalize = true
	case spent:
		drop = append(drop, t)
	default:
		st.free = append(st.free, t)
	}
	w.mu.Unlock()
	for _, t := range drop {
		w.drop(t)
	}
	return finalize
}

// Finalize runs the finalizers that the DoFns of a finished bundle registered. Those that expired since are skipped, as
// Beam says (https://s.apache.org/beam-finalizing-bundles). Without any it does nothing.
func (w *Worker) Finalize(_ context.Context, b *bundle.Bundle) error {
	w.mu.Lock()
	f, ok := w.awaiting[b.ID]
	delete(w.awaiting, b.ID)
	w.mu.Unlock()
	if !ok {
		return nil
	}
	defer w.drop(f.task)
	if err := noPanic(f.task.plan.Finalize); err != nil {
		return &bundle.UserError{Worker: w.id, Message: fmt.Sprintf("finalize bundle %s: %v", b.ID, err)}
	}
	return nil
}

// Split asks a running bundle to give back a part of its input: about 1-fraction of what is left. A bundle that is not
// running, or that has nothing to give, is (nil, nil).
func (w *Worker) Split(ctx context.Context, b *bundle.Bundle, fraction float64) (*bundle.Split, error) {
	r := w.lookup(b.ID)
	if r == nil {
		return nil, nil
	}
	return r.split(ctx, fraction)
}

// Progress of a running bundle; nil when it is not running.
func (w *Worker) Progress(_ context.Context, b *bundle.Bundle) (*bundle.Progress, error) {
	r := w.lookup(b.ID)
	if r == nil {
		return nil, nil
	}
	return r.progress(), nil
}

func (w *Worker) lookup(id string) *run {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running[id]
}

// Close tears the set up DoFns down. Bundles that still run end with their own result; new ones are refused.
func (w *Worker) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	var drop []*task
	for _, st := range w.stages {
		drop = append(drop, st.free...)
		st.free = nil
	}
	for _, f := range w.awaiting {
		drop = append(drop, f.task)
	}
	clear(w.awaiting)
	w.mu.Unlock()

	w.sampling()
	<-w.sampled
	var errs []error
	for _, t := range drop {
		errs = append(errs, t.down())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tear down worker %s: %w", w.id, err)
	}
	return nil
}

// drop tears a task down whose result is already decided, so that a failure here only is worth a line in the log.
func (w *Worker) drop(t *task) {
	if err := t.down(); err != nil {
		w.log.Warn("teardown failed", "worker", w.id, "err", err)
	}
}

func residuals(checkpoints []*exec.Checkpoint) []*fnpb.DelayedBundleApplication {
	var out []*fnpb.DelayedBundleApplication
	for _, cp := range checkpoints {
		for _, d := range delayed(&cp.SR) {
			d.RequestedTimeDelay = durationpb.New(cp.Reapply)
			out = append(out, d)
		}
	}
	return out
}

func delayed(sr *exec.SplitResult) []*fnpb.DelayedBundleApplication {
	var out []*fnpb.DelayedBundleApplication
	for _, e := range sr.RS {
		out = append(out, &fnpb.DelayedBundleApplication{
			Application: &fnpb.BundleApplication{
				TransformId:      sr.TId,
				InputId:          sr.InId,
				Element:          e,
				OutputWatermarks: sr.OW,
			},
		})
	}
	return out
}

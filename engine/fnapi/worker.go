package fnapi

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// errClosed is why a worker is gone after Environment.Close.
var errClosed = errors.New("its environment was closed")

// Worker is one SDK harness process, from the start that was asked for until it is lost. Another process is another
// Worker with another ID. Any goroutine may call it.
type Worker struct {
	id  string // for people
	key string // its worker_id, which cannot be guessed: it admits its harness to the worker port
	env *Environment
	log *slog.Logger

	connected chan struct{}                 // closed when the control stream arrives
	ending    chan struct{}                 // closed to end the control stream in an orderly way
	gone      chan struct{}                 // closed when the worker is lost or closed; cause is set before
	requests  chan *fnpb.InstructionRequest // to the owner of the control stream
	feed      feed
	shorts    shortIDs

	lastSign atomic.Int64 // when the harness last called, UnixNano
	finished atomic.Int64 // bundles that the SDK answered
	calls    atomic.Int64 // numbers instructions that are not bundles

	mu      sync.Mutex
	cause   error                                       // why the worker is gone; guarded by mu until gone is closed
	hasCtrl bool                                        // guarded by mu
	busy    bool                                        // bundles were running when the worker was lost; guarded by mu until gone is closed
	streams int                                         // open streams; guarded by mu
	quiet   chan struct{}                               // closed when streams falls to 0 after ending; guarded by mu
	runs    map[string]*run                             // running bundles by instruction; guarded by mu
	waiting map[string]chan<- *fnpb.InstructionResponse // other instructions; guarded by mu
}

// idOf is the id of the worker with that key.
func idOf(key string) string { return key[:max(0, strings.LastIndexByte(key, '-'))] }

func newWorker(id string, env *Environment) *Worker {
	w := &Worker{
		id:        id,
		key:       id + "-" + strings.ToLower(rand.Text()),
		env:       env,
		log:       env.log.With("worker", id),
		connected: make(chan struct{}),
		ending:    make(chan struct{}),
		gone:      make(chan struct{}),
		requests:  make(chan *fnpb.InstructionRequest, 16),
		quiet:     make(chan struct{}),
		runs:      make(map[string]*run),
		waiting:   make(map[string]chan<- *fnpb.InstructionResponse),
	}
	w.touch()
	return w
}

// ID returns the worker's name, unique in this process: another harness that takes over has another one.
func (w *Worker) ID() string { return w.id }

// touch notes a sign of life.
func (w *Worker) touch() { w.lastSign.Store(time.Now().UnixNano()) }

// lose ends the worker: its streams end, and its running bundles return bundle.ErrWorkerLost. Only the first cause counts.
func (w *Worker) lose(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause != nil {
		return
	}
	w.cause = cause
	w.busy = len(w.runs) > 0
	close(w.gone)
}

// lost wraps the cause. REQUIRES: w.gone is closed.
func (w *Worker) lost() error {
	return fmt.Errorf("worker %s: %w: %w", w.id, bundle.ErrWorkerLost, w.cause)
}

// Run processes one bundle and returns when its effect is complete, or with an error: one that wraps
// bundle.ErrWorkerLost when the harness went away, a *bundle.UserError when the SDK answered with an error, the context's
// error, or one that says what is wrong with the bundle itself (its Sink, its blocks, an output that the stage has not).
//
// When the context ends the bundle is abandoned: the SDK gets the end of its input and whatever it still sends is dropped.
//
// REQUIRES: b.ID was never used before, not even for a bundle that failed: SDKs remember instructions.
func (w *Worker) Run(ctx context.Context, b *bundle.Bundle) (*bundle.Result, error) {
	select {
	case <-w.gone:
		return nil, w.lost()
	default:
	}
	p, err := w.env.register(b.Program)
	if err != nil {
		return nil, err
	}
	r, err := newRun(w, b, p)
	if err != nil {
		return nil, err
	}
	if err := w.begin(r); err != nil {
		return nil, err
	}
	defer w.end(r)
	req := &fnpb.InstructionRequest{
		InstructionId: b.ID,
		Request: &fnpb.InstructionRequest_ProcessBundle{ProcessBundle: &fnpb.ProcessBundleRequest{
			ProcessBundleDescriptorId: b.Program.Descriptor.GetId(),
			CacheTokens:               b.CacheTokens,
		}},
	}
	if err := w.send(ctx, req); err != nil {
		return nil, err
	}
	w.feed.add(r)
	resp, err := w.wait(ctx, r)
	if err != nil {
		return nil, err
	}
	infos, err := w.infos(ctx, resp.GetMonitoringInfos(), resp.GetMonitoringData())
	if err != nil {
		return nil, fmt.Errorf("read metrics of bundle %s: %w", b.ID, err)
	}
	return &bundle.Result{
		Residuals:            resp.GetResidualRoots(),
		RequiresFinalization: resp.GetRequiresFinalization(),
		Metrics:              infos,
	}, nil
}

// begin makes the bundle known to the streams' readers.
func (w *Worker) begin(r *run) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause != nil {
		return w.lost()
	}
	if w.runs[r.b.ID] != nil {
		return fmt.Errorf("run bundle %s: its instruction id is in use", r.b.ID)
	}
	w.runs[r.b.ID] = r
	return nil
}

// end makes sure that nobody uses the bundle any more.
func (w *Worker) end(r *run) {
	w.mu.Lock()
	delete(w.runs, r.b.ID)
	w.mu.Unlock()
	r.close()
}

// wait answers the bundle's state requests until it is complete.
func (w *Worker) wait(ctx context.Context, r *run) (*fnpb.ProcessBundleResponse, error) {
	for {
		select {
		case <-r.done:
			return w.result(r)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-w.gone:
			return nil, w.lost()
		case <-r.state.ready:
			if c, ok := r.state.pop(); ok {
				c.reply(r.b.State.Handle(ctx, c.req))
			}
		}
	}
}

// result returns what the SDK answered. An error that came while the worker was going away is likely of its own making.
// REQUIRES: r.done is closed.
func (w *Worker) result(r *run) (*fnpb.ProcessBundleResponse, error) {
	if r.err == nil {
		return r.answer.GetProcessBundle(), nil
	}
	select {
	case <-w.gone:
		return nil, w.lost()
	default:
		return nil, r.err
	}
}

// running returns the bundle of an instruction, nil if it is over.
func (w *Worker) running(instruction string) *run {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.runs[instruction]
}

// Split asks the SDK to give back about fraction (0 to 1) of what remains of a running bundle; 0 asks for all that it can
// give. It returns nil, nil if nothing was split. FirstResidual of the answer may equal the number of elements: then no
// element was given back whole.
func (w *Worker) Split(ctx context.Context, b *bundle.Bundle, fraction float64) (*bundle.Split, error) {
	req := &fnpb.InstructionRequest{Request: &fnpb.InstructionRequest_ProcessBundleSplit{
		ProcessBundleSplit: &fnpb.ProcessBundleSplitRequest{
			InstructionId: b.ID,
			DesiredSplits: map[string]*fnpb.ProcessBundleSplitRequest_DesiredSplit{b.Program.Source: {
				FractionOfRemainder:    fraction,
				EstimatedInputElements: int64(b.Elements()),
			}},
		},
	}}
	resp, err := w.call(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("split bundle %s: %w", b.ID, err)
	}
	split := resp.GetProcessBundleSplit()
	if len(split.GetChannelSplits()) == 0 && len(split.GetResidualRoots()) == 0 {
		return nil, nil
	}
	out := &bundle.Split{
		Primaries:     split.GetPrimaryRoots(),
		Residuals:     split.GetResidualRoots(),
		LastPrimary:   -1,
		FirstResidual: -1,
	}
	for _, c := range split.GetChannelSplits() {
		if c.GetTransformId() == b.Program.Source {
			out.LastPrimary, out.FirstResidual = c.GetLastPrimaryElement(), c.GetFirstResidualElement()
		}
	}
	return out, nil
}

// Progress asks how far a running bundle is.
func (w *Worker) Progress(ctx context.Context, b *bundle.Bundle) (*bundle.Progress, error) {
	resp, err := w.call(ctx, &fnpb.InstructionRequest{Request: &fnpb.InstructionRequest_ProcessBundleProgress{
		ProcessBundleProgress: &fnpb.ProcessBundleProgressRequest{InstructionId: b.ID},
	}})
	if err != nil {
		return nil, fmt.Errorf("get progress of bundle %s: %w", b.ID, err)
	}
	p := resp.GetProcessBundleProgress()
	infos, err := w.infos(ctx, p.GetMonitoringInfos(), p.GetMonitoringData())
	if err != nil {
		return nil, fmt.Errorf("get progress of bundle %s: %w", b.ID, err)
	}
	return &bundle.Progress{Consumed: consumed(infos, b.Program.Source), Metrics: infos}, nil
}

// consumed reads beam:metric:data_channel:read_index:v1, the index of the element that is being processed (-1 before the
// first), as a count.
func consumed(infos []*pipepb.MonitoringInfo, source string) int64 {
	for _, m := range infos {
		if m.GetUrn() != "beam:metric:data_channel:read_index:v1" || m.GetLabels()["PTRANSFORM"] != source {
			continue
		}
		if v, n := binary.Uvarint(m.GetPayload()); n > 0 {
			return int64(v) + 1
		}
	}
	return -1
}

// Finalize runs the bundle's finalization callbacks, once its effect is durable. An error of theirs is a
// *bundle.UserError.
func (w *Worker) Finalize(ctx context.Context, b *bundle.Bundle) error {
	_, err := w.call(ctx, &fnpb.InstructionRequest{Request: &fnpb.InstructionRequest_FinalizeBundle{
		FinalizeBundle: &fnpb.FinalizeBundleRequest{InstructionId: b.ID},
	}})
	var refused *refusedError
	if errors.As(err, &refused) {
		err = &bundle.UserError{Worker: w.id, Message: refused.message}
	}
	if err != nil {
		return fmt.Errorf("finalize bundle %s: %w", b.ID, err)
	}
	return nil
}

package fnapi

import (
	"fmt"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// run is a bundle while a worker processes it.
type run struct {
	w     *Worker
	b     *bundle.Bundle
	p     *program
	in    *input
	state *stateQueue
	done  chan struct{} // closed when resp or err is set

	mu     sync.Mutex                // also held while the Sink is called
	closed bool                      // the bundle is over: the Sink must not be called; guarded by mu
	ended  []bool                    // by number of stream; guarded by mu
	open   int                       // streams not yet ended; guarded by mu
	answer *fnpb.InstructionResponse // guarded by mu until done is closed
	err    error                     // guarded by mu until done is closed
}

func newRun(w *Worker, b *bundle.Bundle, p *program) (*run, error) {
	in, err := newInput(b, w.env.goSDK)
	if err != nil {
		return nil, err
	}
	n := p.streams()
	return &run{
		w: w, b: b, p: p,
		in:    in,
		state: newStateQueue(),
		done:  make(chan struct{}),
		ended: make([]bool, n),
		open:  n,
	}, nil
}

// close makes sure that nobody uses the bundle any more: no Sink call, no block, no state request.
func (r *run) close() {
	r.mu.Lock()
	r.closed = true
	answered := r.answer != nil
	r.mu.Unlock()
	r.in.close(answered)
	if answered {
		r.w.feed.remove(r)
	}
	r.state.close()
}

// respond takes the response to the ProcessBundleRequest.
func (r *run) respond(resp *fnpb.InstructionResponse) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.answer != nil {
		return
	}
	r.answer = resp
	if resp.GetError() != "" {
		r.failLocked(&bundle.UserError{Worker: r.w.id, Message: resp.GetError()})
		return
	}
	for _, d := range resp.GetProcessBundle().GetElements().GetData() {
		r.dataLocked(d)
	}
	for _, t := range resp.GetProcessBundle().GetElements().GetTimers() {
		r.timersLocked(t)
	}
	r.checkDoneLocked()
}

// fail ends the bundle with an error that is not the SDK's.
func (r *run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failLocked(err)
}

func (r *run) failLocked(err error) {
	if r.closed || r.err != nil {
		return
	}
	r.err = err
	r.closed = true
	close(r.done)
}

func (r *run) checkDoneLocked() {
	if r.closed || r.answer == nil || r.open > 0 {
		return
	}
	r.closed = true
	close(r.done)
}

// data takes output.
func (r *run) data(d *fnpb.Elements_Data) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dataLocked(d)
}

func (r *run) dataLocked(d *fnpb.Elements_Data) {
	if r.closed {
		return
	}
	n, ok := r.p.outputs[d.GetTransformId()]
	if !ok {
		r.failLocked(fmt.Errorf("bundle %s: the SDK sent data for transform %q, which is not a sink of the stage", r.b.ID, d.GetTransformId()))
		return
	}
	if len(d.GetData()) > 0 {
		if err := r.b.Sink.Data(n, d.GetData()); err != nil {
			r.failLocked(fmt.Errorf("take output of bundle %s: %w", r.b.ID, err))
			return
		}
	}
	r.endLocked(n, d.GetIsLast())
}

// timers takes timers that the bundle set.
func (r *run) timers(t *fnpb.Elements_Timers) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timersLocked(t)
}

func (r *run) timersLocked(t *fnpb.Elements_Timers) {
	if r.closed {
		return
	}
	f := bundle.TimerFamily{Transform: t.GetTransformId(), Family: t.GetTimerFamilyId()}
	n, ok := r.p.timers[f]
	if !ok {
		r.failLocked(fmt.Errorf("bundle %s: the SDK sent timers of family %q of transform %q, which the stage has not", r.b.ID, f.Family, f.Transform))
		return
	}
	if len(t.GetTimers()) > 0 {
		if err := r.b.Sink.Timers(f, t.GetTimers()); err != nil {
			r.failLocked(fmt.Errorf("take timers of bundle %s: %w", r.b.ID, err))
			return
		}
	}
	r.endLocked(n, t.GetIsLast())
}

func (r *run) endLocked(stream int, last bool) {
	if !last || r.ended[stream] {
		return
	}
	r.ended[stream] = true
	r.open--
	r.checkDoneLocked()
}

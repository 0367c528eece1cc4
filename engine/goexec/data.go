package goexec

import (
	"context"
	"fmt"
	"io"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// outputChunk is how many bytes of an output are gathered before the Sink is called: enough that the call does not show,
// little enough that they are still in the cache when the Sink reads them.
const outputChunk = 16 << 10

// output gathers encoded elements of one data sink.
type output struct {
	buf []byte
}

// OpenElementChan implements exec.DataManager: the bundle's blocks, then its fired timers. A bundle is bounded, so all of it
// is there from the start and no goroutine has to feed the channel.
func (r *run) OpenElementChan(ctx context.Context, id exec.StreamID, _ []string) (<-chan exec.Elements, error) {
	r.ctx = ctx
	ch := make(chan exec.Elements, len(r.b.Input)+len(r.b.Timers))
	for i, k := range r.b.Input {
		d, err := k.Data()
		if err != nil {
			return nil, r.fail(fmt.Errorf("load input block %d: %w", i, err))
		}
		ch <- exec.Elements{Data: d.Bytes, PtransformID: id.PtransformID}
	}
	for _, t := range r.b.Timers {
		ch <- exec.Elements{Timers: t.Data, TimerFamilyID: t.Family, PtransformID: t.Transform}
	}
	close(ch)
	return ch, nil
}

// OpenWrite implements exec.DataManager.
func (r *run) OpenWrite(_ context.Context, id exec.StreamID) (io.WriteCloser, error) {
	i, ok := r.st.outputs[id.PtransformID]
	if !ok {
		return nil, r.fail(fmt.Errorf("open output: transform %q is no output of stage %s", id.PtransformID, r.st.prog.Descriptor.GetId()))
	}
	r.task.outs[i].buf = r.task.outs[i].buf[:0]
	return &outputWriter{r: r, i: i}, nil
}

// OpenTimerWrite implements exec.DataManager.
func (r *run) OpenTimerWrite(_ context.Context, id exec.StreamID, family string) (io.WriteCloser, error) {
	return &timerWriter{r: r, f: bundle.TimerFamily{Transform: id.PtransformID, Family: family}}, nil
}

type outputWriter struct {
	r *run
	i int
}

func (w *outputWriter) Write(p []byte) (int, error) {
	o := &w.r.task.outs[w.i]
	o.buf = append(o.buf, p...)
	if len(o.buf) < outputChunk {
		return len(p), nil
	}
	return len(p), w.r.emit(w.i)
}

func (w *outputWriter) Close() error { return w.r.emit(w.i) }

// emit hands what output i gathered to the sink.
func (r *run) emit(i int) error {
	o := &r.task.outs[i]
	if len(o.buf) == 0 {
		return nil
	}
	err := r.b.Sink.Data(i, o.buf)
	if cap(o.buf) > 4*outputChunk {
		o.buf = nil // one huge element must not stay
	}
	o.buf = o.buf[:0]
	if err != nil {
		return r.fail(fmt.Errorf("write output %d: %w", i, err))
	}
	return nil
}

type timerWriter struct {
	r *run
	f bundle.TimerFamily
}

func (w *timerWriter) Write(p []byte) (int, error) {
	if err := w.r.b.Sink.Timers(w.f, p); err != nil {
		return 0, w.r.fail(fmt.Errorf("write timers of %s, family %s: %w", w.f.Transform, w.f.Family, err))
	}
	return len(p), nil
}

func (w *timerWriter) Close() error { return nil }

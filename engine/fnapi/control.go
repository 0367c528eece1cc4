package fnapi

import (
	"context"
	"errors"
	"fmt"
	"io"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// serveControl owns the control stream: the worker is connected while it runs.
func (w *Worker) serveControl(stream fnpb.BeamFnControl_ControlServer) error {
	if !w.attachControl() {
		return status.Errorf(codes.AlreadyExists, "worker %s has a control stream already: two harnesses were started with the same id", w.id)
	}
	defer w.enter()()
	received := make(chan error, 1)
	go func() {
		for {
			resp, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			w.respond(resp)
		}
	}()
	for {
		select {
		case req := <-w.requests:
			if err := stream.Send(req); err != nil {
				w.lose(fmt.Errorf("send on its control stream: %w", err))
				return nil
			}
		case err := <-received:
			w.lose(fmt.Errorf("its control stream ended: %w", streamError(err)))
			return nil
		case <-w.ending:
			return nil
		case <-w.gone:
			return nil
		}
	}
}

// attachControl marks the worker connected; false if it was before.
func (w *Worker) attachControl() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hasCtrl {
		return false
	}
	w.hasCtrl = true
	close(w.connected)
	return true
}

// enter counts an open stream until the returned function is called.
func (w *Worker) enter() (leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.streams--
		w.checkQuiet()
	}
}

// checkQuiet closes w.quiet when an ending worker has no streams left. REQUIRES: w.mu is held.
func (w *Worker) checkQuiet() {
	select {
	case <-w.ending:
	default:
		return
	}
	select {
	case <-w.quiet:
	default:
		if w.streams == 0 {
			close(w.quiet)
		}
	}
}

// finish ends the control stream, upon which a harness winds up and closes its other streams. Only the supervisor calls
// it, once.
func (w *Worker) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.ending)
	w.checkQuiet()
}

// streamEnded handles the end of a data or state stream. SDKs keep theirs as long as they live and do not recover one, so
// the worker is lost, unless it was told to wind up.
func (w *Worker) streamEnded(name string, err error) error {
	select {
	case <-w.ending:
	default:
		w.lose(fmt.Errorf("its %s stream ended: %w", name, streamError(err)))
	}
	return nil
}

// streamError words the end of a stream for people.
func streamError(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("closed by the harness")
	case status.Code(err) == codes.Canceled:
		return errors.New("connection closed")
	default:
		return err
	}
}

// respond hands a response to the one who waits for it. What nobody waits for belongs to abandoned work.
func (w *Worker) respond(resp *fnpb.InstructionResponse) {
	id := resp.GetInstructionId()
	w.mu.Lock()
	r := w.runs[id]
	c := w.waiting[id]
	delete(w.waiting, id)
	w.mu.Unlock()
	switch {
	case r != nil:
		w.finished.Add(1)
		r.respond(resp)
	case c != nil:
		c <- resp // has room for the one response
	}
}

// refusedError is an SDK's error response to an instruction that is not a bundle.
type refusedError struct{ worker, message string }

func (e *refusedError) Error() string { return e.worker + " answered: " + e.message }

// send queues an instruction on the control stream.
func (w *Worker) send(ctx context.Context, req *fnpb.InstructionRequest) error {
	select {
	case w.requests <- req:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-w.gone:
		return w.lost()
	}
}

// call sends an instruction that is not a bundle and waits for its response.
func (w *Worker) call(ctx context.Context, req *fnpb.InstructionRequest) (*fnpb.InstructionResponse, error) {
	id := fmt.Sprintf("%s-call-%d", w.id, w.calls.Add(1))
	req.InstructionId = id
	c := make(chan *fnpb.InstructionResponse, 1)
	w.mu.Lock()
	if w.cause != nil {
		w.mu.Unlock()
		return nil, w.lost()
	}
	w.waiting[id] = c
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.waiting, id)
		w.mu.Unlock()
	}()
	if err := w.send(ctx, req); err != nil {
		return nil, err
	}
	select {
	case resp := <-c:
		if resp.GetError() != "" {
			return nil, &refusedError{worker: w.id, message: resp.GetError()}
		}
		return resp, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-w.gone:
		return nil, w.lost()
	}
}

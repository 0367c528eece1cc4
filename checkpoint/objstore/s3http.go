package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// stallGuard ends requests in which nothing moves: no byte of the request's body was taken, no answer came, or a read of
// the answer's body got none, for the limit. A fixed time-out of the whole would break slow but living transfers; none at
// all would wait for ever for a peer that is gone. Time in which the caller does not read is not counted.
type stallGuard struct {
	next  *http.Client
	limit time.Duration
}

// stallError is retried by the SDK, because Timeout says so.
type stallError struct{ limit time.Duration }

func (e stallError) Error() string { return fmt.Sprintf("nothing moved for %v", e.limit) }

// Timeout says that the request may be repeated.
func (stallError) Timeout() bool { return true }

// Do sends the request.
func (g *stallGuard) Do(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watch{cause: func() error { return context.Cause(ctx) }, cancel: cancel, limit: g.limit}
	w.timer = time.AfterFunc(g.limit, func() { cancel(stallError{g.limit}) })
	req = req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &sentBody{ReadCloser: req.Body, watch: w}
	}
	resp, err := g.next.Do(req)
	w.timer.Stop()
	if err != nil {
		err = w.explain(err)
		cancel(nil)
		return nil, err
	}
	resp.Body = &receivedBody{ReadCloser: resp.Body, watch: w}
	return resp, nil
}

// watch belongs to one request.
type watch struct {
	cause  func() error // why the request was cancelled
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

// explain gives the stall for the cancellation that it led to.
func (w *watch) explain(err error) error {
	var stall stallError
	if errors.As(w.cause(), &stall) {
		return stall
	}
	return err
}

// sentBody pushes the deadline when the transport takes bytes. The transport may read it on after Do has returned: then
// the timer ends a request that has ended.
type sentBody struct {
	io.ReadCloser
	watch *watch
}

// Read is called by the transport when it has sent what it read before.
func (b *sentBody) Read(p []byte) (int, error) {
	b.watch.timer.Reset(b.watch.limit)
	return b.ReadCloser.Read(p)
}

// receivedBody runs the deadline while a read waits, and ends the request with Close.
type receivedBody struct {
	io.ReadCloser
	watch *watch
}

// Read waits for bytes, at most for the limit.
func (b *receivedBody) Read(p []byte) (int, error) {
	b.watch.timer.Reset(b.watch.limit)
	n, err := b.ReadCloser.Read(p)
	b.watch.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.watch.explain(err)
	}
	return n, err
}

// Close ends the request.
func (b *receivedBody) Close() error {
	b.watch.timer.Stop()
	b.watch.cancel(nil)
	return b.ReadCloser.Close()
}

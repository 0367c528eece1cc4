package fnapi

import (
	"fmt"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// maxStateCalls is how many state requests of one bundle may wait. SDKs wait for reads but send writes ahead; a bundle that
// is this far behind holds up its worker's state stream.
const maxStateCalls = 256

// stateCall is one state request and where its response goes.
type stateCall struct {
	req *fnpb.StateRequest
	out *outbox
}

func (c stateCall) reply(resp *fnpb.StateResponse) {
	if resp == nil {
		resp = &fnpb.StateResponse{Error: "not reached: the runner has no response"}
	}
	resp.Id = c.req.GetId()
	c.out.put(resp)
}

// refuse answers a request whose bundle is over.
func (c stateCall) refuse() {
	c.reply(&fnpb.StateResponse{Error: fmt.Sprintf("instruction %s is not running: the runner has given it up", c.req.GetInstructionId())})
}

// stateQueue holds a bundle's state requests until Run answers them.
type stateQueue struct {
	ready chan struct{} // has an entry when there may be calls
	room  chan struct{} // one entry for each waiting call
	over  chan struct{} // closed when the bundle is over

	mu    sync.Mutex
	calls []stateCall // guarded by mu
	done  bool        // guarded by mu
}

func newStateQueue() *stateQueue {
	return &stateQueue{
		ready: make(chan struct{}, 1),
		room:  make(chan struct{}, maxStateCalls),
		over:  make(chan struct{}),
	}
}

// push queues a call, or refuses it when the bundle is over. It waits while the queue is full.
func (q *stateQueue) push(c stateCall) {
	select {
	case q.room <- struct{}{}:
	case <-q.over:
		c.refuse()
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.done {
		c.refuse()
		return
	}
	q.calls = append(q.calls, c)
	q.signal()
}

func (q *stateQueue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// pop takes the oldest call; ready has an entry again if there are more.
func (q *stateQueue) pop() (stateCall, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.calls) == 0 {
		return stateCall{}, false
	}
	c := q.calls[0]
	q.calls = q.calls[1:]
	<-q.room
	if len(q.calls) > 0 {
		q.signal()
	}
	return c, true
}

// close refuses what waits and what is yet to come.
func (q *stateQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.done {
		return
	}
	q.done = true
	close(q.over)
	for _, c := range q.calls {
		c.refuse()
	}
	q.calls = nil
}

// outbox holds responses until the state stream's owner writes them. It is as long as the requests that the harness has
// open; put never blocks, so that a harness that does not read cannot hold up Run.
type outbox struct {
	wake chan struct{} // has an entry when there may be responses

	mu   sync.Mutex
	list []*fnpb.StateResponse // guarded by mu
}

func (o *outbox) put(resp *fnpb.StateResponse) {
	o.mu.Lock()
	o.list = append(o.list, resp)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take returns the waiting responses and forgets them.
func (o *outbox) take() []*fnpb.StateResponse {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := o.list
	o.list = nil
	return list
}

// serveState owns a state stream. Its goroutine writes responses; the one it starts reads requests and hands them to
// their bundles.
func (w *Worker) serveState(stream fnpb.BeamFnState_StateServer) error {
	defer w.enter()()
	out := &outbox{wake: make(chan struct{}, 1)}
	received := make(chan error, 1)
	go func() {
		for {
			req, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			call := stateCall{req: req, out: out}
			if r := w.running(req.GetInstructionId()); r != nil {
				r.state.push(call)
			} else {
				call.refuse()
			}
		}
	}()
	for {
		select {
		case <-out.wake:
			for _, resp := range out.take() {
				if err := stream.Send(resp); err != nil {
					return w.streamEnded("state", err)
				}
			}
		case err := <-received:
			return w.streamEnded("state", err)
		case <-w.gone:
			return nil
		}
	}
}

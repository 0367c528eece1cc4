package fnapi

import (
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// serveData owns a data stream. Its goroutine writes the worker's input; the one it starts reads output. Should a harness
// open a second stream, input goes to that one from then on.
func (w *Worker) serveData(stream fnpb.BeamFnData_DataServer) error {
	defer w.enter()()
	received := make(chan error, 1)
	go func() {
		for {
			msg, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			w.output(msg)
		}
	}()
	wake, superseded := w.feed.attach()
	var buf scratch
	for {
		select {
		case <-superseded:
			wake, superseded = nil, nil
		default:
		}
		if msg := w.nextInput(wake, &buf); msg != nil {
			if err := stream.Send(msg); err != nil {
				return w.streamEnded("data", err)
			}
			continue
		}
		select {
		case <-wake:
		case <-superseded:
			wake, superseded = nil, nil
		case err := <-received:
			return w.streamEnded("data", err)
		case <-w.gone:
			return nil
		}
	}
}

// nextInput returns what a stream has to send; nothing once it was superseded (wake is nil).
func (w *Worker) nextInput(wake <-chan struct{}, buf *scratch) *fnpb.Elements {
	if wake == nil {
		return nil
	}
	return w.feed.next(buf)
}

// output hands out what the SDK sent. Data of bundles that are over is dropped.
func (w *Worker) output(msg *fnpb.Elements) {
	for _, d := range msg.GetData() {
		if r := w.running(d.GetInstructionId()); r != nil {
			r.data(d)
		}
	}
	for _, t := range msg.GetTimers() {
		if r := w.running(t.GetInstructionId()); r != nil {
			r.timers(t)
		}
	}
}

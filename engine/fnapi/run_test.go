package fnapi

import (
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc/metadata"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// What reaches a bundle after its end, because its stream's reader had found it before, goes nowhere.
func TestClosedRun(t *testing.T) {
	sink := &recorder{}
	w := newWorker("w", newRig(t).open())
	b := testBundle(t, "b", sink)
	p, err := newProgram(b.Program, "localhost:1")
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRun(w, b, p)
	if err != nil {
		t.Fatal(err)
	}
	r.close()
	r.data(&fnpb.Elements_Data{TransformId: "out0", Data: []byte("late"), IsLast: true})
	r.timers(&fnpb.Elements_Timers{TransformId: "do", TimerFamilyId: "tf", Timers: []byte("late"), IsLast: true})
	r.respond(&fnpb.InstructionResponse{Error: "late"})
	r.fail(bundle.ErrWorkerLost)
	if sink.text() != "" || r.err != nil || r.answer != nil {
		t.Errorf("sink %q, error %v, answer %v", sink.text(), r.err, r.answer)
	}
}

// Every state request is answered, whenever the bundle ends: an SDK waits for ever for an answer.
func TestStateQueueClose(t *testing.T) {
	q := newStateQueue()
	out := &outbox{wake: make(chan struct{}, 1)}
	call := stateCall{req: &fnpb.StateRequest{Id: "r"}, out: out}
	for range maxStateCalls {
		q.push(call)
	}
	full := make(chan struct{})
	go func() {
		defer close(full)
		q.push(call)
	}()
	q.close()
	recv(t, full)
	q.push(call)
	q.close()
	got := out.take()
	if want := maxStateCalls + 2; len(got) != want {
		t.Errorf("%d answers, want %d", len(got), want)
	}
	for _, resp := range got {
		if resp.GetId() != "r" || resp.GetError() == "" {
			t.Fatalf("answer %v, want an error", resp)
		}
	}
	if _, ok := q.pop(); ok {
		t.Error("a closed queue still has calls")
	}
}

// A harness that boots slowly but calls meanwhile is alive.
func TestCallIsSignOfLife(t *testing.T) {
	r := newRig(t)
	w := newWorker("w", r.open())
	r.server.addWorker(w)
	w.lastSign.Store(0)
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("worker_id", w.key))
	if _, err := r.server.worker(ctx); err != nil || w.lastSign.Load() == 0 {
		t.Errorf("last sign %d, %v", w.lastSign.Load(), err)
	}
}

package fnapi

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// The engine's Worker interface, which this package may not import.
var _ interface {
	ID() string
	Run(context.Context, *bundle.Bundle) (*bundle.Result, error)
	Split(context.Context, *bundle.Bundle, float64) (*bundle.Split, error)
	Progress(context.Context, *bundle.Bundle) (*bundle.Progress, error)
	Finalize(context.Context, *bundle.Bundle) error
} = (*Worker)(nil)

func TestBundle(t *testing.T) {
	r := newRig(t)
	w, h := r.connect(r.open())
	sink := &recorder{}
	b := testBundle(t, "b1", sink, "aa", "bb")
	b.Timers = []bundle.FiredTimers{{TimerFamily: b.Program.Timers[0], Data: []byte("t1")}}
	b.CacheTokens = []*fnpb.ProcessBundleRequest_CacheToken{{Token: []byte("tok")}}
	out := run1(t.Context(), w, b, sink)

	req := h.instruction()
	if req.GetInstructionId() != "b1" || string(req.GetProcessBundle().GetCacheTokens()[0].GetToken()) != "tok" {
		t.Fatalf("request: %v", req)
	}
	desc := must[*fnpb.ProcessBundleDescriptor](t)(h.descriptor(req.GetProcessBundle().GetProcessBundleDescriptorId()))
	checkEndpoints(t, desc, r.addr)
	h.openData()
	if got, want := h.input("b1"), "src=aabb do/tf=t1 do/tf=. src=."; got != want {
		t.Errorf("input %q, want %q", got, want)
	}

	// Output is cut anywhere, and the response may come before its end.
	h.send(dataOut("b1", "out1", "x", false))
	h.done("b1", &fnpb.ProcessBundleResponse{
		RequiresFinalization: true,
		ResidualRoots:        []*fnpb.DelayedBundleApplication{{Application: &fnpb.BundleApplication{TransformId: "do"}}},
		MonitoringInfos:      []*pipepb.MonitoringInfo{{Urn: "m"}},
	})
	h.send(dataOut("b1", "out1", "y", true))
	h.send(dataOut("b1", "out0", "", true))
	h.send(timersOut("b1", b.Program.Timers[0], "set", false))
	select {
	case o := <-out:
		t.Fatalf("the bundle ended before its timers did: %v", o)
	case <-time.After(20 * time.Millisecond):
	}
	h.send(timersOut("b1", b.Program.Timers[0], "", true))
	o := recv(t, out)
	if o.err != nil {
		t.Fatal(o.err)
	}
	if got, want := sink.text(), "1=x 1=y do/tf=set"; got != want {
		t.Errorf("sink got %q, want %q", got, want)
	}
	if !o.res.RequiresFinalization || len(o.res.Residuals) != 1 || o.res.Metrics[0].GetUrn() != "m" {
		t.Errorf("result %v", o.res)
	}
}

func checkEndpoints(t *testing.T, desc *fnpb.ProcessBundleDescriptor, want string) {
	t.Helper()
	if got := desc.GetStateApiServiceDescriptor().GetUrl(); got != want {
		t.Errorf("state endpoint %q, want %q", got, want)
	}
	if got := desc.GetTimerApiServiceDescriptor().GetUrl(); got != want {
		t.Errorf("timer endpoint %q, want %q", got, want)
	}
	for _, id := range []string{"src", "out0", "out1"} {
		port := &fnpb.RemoteGrpcPort{}
		if err := proto.Unmarshal(desc.GetTransforms()[id].GetSpec().GetPayload(), port); err != nil {
			t.Fatal(err)
		}
		if port.GetApiServiceDescriptor().GetUrl() != want || port.GetCoderId() != "wv" {
			t.Errorf("port of %s: %v", id, port)
		}
	}
}

// Elements in the response are taken like those of the data stream.
func TestEmbeddedOutput(t *testing.T) {
	r := newRig(t)
	w, h := r.connect(r.open())
	sink := &recorder{}
	b := testBundle(t, "b1", sink)
	out := run1(t.Context(), w, b, sink)
	h.instruction()
	h.done("b1", &fnpb.ProcessBundleResponse{Elements: &fnpb.Elements{
		Data:   []*fnpb.Elements_Data{{TransformId: "out0", Data: []byte("x"), IsLast: true}, {TransformId: "out1", IsLast: true}},
		Timers: []*fnpb.Elements_Timers{{TransformId: "do", TimerFamilyId: "tf", IsLast: true}},
	}})
	if o := recv(t, out); o.err != nil || sink.text() != "0=x" {
		t.Fatalf("%v, sink got %q", o, sink.text())
	}
}

func TestBundleErrors(t *testing.T) {
	sinkErr := errors.New("disk full")
	tests := []struct {
		name  string
		sink  error
		play  func(h *harness)
		check func(error) bool
		want  string
	}{
		{
			name: "user code",
			play: func(h *harness) {
				h.respond(&fnpb.InstructionResponse{InstructionId: "b1", Error: "Traceback: ValueError"})
			},
			check: func(err error) bool { var u *bundle.UserError; return errors.As(err, &u) },
			want:  "user code failed in job-env-1: Traceback: ValueError",
		},
		{
			name:  "sink",
			sink:  sinkErr,
			play:  func(h *harness) { h.send(dataOut("b1", "out0", "x", true)) },
			check: func(err error) bool { return errors.Is(err, sinkErr) },
			want:  "take output of bundle b1: disk full",
		},
		{
			name:  "output of another stage",
			play:  func(h *harness) { h.send(dataOut("b1", "elsewhere", "x", true)) },
			check: func(err error) bool { return !errors.Is(err, bundle.ErrWorkerLost) },
			want:  `bundle b1: the SDK sent data for transform "elsewhere", which is not a sink of the stage`,
		},
		{
			name: "timers of another stage",
			play: func(h *harness) {
				h.send(timersOut("b1", bundle.TimerFamily{Transform: "do", Family: "other"}, "x", false))
			},
			check: func(err error) bool { return !errors.Is(err, bundle.ErrWorkerLost) },
			want:  `bundle b1: the SDK sent timers of family "other" of transform "do", which the stage has not`,
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			w, h := r.connect(r.open())
			failing := &recorder{fail: tc.sink}
			b := testBundle(t, "b1", failing, "aa")
			out := run1(t.Context(), w, b, failing)
			h.instruction()
			h.openData()
			h.input("b1")
			tc.play(h)
			o := recv(t, out)
			if o.err == nil || !tc.check(o.err) || o.err.Error() != tc.want {
				t.Fatalf("error %v, want %s", o.err, tc.want)
			}
			// The worker serves on.
			sink := &recorder{}
			b2 := testBundle(t, "b2", sink, "bb")
			out = run1(t.Context(), w, b2, sink)
			h.instruction()
			h.input("b2")
			h.finish(b2)
			if o := recv(t, out); o.err != nil {
				t.Fatal(o.err)
			}
		})
	}
}

// A bundle that fails before the harness has opened its data stream leaves nothing queued.
func TestFailedBundleLeavesNoInput(t *testing.T) {
	r := newRig(t)
	w, h := r.connect(r.open())
	sink := &recorder{}
	out := run1(t.Context(), w, testBundle(t, "b1", sink, "aa"), sink)
	h.instruction()
	h.respond(&fnpb.InstructionResponse{InstructionId: "b1", Error: "no such coder"})
	recv(t, out)
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	if len(w.feed.queue) != 0 {
		t.Errorf("%d bundles still queued", len(w.feed.queue))
	}
}

func TestLost(t *testing.T) {
	tests := map[string]func(h *harness){
		"process":       func(h *harness) { h.kill() },
		"control":       func(h *harness) { h.control.CloseSend() },
		"data stream":   func(h *harness) { h.data.CloseSend() },
		"state stream":  func(h *harness) { h.state.CloseSend() },
		"response lost": func(h *harness) { h.finishAlmost("b1"); h.kill() },
	}
	for name, play := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			env := r.open()
			w, h := r.connect(env)
			sink := &recorder{}
			b := testBundle(t, "b1", sink, "aa")
			out := run1(t.Context(), w, b, sink)
			h.instruction()
			h.openData()
			h.openState()
			h.input("b1")
			play(h)
			if o := recv(t, out); !errors.Is(o.err, bundle.ErrWorkerLost) {
				t.Fatalf("error %v, want ErrWorkerLost", o.err)
			}
			if _, err := w.Progress(t.Context(), b); !errors.Is(err, bundle.ErrWorkerLost) {
				t.Errorf("Progress: %v, want ErrWorkerLost", err)
			}
			if got := recv(t, r.pool.stops); got != w.key {
				t.Errorf("stopped %q, want %q", got, w.key)
			}
			w2, h2 := r.connect(env)
			if w2.ID() == w.ID() {
				t.Error("the new worker has the old id")
			}
			sink2 := &recorder{}
			b2 := testBundle(t, "b2", sink2, "aa")
			out = run1(t.Context(), w2, b2, sink2)
			h2.instruction()
			h2.openData()
			h2.input("b2")
			h2.finish(b2)
			if o := recv(t, out); o.err != nil {
				t.Fatal(o.err)
			}
		})
	}
}

// finishAlmost ends all output but does not answer.
func (h *harness) finishAlmost(id string) {
	h.send(dataOut(id, "out0", "x", true))
	h.send(dataOut(id, "out1", "", true))
}

func TestAbandoned(t *testing.T) {
	r := newRig(t)
	w, h := r.connect(r.open())
	ctx, cancel := context.WithCancelCause(t.Context())
	sink := &recorder{}
	b := testBundle(t, "b1", sink, "aa", "bb")
	out := run1(ctx, w, b, sink)
	h.instruction()
	why := errors.New("slot stopped")
	cancel(why)
	if o := recv(t, out); !errors.Is(o.err, why) {
		t.Fatalf("error %v, want %v", o.err, why)
	}

	// The SDK sees the end of its input, so that it finishes; what it sends goes nowhere.
	h.openData()
	if got, want := h.input("b1"), "do/tf=. src=."; got != want {
		t.Errorf("input %q, want %q", got, want)
	}
	h.send(dataOut("b1", "out0", "late", true))
	h.openState()
	if err := h.state.Send(&fnpb.StateRequest{Id: "1", InstructionId: "b1"}); err != nil {
		t.Fatal(err)
	}
	resp := must[*fnpb.StateResponse](t)(h.state.Recv())
	if want := "instruction b1 is not running: the runner has given it up"; resp.GetId() != "1" || resp.GetError() != want {
		t.Errorf("state response %v, want error %q", resp, want)
	}
	h.done("b1", &fnpb.ProcessBundleResponse{})

	sink2 := &recorder{}
	b2 := testBundle(t, "b2", sink2, "cc")
	out = run1(t.Context(), w, b2, sink2)
	h.instruction()
	if got, want := h.input("b2"), "do/tf=. src=cc src=."; got != want {
		t.Errorf("input %q, want %q", got, want)
	}
	h.finish(b2)
	if o := recv(t, out); o.err != nil {
		t.Fatal(o.err)
	}
	if sink.text() != "" || len(w.runs) != 0 || len(w.feed.queue) != 0 {
		t.Errorf("sink %q, %d runs, %d queued", sink.text(), len(w.runs), len(w.feed.queue))
	}
}

func TestState(t *testing.T) {
	r := newRig(t)
	w, h := r.connect(r.open())
	h.openState()
	gate := make(chan struct{})
	slow := &recorder{states: func(context.Context, *fnpb.StateRequest) *fnpb.StateResponse {
		<-gate
		return &fnpb.StateResponse{Error: "slow"}
	}}
	quick := &recorder{}
	b1, b2 := testBundle(t, "b1", slow), testBundle(t, "b2", quick)
	out1 := run1(t.Context(), w, b1, slow)
	h.instruction()
	out2 := run1(t.Context(), w, b2, quick)
	h.instruction()

	ask := func(id, instruction string) {
		t.Helper()
		err := h.state.Send(&fnpb.StateRequest{Id: id, InstructionId: instruction, StateKey: &fnpb.StateKey{
			Type: &fnpb.StateKey_Runner_{Runner: &fnpb.StateKey_Runner{Key: []byte("key" + id)}},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	// A bundle whose state is slow holds up no other, however much it asks.
	for i := range 20 {
		ask(fmt.Sprintf("slow%d", i), "b1")
	}
	ask("q1", "b2")
	ask("q2", "b2")
	for _, want := range []string{"q1", "q2"} {
		resp := must[*fnpb.StateResponse](t)(h.state.Recv())
		if resp.GetId() != want || string(resp.GetGet().GetData()) != "key"+want {
			t.Errorf("response %v, want %s", resp, want)
		}
	}
	close(gate)
	for i := range 20 {
		resp := must[*fnpb.StateResponse](t)(h.state.Recv())
		if want := fmt.Sprintf("slow%d", i); resp.GetId() != want || resp.GetError() != "slow" {
			t.Errorf("response %v, want %s", resp, want)
		}
	}
	ask("x", "never")
	if resp := must[*fnpb.StateResponse](t)(h.state.Recv()); resp.GetId() != "x" || resp.GetError() == "" {
		t.Errorf("response %v, want an error", resp)
	}
	h.openData()
	h.finish(b1)
	h.finish(b2)
	for _, out := range []<-chan outcome{out1, out2} {
		if o := recv(t, out); o.err != nil {
			t.Error(o.err)
		}
	}
}

func TestSplit(t *testing.T) {
	split := func(r *fnpb.ProcessBundleSplitResponse) *fnpb.InstructionResponse {
		return &fnpb.InstructionResponse{Response: &fnpb.InstructionResponse_ProcessBundleSplit{ProcessBundleSplit: r}}
	}
	roots := &fnpb.ProcessBundleSplitResponse{
		PrimaryRoots:  []*fnpb.BundleApplication{{Element: []byte("p")}},
		ResidualRoots: []*fnpb.DelayedBundleApplication{{}},
	}
	both := proto.CloneOf(roots)
	both.ChannelSplits = []*fnpb.ProcessBundleSplitResponse_ChannelSplit{
		{TransformId: "other", LastPrimaryElement: 8, FirstResidualElement: 9},
		{TransformId: "src", LastPrimaryElement: 0, FirstResidualElement: 2},
	}
	tests := []struct {
		name string
		resp *fnpb.InstructionResponse
		want string
	}{
		{"nothing", split(&fnpb.ProcessBundleSplitResponse{}), "<nil> <nil>"},
		{"roots and channel", split(both), "0..2 1 primaries 1 residuals"},
		{"roots only", split(roots), "-1..-1 1 primaries 1 residuals"},
		{"refused", &fnpb.InstructionResponse{Error: "not active"}, "<nil> split bundle b1: job-env-1 answered: not active"},
	}
	r := newRig(t)
	w, h := r.connect(r.open())
	b := testBundle(t, "b1", &recorder{}, "a", "b", "c")
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got := make(chan string, 1)
			go func() {
				s, err := w.Split(t.Context(), b, 0.5)
				if s == nil {
					got <- fmt.Sprint(nil, " ", err)
					return
				}
				got <- fmt.Sprintf("%d..%d %d primaries %d residuals", s.LastPrimary, s.FirstResidual, len(s.Primaries), len(s.Residuals))
			}()
			req := h.instruction()
			d := req.GetProcessBundleSplit().GetDesiredSplits()["src"]
			if req.GetProcessBundleSplit().GetInstructionId() != "b1" || d.GetFractionOfRemainder() != 0.5 || d.GetEstimatedInputElements() != 3 {
				t.Errorf("request %v", req)
			}
			tc.resp.InstructionId = req.GetInstructionId()
			h.respond(tc.resp)
			if g := recv(t, got); g != tc.want {
				t.Errorf("got %s, want %s", g, tc.want)
			}
		})
	}
}

// Metrics that come by short id are resolved once.
func TestProgressByShortIDs(t *testing.T) {
	r := newRig(t)
	w, h := r.connect(r.open())
	b := testBundle(t, "b1", &recorder{})
	known := map[string]*pipepb.MonitoringInfo{
		"1": {Urn: "beam:metric:data_channel:read_index:v1", Type: "beam:metrics:sum_int64:v1", Labels: map[string]string{"PTRANSFORM": "src"}},
	}
	for i, wantQuestion := range []bool{true, false} {
		got := make(chan string, 1)
		go func() {
			p, err := w.Progress(t.Context(), b)
			if err != nil {
				got <- err.Error()
				return
			}
			got <- fmt.Sprint(p.Consumed, " ", p.Metrics[0].GetType())
		}()
		req := h.instruction()
		if req.GetProcessBundleProgress().GetInstructionId() != "b1" {
			t.Fatalf("request %v", req)
		}
		h.respond(&fnpb.InstructionResponse{InstructionId: req.GetInstructionId(), Response: &fnpb.InstructionResponse_ProcessBundleProgress{
			ProcessBundleProgress: &fnpb.ProcessBundleProgressResponse{MonitoringData: map[string][]byte{"1": {byte(6 + i)}}},
		}})
		if wantQuestion {
			req := h.instruction()
			if ids := req.GetMonitoringInfos().GetMonitoringInfoId(); len(ids) != 1 || ids[0] != "1" {
				t.Fatalf("request %v", req)
			}
			h.respond(&fnpb.InstructionResponse{InstructionId: req.GetInstructionId(), Response: &fnpb.InstructionResponse_MonitoringInfos{
				MonitoringInfos: &fnpb.MonitoringInfosMetadataResponse{MonitoringInfo: known},
			}})
		}
		if g, want := recv(t, got), fmt.Sprint(7+i, " beam:metrics:sum_int64:v1"); g != want {
			t.Errorf("got %s, want %s", g, want)
		}
	}
}

func TestFinalize(t *testing.T) {
	r := newRig(t)
	w, h := r.connect(r.open())
	b := testBundle(t, "b1", &recorder{})
	got := make(chan error, 1)
	go func() { got <- w.Finalize(t.Context(), b) }()
	req := h.instruction()
	if req.GetFinalizeBundle().GetInstructionId() != "b1" {
		t.Fatalf("request %v", req)
	}
	h.respond(&fnpb.InstructionResponse{InstructionId: req.GetInstructionId()})
	if err := recv(t, got); err != nil {
		t.Error(err)
	}

	go func() { got <- w.Finalize(t.Context(), b) }()
	h.respond(&fnpb.InstructionResponse{InstructionId: h.instruction().GetInstructionId(), Error: "callback raised"})
	var user *bundle.UserError
	if err := recv(t, got); !errors.As(err, &user) || user.Message != "callback raised" {
		t.Errorf("error %v, want a UserError", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	go func() { got <- w.Finalize(ctx, b) }()
	late := h.instruction()
	cancel()
	if err := recv(t, got); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want Canceled", err)
	}
	h.respond(&fnpb.InstructionResponse{InstructionId: late.GetInstructionId()}) // goes nowhere
}

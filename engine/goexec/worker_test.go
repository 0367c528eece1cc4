package goexec

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/bundle/bundletest"
)

// TestSinkErrors: what the runner's side fails with is no user error, and is not lost in exec.
func TestSinkErrors(t *testing.T) {
	full := errors.New("no space left")
	for _, stock := range []bool{false, true} {
		w := newWorker(t, Config{Stock: stock})
		p := bundletest.Compile(t, []string{""}, one)
		b, sink, _ := p.Bundle("a", strings.Repeat("b", 2*outputChunk), "c")
		sink.Err = full
		_, err := w.Run(t.Context(), b)
		var user *bundle.UserError
		if !errors.Is(err, full) || errors.As(err, &user) {
			t.Errorf("stock %v: error %v: want the sink's, and no user error", stock, err)
		}
	}
}

// TestForeignFunction: a function that is not linked in is an error that says so, not a panic.
func TestForeignFunction(t *testing.T) {
	p := bundletest.Compile(t, []string{""}, one)
	d := proto.CloneOf(p.Descriptor)
	for _, tr := range d.Transforms {
		var pardo pipepb.ParDoPayload
		if proto.Unmarshal(tr.Spec.Payload, &pardo) != nil || pardo.DoFn == nil {
			continue
		}
		pardo.DoFn.Payload = []byte("bm90IGEgZnVuY3Rpb24=")
		payload, err := proto.Marshal(&pardo)
		if err != nil {
			t.Fatal(err)
		}
		tr.Spec.Payload = payload
	}
	for _, stock := range []bool{false, true} {
		b, _, _ := p.Bundle("a")
		b.Program = &bundle.Program{Descriptor: d, Source: p.Source, Outputs: p.Outputs}
		_, err := newWorker(t, Config{Stock: stock}).Run(t.Context(), b)
		var user *bundle.UserError
		if !errors.As(err, &user) || !strings.Contains(user.Message, "linked into this binary") {
			t.Errorf("stock %v: error %v", stock, err)
		}
	}
}

// TestFinalizersAgain: exec's plans lose finalizers after the first that they ran; ours must not.
func TestFinalizersAgain(t *testing.T) {
	bundletest.Finalizers(t, newWorker(t, Config{}), 3)
}

func TestClosedWorker(t *testing.T) {
	w := newWorker(t, Config{})
	p := bundletest.Compile(t, []string{""}, one)
	b, _, _ := p.Bundle("a")
	if _, err := w.Run(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Run(t.Context(), b); !errors.Is(err, bundle.ErrWorkerLost) {
		t.Errorf("Run after Close: %v", err)
	}
}

// TestStateAppends: the pieces of one value are one append, sent before anything else is asked.
func TestStateAppends(t *testing.T) {
	state := &bundletest.State{}
	r := &run{b: &bundle.Bundle{ID: "b", State: state}}
	ctx := context.Background()
	sid := exec.StreamID{PtransformID: "t"}
	x, _ := r.OpenBagUserStateAppender(ctx, sid, "x", []byte("k"), nil)
	y, _ := r.OpenBagUserStateAppender(ctx, sid, "y", []byte("k"), nil)
	c, _ := r.OpenBagUserStateClearer(ctx, sid, "y", []byte("k"), nil)
	for _, p := range []string{"1", "23", "4"} {
		fmt.Fprint(x, p)
	}
	fmt.Fprint(y, "5")
	fmt.Fprint(c, "")
	fmt.Fprint(x, "6")
	if err := r.flush(ctx); err != nil {
		t.Fatal(err)
	}
	want := "[append x/k append y/k clear y/k append x/k]"
	if got := fmt.Sprint(state.Requests); got != want {
		t.Errorf("requests:\n got %s\nwant %s", got, want)
	}
	resp := state.Handle(ctx, &fnpb.StateRequest{StateKey: bagKey(sid, "x", []byte("k"), nil), Request: &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{}}})
	if got := string(resp.GetGet().GetData()); got != "12346" {
		t.Errorf("x is %q", got)
	}
}

// TestSplitSource: whatever is split when, the elements before the split are processed and no others.
func TestSplitSource(t *testing.T) {
	for _, c := range []struct {
		begun    int64
		fraction float64
		first    int64 // 0: nothing to give
	}{
		{0, 0, 1}, {0, 0.5, 5}, {0, 1, 0}, {1, 0, 1}, {4, 0, 4}, {4, 0.5, 7}, {9, 0, 9}, {10, 0, 0}, {4, -1, 4}, {4, 0.99, 0},
	} {
		s := &source{begun: c.begun, limit: 1 << 62}
		first, ok := s.split(c.fraction, 10)
		if first != c.first || ok != (c.first != 0) {
			t.Errorf("split of 10 with %d begun, keeping %v: first %d, %v: want %d", c.begun, c.fraction, first, ok, c.first)
		}
		for s.begin(1) && s.begun < 10 {
		}
		if ok && s.begun != first {
			t.Errorf("split at %d, but %d elements began", first, s.begun)
		}
	}
}

// FuzzDecode feeds broken elements to the decoders: an error, never a panic, and nothing that exec's own decoder takes
// otherwise.
func FuzzDecode(f *testing.F) {
	p := bundletest.Compile(f, from("", makeSI), two)
	st := newStage(p.Program, false)
	_, fast, err := newFast(st)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Bytes(bundletest.KV{K: "key", V: int64(-5)}))
	f.Add(p.Bytes(bundletest.At{Elem: bundletest.KV{K: "", V: int64(1)}, Ms: -1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v exec.FullValue
		if err := fast.source.dec.decode(data, &v); err != nil {
			return
		}
		out, err := fast.sinks[0].enc.append(nil, &v)
		if err != nil {
			t.Fatalf("decoded %v, which cannot be encoded: %v", &v, err)
		}
		var again exec.FullValue
		if err := fast.source.dec.decode(out, &again); err != nil || again.Elm != v.Elm || again.Elm2 != v.Elm2 || again.Timestamp != v.Timestamp {
			t.Errorf("decoded %v, encoded, decoded %v, %v", &v, &again, err)
		}
	})
}

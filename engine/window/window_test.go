package window

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

func TestCompileRefuses(t *testing.T) {
	merging := &pipepb.WindowingStrategy{
		WindowFn:    &pipepb.FunctionSpec{Urn: "test:mine"},
		MergeStatus: pipepb.MergeStatus_NEEDS_MERGE,
	}
	_, err := Compile(merging, coder.IntervalWindow(), nil)
	if want := "compile windowing: windows of test:mine merge, and there is no SDK to merge them"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	_, err = Compile(&pipepb.WindowingStrategy{OutputTime: 99}, coder.IntervalWindow(), nil)
	if err == nil || !strings.Contains(err.Error(), "output time 99 is unknown") {
		t.Errorf("got %v", err)
	}
	if _, err = Compile(&pipepb.WindowingStrategy{}, nil, nil); err == nil {
		t.Error("compiled without a window coder")
	}
}

// TestCompileUnspecified: a strategy that says nothing is the default one.
func TestCompileUnspecified(t *testing.T) {
	g, err := Compile(&pipepb.WindowingStrategy{}, coder.GlobalWindow(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !g.Simple() || !g.onTimePane || g.closingPane || g.accumulating {
		t.Errorf("got %+v", g)
	}
}

// TestAlreadyMerged: a second GroupByKey does not merge the windows again.
func TestAlreadyMerged(t *testing.T) {
	s, err := parseStrategy("sessions=10")
	if err != nil {
		t.Fatal(err)
	}
	s.ws.MergeStatus = pipepb.MergeStatus_ALREADY_MERGED
	g, err := s.compile()
	if err != nil {
		t.Fatal(err)
	}
	if !g.Simple() {
		t.Error("merges")
	}
}

func TestExpirySaturates(t *testing.T) {
	for _, tt := range []struct{ end, lateness, want int64 }{
		{9, 0, 9},
		{9, 5, 14},
		{coder.EndOfGlobalWindow, 0, coder.EndOfGlobalWindow},
		{coder.EndOfGlobalWindow - 3, 5, coder.EndOfGlobalWindow},
		{9, math.MaxInt64, coder.EndOfGlobalWindow},
		{coder.MaxTimestamp, 0, coder.EndOfGlobalWindow},
		{coder.MinTimestamp, 1, coder.MinTimestamp + 1},
	} {
		if got := Expiry(&pipepb.WindowingStrategy{AllowedLateness: tt.lateness}, tt.end); got != tt.want {
			t.Errorf("Expiry(end %d, lateness %d) = %d, want %d", tt.end, tt.lateness, got, tt.want)
		}
	}
	end, err := End(coder.IntervalWindow(), coder.AppendInterval(nil, 0, coder.MaxTimestamp))
	if end != coder.EndOfGlobalWindow || err != nil {
		t.Errorf("End = %d, %v", end, err)
	}
}

func TestIsDefault(t *testing.T) {
	for text, want := range map[string]bool{
		"global":                                   true,
		"global trigger=default accumulating":      true,
		"global trigger=always":                    false,
		"global lateness=1":                        false,
		"fixed=10":                                 false,
		"global trigger=eow(early=count(1))":       false,
		"sessions=10 trigger=default discarding":   false,
		"global trigger=default discarding latest": true,
	} {
		s, err := parseStrategy(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := IsDefault(s.ws); got != want {
			t.Errorf("IsDefault(%s) = %v", text, got)
		}
	}
}

func TestForSDK(t *testing.T) {
	ws := &pipepb.WindowingStrategy{
		WindowFn: &pipepb.FunctionSpec{Urn: fixedURN}, ClosingBehavior: pipepb.ClosingBehavior_EMIT_ALWAYS,
		MergeStatus: 1, WindowCoderId: "c", Trigger: &pipepb.Trigger{}, AccumulationMode: 1, OutputTime: 1, AllowedLateness: 1,
		OnTimeBehavior: 1, AssignsToOneWindow: true, EnvironmentId: "e",
	}
	python := &pipepb.Environment{Capabilities: []string{"beam:coder:bytes:v1", "beam:version:sdk_base:apache/beam_python3.11_sdk:2.77.0"}}
	java := &pipepb.Environment{Capabilities: []string{"beam:version:sdk_base:apache/beam_java11_sdk:2.77.0"}}
	if got := ForSDK(ws, java); got != ws {
		t.Errorf("java: %v", got)
	}
	if got := ForSDK(ws, nil); got != ws {
		t.Errorf("no environment: %v", got)
	}
	want := proto.Clone(ws).(*pipepb.WindowingStrategy)
	want.ClosingBehavior = pipepb.ClosingBehavior_EMIT_IF_NONEMPTY
	if got := ForSDK(ws, python); !proto.Equal(got, want) {
		t.Errorf("python: %v", got)
	}
}

func TestTransform(t *testing.T) {
	for _, tt := range []struct {
		transform
		in, want int64
	}{
		{transform{delay: 5}, 3, 8},
		{transform{delay: math.MaxInt64}, 3, math.MaxInt64},
		{transform{period: 10}, 11, 20},
		{transform{period: 10}, 20, 20},
		{transform{period: 10, offset: 3}, 20, 23},
		{transform{period: 10, offset: 3}, 2, 3},
		{transform{period: 10}, -11, -10},
		{transform{period: 10, offset: 25}, 0, 5},
	} {
		if got := tt.apply(tt.in); got != tt.want {
			t.Errorf("%+v: %d becomes %d, want %d", tt.transform, tt.in, got, tt.want)
		}
	}
}

func TestTargets(t *testing.T) {
	for _, ms := range []int64{0, 1, -1, 12345, math.MaxInt64 - 1} {
		if got, set := unpackTarget(packTarget(ms)); got != ms || !set {
			t.Errorf("%d becomes %d, %v", ms, got, set)
		}
	}
	if _, set := unpackTarget(0); set {
		t.Error("0 is a target")
	}
}

// badMerger returns what it was told.
type badMerger struct {
	merges []Merge
	err    error
}

func (m badMerger) Merge([][]byte) ([]Merge, error) { return m.merges, m.err }

// TestBadMerges: what a user's WindowFn does wrong is an error that names the window.
func TestBadMerges(t *testing.T) {
	a, b, c := coder.AppendInterval(nil, 0, 10), coder.AppendInterval(nil, 10, 20), coder.AppendInterval(nil, 20, 30)
	errUser := errors.New("user code raised")
	for name, tt := range map[string]struct {
		merger badMerger
		want   string
	}{
		"unknown":    {badMerger{merges: []Merge{{Originals: [][]byte{a, c}, Into: a}}}, fmt.Sprintf("window %x is not one to merge", c)},
		"twice":      {badMerger{merges: []Merge{{Originals: [][]byte{a}, Into: c}, {Originals: [][]byte{a, b}, Into: b}}}, "is merged twice"},
		"same":       {badMerger{merges: []Merge{{Originals: [][]byte{a}, Into: c}, {Originals: [][]byte{b}, Into: c}}}, "a merge that it is not part of"},
		"into other": {badMerger{merges: []Merge{{Originals: [][]byte{b}, Into: a}}}, "a merge that it is not part of"},
		"unreadable": {badMerger{merges: []Merge{{Originals: [][]byte{a, b}, Into: []byte{1}}}}, "read window"},
		"raised":     {badMerger{err: errUser}, "merge windows: user code raised"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := parseStrategy("samestart=10")
			if err != nil {
				t.Fatal(err)
			}
			s.assign, s.merger = fixed(10), badMerger{}
			g, err := s.compile()
			if err != nil {
				t.Fatal(err)
			}
			k := newFakeKey(g)
			if err := g.Element(k, s.assign.element(1, "x")); err != nil {
				t.Fatal(err)
			}
			g.merger = tt.merger
			err = g.Element(k, s.assign.element(11, "y"))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if tt.merger.err != nil && !errors.Is(err, errUser) {
				t.Errorf("%v hides its cause", err)
			}
		})
	}
}

// TestMergeCalls: a custom WindowFn is asked only when there is a window that it has not seen.
func TestMergeCalls(t *testing.T) {
	s, err := parseStrategy("samestart=10")
	if err != nil {
		t.Fatal(err)
	}
	g, err := s.compile()
	if err != nil {
		t.Fatal(err)
	}
	k := newFakeKey(g)
	for i, ts := range []int64{8, 8, 8, 3, 8} {
		if err := g.Element(k, s.assign.element(ts, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.merger.(*sameStart).calls; got != 2 {
		t.Errorf("merged %d times, want 2", got)
	}
}

var errBroken = errors.New("state is broken")

// brokenKey fails at the nth call that can fail.
type brokenKey struct {
	*fakeKey
	calls, fail int
}

func (k *brokenKey) broken() error {
	if k.calls++; k.calls == k.fail {
		return errBroken
	}
	return nil
}

func (k *brokenKey) Get(slot []byte) ([]byte, error) {
	if err := k.broken(); err != nil {
		return nil, err
	}
	return k.fakeKey.Get(slot)
}
func (k *brokenKey) Set(slot, v []byte) error { return errors.Join(k.broken(), k.fakeKey.Set(slot, v)) }
func (k *brokenKey) Delete(slot []byte) error { return errors.Join(k.broken(), k.fakeKey.Delete(slot)) }
func (k *brokenKey) Append(slot, v []byte) error {
	return errors.Join(k.broken(), k.fakeKey.Append(slot, v))
}
func (k *brokenKey) ClearBuffer(slot []byte) error {
	return errors.Join(k.broken(), k.fakeKey.ClearBuffer(slot))
}
func (k *brokenKey) Emit(f Firing) error { return errors.Join(k.broken(), k.fakeKey.Emit(f)) }
func (k *brokenKey) SetHold(slot []byte, ts int64) error {
	return errors.Join(k.broken(), k.fakeKey.SetHold(slot, ts))
}
func (k *brokenKey) ClearHold(slot []byte) error {
	return errors.Join(k.broken(), k.fakeKey.ClearHold(slot))
}
func (k *brokenKey) SetTimer(slot []byte, d Domain, fire int64) error {
	return errors.Join(k.broken(), k.fakeKey.SetTimer(slot, d, fire))
}
func (k *brokenKey) ClearTimer(slot []byte, d Domain) error {
	return errors.Join(k.broken(), k.fakeKey.ClearTimer(slot, d))
}

// TestErrorsComeBack: an error of the state ends the call, wherever it happens.
func TestErrorsComeBack(t *testing.T) {
	for _, text := range []string{
		"fixed=10 accumulating trigger=eow(early=any(ptime(5),count(3)))",
		"sessions=10 lateness=10 ontime-if-nonempty trigger=repeat(any(ptime(5),count(3)))",
		"sessions=10 trigger=count(2)",
	} {
		t.Run(text, func(t *testing.T) {
			for fail := 1; ; fail++ {
				k, err := playBroken(text, fail)
				if k.calls < fail {
					if err != nil {
						t.Fatalf("without failure: %v", err)
					}
					if fail < 15 {
						t.Fatalf("only %d calls", fail)
					}
					return
				}
				if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), ": ") {
					t.Fatalf("call %d failed: got %v", fail, err)
				}
			}
		})
	}
}

func playBroken(text string, fail int) (*brokenKey, error) {
	s, err := parseStrategy(text)
	if err != nil {
		return nil, err
	}
	g, err := s.compile()
	if err != nil {
		return nil, err
	}
	k := &brokenKey{fakeKey: newFakeKey(g), fail: fail}
	for _, batch := range [][]int64{{1, 15}, {8}, {2, 3, 4}, {5}, {6}} {
		for _, ts := range batch {
			if err := g.Element(k, s.assign.element(ts, "v")); err != nil {
				return k, err
			}
		}
	}
	for _, watermark := range []int64{12, coder.MaxTimestamp} {
		k.watermark = watermark
		for len(k.timers) > 0 {
			due := false
			for timer, fire := range k.timers {
				if fire > k.clock(timer.domain) {
					continue
				}
				due = true
				delete(k.timers, timer)
				if err := g.Timer(k, []byte(timer.slot), timer.domain, fire); err != nil {
					return k, err
				}
				break
			}
			if !due {
				break
			}
		}
	}
	return k, nil
}

// TestStaleTimers: timers of windows that are gone, or that nobody set, do nothing.
func TestStaleTimers(t *testing.T) {
	for _, text := range []string{"fixed=10 trigger=repeat(count(2))", "sessions=10"} {
		s, err := parseStrategy(text)
		if err != nil {
			t.Fatal(err)
		}
		g, err := s.compile()
		if err != nil {
			t.Fatal(err)
		}
		k := newFakeKey(g)
		for d := range Domain(domains) {
			if err := g.Timer(k, coder.AppendInterval(nil, 0, 10), d, 5); err != nil {
				t.Error(err)
			}
		}
		if len(k.panes) > 0 || k.left() != "" {
			t.Errorf("%s: panes %v, left %s", text, k.panes, k.left())
		}
		if err := g.Timer(k, coder.AppendInterval(nil, 0, 10), domains, 5); err == nil {
			t.Error("an unknown domain was taken")
		}
	}
}

// TestOtherTrigger: state that another trigger wrote is refused.
func TestOtherTrigger(t *testing.T) {
	for _, windows := range []string{"fixed=10", "sessions=10"} {
		before, err := parseStrategy(windows + " trigger=repeat(count(2))")
		if err != nil {
			t.Fatal(err)
		}
		g, err := before.compile()
		if err != nil {
			t.Fatal(err)
		}
		k := newFakeKey(g)
		if err := g.Element(k, before.assign.element(1, "a")); err != nil {
			t.Fatal(err)
		}
		after, err := parseStrategy(windows + " trigger=repeat(any(count(2),ptime(5)))")
		if err != nil {
			t.Fatal(err)
		}
		if g, err = after.compile(); err != nil {
			t.Fatal(err)
		}
		err = g.Element(k, before.assign.element(1, "b"))
		if err == nil || !strings.Contains(err.Error(), "window state was written under another trigger") {
			t.Errorf("got %v", err)
		}
		for slot, v := range k.cells {
			v[0] = 9
			k.cells[slot] = v
		}
		err = g.Element(k, before.assign.element(1, "b"))
		if err == nil || !strings.Contains(err.Error(), "window state has version 9, this program reads 1") {
			t.Errorf("got %v", err)
		}
	}
}

func payload(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func TestSideMapping(t *testing.T) {
	ms := func(n int64) *durationpb.Duration {
		return &durationpb.Duration{Seconds: n / 1000, Nanos: int32(n%1000) * 1e6}
	}
	at := func(n int64) *timestamppb.Timestamp {
		return &timestamppb.Timestamp{Seconds: n / 1000, Nanos: int32(n%1000) * 1e6}
	}
	fixed := payload(&pipepb.FixedWindowsPayload{Size: ms(10), Offset: at(3)})
	sliding := payload(&pipepb.SlidingWindowsPayload{Size: ms(10), Period: ms(5)})
	gaps := payload(&pipepb.SlidingWindowsPayload{Size: ms(5), Period: ms(10)})
	for _, tt := range []struct {
		urn     string
		payload []byte
		ts      int64
		want    string
	}{
		{globalURN, nil, 5, "global until eogw+0"},
		{fixedURN, fixed, 3, "[3,13) until 12"},
		{fixedURN, fixed, 12, "[3,13) until 12"},
		{fixedURN, fixed, 13, "[13,23) until 22"},
		{fixedURN, fixed, 2, "[-7,3) until 2"},
		{fixedURN, fixed, -8, "[-17,-7) until -8"},
		{slidingURN, sliding, 12, "[5,15) until 14"},
		{slidingURN, sliding, 14, "[5,15) until 14"},
		{slidingURN, sliding, 15, "[10,20) until 19"},
		{slidingURN, sliding, -1, "[-10,0) until -1"},
		{slidingURN, gaps, 14, "[10,15) until 14"},
		{slidingURN, gaps, 15, "none"},
		{sessionURN, nil, 15, "none"},
		{"test:mine", []byte{0xff}, 15, "none"},
	} {
		m, err := NewSideMapping(&pipepb.WindowingStrategy{WindowFn: &pipepb.FunctionSpec{Urn: tt.urn, Payload: tt.payload}})
		if err != nil {
			t.Fatal(err)
		}
		got := "none"
		if window, end, ok := m.Map(tt.ts); ok {
			got = showWindow(window) + " until " + showTime(end)
		}
		if got != tt.want {
			t.Errorf("%s: %d maps to %s, want %s", tt.urn, tt.ts, got, tt.want)
		}
	}
	for _, urn := range []string{fixedURN, slidingURN} {
		for _, p := range [][]byte{nil, {0xff}} {
			if _, err := NewSideMapping(&pipepb.WindowingStrategy{WindowFn: &pipepb.FunctionSpec{Urn: urn, Payload: p}}); err == nil {
				t.Errorf("%s took payload %x", urn, p)
			}
		}
	}
}

var fuzzed = []string{
	"fixed=10 lateness=10", "fixed=10 trigger=eow(early=any(count(2),ptime(3)),late=synced) earliest",
	"sessions=10 lateness=10", "sessions=10 trigger=repeat(each(count(2),ptime(3))) latest", "samestart=10 closing-always trigger=count(2)",
}

// FuzzState: no cell makes the decoder panic, or read what it would not write again.
func FuzzState(f *testing.F) {
	var groupings []*Grouping
	for i, text := range fuzzed {
		s, err := parseStrategy(text)
		if err != nil {
			f.Fatal(err)
		}
		g, err := s.compile()
		if err != nil {
			f.Fatal(err)
		}
		groupings = append(groupings, g)
		k := newFakeKey(g)
		for _, ts := range []int64{1, 15, 8, 70, 3} {
			if err := g.Element(k, s.assign.element(ts, "v")); err != nil {
				f.Fatal(err)
			}
			for _, v := range k.cells {
				f.Add(uint8(i), v)
			}
		}
	}
	window := coder.AppendInterval(nil, 0, 10)
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		g := groupings[int(i)%len(groupings)]
		if g.merger != nil {
			records, slots, err := g.decodeCell(bytes.Clone(b))
			if err == nil {
				again := g.appendCell(nil, records, slots)
				if records, slots, err = g.decodeCell(again); err != nil || !bytes.Equal(g.appendCell(nil, records, slots), again) {
					t.Errorf("%x reads as %x, which reads as something else: %v", b, again, err)
				}
			}
		}
		for _, act := range []func(k *fakeKey) error{
			func(k *fakeKey) error {
				return g.Element(k, Element{NumWindows: 1, Windows: window, Timestamp: 3, Value: []byte("v")})
			},
			func(k *fakeKey) error { return g.Timer(k, window, EventTime, 5) },
			func(k *fakeKey) error { return g.Timer(k, []byte{1}, ProcessingTime, 5) },
			func(k *fakeKey) error { return g.Timer(k, window, EventTime, coder.MaxTimestamp) },
		} {
			k := newFakeKey(g)
			k.cells[""], k.cells[string(window)] = b, b
			_ = act(k) // errors are welcome
		}
	})
}

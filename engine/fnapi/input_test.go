package fnapi

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// messages lists a bundle's input messages: sizes of data and timers, and a point for each end.
func messages(t *testing.T, in *input) string {
	t.Helper()
	var buf scratch
	var out []string
	for more := true; more; {
		msg, m, err := in.next(&buf)
		if err != nil {
			t.Fatal(err)
		}
		more = m
		var parts []string
		for _, d := range msg.GetData() {
			parts = append(parts, fmt.Sprintf("%s:%d%s", d.GetTransformId(), len(d.GetData()), mark(d.GetIsLast())))
		}
		for _, d := range msg.GetTimers() {
			parts = append(parts, fmt.Sprintf("%s/%s:%d%s", d.GetTransformId(), d.GetTimerFamilyId(), len(d.GetTimers()), mark(d.GetIsLast())))
		}
		out = append(out, strings.Join(parts, " "))
	}
	if msg, more, _ := in.next(&buf); msg != nil || more {
		t.Errorf("a message after the last: %v", msg)
	}
	return strings.Join(out, " | ")
}

func TestInputMessages(t *testing.T) {
	small, chunk, huge := 1000, minChunk, 9<<20
	fired := func(transform, family string, n int) bundle.FiredTimers {
		return bundle.FiredTimers{TimerFamily: bundle.TimerFamily{Transform: transform, Family: family}, Data: make([]byte, n)}
	}
	tests := []struct {
		name     string
		elements []int // sizes, a block each
		timers   []bundle.FiredTimers
		families []bundle.TimerFamily
		goSDK    bool
		want     string
	}{
		{"empty", nil, nil, nil, false, "src:0."},
		{"one message", []int{small, small}, nil, nil, false, "src:2000 src:0."},
		{"cut at elements", []int{chunk, small, chunk}, nil, nil, false, "src:262144 | src:1000 | src:262144 src:0."},
		{"large blocks", []int{2 << 20, 2 << 20, 2 << 20, 2 << 20, 2 << 20, 2 << 20}, nil, nil, false,
			"src:2097152 | src:2097152 | src:2097152 | src:2097152 | src:2097152 | src:2097152 src:0."},
		{"huge element is not cut", []int{small, huge, small}, nil, nil, false, "src:1000 | src:9437184 | src:1000 src:0."},
		{"timers after data", []int{small}, []bundle.FiredTimers{fired("a", "f", 10), fired("a", "g", 20)},
			[]bundle.TimerFamily{{Transform: "a", Family: "f"}, {Transform: "a", Family: "g"}}, false,
			"src:1000 | a/f:10 a/g:20 | src:0. a/f:0. a/g:0."},
		{"many timers", nil, []bundle.FiredTimers{fired("a", "f", chunk), fired("a", "f", small)},
			[]bundle.TimerFamily{{Transform: "a", Family: "f"}}, false,
			"a/f:262144 | a/f:1000 | src:0. a/f:0."},
		{"Go: one end a transform", []int{small}, nil,
			[]bundle.TimerFamily{{Transform: "a", Family: "f"}, {Transform: "b", Family: "f"}, {Transform: "a", Family: "g"}}, true,
			"src:1000 src:0. a/f:0 b/f:0. a/g:0."},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var elements []string
			for _, n := range tc.elements {
				elements = append(elements, strings.Repeat("e", n))
			}
			p := testProgram("stage")
			p.Timers = tc.families
			b := &bundle.Bundle{ID: "b", Program: p, Input: blocks(t, elements...), Timers: tc.timers}
			in, err := newInput(b, tc.goSDK)
			if err != nil {
				t.Fatal(err)
			}
			if got := messages(t, in); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// Bundles take turns, so that a long one holds up no other.
func TestFeedTakesTurns(t *testing.T) {
	var f feed
	big := strings.Repeat("e", minChunk)
	for _, r := range []struct {
		id       string
		elements []string
	}{{"long", []string{big, big, big}}, {"short", []string{"x"}}} {
		b := &bundle.Bundle{ID: r.id, Program: testProgram("stage"), Input: blocks(t, r.elements...)}
		in, err := newInput(b, false)
		if err != nil {
			t.Fatal(err)
		}
		f.add(&run{b: b, in: in})
	}
	var got []string
	var buf scratch
	for msg := f.next(&buf); msg != nil; msg = f.next(&buf) {
		got = append(got, msg.GetData()[0].GetInstructionId())
	}
	if g, want := strings.Join(got, " "), "long short long long"; g != want {
		t.Errorf("turns %s, want %s", g, want)
	}
}

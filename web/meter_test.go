package web

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// TestRates samples a stage of two slots whose load changes, and compares with what happened in the window.
func TestRates(t *testing.T) {
	m := newMeter()
	start := time.Unix(1000, 0)
	info := Info{ID: "j", Slots: 2, Changes: []Change{{jobpb.JobState_RUNNING, start}}}
	at := func(seconds int) []Stage { // 100 records/s in the first minute, then 10; slot 1 is busy half of the time
		n := int64(100*min(seconds, 60) + 10*max(0, seconds-60))
		half := time.Duration(seconds) * time.Second / 2
		return []Stage{{
			Name: "s", Total: Counters{RecordsIn: n, RecordsOut: 2 * n},
			Subtasks: []Subtask{{Counters: Counters{RecordsIn: n, BackPressured: half / 2}}, {Counters: Counters{Busy: half, BackPressured: 2 * half}}},
		}}
	}
	for _, tc := range []struct {
		seconds int
		in      float64
	}{{2, 100}, {10, 100}, {60, 100}, {75, 55}, {120, 10}} {
		for s := range tc.seconds { // idempotent: samples of the past are not taken again
			if now := start.Add(time.Duration(s) * time.Second); s%5 == 0 && (m.jobs["j"] == nil || now.After(last(m))) {
				m.sample(info, at(s), now)
			}
		}
		r := m.rates(info, at(tc.seconds), start.Add(time.Duration(tc.seconds)*time.Second))[0]
		if math.Abs(r.total.RecordsIn-tc.in) > 9 || math.Abs(r.total.RecordsOut-2*tc.in) > 18 {
			t.Errorf("after %d s: %+v, want %v records in", tc.seconds, r.total, tc.in)
		}
		if busy := r.subtasks[1].Busy; math.Abs(busy-0.5) > 0.01 || math.Abs(r.total.Busy-0.25) > 0.01 {
			t.Errorf("after %d s: busy %v and %v", tc.seconds, busy, r.total.Busy)
		}
		for _, u := range append(r.subtasks, r.total) {
			if sum := u.Busy + u.BackPressured + u.Idle; math.Abs(sum-1) > 1e-9 || u.Idle < 0 {
				t.Errorf("after %d s: shares of %+v", tc.seconds, u)
			}
		}
	}
	if n := len(m.jobs["j"].samples); n > maxSamples {
		t.Errorf("%d samples", n)
	}
	m.keep(nil)
	if len(m.jobs) != 0 {
		t.Error("the job is not forgotten")
	}
}

func last(m *meter) time.Time { s := m.jobs["j"].samples; return s[len(s)-1].at }

// TestRatesStartAnew: counters that go back, as after a restart, give no negative rates.
func TestRatesStartAnew(t *testing.T) {
	m := newMeter()
	now := time.Unix(1000, 0)
	info := Info{ID: "j", Slots: 1, Changes: []Change{{jobpb.JobState_RUNNING, now}}}
	for k := range 200 {
		now = now.Add(time.Duration(rand.IntN(10000)) * time.Millisecond)
		info.Restarts, info.Slots = rand.IntN(2), 1+rand.IntN(3)
		s := Stage{Name: fmt.Sprint(rand.IntN(2)), Total: Counters{RecordsIn: rand.Int64N(1000), Busy: time.Duration(rand.Int64N(1e10))}}
		for range info.Slots {
			s.Subtasks = append(s.Subtasks, Subtask{Counters: Counters{RecordsIn: rand.Int64N(1000), Busy: time.Duration(rand.Int64N(1e10))}})
		}
		for _, r := range m.rates(info, []Stage{s}, now)[0].subtasks {
			if r.RecordsIn < 0 || r.Busy < 0 || r.Busy > 1 || r.Idle < 0 {
				t.Fatalf("step %d: %+v", k, r)
			}
		}
	}
}

func TestSpread(t *testing.T) {
	got := spread([]int64{4, 1, 3, 2})
	if want := (spreadJSON{Min: 1, Max: 4, Avg: 2, Sum: 10, Median: 2, P25: 1, P75: 3, P95: 4}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := skew([]float64{0, 10}, 5); got != 100 {
		t.Errorf("skew of 0 and 10: %v", got)
	}
	if got := skew([]float64{5, 5}, 5); got != 0 {
		t.Errorf("skew of 5 and 5: %v", got)
	}
}

// TestLogs: the newest lines stay, within the bound.
func TestLogs(t *testing.T) {
	l := NewLogs(100)
	for k := range 1000 {
		fmt.Fprintf(l, "line %d\n", k)
	}
	text := string(l.Text())
	if size, _ := l.stat(); size != len(text) || size > 100 || !strings.HasSuffix(text, "line 998\nline 999\n") || !strings.HasPrefix(text, "line ") {
		t.Errorf("%d bytes: %q", size, text)
	}
}

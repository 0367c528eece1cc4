package engine_test

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window/trigger"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/teststream"
	"pgregory.net/rapid"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// arrival is an element of a TestStream and the watermark when it comes.
type arrival struct {
	datum
	wm int64
}

// stream is a random TestStream whose elements may be late.
type stream struct {
	config   teststream.Config
	arrivals []arrival
	log      strings.Builder
}

func drawStream(t *rapid.T, punctual bool) *stream {
	s := &stream{config: teststream.NewConfig()}
	c, wm := &s.config, coder.MinTimestamp
	v := int64(0)
	for range rapid.IntRange(1, 20).Draw(t, "events") {
		switch rapid.SampledFrom([]string{"elements", "elements", "watermark", "clock"}).Draw(t, "event") {
		case "watermark":
			wm = max(wm, 0) + rapid.Int64Range(1, 60).Draw(t, "by")
			must(c.AdvanceWatermark(wm))
			fmt.Fprintf(&s.log, " W=%d", wm)
		case "clock":
			by := rapid.Int64Range(1, 3000).Draw(t, "ms")
			c.AdvanceProcessingTime(by)
			fmt.Fprintf(&s.log, " +%dms", by)
		default:
			d := drawDatum(t, 0, 150)
			if punctual {
				d.TS = max(d.TS, wm)
			}
			for range rapid.IntRange(1, 5).Draw(t, "copies") {
				v++ // each element is another one
				d.V = v
				must(c.AddElements(d.TS, fmt.Sprintf("%s=%d", d.K, d.V)))
				s.arrivals = append(s.arrivals, arrival{d, wm})
			}
			fmt.Fprintf(&s.log, " %s=..%d@%d", d.K, d.V, d.TS)
		}
	}
	if len(s.arrivals) == 0 {
		d := datum{"a", 1, max(wm, 0)}
		must(c.AddElements(d.TS, "a=1"))
		s.arrivals = append(s.arrivals, arrival{d, wm})
		fmt.Fprintf(&s.log, " a=1@%d", d.TS)
	}
	must(c.AdvanceWatermarkToInfinity())
	return s
}

// strategy is a random windowing strategy whose trigger never finishes, but perhaps at the end of the window.
type strategy struct {
	windowing
	trigger    trigger.Trigger
	name       string
	accumulate bool
	lateness   int64
	closes     bool // what is late may be dropped: the trigger is finished
}

func drawTrigger(t *rapid.T, depth int) (trigger.Trigger, string) {
	kind := rapid.SampledFrom([]string{"count", "always", "clock", "any", "all"}).Draw(t, "trigger")
	if depth == 0 && (kind == "any" || kind == "all") {
		kind = "count"
	}
	switch kind {
	case "always":
		return trigger.Always(), kind
	case "clock":
		ms := rapid.IntRange(1, 2000).Draw(t, "delay")
		return trigger.AfterProcessingTime().PlusDelay(time.Duration(ms) * time.Millisecond), fmt.Sprintf("after %d ms", ms)
	case "any", "all":
		a, an := drawTrigger(t, depth-1)
		b, bn := drawTrigger(t, depth-1)
		if kind == "any" {
			return trigger.AfterAny([]trigger.Trigger{a, b}), fmt.Sprintf("any(%s, %s)", an, bn)
		}
		return trigger.AfterAll([]trigger.Trigger{a, b}), fmt.Sprintf("all(%s, %s)", an, bn)
	}
	n := rapid.Int32Range(1, 4).Draw(t, "count")
	return trigger.AfterCount(n), fmt.Sprintf("after %d", n)
}

func drawStrategy(t *rapid.T) strategy {
	st := strategy{windowing: windowing{kind: rapid.SampledFrom([]string{"global", "fixed", "sliding", "sessions"}).Draw(t, "windows")}}
	if st.kind != "global" {
		st.size = rapid.SampledFrom([]int64{7, 20, 64}).Draw(t, "size")
		st.hop = st.size/2 + 1
		st.lateness = rapid.SampledFrom([]int64{0, 15, 1000}).Draw(t, "lateness")
	}
	st.accumulate = rapid.Bool().Draw(t, "accumulate")
	switch rapid.SampledFrom([]string{"default", "end", "repeat"}).Draw(t, "shape") {
	case "end":
		tr := trigger.AfterEndOfWindow()
		st.name, st.closes = "end of window", true
		if rapid.Bool().Draw(t, "early") {
			early, name := drawTrigger(t, 1)
			tr = tr.EarlyFiring(early)
			st.name += ", early " + name
		}
		if rapid.Bool().Draw(t, "late") {
			late, name := drawTrigger(t, 1)
			tr = tr.LateFiring(late)
			st.name += ", late " + name
			st.closes = false
		}
		st.trigger = tr
	case "repeat":
		inner, name := drawTrigger(t, 1)
		st.trigger, st.name = trigger.Repeat(inner), "repeat "+name
	default:
		st.trigger, st.name = trigger.Default(), "default"
	}
	return st
}

func (st strategy) String() string {
	return fmt.Sprintf("%v, %s, accumulate %v, lateness %d, closes %v", st.windowing, st.name, st.accumulate, st.lateness, st.closes)
}

func (st strategy) apply(s beam.Scope, col beam.PCollection) beam.PCollection {
	mode := beam.PanesDiscard()
	if st.accumulate {
		mode = beam.PanesAccumulate()
	}
	return beam.WindowInto(s, st.fn(), col, beam.Trigger(st.trigger), mode, beam.AllowedLateness(time.Duration(st.lateness)*time.Millisecond))
}

// cell is a key in a window.
type cell struct {
	k   string
	win span
}

// fate of an element in a window.
type fate int

const (
	kept fate = iota
	maybe
	dropped
)

// fates are what the model says about each element in each cell. Session windows are not known beforehand: all elements of
// a key are then in the cell of the zero span.
func (s *stream) fates(st strategy) map[cell]map[int64]fate {
	out := map[cell]map[int64]fate{}
	for _, a := range s.arrivals {
		for _, w := range st.assign(a.TS) {
			f := kept
			if w.maxTS()+st.lateness < a.wm && st.kind != "global" {
				f = dropped
			} else if w.maxTS() < a.wm && st.closes {
				f = maybe
			}
			if st.kind == "sessions" {
				w = span{}
				if f == dropped {
					f = maybe // it may belong to a session that goes on
				}
			}
			c := cell{a.K, w}
			if out[c] == nil {
				out[c] = map[int64]fate{}
			}
			out[c][a.V] = f
		}
	}
	return out
}

// pane of a cell.
type pane struct {
	out
	vs []int64
}

// panesOf sorts what a sink got into panes of cells, in order of their indexes.
func panesOf(t *rapid.T, outs []out) map[cell][]pane {
	by := map[cell][]pane{}
	for _, o := range outs {
		k, vs, _ := strings.Cut(o.Value, ":")
		p := pane{out: o}
		for _, v := range strings.Fields(vs) {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				t.Fatalf("%v", err)
			}
			p.vs = append(p.vs, n)
		}
		slices.Sort(p.vs)
		c := cell{k, span{o.Start, o.End}}
		by[c] = append(by[c], p)
	}
	for _, ps := range by {
		slices.SortFunc(ps, func(a, b pane) int { return cmp.Compare(a.Pane.Index, b.Pane.Index) })
	}
	return by
}

// checkOrder checks what pane infos promise.
func checkOrder(c cell, ps []pane) error {
	onTime := 0
	for i, p := range ps {
		info := p.Pane
		if info.Index != int64(i) || info.First != (i == 0) || info.Last && i < len(ps)-1 {
			return fmt.Errorf("%v: pane %d of %d is %+v", c, i, len(ps), info)
		}
		if info.Timing == coder.OnTime {
			onTime++
		}
		if i > 0 && ps[i-1].Pane.Timing != coder.Early && info.Timing == coder.Early {
			return fmt.Errorf("%v: pane %d is early after %+v", c, i, ps[i-1].Pane)
		}
		if p.TS > c.win.maxTS() {
			return fmt.Errorf("%v: pane %d has timestamp %d", c, i, p.TS)
		}
	}
	if onTime > 1 {
		return fmt.Errorf("%v: %d panes are on time", c, onTime)
	}
	return nil
}

// checkPanes checks that the panes hold what the model guarantees.
func checkPanes(st strategy, fates map[cell]map[int64]fate, panes map[cell][]pane) error {
	seen := map[cell]map[int64]int{}
	for c, ps := range panes {
		if err := checkOrder(c, ps); err != nil && st.kind != "sessions" {
			return err
		}
		where := c
		if st.kind == "sessions" {
			where.win = span{}
		}
		if seen[where] == nil {
			seen[where] = map[int64]int{}
		}
		for i, p := range ps {
			if st.accumulate && st.kind != "sessions" {
				if i > 0 && !subset(ps[i-1].vs, p.vs) {
					return fmt.Errorf("%v: pane %d %v does not hold all of the one before, %v", c, i, p.vs, ps[i-1].vs)
				}
				if i < len(ps)-1 {
					continue // the last one counts
				}
			}
			for _, v := range p.vs {
				seen[where][v]++
			}
		}
	}
	for c, vs := range fates {
		for v, f := range vs {
			n := seen[c][v]
			once := n == 1 || n > 1 && st.accumulate && st.kind == "sessions"
			if f == kept && !once || f == maybe && n > 0 && !once || f == dropped && n > 0 {
				return fmt.Errorf("%v: element %d came %d times, the model says %v", c, v, n, []string{"once", "at most once", "never"}[f])
			}
			delete(seen[c], v)
		}
		if len(seen[c]) > 0 {
			return fmt.Errorf("%v: got values that were never there: %v", c, seen[c])
		}
		delete(seen, c)
	}
	if len(seen) > 0 {
		return fmt.Errorf("got keys or windows that were never there: %v", seen)
	}
	return nil
}

func subset(a, b []int64) bool {
	for _, v := range a {
		if !slices.Contains(b, v) {
			return false
		}
	}
	return true
}

// Panes depend on the order in which elements come, and so on bundles. What they hold together does not.
func TestRandomTriggers(t *testing.T) {
	checks(t, 60, func(t *rapid.T) {
		events, st, c := drawStream(t, false), drawStrategy(t), drawConditions(t)
		p, s := beam.NewPipelineWithRoot()
		col := st.apply(s, beam.ParDo(s, &parse{}, teststream.Create(s, events.config)))
		groups := beam.GroupByKey(s, col)
		sink(s, "panes", beam.ParDo(s, showGroup, groups))
		// What was in time once stays so.
		again := st.lateness == 0 && !st.accumulate
		if again {
			groups = beam.GroupByKey(s, beam.ParDo(s, &ungroup{Op: "each"}, groups))
			sink(s, "again", beam.ParDo(s, showGroup, groups))
		}
		outs := map[string][]out{}
		for _, o := range execute(t, c, marshal(t, p)) {
			outs[o.Sink] = append(outs[o.Sink], o)
		}
		fates := events.fates(st)
		err := checkPanes(st, fates, panesOf(t, outs["panes"]))
		if err == nil && again {
			if err = checkPanes(st, fates, panesOf(t, outs["again"])); err != nil {
				err = fmt.Errorf("second GroupByKey: %w", err)
			}
		}
		if err != nil {
			for _, o := range outs["panes"] {
				t.Logf("%v %+v", o, o.Pane)
			}
			t.Fatalf("events:%s\nwindows: %v\nunder %+v\n%v", events.log.String(), st, c, err)
		}
	})
}

// State lets go of what is late and keeps all else, whatever the order of elements and timers.
func TestRandomLateState(t *testing.T) {
	checks(t, 40, func(t *rapid.T) {
		events, st, c := drawStream(t, false), drawStrategy(t), drawConditions(t)
		if st.kind == "sessions" || st.kind == "sliding" { // see TestLateInOneOfItsWindows
			st.kind = "fixed"
		}
		p, s := beam.NewPipelineWithRoot()
		col := st.apply(s, beam.ParDo(s, &parse{}, teststream.Create(s, events.config)))
		f := newHoard(rapid.Int64Range(0, 2).Draw(t, "ticks"))
		f.Only = true
		sink(s, "sums", beam.ParDo(s, show, beam.ParDo(s, f, col)))
		got := map[cell]int64{}
		for _, o := range execute(t, c, marshal(t, p)) {
			k, v, _ := strings.Cut(o.Value, "=")
			if n, err := strconv.ParseInt(v, 10, 64); err != nil {
				t.Fatalf("%v", err)
			} else if n >= 0 { // not a tick
				got[cell{k, span{o.Start, o.End}}] += n
			}
		}
		for _, a := range events.arrivals {
			for _, w := range st.assign(a.TS) {
				if w.maxTS()+st.lateness >= a.wm {
					got[cell{a.K, w}] -= a.V
				}
			}
		}
		for w, diff := range got {
			if diff != 0 {
				t.Fatalf("events:%s\nwindows: %v, %d ticks\nunder %+v\nthe sum of %v is wrong by %d", events.log.String(), st, f.Ticks, c, w, diff)
			}
		}
	})
}

// A pane may carry the timestamp of its first element. The watermark waits for it: whoever gets the pane gets it in time, and
// may move it to small windows at its timestamp.
func TestRandomHolds(t *testing.T) {
	checks(t, 40, func(t *rapid.T) {
		events, st, c := drawStream(t, true), drawStrategy(t), drawConditions(t)
		st.accumulate = false
		p, s := beam.NewPipelineWithRoot()
		col := st.apply(s, beam.ParDo(s, &parse{}, teststream.Create(s, events.config)))
		col = beam.ParDo(s, &ungroup{Op: "each"}, beam.GroupByKey(s, col))
		sink(s, "first", beam.ParDo(s, show, col))
		col = beam.WindowInto(s, window.NewFixedWindows(7*time.Millisecond), col)
		col = beam.ParDo(s, &ungroup{Op: "each"}, beam.GroupByKey(s, col))
		sink(s, "second", beam.ParDo(s, show, col))
		pb := marshal(t, p)
		of := rapid.SampledFrom([]pipepb.OutputTime_Enum{pipepb.OutputTime_EARLIEST_IN_PANE, pipepb.OutputTime_LATEST_IN_PANE}).Draw(t, "timestamp combiner")
		for _, ws := range pb.GetComponents().GetWindowingStrategies() {
			ws.OutputTime = of
		}
		var first, second []string
		for _, o := range execute(t, c, pb) {
			if o.Sink == "first" {
				first = append(first, o.Value)
			} else {
				second = append(second, o.Value)
			}
		}
		var want []string
		for _, a := range events.arrivals {
			for range st.assign(a.TS) {
				want = append(want, show(a.K, a.V))
			}
		}
		if d := differ(first, want) + differ(second, first); d != "" {
			t.Fatalf("events:%s\nwindows: %v, timestamps %v\nunder %+v\n%s", events.log.String(), st, of, c, d)
		}
	})
}

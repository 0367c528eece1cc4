package engine_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/teststream"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"pgregory.net/rapid"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// windowing of the model. All times are milliseconds.
type windowing struct {
	kind string // global, fixed, sliding, sessions
	size int64  // or gap
	hop  int64
}

func (w windowing) fn() *window.Fn {
	ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	switch w.kind {
	case "fixed":
		return window.NewFixedWindows(ms(w.size))
	case "sliding":
		return window.NewSlidingWindows(ms(w.hop), ms(w.size))
	case "sessions":
		return window.NewSessions(ms(w.size))
	}
	return window.NewGlobalWindows()
}

// span is a window [start, end); the zero span is the global window.
type span struct{ start, end int64 }

func (s span) maxTS() int64 {
	if s == (span{}) {
		return coder.EndOfGlobalWindow
	}
	return s.end - 1
}

func floor(ts, size int64) int64 { return ts - ((ts%size)+size)%size }

func (w windowing) assign(ts int64) []span {
	switch w.kind {
	case "fixed":
		at := floor(ts, w.size)
		return []span{{at, at + w.size}}
	case "sliding":
		var out []span
		for at := floor(ts, w.hop); at+w.size > ts; at -= w.hop {
			out = append(out, span{at, at + w.size})
		}
		return out
	case "sessions":
		return []span{{ts, ts + w.size}}
	}
	return []span{{}}
}

// value is an element in one window: an element in several windows is several values.
type value struct {
	datum
	win span
}

// node is a PCollection with the model of what it holds.
type node struct {
	col  beam.PCollection
	ws   windowing
	vals []value
	// atEnd: some timestamps may be the end of the global window.
	atEnd bool
	// early: some timestamps may lie behind the watermark, though their windows do not.
	early bool
	// multi: an element may be in several windows at once. Whether a stage sees it once or once a window is the SDK's choice.
	multi bool
}

func (n *node) derive(col beam.PCollection, f func(value) []value) *node {
	out := &node{col: col, ws: n.ws, atEnd: n.atEnd, early: n.early, multi: n.multi}
	for _, v := range n.vals {
		out.vals = append(out.vals, f(v)...)
	}
	return out
}

// groupModel are the values of a node by key and window, merged where windows merge.
type groupModel struct {
	k   string
	win span
	vs  []int64
}

func (n *node) groups() []groupModel {
	byKey := map[string][]value{}
	for _, v := range n.vals {
		byKey[v.K] = append(byKey[v.K], v)
	}
	var out []groupModel
	for k, vals := range byKey {
		slices.SortFunc(vals, func(a, b value) int {
			return cmp.Or(cmp.Compare(a.win.start, b.win.start), cmp.Compare(a.win.end, b.win.end))
		})
		var gs []groupModel
		for _, v := range vals {
			if last := len(gs) - 1; last >= 0 {
				g := &gs[last]
				merges := n.ws.kind == "sessions" && v.win.start < g.win.end
				if merges || v.win == g.win {
					g.win.end = max(g.win.end, v.win.end)
					g.vs = append(g.vs, v.V)
					continue
				}
			}
			gs = append(gs, groupModel{k: k, win: v.win, vs: []int64{v.V}})
		}
		out = append(out, gs...)
	}
	return out
}

// grouped is the model of a GroupByKey followed by a function of each group.
func (n *node) grouped(col beam.PCollection, f func([]int64) []int64) *node {
	out := &node{col: col, ws: n.ws, atEnd: n.atEnd || n.ws.kind == "global"}
	for _, g := range n.groups() {
		for _, v := range f(g.vs) {
			out.vals = append(out.vals, value{datum{g.k, v, g.win.maxTS()}, g.win})
		}
	}
	return out
}

// pipeline is a random pipeline under construction, with the model of all its PCollections.
type pipeline struct {
	t     *rapid.T
	p     *beam.Pipeline
	s     beam.Scope
	nodes []*node
	steps int
	log   []string
}

// maxValues bounds what a PCollection of a random pipeline holds.
const maxValues = 250

func (p *pipeline) scope(format string, args ...any) beam.Scope {
	p.steps++
	name := fmt.Sprintf("%d "+format, append([]any{p.steps}, args...)...)
	p.log = append(p.log, name)
	return p.s.Scope(name)
}

func (p *pipeline) add(n *node) {
	if len(n.vals) <= maxValues {
		p.nodes = append(p.nodes, n)
	}
}

func (p *pipeline) any(label string, ok func(*node) bool) *node {
	var of []*node
	for _, n := range p.nodes {
		if ok == nil || ok(n) {
			of = append(of, n)
		}
	}
	if len(of) == 0 {
		return nil
	}
	return of[rapid.IntRange(0, len(of)-1).Draw(p.t, label)]
}

var keys = rapid.SampledFrom([]string{"a", "b", "c", "dd"})

func drawDatum(t *rapid.T, from, to int64) datum {
	return datum{
		K: keys.Draw(t, "key"), V: rapid.Int64Range(-9, 99).Draw(t, "value"), TS: rapid.Int64Range(from, to).Draw(t, "timestamp"),
	}
}

// bounded adds a source of an Impulse.
func (p *pipeline) bounded() {
	n := rapid.IntRange(0, 40).Draw(p.t, "elements")
	f := &origin{}
	for range n {
		f.Elems = append(f.Elems, drawDatum(p.t, 0, 200))
	}
	s := p.scope("origin of %d", n)
	out := &node{ws: windowing{kind: "global"}}
	out.col = beam.ParDo(s, f, beam.Impulse(s))
	for _, e := range f.Elems {
		out.vals = append(out.vals, value{datum: e})
	}
	// All of it is emitted at the beginning of time.
	p.add(out)
}

// punctual adds a TestStream without late elements.
func (p *pipeline) punctual() {
	c := teststream.NewConfig()
	out := &node{ws: windowing{kind: "global"}}
	wm := int64(0)
	var log strings.Builder
	must(c.AdvanceWatermark(wm))
	for range rapid.IntRange(1, 12).Draw(p.t, "events") {
		if rapid.Bool().Draw(p.t, "advance") {
			wm += rapid.Int64Range(1, 50).Draw(p.t, "by")
			must(c.AdvanceWatermark(wm))
			fmt.Fprintf(&log, " W=%d", wm)
		}
		d := drawDatum(p.t, wm, wm+100)
		for range rapid.IntRange(1, 4).Draw(p.t, "copies") {
			must(c.AddElements(d.TS, fmt.Sprintf("%s=%d", d.K, d.V)))
			out.vals = append(out.vals, value{datum: d})
			fmt.Fprintf(&log, " %s=%d@%d", d.K, d.V, d.TS)
			d.V++
		}
	}
	must(c.AdvanceWatermarkToInfinity())
	s := p.scope("stream%s", log.String())
	out.col = beam.ParDo(s, &parse{}, teststream.Create(s, c))
	p.add(out)
}

func (p *pipeline) step() {
	kinds := map[string]func(*node){
		"map": p.mapped, "window": p.rewindow, "group": p.group, "flatten": p.flatten, "all": p.side, "same": p.side2,
		"hoard": p.hoard, "reshuffle": p.reshuffle, "combine": p.combine, "spread": p.spread,
	}
	names := []string{"map", "map", "window", "window", "group", "group", "flatten", "all", "same", "hoard", "hoard", "reshuffle", "combine", "spread"}
	in := p.any("input", nil)
	kinds[rapid.SampledFrom(names).Draw(p.t, "step")](in)
}

func (p *pipeline) mapped(in *node) {
	f := &mapper{
		Op: rapid.SampledFrom([]string{"rekey", "add", "repeat", "filter", "grow"}).Draw(p.t, "op"),
		N:  rapid.Int64Range(1, 4).Draw(p.t, "n"),
	}
	if f.Op == "grow" {
		f.N *= 700
	}
	s := p.scope("%s %d", f.Op, f.N)
	p.add(in.derive(beam.ParDo(s, f, in.col), func(v value) []value {
		var out []value
		for _, d := range f.apply(v.K, v.V) {
			out = append(out, value{datum{d.K, d.V, v.TS}, v.win})
		}
		return out
	}))
}

func (p *pipeline) rewindow(in *node) {
	if in.multi {
		return
	}
	ws := windowing{kind: rapid.SampledFrom([]string{"global", "fixed", "sliding", "sessions"}).Draw(p.t, "windows")}
	if in.atEnd || in.early {
		ws.kind = "global"
	}
	if ws.kind != "global" {
		ws.size = rapid.SampledFrom([]int64{7, 20, 64}).Draw(p.t, "size")
	}
	if ws.kind == "sliding" {
		ws.hop = ws.size/2 + 1
	}
	s := p.scope("window %v", ws)
	n := in.derive(beam.WindowInto(s, ws.fn(), in.col), func(v value) []value {
		var out []value
		for _, w := range ws.assign(v.TS) {
			out = append(out, value{v.datum, w})
		}
		return out
	})
	n.ws, n.multi = ws, ws.kind == "sliding"
	p.add(n)
}

func (p *pipeline) group(in *node) {
	f := &ungroup{Op: rapid.SampledFrom([]string{"each", "sum", "count"}).Draw(p.t, "op")}
	s := p.scope("group %s", f.Op)
	p.add(in.grouped(beam.ParDo(s, f, beam.GroupByKey(s, in.col)), f.apply))
}

func (p *pipeline) combine(in *node) {
	s := p.scope("combine")
	p.add(in.grouped(stats.SumPerKey(s, in.col), func(vs []int64) []int64 { return []int64{sumOf(vs)} }))
}

func (p *pipeline) reshuffle(in *node) {
	s := p.scope("reshuffle")
	p.add(in.derive(beam.Reshuffle(s, in.col), func(v value) []value { return []value{v} }))
}

func (p *pipeline) flatten(in *node) {
	with := p.any("with", func(n *node) bool { return n.ws == in.ws })
	s := p.scope("flatten")
	out := &node{col: beam.Flatten(s, in.col, with.col), ws: in.ws, atEnd: in.atEnd || with.atEnd, early: in.early || with.early, multi: in.multi || with.multi}
	out.vals = append(slices.Clone(in.vals), with.vals...)
	p.add(out)
}

// sideOf draws a side input for a node: in windows that its own windows map to.
func (p *pipeline) sideOf(in *node) *node {
	return p.any("side", func(n *node) bool {
		return n.ws.kind == "global" || n.ws.kind == "fixed" && in.ws.kind != "global"
	})
}

// see are the values that an element sees of a side input.
func (n *node) see(main value) []value {
	win := n.ws.assign(main.win.maxTS())[0]
	var out []value
	for _, v := range n.vals {
		if v.win == win {
			out = append(out, v)
		}
	}
	return out
}

func (p *pipeline) side(in *node) {
	side := p.sideOf(in)
	if side == nil {
		return
	}
	s := p.scope("add all")
	col := beam.ParDo(s, &addAll{}, in.col, beam.SideInput{Input: side.col})
	p.add(in.derive(col, func(v value) []value {
		for _, o := range side.see(v) {
			v.V += o.V
		}
		return []value{v}
	}))
}

func (p *pipeline) side2(in *node) {
	side := p.sideOf(in)
	if side == nil {
		return
	}
	s := p.scope("add same")
	col := beam.ParDo(s, &addSame{}, in.col, beam.SideInput{Input: side.col})
	p.add(in.derive(col, func(v value) []value {
		sum := v.V
		for _, o := range side.see(v) {
			if o.K == v.K {
				sum += o.V
			}
		}
		v.V = sum
		return []value{v}
	}))
}

func (p *pipeline) spread(in *node) {
	f := &spread{N: rapid.Int64Range(1, 4).Draw(p.t, "n")}
	s := p.scope("spread %d", f.N)
	p.add(in.derive(beam.ParDo(s, f, in.col), func(v value) []value {
		var out []value
		for i := range f.N {
			out = append(out, value{datum{v.K, v.V + i, v.TS}, v.win})
		}
		return out
	}))
}

func (p *pipeline) hoard(in *node) {
	if in.ws.kind == "sessions" || in.atEnd {
		return
	}
	f := newHoard(rapid.Int64Range(0, 3).Draw(p.t, "ticks"))
	s := p.scope("hoard %d", f.Ticks)
	out := &node{col: beam.ParDo(s, f, in.col), ws: in.ws, early: in.early || f.Ticks > 0}
	for _, g := range in.groups() {
		end := min(g.win.maxTS(), globalFlush)
		emit := func(v, ts int64) { out.vals = append(out.vals, value{datum{g.k, v, ts}, g.win}) }
		for tick := f.Ticks; tick > 0; tick-- {
			emit(-1000-tick, end+1-3*tick)
		}
		distinct := slices.Clone(g.vs)
		slices.Sort(distinct)
		for _, v := range f.flush(g.vs, len(slices.Compact(distinct))) {
			emit(v, end)
		}
	}
	p.add(out)
}

// seal gives every PCollection a sink and returns the pipeline with what its sinks have to get.
func (p *pipeline) seal() (*pipepb.Pipeline, []string) {
	var want []string
	for i, n := range p.nodes {
		name := fmt.Sprintf("sink %d", i)
		sink(p.s, name, beam.ParDo(p.s.Scope(name), show, n.col))
		for _, v := range n.vals {
			want = append(want, out{
				Sink: name, Value: show(v.K, v.V), TS: v.TS, Start: v.win.start, End: v.win.end,
			}.String())
		}
	}
	return marshal(p.t, p.p), want
}

func marshal(t fataler, p *beam.Pipeline) *pipepb.Pipeline {
	t.Helper()
	edges, _, err := p.Build()
	if err != nil {
		t.Fatalf("build pipeline: %v", err)
	}
	env, err := graphx.CreateEnvironment(context.Background(), "beam:env:embedded:v1", func(context.Context) string { return "" })
	if err != nil {
		t.Fatalf("%v", err)
	}
	pb, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		t.Fatalf("marshal pipeline: %v", err)
	}
	return pb
}

// Whatever the bundles, losses, spills and slots: the result is the model's.
func TestRandomPipelines(t *testing.T) {
	checks(t, 40, func(t *rapid.T) {
		p := &pipeline{t: t}
		p.p, p.s = beam.NewPipelineWithRoot()
		if rapid.Bool().Draw(t, "streaming") {
			p.punctual()
		} else {
			for range rapid.IntRange(1, 2).Draw(t, "sources") {
				p.bounded()
			}
		}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			p.step()
		}
		pb, want := p.seal()
		c := drawConditions(t)
		got := execute(t, c, pb)
		if d := differ(texts(got), want); d != "" {
			t.Fatalf("pipeline:\n%s\nunder %+v\ndiffers from the model:\n%s", strings.Join(p.log, "\n"), c, d)
		}
	})
}

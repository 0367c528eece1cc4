package goexec

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/typex"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"pgregory.net/rapid"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/bundle/bundletest"
	"github.com/tinyrunner/tinyrunner/engine/plan"
)

func init() {
	register.Function1x1(sameBytes)
	register.Function2x2(sameKV)
	register.Function2x1(sideSum)
	register.Function3x0(twice)
	register.Emitter1[string]()
	register.Emitter1[int64]()
	register.Function1x2(makeSI)
	register.Function1x2(makeBB)
	register.Function1x2(makeSP)
	register.Function2x1(firstOf)
	register.Function2x0(dropMost)
	register.Emitter1[[]byte]()
	register.Iter1[int64]()
	beam.RegisterFunction(sameT)
	beam.RegisterFunction(sameTU)
}

func sameT(x beam.T) beam.T                      { return x }
func sameTU(x beam.T, y beam.U) (beam.T, beam.U) { return x, y }
func sameBytes(b []byte) []byte                  { return b }
func sameKV(k string, v int64) (string, int64)   { return k, v }
func sideSum(n int64, _ []int64) int64           { return n }

func twice(s string, a func(string), b func(int64)) {
	a(s)
	a(s)
	b(int64(len(s)))
}

type point struct {
	X, Y int
	Name string
}

func makeSI(s string) (string, int64)              { return s, 1 }
func makeBB(b []byte) ([]byte, []byte)             { return b, b }
func makeSP(s string) (string, point)              { return s, point{} }
func firstOf(k string, _ func(*int64) bool) string { return k }

// from makes a PCollection of what fn returns.
func from(elem, fn any) func(s beam.Scope) beam.PCollection {
	return func(s beam.Scope) beam.PCollection { return beam.ParDo(s, fn, beam.Create(s, elem)) }
}

// TestFastStages tells which stages are fast.
func TestFastStages(t *testing.T) {
	for _, c := range []struct {
		name  string
		like  any
		stage bundletest.Stage
		why   string // "": it is fast
	}{
		{"chain", [][]byte{{}}, func(s beam.Scope, in beam.PCollection) {
			beam.ParDo(s, sameBytes, beam.ParDo(s, sameBytes, in))
		}, ""},
		{"branches", []string{""}, func(s beam.Scope, in beam.PCollection) {
			a, b := beam.ParDo2(s, twice, in)
			beam.ParDo(s, sameT, a)
			beam.ParDo(s, sameT, a)
			beam.WindowInto(s, window.NewSlidingWindows(time.Second, time.Minute), b)
		}, ""},
		{"side input", []int64{0}, func(s beam.Scope, in beam.PCollection) {
			beam.ParDo(s, sideSum, in, beam.SideInput{Input: in})
		}, "several inputs"},
		{"flatten", []int64{0}, func(s beam.Scope, in beam.PCollection) {
			beam.ParDo(s, sameT, beam.Flatten(s, beam.ParDo(s, sameT, in), in))
		}, "several inputs"},
		{"grouped", func(s beam.Scope) beam.PCollection {
			return beam.GroupByKey(s, from("", makeSI)(s))
		}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, firstOf, in) }, "iterables"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := bundletest.Compile(t, c.like, c.stage)
			_, f, err := newFast(newStage(p.Program, false))
			if c.why == "" && (err != nil || f == nil) {
				t.Errorf("it is not fast: %v", err)
			}
			var not *notFast
			if c.why != "" && (!errors.As(err, &not) || !strings.Contains(not.reason, c.why)) {
				t.Errorf("error %v: want one that says %q", err, c.why)
			}
		})
	}
}

// TestFastIsStock runs random elements through fast and stock stages and wants the same bytes out, and the same counts.
func TestFastIsStock(t *testing.T) {
	fast, stock := newWorker(t, Config{}), newWorker(t, Config{Stock: true})
	for name, c := range map[string]struct {
		like  any
		elem  *rapid.Generator[any]
		stage bundletest.Stage
	}{
		"bytes":  {[][]byte{{}}, rapid.SliceOf(rapid.Byte()).AsAny(), one},
		"string": {[]string{""}, rapid.String().AsAny(), one},
		"int64":  {[]int64{0}, rapid.Int64().AsAny(), one},
		"double": {[]float64{0}, rapid.Float64().AsAny(), one},
		"bool":   {[]bool{false}, rapid.Bool().AsAny(), one},
		"int":    {[]int{0}, rapid.Int().AsAny(), one},
		"struct": {[]point{{}}, rapid.Custom(func(t *rapid.T) any { return point{rapid.Int().Draw(t, "x"), 1, "p"} }), one},
		"windows": {[]string{""}, rapid.String().AsAny(), func(s beam.Scope, in beam.PCollection) {
			w := beam.WindowInto(s, window.NewSlidingWindows(time.Second, 3*time.Second), in)
			beam.ParDo(s, sameT, beam.WindowInto(s, window.NewFixedWindows(time.Minute), beam.ParDo(s, sameT, w)))
			beam.WindowInto(s, window.NewSessions(time.Second), w)
		}},
		"windowed input": {func(s beam.Scope) beam.PCollection {
			return beam.WindowInto(s, window.NewFixedWindows(time.Minute), beam.Create(s, ""))
		}, windowed(rapid.String().AsAny()), one},
		"bytes and bytes":   {from([]byte{}, makeBB), kv(rapid.SliceOf(rapid.Byte()).AsAny(), rapid.SliceOf(rapid.Byte()).AsAny()), two},
		"string and int64":  {from("", makeSI), kv(rapid.String().AsAny(), rapid.Int64().AsAny()), two},
		"string and struct": {from("", makeSP), kv(rapid.String().AsAny(), rapid.Just[any](point{1, 2, "p"})), two},
		"outputs":           {[]string{""}, rapid.String().AsAny(), func(s beam.Scope, in beam.PCollection) { beam.ParDo2(s, twice, in) }},
	} {
		t.Run(name, func(t *testing.T) {
			p := bundletest.Compile(t, c.like, c.stage)
			rapid.Check(t, func(r *rapid.T) {
				elems := rapid.SliceOfN(element(c.elem), 0, 10).Draw(r, "elements")
				compare(r, p, fast, stock, elems)
			})
		})
	}
}

// TestFastPrecombine compares a stage that windows and pre-combines, as package plan makes it: its DoFns emit in any order.
func TestFastPrecombine(t *testing.T) {
	pb := bundletest.Marshal(t, func(s beam.Scope) {
		kvs := beam.ParDo(s, makeSI, beam.Create(s, "a", "b", "a", "c", "a"))
		stats.SumPerKey(s, beam.WindowInto(s, window.NewFixedWindows(time.Minute), kvs))
	})
	compiled, err := plan.Compile(pb, plan.Options{Job: "precombine"})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(compiled.Stages, func(s *plan.Stage) bool { return s.Program != nil })
	p := bundletest.Wrap(t, compiled.Stages[i].Program)
	var got [2][]string
	for i, stock := range []bool{false, true} {
		w := newWorker(t, Config{Stock: stock})
		b, sink, _ := p.Bundle([]byte{})
		if _, err := w.Run(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		got[i] = p.Output(sink, 0)
		slices.Sort(got[i])
		if slow := w.stages[p.Program].slow; slow != stock {
			t.Errorf("stock %v, but slow %v", stock, slow)
		}
	}
	want := []string{"a:3", "b:1", "c:1"}
	for i := range got {
		for j, e := range got[i] {
			got[i][j], _, _ = strings.Cut(e, "@")
		}
		if !slices.Equal(got[i], want) {
			t.Errorf("stock %v: %v, want %v", i == 1, got[i], want)
		}
	}
}

func one(s beam.Scope, in beam.PCollection) { beam.ParDo(s, sameT, in) }

func two(s beam.Scope, in beam.PCollection) { beam.ParDo(s, sameTU, in) }

func kv(k, v *rapid.Generator[any]) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any { return bundletest.KV{K: k.Draw(t, "key"), V: v.Draw(t, "value")} })
}

// windowed puts elements into one to three interval windows, few enough that neighbours share them.
func windowed(elem *rapid.Generator[any]) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		at := bundletest.At{Elem: elem.Draw(t, "value")}
		for i := range rapid.IntRange(1, 3).Draw(t, "windows") {
			start := mtime.Time(rapid.SampledFrom([]int64{-60_000, 0, 60_000, 1e12}).Draw(t, "start") + int64(i))
			at.Windows = append(at.Windows, window.IntervalWindow{Start: start, End: start + 60_000})
		}
		return at
	})
}

func element(elem *rapid.Generator[any]) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		v := elem.Draw(t, "value")
		at, ok := v.(bundletest.At)
		if !ok {
			at.Elem = v
		}
		at.Ms = rapid.Int64Range(-1e12, 1e13).Draw(t, "ms")
		if rapid.Bool().Draw(t, "fired") {
			n := rapid.Int64Range(0, 300).Draw(t, "index")
			at.Pane = typex.PaneInfo{Timing: typex.PaneOnTime, IsFirst: n == 0, IsLast: true, Index: n, NonSpeculativeIndex: n / 2}
		}
		return at
	})
}

func compare(r *rapid.T, p *bundletest.Program, fast, stock *Worker, elems []any) {
	bf, sf, _ := p.Bundle(elems...)
	bs, ss, _ := p.Bundle(elems...)
	rf, err := fast.Run(context.Background(), bf)
	if err != nil {
		r.Fatalf("fast: %v", err)
	}
	rs, err := stock.Run(context.Background(), bs)
	if err != nil {
		r.Fatalf("stock: %v", err)
	}
	for i := range p.Outputs {
		if got, want := sf.Bytes(i), ss.Bytes(i); !bytes.Equal(got, want) {
			r.Errorf("output %d:\nfast  %x\nstock %x", i, got, want)
		}
	}
	counts := func(res *bundle.Result) map[string]string {
		m := map[string]string{}
		for _, i := range res.Metrics {
			if i.Urn == "beam:metric:element_count:v1" {
				m[i.Labels["PCOLLECTION"]] = string(i.Payload)
			}
		}
		return m
	}
	got, want := counts(rf), counts(rs)
	for k, v := range want {
		if got[k] != v {
			r.Errorf("element count of %s: fast %x, stock %x", k, got[k], v)
		}
	}
}

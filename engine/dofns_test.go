package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

// Beam resolves user functions by name in a registry that must be filled before beam.Init.
func init() {
	register.DoFn2x0[[]byte, func(beam.EventTime, string, int64)]((*origin)(nil))
	register.DoFn2x0[string, func(string, int64)]((*parse)(nil))
	beam.RegisterType(reflect.TypeFor[mapper]())
	beam.RegisterType(reflect.TypeFor[ungroup]())
	beam.RegisterType(reflect.TypeFor[addAll]())
	beam.RegisterType(reflect.TypeFor[addSame]())
	// By reflection: for three parameters and more package register makes so much code that compiling it takes minutes.
	beam.RegisterType(reflect.TypeFor[hoard]())
	beam.RegisterType(reflect.TypeFor[spread]())
	register.DoFn2x1[string, int64, string]((*tally)(nil))
	beam.RegisterType(reflect.TypeFor[blocker]())
	register.DoFn2x1[string, int64, error]((*failing)(nil))
	beam.RegisterType(reflect.TypeFor[endless]())
	register.Function2x1(show)
	register.Function2x1(showGroup)
	register.Emitter2[string, int64]()
	register.Emitter3[beam.EventTime, string, int64]()
	register.Iter2[string, int64]()
}

// datum is an element of the random pipelines.
type datum struct {
	K  string
	V  int64
	TS int64
}

// origin emits its elements.
type origin struct{ Elems []datum }

func (f *origin) ProcessElement(_ []byte, emit func(beam.EventTime, string, int64)) {
	for _, e := range f.Elems {
		emit(beam.EventTime(e.TS), e.K, e.V)
	}
}

// parse reads "key=value", which is how a TestStream has them.
type parse struct{}

func (f *parse) ProcessElement(s string, emit func(string, int64)) {
	k, v, _ := strings.Cut(s, "=")
	n, _ := strconv.ParseInt(v, 10, 64)
	emit(k, n)
}

// mapper changes, drops or multiplies an element.
type mapper struct {
	Op string
	N  int64
}

func (f *mapper) ProcessElement(k string, v int64, emit func(string, int64)) {
	for _, e := range f.apply(k, v) {
		emit(e.K, e.V)
	}
}

func (f *mapper) apply(k string, v int64) []datum {
	switch f.Op {
	case "rekey":
		return []datum{{K: "r" + strconv.FormatInt((v%f.N+f.N)%f.N, 10), V: v}}
	case "add":
		return []datum{{K: k, V: v + f.N}}
	case "repeat":
		var out []datum
		for i := range f.N {
			out = append(out, datum{K: k, V: v + i})
		}
		return out
	case "filter":
		if (v%f.N+f.N)%f.N == 0 {
			return nil
		}
	case "grow": // makes pools overflow
		return []datum{{K: k + strings.Repeat("x", int(f.N)), V: v}}
	}
	return []datum{{K: k, V: v}}
}

// ungroup turns a group into its values, their sum, or their number.
type ungroup struct{ Op string }

func (f *ungroup) ProcessElement(k string, vs func(*int64) bool, emit func(string, int64)) {
	var all []int64
	var v int64
	for vs(&v) {
		all = append(all, v)
	}
	for _, v := range f.apply(all) {
		emit(k, v)
	}
}

func (f *ungroup) apply(all []int64) []int64 {
	switch f.Op {
	case "sum":
		return []int64{sumOf(all)}
	case "count":
		return []int64{int64(len(all))}
	}
	return all
}

func sumOf(vs []int64) (n int64) {
	for _, v := range vs {
		n += v
	}
	return n
}

// addAll adds the sum of a side input.
type addAll struct{}

func (f *addAll) ProcessElement(k string, v int64, side func(*string, *int64) bool, emit func(string, int64)) {
	var sk string
	var sv int64
	for side(&sk, &sv) {
		v += sv
	}
	emit(k, v)
}

// addSame adds the sum of a side input's values of the same key.
type addSame struct{}

func (f *addSame) ProcessElement(k string, v int64, side func(string) func(*int64) bool, emit func(string, int64)) {
	var sv int64
	for next := side(k); next(&sv); {
		v += sv
	}
	emit(k, v)
}

// globalFlush is when hoard lets go in the global window: after all elements of the random pipelines.
const globalFlush = 10_000

// hoard keeps the values of a key and window in every kind of state and emits, when the window is over, their sum, their
// number and the number of different ones. Before that a chain of timers ticks, each setting the next.
type hoard struct {
	Wake  timers.EventTime
	Begun state.Value[int64] // ticks that are left, plus one
	End   state.Value[int64]
	All   state.Bag[int64]
	Seen  state.Map[string, int64]
	Ticks int64
	Only  bool // emit the sum only
}

func newHoard(ticks int64) *hoard {
	return &hoard{
		Wake:  timers.InEventTime("wake"),
		Begun: state.MakeValueState[int64]("begun"),
		End:   state.MakeValueState[int64]("end"),
		All:   state.MakeBagState[int64]("all"),
		Seen:  state.MakeMapState[string, int64]("seen"),
		Ticks: ticks,
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (f *hoard) ProcessElement(w beam.Window, sp state.Provider, tp timers.Provider, k string, v int64, emit func(string, int64)) {
	must(f.All.Add(sp, v))
	name := strconv.FormatInt(v, 10)
	n, _, err := f.Seen.Get(sp, name)
	must(err)
	must(f.Seen.Put(sp, name, n+1))
	if _, begun, err := f.Begun.Read(sp); err != nil || begun {
		must(err)
		return
	}
	end := min(int64(w.MaxTimestamp()), globalFlush)
	must(f.Begun.Write(sp, f.Ticks))
	must(f.End.Write(sp, end))
	f.set(tp, end, f.Ticks)
}

// set sets the timer of a tick. The last one is due when no more elements come: at the end of the window, which elements may
// still have as their timestamp, plus 1.
func (f *hoard) set(tp timers.Provider, end, tick int64) {
	fire := end + 1 - 3*tick
	f.Wake.Set(tp, time.UnixMilli(fire), timers.WithOutputTimestamp(time.UnixMilli(min(fire, end))))
}

func (f *hoard) OnTimer(_ context.Context, _ beam.EventTime, sp state.Provider, tp timers.Provider, k string, _ timers.Context, emit func(string, int64)) {
	tick, ok, err := f.Begun.Read(sp)
	must(err)
	end, _, err := f.End.Read(sp)
	must(err)
	if !ok {
		panic("the timer fires without state")
	}
	if tick > 0 {
		must(f.Begun.Write(sp, tick-1))
		f.set(tp, end, tick-1)
		emit(k, -1000-tick)
		return
	}
	all, _, err := f.All.Read(sp)
	must(err)
	names, _, err := f.Seen.Keys(sp)
	must(err)
	for _, v := range f.flush(all, len(names)) {
		emit(k, v)
	}
	for _, name := range names {
		must(f.Seen.Remove(sp, name))
	}
	must(f.All.Clear(sp))
	must(f.Begun.Clear(sp))
	must(f.End.Clear(sp))
}

func (f *hoard) flush(all []int64, distinct int) []int64 {
	if f.Only {
		return []int64{sumOf(all)}
	}
	return []int64{sumOf(all), int64(len(all)), int64(distinct)}
}

func show(k string, v int64) string { return fmt.Sprintf("%s=%d", short(k), v) }

// short makes keys that mapper has grown readable.
func short(k string) string {
	name := strings.TrimRight(k, "x")
	if n := len(k) - len(name); n > 0 {
		return fmt.Sprintf("%s+%d", name, n)
	}
	return k
}

// showGroup shows a pane: its key and its values, as they come.
func showGroup(k string, vs func(*int64) bool) string {
	var b strings.Builder
	b.WriteString(short(k) + ":")
	var v int64
	for vs(&v) {
		fmt.Fprintf(&b, " %d", v)
	}
	return b.String()
}

// spread is a splittable mapper: it emits an element N times, each time with a larger value.
type spread struct{ N int64 }

func (f *spread) CreateInitialRestriction(string, int64) offsetrange.Restriction {
	return offsetrange.Restriction{End: f.N}
}

func (f *spread) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(r))
}

func (f *spread) RestrictionSize(_ string, _ int64, r offsetrange.Restriction) float64 {
	return r.Size()
}

func (f *spread) SplitRestriction(_ string, _ int64, r offsetrange.Restriction) []offsetrange.Restriction {
	return r.EvenSplits(2)
}

func (f *spread) ProcessElement(rt *sdf.LockRTracker, k string, v int64, emit func(string, int64)) {
	for at := rt.GetRestriction().(offsetrange.Restriction).Start; rt.TryClaim(at); at++ {
		emit(k, v+at)
	}
}

// tally forgets the key.
type tally struct{}

func (f *tally) ProcessElement(_ string, v int64) string { return strconv.FormatInt(v, 10) }

// blocker waits for the end of the bundle's context.
type blocker struct{ Gate string }

func (f *blocker) ProcessElement(ctx context.Context, k string, v int64, emit func(string, int64)) {
	if g, ok := gates.Load(f.Gate); ok {
		g.(func(string, int64) bool)(k, v)
	}
	<-ctx.Done()
}

// failing fails.
type failing struct{ Message string }

func (f *failing) ProcessElement(k string, v int64) error { return errors.New(f.Message) }

// endless counts for ever, a few numbers at a time.
type endless struct{}

func (f *endless) CreateInitialRestriction(string, int64) offsetrange.Restriction {
	return offsetrange.Restriction{End: math.MaxInt64}
}

func (f *endless) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(r))
}

func (f *endless) RestrictionSize(string, int64, offsetrange.Restriction) float64 { return 1 }

func (f *endless) SplitRestriction(_ string, _ int64, r offsetrange.Restriction) []offsetrange.Restriction {
	return []offsetrange.Restriction{r}
}

// TruncateRestriction leaves a last five numbers.
func (f *endless) TruncateRestriction(rt *sdf.LockRTracker, _ string, _ int64) offsetrange.Restriction {
	r := rt.GetRestriction().(offsetrange.Restriction)
	return offsetrange.Restriction{Start: r.Start, End: r.Start + 5}
}

func (f *endless) ProcessElement(rt *sdf.LockRTracker, k string, _ int64, emit func(string, int64)) sdf.ProcessContinuation {
	from := rt.GetRestriction().(offsetrange.Restriction).Start
	for at := from; rt.TryClaim(at); at++ {
		emit(k, at)
		if at == from+2 {
			return sdf.ResumeProcessingIn(5 * time.Millisecond)
		}
	}
	return sdf.StopProcessing()
}

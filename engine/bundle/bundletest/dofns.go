package bundletest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

// Beam resolves user functions by name in a registry that must be filled before beam.Init.
func init() { //nolint:gochecknoinits // the registry of Beam Go
	register.Function1x1(upper)
	register.Function2x0(words)
	register.Function2x0(evenBytes)
	register.Function3x0(oddEven)
	register.Function2x2(scale)
	register.Function1x2(makeKV)
	register.Function2x2(failOn)
	register.Function2x2(sum)
	register.Function3x1(withSides)
	register.DoFn2x1[context.Context, string, string](&counting{})
	register.DoFn2x0[string, func(string)](&lifecycle{})
	register.DoFn2x1[context.Context, string, string](&gated{})
	register.DoFn4x0[state.Provider, string, int64, func(string)](&stateful{})
	register.DoFn5x0[state.Provider, timers.Provider, string, int64, func(string)](&alarm{})
	register.DoFn3x1[*sdf.LockRTracker, string, func(string), sdf.ProcessContinuation](&counter{})
	register.DoFn2x1[beam.BundleFinalization, string, string](&finalizing{})
	register.Combiner1[int64](&adding{})
	register.Emitter1[string]()
	register.Emitter1[[]byte]()
	register.Emitter1[int64]()
	register.Iter1[int64]()
	register.Iter1[string]()
}

func upper(s string) string { return strings.ToUpper(s) }

func words(s string, emit func(string)) {
	for w := range strings.FieldsSeq(s) {
		emit(w)
	}
}

func evenBytes(b []byte, emit func([]byte)) {
	if len(b)%2 == 0 {
		emit(b)
	}
}

func oddEven(n int64, odd, even func(int64)) {
	if n%2 == 0 {
		even(n)
	} else {
		odd(n)
	}
}

func scale(k string, n int64) (string, int64) { return k + "!", 10 * n }

// failOn fails on "error", panics on "panic" and loses itself in a nil map on "nil".
func failOn(_ context.Context, s string) (string, error) {
	switch s {
	case "error":
		return "", errors.New("no such thing as " + s)
	case "panic":
		panic("a broken invariant")
	case "nil":
		var m map[string]int
		m[s] = 1 //nolint:staticcheck // it fails on purpose
	}
	return s, nil
}

func sum(k string, values func(*int64) bool) (string, int64) {
	var total, v int64
	for values(&v) {
		total += v
	}
	return k, total
}

func withSides(s string, all []string, lookup func(string) func(*int64) bool) string {
	var out []string
	var v int64
	for next := lookup(s); next(&v); {
		out = append(out, fmt.Sprint(v))
	}
	return s + " in " + strings.Join(all, ",") + " has " + strings.Join(out, ",")
}

// counting reports what it sees as metrics.
type counting struct{}

func (*counting) ProcessElement(ctx context.Context, s string) string {
	beam.NewCounter("bundletest", "seen").Inc(ctx, 1)
	beam.NewDistribution("bundletest", "length").Update(ctx, int64(len(s)))
	beam.NewGauge("bundletest", "last").Set(ctx, int64(len(s)))
	return s
}

// lifecycle emits nothing but when the bundle ends, and counts what happens to it in all.
type lifecycle struct {
	seen int
}

func (f *lifecycle) Setup()                   { record("setup") }
func (f *lifecycle) StartBundle(func(string)) { f.seen = 0 }

func (f *lifecycle) ProcessElement(string, func(string)) { f.seen++ }

func (f *lifecycle) FinishBundle(emit func(string)) { emit(fmt.Sprint("saw ", f.seen)) }
func (f *lifecycle) Teardown()                      { record("teardown") }

// gated waits at a gate before each element whose name begins with "wait".
type gated struct{}

func (*gated) ProcessElement(ctx context.Context, s string) string {
	if strings.HasPrefix(s, "wait") {
		waitAt(ctx, s)
	}
	return s
}

// stateful uses every kind of state, one after another by value: 0 reads all, other values are added.
type stateful struct {
	Last  state.Value[string]
	All   state.Bag[int64]
	Total state.Combining[int64, int64, int64]
	Times state.Map[string, int64]
	Seen  state.Set[string]
}

func newStateful() *stateful {
	return &stateful{
		Last:  state.MakeValueState[string]("last"),
		All:   state.MakeBagState[int64]("all"),
		Total: state.MakeCombiningState[int64, int64, int64]("total", &adding{}),
		Times: state.MakeMapState[string, int64]("times"),
		Seen:  state.MakeSetState[string]("seen"),
	}
}

type adding struct{}

func (*adding) MergeAccumulators(a, b int64) int64 { return a + b }

func (f *stateful) ProcessElement(p state.Provider, k string, n int64, emit func(string)) {
	if err := f.process(p, k, n, emit); err != nil {
		panic(err)
	}
}

func (f *stateful) process(p state.Provider, k string, n int64, emit func(string)) error {
	name := fmt.Sprintf("number %d", n)
	if n != 0 {
		return errors.Join(f.Last.Write(p, name), f.All.Add(p, n), f.Total.Add(p, n), f.Times.Put(p, name, n), f.Seen.Add(p, name))
	}
	last, _, err1 := f.Last.Read(p)
	all, _, err2 := f.All.Read(p)
	total, _, err3 := f.Total.Read(p)
	keys, _, err4 := f.Times.Keys(p)
	seen, _, err5 := f.Seen.Keys(p)
	slices.Sort(keys)
	slices.Sort(seen)
	var times []int64
	for _, k := range keys {
		v, _, err := f.Times.Get(p, k)
		if err != nil {
			return err
		}
		times = append(times, v)
	}
	emit(fmt.Sprint(k, " last=", last, " all=", all, " total=", total, " times=", times, " seen=", seen))
	return errors.Join(err1, err2, err3, err4, err5, f.All.Clear(p), f.Last.Clear(p))
}

// alarm sets a timer at second n for each element, 0 clears it, and says so when it fires.
type alarm struct {
	Wake timers.EventTime
	Sum  state.Value[int64]
}

func newAlarm() *alarm {
	return &alarm{Wake: timers.EventTime{Family: "wake"}, Sum: state.MakeValueState[int64]("sum")}
}

func (f *alarm) ProcessElement(sp state.Provider, tp timers.Provider, k string, n int64, emit func(string)) {
	if n == 0 {
		f.Wake.Clear(tp)
		return
	}
	if err := f.Sum.Write(sp, n); err != nil {
		panic(err)
	}
	f.Wake.Set(tp, time.Unix(n, 0))
}

func (f *alarm) OnTimer(_ context.Context, _ beam.EventTime, sp state.Provider, _ timers.Provider, k string, t timers.Context, emit func(string)) {
	n, _, err := f.Sum.Read(sp)
	if err != nil {
		panic(err)
	}
	emit(fmt.Sprint(k, " woke: ", t.Family, " sum=", n))
}

// counter is a splittable DoFn that emits the numbers of its restriction; "wait..." stops before each number at the gate
// of its name, "pause" asks to be resumed after every number.
type counter struct{}

func (*counter) CreateInitialRestriction(string) offsetrange.Restriction {
	return offsetrange.Restriction{End: 10}
}

func (*counter) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(r))
}

func (*counter) RestrictionSize(_ string, r offsetrange.Restriction) float64 { return r.Size() }

func (*counter) SplitRestriction(_ string, r offsetrange.Restriction) []offsetrange.Restriction {
	return []offsetrange.Restriction{r}
}

func (*counter) ProcessElement(rt *sdf.LockRTracker, s string, emit func(string)) sdf.ProcessContinuation {
	at := rt.GetRestriction().(offsetrange.Restriction).Start
	for ; rt.TryClaim(at); at++ {
		if strings.HasPrefix(s, "wait") {
			waitAt(context.Background(), s)
		}
		emit(fmt.Sprint(s, at))
		if s == "pause" {
			return sdf.ResumeProcessingIn(7 * time.Second)
		}
	}
	return sdf.StopProcessing()
}

// finalizing registers a finalizer for each element.
type finalizing struct{}

func (*finalizing) ProcessElement(bf beam.BundleFinalization, s string) string {
	bf.RegisterCallback(time.Hour, func() error {
		record("finalized " + s)
		if s == "fails" {
			return errors.New("cannot finalize")
		}
		return nil
	})
	return s
}

// A gate stops DoFns until the test opens it. Gates and records are how the suite sees into DoFns that run in its own
// process.
type gate struct {
	arrived chan struct{} // one value for each arrival
	open    chan struct{}
}

//nolint:gochecknoglobals // DoFns are made by Beam: memory is all that they and the suite have in common
var (
	gates   sync.Map   // name -> *gate
	records sync.Map   // text -> *int
	mu      sync.Mutex // of the counts in records
)

// newGate makes the gate that DoFns wait at under a name.
func newGate(name string) *gate {
	g := &gate{arrived: make(chan struct{}, 100), open: make(chan struct{})}
	gates.Store(name, g)
	return g
}

func waitAt(ctx context.Context, name string) {
	v, ok := gates.Load(name)
	if !ok {
		return
	}
	g := v.(*gate)
	g.arrived <- struct{}{}
	select {
	case <-g.open:
	case <-ctx.Done():
	}
}

func record(what string) {
	mu.Lock()
	defer mu.Unlock()
	v, _ := records.LoadOrStore(what, new(int))
	*v.(*int)++
}

// recorded returns how often something was recorded since it was last asked for.
func recorded(what string) int {
	mu.Lock()
	defer mu.Unlock()
	v, ok := records.LoadAndDelete(what)
	if !ok {
		return 0
	}
	return *v.(*int)
}

func makeKV(s string) (string, int64) { return s, int64(len(s)) }

func restriction(from, to int64) offsetrange.Restriction {
	return offsetrange.Restriction{Start: from, End: to}
}

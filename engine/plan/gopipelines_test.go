package plan

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
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window/trigger"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/io/filesystem/local"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/textio"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/teststream"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"google.golang.org/protobuf/proto"
)

// The functions of the test pipelines. They never run here.

func words(line string, emit func(string)) {
	for _, w := range strings.Fields(line) {
		emit(w)
	}
}

func format(word string, n int) string { return fmt.Sprintf("%s: %d", word, n) }

func byLength(word string) (int, string) { return len(word), word }

func lookUp(word string, all func(*string) bool, lengths func(int) func(*string) bool) string {
	return word
}

func join(k int, as func(*string) bool, bs func(*string) bool) string { return "" }

func joinWithSide(k int, as func(*string) bool, bs func(*string) bool, side func(*string) bool) string {
	return ""
}

func evenOdd(word string, even, odd func(string)) {}

type ranges struct{}

func (*ranges) CreateInitialRestriction(n int) offsetrange.Restriction {
	return offsetrange.Restriction{End: int64(n)}
}
func (*ranges) SplitRestriction(n int, r offsetrange.Restriction) []offsetrange.Restriction {
	return r.EvenSplits(2)
}
func (*ranges) RestrictionSize(n int, r offsetrange.Restriction) float64 { return r.Size() }
func (*ranges) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(r))
}
func (*ranges) ProcessElement(rt *sdf.LockRTracker, n int, emit func(int)) {}

// deduplicate has state and timers of both time domains.
type deduplicate struct {
	Seen   state.Value[bool]
	Last   state.Bag[string]
	Expire timers.EventTime
	Sweep  timers.ProcessingTime
}

func (d *deduplicate) ProcessElement(sp state.Provider, tp timers.Provider, k int, v string, emit func(int, string)) {
}
func (d *deduplicate) OnTimer(ctx context.Context, ts beam.EventTime, sp state.Provider, tp timers.Provider, k int, timer timers.Context, emit func(int, string)) {
}

// point has a custom coder, unknown to the runner, as all Go structs that beam cannot describe.
type point struct{ X, Y int }

func onlyPoint(p point, n int) point { return p }

func fromBytes(b []byte) string { return "" }

func fromInt(int) string { return "" }

func toPoint(word string) (point, int) { return point{}, 1 }

func init() {
	register.Function2x0(words)
	register.Function2x1(format)
	register.Function1x2(byLength)
	register.Function3x1(lookUp)
	register.Function3x1(join)
	register.Function4x1(joinWithSide)
	register.Function3x0(evenOdd)
	register.Function1x2(toPoint)
	register.Function2x1(onlyPoint)
	register.Function1x1(fromBytes)
	register.Function1x1(fromInt)
	register.Function2x1(format2)
	register.DoFn3x0[*sdf.LockRTracker, int, func(int)](&ranges{})
	register.DoFn5x0[state.Provider, timers.Provider, int, string, func(int, string)](&deduplicate{})
}

// goPipelines build pipelines with the Go SDK, by the name that testdata/go uses.
var goPipelines = map[string]func(s beam.Scope){
	"wordcount": func(s beam.Scope) {
		lines := textio.Read(s, "/in/*.txt")
		counts := stats.Count(s, beam.ParDo(s, words, lines))
		textio.Write(s, "/out.txt", beam.ParDo(s, format, counts))
	},
	"windowed": func(s beam.Scope) {
		w := beam.WindowInto(s, window.NewSessions(time.Minute), beam.Create(s, "a", "b"))
		stats.Count(s, w)
	},
	"counting trigger": func(s beam.Scope) {
		w := beam.WindowInto(s, window.NewFixedWindows(time.Minute), beam.Create(s, "a", "b"),
			beam.Trigger(trigger.Repeat(trigger.AfterCount(2))), beam.PanesAccumulate())
		stats.Count(s, w)
	},
	"side inputs": func(s beam.Scope) {
		a := beam.Create(s, "a", "b")
		b := beam.ParDo(s, words, a)
		beam.ParDo(s, words, beam.ParDo(s, lookUp, a, beam.SideInput{Input: b}, beam.SideInput{Input: beam.ParDo(s, byLength, b)}))
	},
	"flatten": func(s beam.Scope) {
		imp := beam.Impulse(s)
		a := beam.ParDo(s, fromBytes, imp)
		even, odd := beam.ParDo2(s, evenOdd, a)
		all := beam.Flatten(s, even, odd, beam.Create(s, "c"))
		beam.ParDo(s, words, all)
		stats.Count(s, all)
	},
	"flatten of native": func(s beam.Scope) {
		all := beam.Flatten(s, beam.Impulse(s), beam.Impulse(s), beam.Reshuffle(s, beam.Impulse(s)))
		beam.ParDo(s, fromBytes, all)
	},
	"cogbk": func(s beam.Scope) {
		a := beam.ParDo(s, byLength, beam.Create(s, "a"))
		b := beam.ParDo(s, byLength, beam.Create(s, "b"))
		c := beam.CoGroupByKey(s, a, b)
		beam.ParDo(s, join, c)
		beam.ParDo(s, joinWithSide, c, beam.SideInput{Input: beam.Create(s, "side")})
	},
	"splittable": func(s beam.Scope) {
		beam.ParDo(s, words, beam.ParDo(s, fromInt, beam.ParDo(s, &ranges{}, beam.Create(s, 1, 2))))
	},
	"stateful": func(s beam.Scope) {
		in := beam.ParDo(s, byLength, beam.Create(s, "a"))
		d := &deduplicate{
			Seen: state.MakeValueState[bool]("seen"), Last: state.MakeBagState[string]("last"),
			Expire: timers.InEventTime("expire"), Sweep: timers.InProcessingTime("sweep"),
		}
		beam.ParDo(s, format2, beam.ParDo(s, d, in))
	},
	"reshuffle": func(s beam.Scope) {
		a := beam.Create(s, "a", "b")
		r := beam.Reshuffle(s, a)
		beam.ParDo(s, words, r)
		beam.ParDo(s, words, a)
		beam.ParDo(s, words, beam.Reshuffle(s, r))
	},
	"custom key": func(s beam.Scope) {
		beam.GroupByKey(s, beam.ParDo(s, toPoint, beam.Create(s, "a")))
		stats.Count(s, beam.ParDo(s, onlyPoint, beam.ParDo(s, toPoint, beam.Create(s, "a"))))
	},
	"test stream": func(s beam.Scope) {
		con := teststream.NewConfig()
		_ = con.AddElements(100, "a", "b")
		con.AdvanceWatermarkToInfinity()
		stats.Count(s, teststream.Create(s, con))
	},
}

func format2(k int, v string) string { return v }

// goPipeline returns one of goPipelines as a proto.
func goPipeline(t testing.TB, name string) *pipepb.Pipeline {
	build, ok := goPipelines[name]
	if !ok {
		t.Fatalf("there is no Go pipeline %q", name)
	}
	p := beam.NewPipeline()
	build(p.Root())
	edges, _, err := p.Build()
	if err != nil {
		t.Fatal(err)
	}
	env, err := graphx.CreateEnvironment(context.Background(), "beam:env:external:v1", func(context.Context) string { return "localhost:1" })
	if err != nil {
		t.Fatal(err)
	}
	out, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		t.Fatal(err)
	}
	// The SDK orders roots at random.
	sorted := proto.Clone(out).(*pipepb.Pipeline)
	slices.SortFunc(sorted.RootTransformIds, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	})
	return sorted
}

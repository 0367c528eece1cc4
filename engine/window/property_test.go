package window

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// event is one thing that happens to a key: a batch, or a clock that moves.
type event struct {
	batch      []int64 // timestamps
	watermark  int64   // 0: stays
	processing int64   // 0: stays
}

// drawEvents makes a history that ends with the end of time. Some elements are late, some too late.
func drawEvents(t *rapid.T) []event {
	var events []event
	watermark, processing := int64(0), int64(0)
	for range rapid.IntRange(1, 25).Draw(t, "events") {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			watermark += rapid.Int64Range(1, 12).Draw(t, "watermark")
			events = append(events, event{watermark: watermark})
		case 1:
			processing += rapid.Int64Range(1, 12).Draw(t, "processing")
			events = append(events, event{processing: processing})
		default:
			at := rapid.Int64Range(max(0, watermark-25), watermark+15)
			events = append(events, event{batch: rapid.SliceOfN(at, 1, 5).Draw(t, "batch")})
		}
	}
	return append(events, event{watermark: coder.MaxTimestamp})
}

// history plays events and calls done after each with what came of it.
func history(s *strategy, events []event, done func(k *fakeKey, e event, elems []Element, panes []pane, dropped int) error) (*fakeKey, error) {
	g, err := s.compile()
	if err != nil {
		return nil, err
	}
	k := newFakeKey(g)
	n := 0
	for _, e := range events {
		k.watermark = max(k.watermark, e.watermark)
		if e.watermark == 0 && k.watermark == coder.MinTimestamp {
			k.watermark = 0
		}
		if e.processing > 0 {
			k.processing, k.synchronized = e.processing, e.processing
		}
		var elems []Element
		for _, ts := range e.batch {
			elems = append(elems, s.assign.element(ts, fmt.Sprintf("%d:%d", n, ts)))
			n++
		}
		if len(elems) > 0 {
			if err := g.Elements(k, elems); err != nil {
				return nil, err
			}
		}
		if err := k.settle(); err != nil {
			return nil, err
		}
		panes, dropped := k.take()
		if err := done(k, e, elems, panes, dropped); err != nil {
			return nil, fmt.Errorf("after %+v: %w", e, err)
		}
	}
	return k, nil
}

// never lose anything: none of these triggers finishes before the window expires.
var endless = []string{
	"default", "repeat(default)", "always", "never", "repeat(count(1))", "repeat(count(3))", "repeat(ptime(7))", "repeat(synced)",
	"eow(early=count(2),late=count(1))", "eow(early=ptime(3),late=count(2))", "eow(late=repeat(any(count(3),ptime(9))))",
	"repeat(any(count(2),eow()))", "repeat(all(count(2),ptime(4)))", "repeat(each(count(1),count(2),ptime(3)))",
	"repeat(finally(repeat(count(2)),count(5)))", "repeat(all(always,count(2)))", "eow(early=always,late=always)",
	"repeat(ptime(2,align=5+1))",
}

var windowings = []string{"global", "fixed=10", "sliding=10/5", "sliding=30/3", "sessions=6", "samestart=20"}

// TestNothingIsLost checks what holds for every trigger that does not finish: each element of each window is in exactly one pane
// when discarding, and in all panes from its first on when accumulating; panes are numbered and timed as Beam says; nothing is
// behind the output watermark that is not called late; and nothing is left at the end.
func TestNothingIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := []string{
			rapid.SampledFrom(windowings).Draw(t, "windows"),
			"trigger=" + rapid.SampledFrom(endless).Draw(t, "trigger"),
			fmt.Sprintf("lateness=%d", rapid.SampledFrom([]int{0, 5, 30}).Draw(t, "lateness")),
			rapid.SampledFrom([]string{"discarding", "accumulating"}).Draw(t, "mode"),
			rapid.SampledFrom([]string{"", "earliest", "latest"}).Draw(t, "output"),
			rapid.SampledFrom([]string{"", "closing-always"}).Draw(t, "closing"),
			rapid.SampledFrom([]string{"", "ontime-if-nonempty"}).Draw(t, "ontime"),
		}
		s, err := parseStrategy(strings.Join(words, " "))
		if err != nil {
			t.Fatal(err)
		}
		ledger := newLedger(s)
		k, err := history(s, drawEvents(t), ledger.account)
		if err != nil {
			t.Fatalf("%s: %v", words, err)
		}
		if left := k.left(); left != "" {
			t.Fatalf("%s: left at the end of time:\n%s", words, left)
		}
		if err := ledger.close(); err != nil {
			t.Fatalf("%s: %v", words, err)
		}
	})
}

// ledger counts what went in and what came out.
type ledger struct {
	merging, accumulating bool
	lateness              int64
	owed                  map[string]int      // by element: how often it has to come for the first time
	windows               map[string][]pane   // by window: its panes
	seen                  map[string][]string // by window: values so far, when accumulating
	got                   map[string]int      // by element: how often it came
}

func newLedger(s *strategy) *ledger {
	g, _ := s.compile()
	return &ledger{
		merging: g.merger != nil, accumulating: g.accumulating, lateness: g.lateness,
		owed: map[string]int{}, windows: map[string][]pane{}, seen: map[string][]string{}, got: map[string]int{},
	}
}

func (l *ledger) account(k *fakeKey, _ event, elems []Element, panes []pane, dropped int) error {
	for _, elem := range elems {
		for window := range k.g.wc.Each(elem.NumWindows, elem.Windows) {
			expires, err := k.g.Expiry(window)
			if err != nil {
				return err
			}
			if k.watermark > expires {
				dropped--
				continue
			}
			l.owed[string(elem.Value)]++
		}
	}
	if dropped != 0 {
		return fmt.Errorf("%d more elements dropped than were too late", dropped)
	}
	for _, p := range panes {
		if err := l.pane(p); err != nil {
			return fmt.Errorf("%v: %w", p, err)
		}
	}
	return nil
}

func (l *ledger) pane(p pane) error {
	window := string(p.window)
	before := l.windows[window]
	l.windows[window] = append(before, p)
	if err := follows(before, p, l.merging); err != nil {
		return err
	}
	values := p.values
	if l.accumulating {
		if len(before) > 0 && !p.First {
			last := before[len(before)-1].values
			// Merged buffers may come in another order.
			for _, v := range last {
				if !slices.Contains(p.values, v) {
					return fmt.Errorf("%s was in the pane before", v)
				}
			}
		}
		if !l.merging {
			values = values[len(l.seen[window]):]
			l.seen[window] = p.values
		}
	}
	for _, v := range values {
		l.got[v]++
	}
	return nil
}

// follows checks a pane against those before it of its window. A merged window may be there again after it has merged with others.
func follows(before []pane, p pane, merging bool) error {
	if p.First != (p.Index == 0) {
		return fmt.Errorf("first is not the same as index 0")
	}
	if (p.Timing == coder.Early) != (p.NonSpeculativeIndex == -1) {
		return fmt.Errorf("early is not the same as no non-speculative index")
	}
	if len(before) == 0 || merging && p.First {
		if !p.First || p.NonSpeculativeIndex > 0 {
			return fmt.Errorf("is the first but does not say so")
		}
		return nil
	}
	last := before[len(before)-1]
	switch {
	case last.Last:
		return fmt.Errorf("comes after the last")
	case p.Index != last.Index+1:
		return fmt.Errorf("the index before was %d", last.Index)
	case p.Timing != coder.Early && p.NonSpeculativeIndex != last.NonSpeculativeIndex+1:
		return fmt.Errorf("the non-speculative index before was %d", last.NonSpeculativeIndex)
	case p.Timing < last.Timing, p.Timing == coder.OnTime && last.Timing == coder.OnTime:
		return fmt.Errorf("comes after a pane that is %v", last.Timing)
	}
	return nil
}

func (l *ledger) close() error {
	for v, n := range l.owed {
		switch got := l.got[v]; {
		case got < n, got > n && (!l.accumulating || !l.merging):
			return fmt.Errorf("%s came %d times, not %d", v, got, n)
		}
	}
	for v := range l.got {
		if l.owed[v] == 0 {
			return fmt.Errorf("%s was too late, but came", v)
		}
	}
	return nil
}

// reference is the obviously right model of the default trigger and of repeated counts, without merging: it keeps all elements, and
// looks at each window after each event.
type reference struct {
	count        int64 // repeat(count(n)); 0 for the default trigger
	lateness     int64
	accumulating bool
	watermark    int64
	windows      map[string]*referenceWindow
}

type referenceWindow struct {
	window      []byte
	end         int64
	all, fresh  []string
	index, late int64
	gone        bool
}

func (r *reference) event(g *Grouping, watermark int64, elems []Element) (panes []string) {
	r.watermark = watermark
	var touched []*referenceWindow
	for _, elem := range elems {
		for window := range g.wc.Each(elem.NumWindows, elem.Windows) {
			w := r.windows[string(window)]
			if w == nil {
				w = &referenceWindow{window: window, end: must(g.End(window))}
				r.windows[string(window)] = w
			}
			if watermark > w.end+r.lateness {
				continue
			}
			w.all, w.fresh = append(w.all, string(elem.Value)), append(w.fresh, string(elem.Value))
			if r.count > 0 && int64(len(w.fresh)) == r.count {
				panes = append(panes, r.pane(w, false))
			} else if !slices.Contains(touched, w) {
				touched = append(touched, w)
			}
		}
	}
	for _, w := range touched {
		if r.count == 0 && watermark > w.end && len(w.fresh) > 0 {
			panes = append(panes, r.pane(w, false))
		}
	}
	for _, w := range r.windows {
		expired := watermark > w.end+r.lateness && !w.gone
		if len(w.fresh) > 0 && (r.count == 0 && watermark > w.end || expired) {
			panes = append(panes, r.pane(w, expired))
		}
		w.gone = w.gone || expired
	}
	slices.Sort(panes)
	return panes
}

func (r *reference) pane(w *referenceWindow, last bool) string {
	p := pane{
		window: w.window, ts: w.end, values: w.fresh,
		Pane: coder.Pane{First: w.index == 0, Last: last, Index: w.index, NonSpeculativeIndex: w.late},
	}
	switch {
	case w.late > 0:
		p.Timing = coder.Late
	case r.watermark > w.end:
		p.Timing = coder.OnTime
	default:
		p.Timing, p.NonSpeculativeIndex = coder.Early, -1
	}
	if r.accumulating {
		p.values = slices.Clone(w.all)
	}
	if w.fresh = nil; p.Timing != coder.Early {
		w.late++
	}
	w.index++
	return p.String()
}

func must(ms int64, err error) int64 {
	if err != nil {
		panic(err)
	}
	return ms
}

// TestReference compares with the model, pane by pane.
func TestReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.Int64Range(0, 4).Draw(t, "count")
		trigger := "default"
		if count > 0 {
			trigger = fmt.Sprintf("repeat(count(%d))", count)
		}
		lateness := rapid.SampledFrom([]int64{0, 5, 30}).Draw(t, "lateness")
		mode := rapid.SampledFrom([]string{"discarding", "accumulating"}).Draw(t, "mode")
		windows := rapid.SampledFrom([]string{"fixed=10", "sliding=10/5"}).Draw(t, "windows")
		s, err := parseStrategy(fmt.Sprintf("%s trigger=%s lateness=%d %s", windows, trigger, lateness, mode))
		if err != nil {
			t.Fatal(err)
		}
		ref := &reference{
			count: count, lateness: lateness, accumulating: mode == "accumulating",
			windows: map[string]*referenceWindow{},
		}
		_, err = history(s, drawEvents(t), func(k *fakeKey, _ event, elems []Element, panes []pane, _ int) error {
			var got []string
			for _, p := range panes {
				// A window whose elements were all late is late downstream; the model knows no output watermark.
				if p.Timing == coder.Late && p.NonSpeculativeIndex == 0 {
					p.Timing = coder.OnTime
				}
				got = append(got, p.String())
			}
			slices.Sort(got)
			if want := ref.event(k.g, k.watermark, elems); !slices.Equal(got, want) {
				return fmt.Errorf("got  %q\nwant %q", got, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// openSession is a session of the model.
type openSession struct {
	start, end int64
	values     []string
}

// join adds a session to open ones: it unites with one that it overlaps, and the union is added in its place.
func join(open []openSession, s openSession) []openSession {
	for i, o := range open {
		if o.end > s.start && s.end > o.start {
			return join(slices.Delete(open, i, i+1), openSession{min(o.start, s.start), max(o.end, s.end), append(s.values, o.values...)})
		}
	}
	return append(open, s)
}

// TestSessionsReference compares sessions of the default trigger without lateness with a model that takes one element after the
// other.
func TestSessionsReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gap := rapid.Int64Range(1, 12).Draw(t, "gap")
		s, err := parseStrategy(fmt.Sprintf("sessions=%d", gap))
		if err != nil {
			t.Fatal(err)
		}
		var open []openSession
		_, err = history(s, drawEvents(t), func(k *fakeKey, _ event, elems []Element, panes []pane, _ int) error {
			for _, elem := range elems {
				if end := elem.Timestamp + gap; k.watermark < end {
					open = join(open, openSession{elem.Timestamp, end, []string{string(elem.Value)}})
				}
			}
			var want, got []string
			open = slices.DeleteFunc(open, func(o openSession) bool {
				if k.watermark < o.end {
					return false
				}
				slices.Sort(o.values)
				want = append(want, fmt.Sprintf("[%d,%d) %s", o.start, o.end, o.values))
				return true
			})
			for _, p := range panes {
				slices.Sort(p.values)
				got = append(got, fmt.Sprintf("%s %s", showWindow(p.window), p.values))
				if !p.First || !p.Last || p.Timing != coder.OnTime {
					return fmt.Errorf("%v is not the only, on-time pane", p)
				}
			}
			slices.Sort(got)
			if slices.Sort(want); !slices.Equal(got, want) {
				return fmt.Errorf("got  %q\nwant %q", got, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

package window

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// fakeKey is a Context in memory, with the part of an engine around it: it fires timers in time order, and moves the output
// watermark only after that.
type fakeKey struct {
	g *Grouping

	cells   map[string][]byte
	buffers map[string][]string
	timers  map[fakeTimer]int64
	holds   map[string]int64

	watermark, output, processing, synchronized int64

	panes   []pane
	dropped int
	ops     map[string]int // calls by method
}

type fakeTimer struct {
	slot   string
	domain Domain
}

// pane is a Firing with its values read.
type pane struct {
	window []byte
	ts     int64
	coder.Pane
	values []string
}

var _ Context = (*fakeKey)(nil)

func newFakeKey(g *Grouping) *fakeKey {
	return &fakeKey{
		g:     g,
		cells: map[string][]byte{}, buffers: map[string][]string{}, timers: map[fakeTimer]int64{}, holds: map[string]int64{},
		watermark: coder.MinTimestamp, output: coder.MinTimestamp,
		ops: map[string]int{},
	}
}

func (k *fakeKey) Get(slot []byte) ([]byte, error) {
	k.ops["get"]++
	if v, ok := k.cells[string(slot)]; ok {
		return slices.Clone(v), nil
	}
	return nil, nil
}

func (k *fakeKey) Set(slot, v []byte) error {
	k.ops["set"]++
	k.cells[string(slot)] = slices.Clone(v)
	return nil
}

func (k *fakeKey) Delete(slot []byte) error {
	if _, ok := k.cells[string(slot)]; !ok {
		return fmt.Errorf("cell %x is not there", slot)
	}
	delete(k.cells, string(slot))
	return nil
}

func (k *fakeKey) Append(slot, value []byte) error {
	k.buffers[string(slot)] = append(k.buffers[string(slot)], string(value))
	return nil
}

func (k *fakeKey) ClearBuffer(slot []byte) error {
	delete(k.buffers, string(slot))
	return nil
}

func (k *fakeKey) SetTimer(slot []byte, d Domain, fire int64) error {
	k.ops["timer"]++
	k.timers[fakeTimer{string(slot), d}] = fire
	return nil
}

func (k *fakeKey) ClearTimer(slot []byte, d Domain) error {
	k.ops["timer"]++
	if _, ok := k.timers[fakeTimer{string(slot), d}]; !ok {
		return fmt.Errorf("%v timer of %x is not there", d, slot)
	}
	delete(k.timers, fakeTimer{string(slot), d})
	return nil
}

func (k *fakeKey) SetHold(slot []byte, ts int64) error {
	k.ops["hold"]++
	if ts < k.output {
		return fmt.Errorf("hold at %d is behind the output watermark %d", ts, k.output)
	}
	k.holds[string(slot)] = ts
	return nil
}

func (k *fakeKey) ClearHold(slot []byte) error {
	k.ops["hold"]++
	if _, ok := k.holds[string(slot)]; !ok {
		return fmt.Errorf("hold of %x is not there", slot)
	}
	delete(k.holds, string(slot))
	return nil
}

func (k *fakeKey) Emit(f Firing) error {
	p := pane{window: slices.Clone(f.Window), ts: f.Timestamp, Pane: f.Pane}
	for _, slot := range f.Buffers {
		p.values = append(p.values, k.buffers[string(slot)]...)
		if f.Clear {
			delete(k.buffers, string(slot))
		}
	}
	if f.Pane.Timing != coder.Late && f.Timestamp < k.output {
		return fmt.Errorf("an %v pane at %d is behind the output watermark %d", f.Pane.Timing, f.Timestamp, k.output)
	}
	if int64(len(p.values)) != f.Count {
		return fmt.Errorf("the pane's count is %d, its buffers hold %d", f.Count, len(p.values))
	}
	k.panes = append(k.panes, p)
	return nil
}

func (k *fakeKey) Drop(n int)                        { k.dropped += n }
func (k *fakeKey) Watermark() int64                  { return k.watermark }
func (k *fakeKey) OutputWatermark() int64            { return k.output }
func (k *fakeKey) ProcessingTime() int64             { return k.processing }
func (k *fakeKey) SynchronizedProcessingTime() int64 { return k.synchronized }

func (k *fakeKey) clock(d Domain) int64 {
	return [...]int64{k.watermark, k.processing, k.synchronized}[d]
}

// settle fires what is due and then moves the output watermark.
func (k *fakeKey) settle() error {
	for range 10_000 {
		var next fakeTimer
		found := false
		for _, t := range slices.SortedFunc(maps.Keys(k.timers), func(a, b fakeTimer) int {
			return strings.Compare(a.slot, b.slot)*domains + int(a.domain) - int(b.domain)
		}) {
			if k.timers[t] <= k.clock(t.domain) && (!found || k.timers[t] < k.timers[next]) {
				next, found = t, true
			}
		}
		if !found {
			k.output = k.watermark
			for _, hold := range k.holds {
				k.output = min(k.output, hold)
			}
			return nil
		}
		fire := k.timers[next]
		delete(k.timers, next)
		if err := k.g.Timer(k, []byte(next.slot), next.domain, fire); err != nil {
			return err
		}
	}
	return fmt.Errorf("timers fire for ever: %v", k.timers)
}

// take returns the panes and drops since the last call.
func (k *fakeKey) take() (panes []pane, dropped int) {
	panes, dropped = k.panes, k.dropped
	k.panes, k.dropped = nil, 0
	return panes, dropped
}

// left says what is still stored; "" when nothing is.
func (k *fakeKey) left() string {
	var b strings.Builder
	for _, slot := range slices.Sorted(maps.Keys(k.cells)) {
		fmt.Fprintf(&b, "cell %s, %d bytes\n", k.name(slot), len(k.cells[slot]))
	}
	for _, slot := range slices.Sorted(maps.Keys(k.buffers)) {
		fmt.Fprintf(&b, "buffer %s: %s\n", k.name(slot), strings.Join(k.buffers[slot], " "))
	}
	for _, slot := range slices.Sorted(maps.Keys(k.holds)) {
		fmt.Fprintf(&b, "hold %s: %s\n", k.name(slot), showTime(k.holds[slot]))
	}
	for _, t := range slices.SortedFunc(maps.Keys(k.timers), func(a, b fakeTimer) int {
		return strings.Compare(fmt.Sprint(a.slot, a.domain), fmt.Sprint(b.slot, b.domain))
	}) {
		fmt.Fprintf(&b, "%v timer %s: %s\n", t.domain, k.name(t.slot), showTime(k.timers[t]))
	}
	return b.String()
}

func (k *fakeKey) name(slot string) string {
	if k.g.merger != nil {
		if slot == "" {
			return "of the key"
		}
		return fmt.Sprintf("#%x", slot)
	}
	return showWindow([]byte(slot))
}

func showWindow(w []byte) string {
	if len(w) == 0 {
		return "global"
	}
	start, end, _, err := coder.ParseInterval(w)
	if err != nil {
		return fmt.Sprintf("%x", w)
	}
	return fmt.Sprintf("[%d,%d)", start, end)
}

func showTime(ms int64) string {
	switch {
	case ms == coder.MinTimestamp:
		return "min"
	case ms == coder.MaxTimestamp:
		return "max"
	case ms >= coder.EndOfGlobalWindow:
		return fmt.Sprintf("eogw+%d", ms-coder.EndOfGlobalWindow)
	}
	return fmt.Sprint(ms)
}

func (p pane) String() string {
	s := fmt.Sprintf("%s @%s %v %d/%d", showWindow(p.window), showTime(p.ts), p.Timing, p.Index, p.NonSpeculativeIndex)
	if p.First {
		s += " first"
	}
	if p.Last {
		s += " last"
	}
	return s + ": " + strings.Join(p.values, " ")
}

package web

import (
	"fmt"
	"math"
	"testing"
	"time"
)

func largeJob(stages int) ([]Stage, []stageRates) {
	var list []Stage
	for k := range stages {
		list = append(list, Stage{Name: fmt.Sprint("stage", k), OutputWatermark: MinWatermark, Subtasks: make([]Subtask, 20)})
	}
	return list, make([]stageRates, stages)
}

// TestHistoryIsBounded: 15 minutes of 200 stages take less than 1 MB, and many jobs no more than three times of that.
func TestHistoryIsBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	bytes := func(h *history) (n, stages int) {
		for _, j := range h.jobs {
			n += 4 * cap(j.whole.data)
			for name, r := range j.stages {
				n += 4*cap(r.data) + len(name) + 200 // with the map's share and the ring itself
				stages++
			}
		}
		return n, stages
	}
	h := newHistory()
	stages, rates := largeJob(200)
	for k := range 3 * historyPoints {
		h.add(Info{ID: "a"}, stages, rates, now.Add(time.Duration(k)*historyStep))
	}
	if n, _ := bytes(h); n > 1_000_000 {
		t.Errorf("a job of 200 stages takes %d bytes", n)
	}
	for _, id := range []string{"b", "c", "d"} {
		h.add(Info{ID: id}, stages, rates, now)
	}
	if _, n := bytes(h); n != maxHistories {
		t.Errorf("%d stages have a history, want %d", n, maxHistories)
	}
	h.keep(map[string]bool{"a": true, "b": false, "c": false, "d": false}) // a has ended
	h.add(Info{ID: "d"}, stages, rates, now)
	if _, n := bytes(h); h.jobs["a"] != nil || len(h.jobs["d"].stages) != 200 || n != maxHistories {
		t.Errorf("an ended job has kept its history, or d has got none: %d of %d", len(h.jobs["d"].stages), n)
	}
	h.keep(map[string]bool{"b": false})
	if len(h.jobs) != 1 || len(h.order) != 1 {
		t.Errorf("forgotten jobs are remembered: %v", h.order)
	}
}

func TestRing(t *testing.T) {
	r := ring{width: 2}
	for k := range historyPoints + 5 {
		r.add(float64(k), -float64(k))
	}
	got := r.series(1)
	if len(got) != historyPoints || got[0] != -5 || got[historyPoints-1] != -float64(historyPoints+4) {
		t.Errorf("%d points from %v to %v", len(got), got[0], got[len(got)-1])
	}
}

func TestLag(t *testing.T) {
	now := time.UnixMilli(10_000)
	at := func(ms int64) Stage { return Stage{OutputWatermark: ms} }
	for _, c := range []struct {
		stages []Stage
		want   float64
	}{
		{nil, unknown()},
		{[]Stage{at(MinWatermark), at(MaxWatermark)}, unknown()},
		{[]Stage{at(MinWatermark), at(9_000), at(4_000), at(8_000)}, 6_000},
		{[]Stage{at(20_000)}, 0},
	} {
		if got := jobLag(c.stages, now); got != c.want && !(math.IsNaN(got) && math.IsNaN(c.want)) {
			t.Errorf("%+v: %v, want %v", c.stages, got, c.want)
		}
	}
}

// TestMemoryParts: the parts sum up to what is resident, whatever the Go runtime has mapped beyond it.
func TestMemoryParts(t *testing.T) {
	g := goMemory{heapUsed: 40, heapCommitted: 60, stacks: 3, other: 7}
	m := Memory{PoolUsed: 10, CacheInUse: 8, MemTables: 2, ResidentFile: 30}
	sum := func(resident int64, cgo bool) (total int64, by map[string]int64) {
		m.Resident, m.StateOutsideGo = resident, cgo
		by = make(map[string]int64)
		for _, p := range memoryParts(m, g) {
			total += p.Bytes
			by[p.Name] = p.Bytes
		}
		return total, by
	}
	total, by := sum(105, false)
	if total != 105 || by["heap"] != 20 || by["free"] != 20 || by["rest"] != 5 {
		t.Errorf("%d %v", total, by)
	}
	if total, by = sum(90, false); total != 90 || by["free"] != 10 || by["rest"] != 0 || by["heap"] != 20 {
		t.Errorf("less than mapped: %d %v", total, by)
	}
	if total, by = sum(120, true); total != 120 || by["heap"] != 30 || by["rest"] != 10 {
		t.Errorf("with cgo: %d %v", total, by)
	}
	if _, by = sum(-1, false); by["heap"] != 20 || by["rest"] != 0 {
		t.Errorf("not known: %v", by)
	}
}

func TestRecent(t *testing.T) {
	var r recent
	i := Info{Slots: 2}
	now := time.Unix(1e9, 0)
	look := func(after time.Duration, records int64) ([]Rates, bool) {
		now = now.Add(after)
		return r.rates(i, []Counters{{RecordsIn: records, Busy: time.Duration(records) * time.Millisecond}}, 2, now)
	}
	if _, ok := look(0, 1000); ok {
		t.Error("one look makes no rate")
	}
	for k := range int64(20) {
		got, ok := look(2*time.Second, 1000+200*(k+1))
		if !ok || math.Abs(got[0].RecordsIn-100) > 1e-9 || math.Abs(got[0].Busy-0.05) > 1e-9 {
			t.Fatalf("look %d: %v %+v", k, ok, got)
		}
	}
	if got, _ := look(2*time.Second, 1000+200*20+1000); got[0].RecordsIn <= 100 || len(r.looks) > recentLooks {
		t.Errorf("a burst: %+v of %d looks", got[0], len(r.looks))
	}
	i.Restarts++
	if _, ok := look(2*time.Second, 3); ok {
		t.Error("a restart begins anew")
	}
	if _, ok := look(time.Minute, 3); !ok || len(r.looks) != 2 {
		t.Error("after a pause the old look is still the first")
	}
}

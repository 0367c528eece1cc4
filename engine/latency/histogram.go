package latency

import (
	"cmp"
	"math/bits"
	"slices"
	"time"
)

const (
	// Generation is how long values are added to one generation.
	Generation = time.Minute

	// unit is the width of the least buckets; splits is how many buckets each doubling has, and the multiple of unit up to which
	// all are as wide as that.
	unit      = time.Millisecond / splits
	splitBits = 4
	splits    = 1 << splitBits
	// buckets is their number. The last one has all that is longer.
	buckets = splits * (1 + 31)
)

// Histogram is of durations. The zero value is empty. Not safe for concurrent use.
type Histogram struct {
	began    time.Time // of the younger generation
	young    generation
	old      generation
	observed int64
	sum      time.Duration
}

// generation is of the values of a minute.
type generation struct {
	cells    []cell // by bucket, ascending
	count    int64
	sum      time.Duration
	min, max time.Duration // if count > 0
}

// cell is a bucket with values.
type cell struct {
	bucket uint16
	count  uint32
}

// bucketOf returns the bucket of a duration.
func bucketOf(d time.Duration) uint16 {
	n := uint64(max(0, d) / unit)
	if n < splits {
		return uint16(n)
	}
	shift := bits.Len64(n) - 1 - splitBits // n>>shift is in [splits, 2*splits)
	return uint16(min(uint64(shift)*splits+n>>shift, buckets-1))
}

// middle returns the middle of a bucket.
func middle(bucket uint16) time.Duration {
	if bucket < splits {
		return unit*time.Duration(bucket) + unit/2
	}
	shift := bucket/splits - 1
	return (unit*time.Duration(bucket%splits+splits) + unit/2) << shift
}

// Record adds a duration; one below zero counts as zero. now must not go back.
func (h *Histogram) Record(now time.Time, d time.Duration) {
	d = max(0, d)
	h.turn(now)
	h.observed++
	h.sum += d
	h.young.add(d)
}

// turn begins a new generation if it is time.
func (h *Histogram) turn(now time.Time) {
	switch age := now.Sub(h.began); {
	case age < Generation:
	case age < 2*Generation:
		h.old, h.young = h.young, generation{cells: h.old.cells[:0]}
		h.began = h.began.Add(Generation)
	default:
		h.old, h.young = generation{}, generation{}
		h.began = now
	}
}

func (g *generation) add(d time.Duration) {
	if g.count == 0 || d < g.min {
		g.min = d
	}
	g.max = max(g.max, d)
	g.count++
	g.sum += d
	b := bucketOf(d)
	k, found := slices.BinarySearchFunc(g.cells, b, func(c cell, b uint16) int { return cmp.Compare(c.bucket, b) })
	if !found {
		g.cells = slices.Insert(g.cells, k, cell{bucket: b})
	}
	g.cells[k].count++
}

// Distribution tells how the durations of the last one to two minutes were spread. If Count is 0 there were none, and nothing
// else is told.
type Distribution struct {
	Count          int64
	Min, Max, Mean time.Duration // exact
	// Percentiles, by nearest rank, with the error that the package comment tells of.
	P50, P75, P90, P95, P98, P99, P999 time.Duration
}

// Lately sums up what several histograms have recorded lately.
func Lately(now time.Time, hs ...*Histogram) Distribution {
	var all generation
	for _, h := range hs {
		h.turn(now)
		all.merge(h.young)
		all.merge(h.old)
	}
	return all.distribution()
}

// Total returns the number and the sum of all durations ever recorded.
func (h *Histogram) Total() (observed int64, sum time.Duration) { return h.observed, h.sum }

// merge adds another generation; the cells are no longer in order then.
func (g *generation) merge(o generation) {
	if o.count == 0 {
		return
	}
	if g.count == 0 || o.min < g.min {
		g.min = o.min
	}
	g.max = max(g.max, o.max)
	g.count += o.count
	g.sum += o.sum
	g.cells = append(g.cells, o.cells...)
}

// distribution reads a merged generation.
func (g *generation) distribution() Distribution {
	if g.count == 0 {
		return Distribution{}
	}
	slices.SortFunc(g.cells, func(a, b cell) int { return cmp.Compare(a.bucket, b.bucket) })
	out := Distribution{Count: g.count, Min: g.min, Max: g.max, Mean: g.sum / time.Duration(g.count)}
	at, seen := 0, int64(0) // of the cells before at
	for _, p := range []struct {
		permille int64
		to       *time.Duration
	}{{500, &out.P50}, {750, &out.P75}, {900, &out.P90}, {950, &out.P95}, {980, &out.P98}, {990, &out.P99}, {999, &out.P999}} {
		rank := max(1, (g.count*p.permille+999)/1000)
		for seen+int64(g.cells[at].count) < rank {
			seen += int64(g.cells[at].count)
			at++
		}
		*p.to = min(max(middle(g.cells[at].bucket), g.min), g.max)
	}
	return out
}

package latency

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestBuckets: the middle of each duration's bucket is near it, and buckets are in order.
func TestBuckets(t *testing.T) {
	last := uint16(0)
	for d := time.Duration(0); d < 1<<31*time.Millisecond; d += 1 + d/100 {
		b := bucketOf(d)
		if b < last || b >= buckets {
			t.Fatalf("%v is in bucket %d, one before it in %d", d, b, last)
		}
		last = b
		if off := (middle(b) - d).Abs(); off > max(d/32, unit/2)+1 {
			t.Errorf("%v is taken for %v, which is %v off", d, middle(b), off)
		}
	}
	if last != buckets-1 {
		t.Errorf("the greatest bucket is %d of %d", last, buckets)
	}
	for d, want := range map[time.Duration]uint16{-1: 0, math.MinInt64: 0, math.MaxInt64: buckets - 1} {
		if got := bucketOf(d); got != want {
			t.Errorf("bucket of %d: %d, want %d", d, got, want)
		}
	}
}

func TestDistribution(t *testing.T) {
	const ms = time.Millisecond
	start := time.Unix(1000, 0)
	type at struct {
		after, took time.Duration
	}
	many := func(from, to int) (out []at) {
		for n := from; n <= to; n++ {
			out = append(out, at{0, time.Duration(n) * ms})
		}
		return out
	}
	for _, test := range []struct {
		name   string
		values []at
		read   time.Duration
		want   Distribution // percentiles may be 1/32 off
	}{
		{name: "nothing"},
		{name: "one", values: []at{{0, 7 * ms}}, want: Distribution{1, 7 * ms, 7 * ms, 7 * ms, 7 * ms, 7 * ms, 7 * ms, 7 * ms, 7 * ms, 7 * ms, 7 * ms}},
		{name: "clock set back", values: []at{{0, -ms}}, want: Distribution{Count: 1}},
		{
			name: "1 to 1000 ms", values: many(1, 1000),
			want: Distribution{1000, ms, 1000 * ms, 500500 * time.Microsecond, 500 * ms, 750 * ms, 900 * ms, 950 * ms, 980 * ms, 990 * ms, 999 * ms},
		},
		{
			name: "an outlier", values: append(many(10, 10), at{0, time.Hour}),
			want: Distribution{2, 10 * ms, time.Hour, (time.Hour + 10*ms) / 2, 10 * ms, time.Hour, time.Hour, time.Hour, time.Hour, time.Hour, time.Hour},
		},
		{
			name: "the last generation counts", values: []at{{0, ms}, {70 * time.Second, 3 * ms}}, read: 80 * time.Second,
			want: Distribution{2, ms, 3 * ms, 2 * ms, ms, 3 * ms, 3 * ms, 3 * ms, 3 * ms, 3 * ms, 3 * ms},
		},
		{
			name: "the one before does not", values: []at{{0, ms}, {70 * time.Second, 3 * ms}}, read: 130 * time.Second,
			want: Distribution{1, 3 * ms, 3 * ms, 3 * ms, 3 * ms, 3 * ms, 3 * ms, 3 * ms, 3 * ms, 3 * ms, 3 * ms},
		},
		{name: "long ago", values: many(1, 10), read: 2 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			var one, even, odd Histogram
			sum := time.Duration(0)
			for k, v := range test.values {
				one.Record(start.Add(v.after), v.took)
				[]*Histogram{&even, &odd}[k%2].Record(start.Add(v.after), v.took)
				sum += max(0, v.took)
			}
			got := Lately(start.Add(test.read), &one)
			if g, w := got, test.want; g.Count != w.Count || g.Min != w.Min || g.Max != w.Max || g.Mean != w.Mean {
				t.Errorf("got %+v, want %+v", g, w)
			}
			for k, p := range [][2]time.Duration{
				{got.P50, test.want.P50}, {got.P75, test.want.P75}, {got.P90, test.want.P90}, {got.P95, test.want.P95},
				{got.P98, test.want.P98}, {got.P99, test.want.P99}, {got.P999, test.want.P999},
			} {
				if (p[0] - p[1]).Abs() > max(p[1]/32, unit/2) {
					t.Errorf("percentile %d: %v, want about %v", k, p[0], p[1])
				}
			}
			if both := Lately(start.Add(test.read), &even, &odd); both.Count != got.Count || both.Max != got.Max {
				t.Errorf("of two halves: %+v, of the whole: %+v", both, got)
			}
			if n, s := one.Total(); n != int64(len(test.values)) || s != sum {
				t.Errorf("total %d, %v, want %d, %v", n, s, len(test.values), sum)
			}
		})
	}
}

// TestBounded: memory is bounded, whatever is recorded, and percentiles are near those of a sorted list.
func TestBounded(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.Unix(0, 0)
	var h Histogram
	var all []time.Duration
	for range 200_000 {
		d := time.Duration(math.Exp(rng.Float64()*40)) * time.Microsecond
		all = append(all, d)
		h.Record(now, d)
	}
	if len(h.young.cells) > buckets || cap(h.young.cells) > 2*buckets {
		t.Errorf("%d cells, room for %d", len(h.young.cells), cap(h.young.cells))
	}
	slices.Sort(all)
	if got, want := Lately(now, &h).P50, all[len(all)/2-1]; (got - want).Abs() > want/32+unit {
		t.Errorf("median %v, want %v", got, want)
	}
}

func BenchmarkRecord(b *testing.B) {
	var h Histogram
	now := time.Unix(0, 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		h.Record(now, time.Duration(i%1000)*time.Millisecond/10)
	}
}

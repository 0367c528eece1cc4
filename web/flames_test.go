package web

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime/pprof"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestFlames: nobody waits for a profile, one is made at a time, and an old one is shown until the next is there.
func TestFlames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		f := newFlames(func(ctx context.Context, _ string, w io.Writer) error {
			made++
			time.Sleep(profileTime)
			return pprof.Lookup("goroutine").WriteTo(w, 0)
		}, slog.New(slog.DiscardHandler))
		defer f.close()
		began := time.Now()
		for range 3 {
			if g := f.get("on_cpu"); g.End != sampling || g.Data.Children == nil {
				t.Fatalf("at first: %+v", g)
			}
		}
		time.Sleep(profileTime + time.Millisecond)
		first := f.get("on_cpu")
		if first.End != began.Add(profileTime).UnixMilli() || !hasFrame(&first.Data, "TestFlames") {
			t.Fatalf("a profile: %+v", first)
		}
		time.Sleep(flameAge)
		if g := f.get("on_cpu"); g.End != first.End {
			t.Errorf("while the next one is made: %+v", g)
		}
		time.Sleep(profileTime + time.Millisecond)
		if g := f.get("on_cpu"); g.End <= first.End {
			t.Errorf("the next one: %+v", g)
		}
		if made != 2 {
			t.Errorf("%d profiles", made)
		}
	})
}

// TestFlamesFail: after an error the next call tries again; after close nothing does.
func TestFlamesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		f := newFlames(func(ctx context.Context, _ string, _ io.Writer) error {
			made++
			<-ctx.Done()
			return errors.New("no profile")
		}, slog.New(slog.DiscardHandler))
		f.get("full")
		f.close()
		if g := f.get("full"); g.End != sampling || made != 1 {
			t.Errorf("%+v, %d profiles", g, made)
		}
	})
}

func hasFrame(f *flameJSON, name string) bool {
	if strings.Contains(f.Name, name) {
		return true
	}
	for _, c := range f.Children {
		if hasFrame(c, name) {
			return true
		}
	}
	return false
}

// TestPlanIsHTML: Flink's UI takes the names in a plan as HTML.
func TestPlanIsHTML(t *testing.T) {
	c := example(time.Now())
	i := c.jobs[0].Info()
	p := newPlan(i, []Stage{{Name: "Map(<lambda at x.py:1>)"}})
	if got := p.Nodes[0].Description; got != "Map(&lt;lambda at x.py:1&gt;)" {
		t.Error(got)
	}
	if v := newVertex(i, Stage{Name: "Map(<lambda>)"}, time.Now()); v.Name != "Map(<lambda>)" {
		t.Error(v.Name)
	}
}

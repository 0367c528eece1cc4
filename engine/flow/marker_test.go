package flow

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestMarkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 1<<30)
		b := p.NewBuilder()
		mustAppend(t, b, "none", 0)
		none := mustFinish(t, b)
		start := time.Now()
		b.Mark(Marker{Source: 2, Entered: start.UnixNano()})
		mustAppend(t, b, "old", 0)
		mustAppend(t, b, "older", 0)
		old := mustFinish(t, b)
		b.Mark(Marker{Source: 1}) // of a root, which waits for its first record
		time.Sleep(time.Second)
		mustAppend(t, b, "young", 0)
		time.Sleep(time.Second)
		young := mustFinish(t, b)
		defer release(append(append(none, old...), young...))

		part, err := old[0].Slice(0, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer part.Release()
		for _, test := range []struct {
			name   string
			blocks []*Block
			source int32
			age    time.Duration
		}{
			{"none", none, 0, 0},
			{"old", append(none, old...), 2, 2 * time.Second},
			{"young", young, 1, time.Second},
			{"young and old", []*Block{young[0], part, none[0]}, 2, 2 * time.Second},
		} {
			m := Oldest(test.blocks)
			if m.Source != test.source || m.Source != 0 && m.Age(time.Now()) != test.age {
				t.Errorf("%s: source %d, %v old, want source %d, %v old", test.name, m.Source, m.Age(time.Now()), test.source, test.age)
			}
		}
		if age := Oldest(old).Age(start.Add(-time.Hour)); age != 0 {
			t.Errorf("with the clock set back: %v", age)
		}
		mustAppend(t, b, "next", 0)
		next := mustFinish(t, b)
		defer release(next)
		if m := Oldest(next); m != (Marker{}) {
			t.Errorf("a marker outlives Finish: %+v", m)
		}
	})
}

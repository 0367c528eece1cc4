package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// busyOp is an operator whose stage has something to do, or not.
type busyOp struct {
	base
	done, waiting bool
}

func (o *busyOp) next(int) *work { return nil }

func (o *busyOp) run(context.Context, *work) error { return nil }

func (o *busyOp) idle() bool { return o.done }

func (o *busyOp) waits() bool { return o.waiting }

// TestSlotTimes plays a root with two slots: slot 0 runs a bundle of 4 s, in whose last 3 s the queues behind are full;
// they stay full for 2 s more.
func TestSlotTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		op := &busyOp{}
		s := &stage{x: &execution{cfg: Config{Slots: 2}}, op: op, active: make(map[*work]bool)}
		begin := func(slot int) *work {
			w := &work{stage: s, slot: slot, started: time.Now(), throttled: s.usage.throttledTime(time.Now())}
			s.active[w] = true
			return w
		}
		end := func(w *work, committed bool) {
			delete(s.active, w)
			if committed {
				s.used(w, []*emission{{elements: 3, bytes: 30}}, true)
			} else {
				s.used(w, nil, false)
			}
		}
		check := func(when string, slot int, busy, pressed time.Duration) {
			t.Helper()
			if o := s.slotOverviews()[slot]; o.Busy != busy || o.BackPressured != pressed {
				t.Errorf("%s: slot %d was busy for %v and back pressured for %v, want %v and %v", when, slot, o.Busy, o.BackPressured, busy, pressed)
			}
		}
		s.slotOverviews()
		w := begin(0)
		time.Sleep(time.Second)
		s.throttle(true)
		time.Sleep(2 * time.Second)
		check("while it runs", 0, 3*time.Second, 0)
		check("while it runs", 1, 0, 2*time.Second)
		s.throttle(true) // still
		time.Sleep(time.Second)
		end(w, true)
		time.Sleep(2 * time.Second)
		s.throttle(false)
		time.Sleep(time.Minute)
		check("at the end", 0, 4*time.Second, 2*time.Second)
		check("at the end", 1, 0, 5*time.Second)
		if o := s.slotOverviews()[0]; o.ElementsOut != 3 || o.BytesOut != 30 || o.Bundles != 1 || o.Running != 0 {
			t.Errorf("counters: %+v", o)
		}

		w = begin(1)
		time.Sleep(time.Second)
		end(w, false)
		check("an abandoned bundle took its time", 1, time.Second, 5*time.Second)
		if o := s.slotOverviews()[1]; o.ElementsOut != 0 || o.Bundles != 0 {
			t.Errorf("an abandoned bundle counts: %+v", o)
		}

		op.done = true
		s.throttle(true)
		time.Sleep(time.Second)
		check("with nothing to do", 1, time.Second, 5*time.Second)

		s.x.cfg.Slots = 3 // rescaled
		check("a new slot", 2, 0, 0)
		s.x.cfg.Slots = 1
		if n := len(s.slotOverviews()); n != 1 {
			t.Errorf("%d slots", n)
		}

		op.waiting = true
		w = begin(16) // of a splittable DoFn
		time.Sleep(time.Second)
		check("a bundle that waits", 0, 4*time.Second, 2*time.Second)
		delete(s.active, w)
		s.used(w, nil, true)
		check("a bundle that has waited for nothing", 0, 4*time.Second, 2*time.Second)
	})
}

func TestFailures(t *testing.T) {
	j := &Job{}
	for k := range maxFailures + 5 {
		j.failed(errEnded)
		j.starts = k
	}
	if n := len(j.Failures()); n != maxFailures || j.Restarts() != maxFailures+3 {
		t.Errorf("%d failures, %d restarts", n, j.Restarts())
	}
}

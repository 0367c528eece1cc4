package engine

import (
	"fmt"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/userstate"
	"github.com/tinyrunner/tinyrunner/engine/window"
	"github.com/tinyrunner/tinyrunner/state"
)

// expiryFamily is the engine's own timer family: it clears the state of a key and window when the window has expired.
const expiryFamily = "\x00expiry"

// maxTimers bounds the timers of a bundle.
const maxTimers = 10_000

// fireTimers takes the due timers of the slot into the bundle. Timers of one key fire in the order of their times, and what
// one of them sets may be due before the next: so a bundle has only timers of one time for each key. (Elements that were
// sorted by time are such timers too; where the DoFn has no timers of its own nothing can come between them.)
func (o *userOp) fireTimers(w *work, b *bundle.Bundle) error {
	g0, g1 := o.s.x.groups(w.slot)
	domain := state.EventTime
	if w.kind == processingTimers {
		domain = state.ProcessingTime
	}
	tx := w.begin()
	sorted := o.s.x.cfg.Pool.NewBuilder()
	defer sorted.Discard()
	first := make(map[string]int64) // fire time by key
	byFamily := make(map[string]int)
	limit := o.maxTimers()
	taken, skipped := 0, 0
	for t, err := range o.s.x.db.DueTimers(o.s.owner, domain, g0, g1, w.upTo) {
		if err != nil {
			return fmt.Errorf("read timers: %w", err)
		}
		if taken >= limit || skipped >= maxTimers {
			break
		}
		if at, seen := first[string(t.Key)]; seen && at != t.Fire && len(o.s.plan.Timers) > 0 {
			skipped++
			continue
		}
		taken++
		first[string(t.Key)] = t.Fire
		if err := tx.ClearTimer(t.ID()); err != nil {
			return err
		}
		if t.Family == expiryFamily {
			if err := o.expire(tx, t); err != nil {
				return err
			}
			continue
		}
		if t.Family == sortedFamily {
			if err := sorted.Append(t.Payload, t.Fire); err != nil {
				return err
			}
			continue
		}
		f, ok := o.family(t.Family)
		if !ok {
			continue // the pipeline that set it had the family, this one has not
		}
		i, ok := byFamily[t.Family]
		if !ok {
			i = len(b.Timers)
			byFamily[t.Family] = i
			b.Timers = append(b.Timers, bundle.FiredTimers{TimerFamily: f})
		}
		c := o.s.plan.TimerCoders[f]
		b.Timers[i].Data = c.Append(b.Timers[i].Data, coder.Timer{
			Key: t.Key, Tag: t.Tag, Windows: t.Window, NumWindows: 1, Fire: t.Fire, Hold: t.Hold, Pane: coder.NoFiring(),
		})
	}
	w.fired = taken
	var err error
	w.extra, err = sorted.Finish()
	return err
}

// maxTimers is how many timers the next bundle takes.
func (o *userOp) maxTimers() int {
	if o.s.in.Bounded {
		return maxTimers
	}
	o.s.x.mu.Lock()
	defer o.s.x.mu.Unlock()
	return o.timerPace.elements
}

func (o *userOp) family(id string) (bundle.TimerFamily, bool) {
	for _, t := range o.s.plan.Timers {
		if t.ID == id {
			return t.TimerFamily, true
		}
	}
	return bundle.TimerFamily{}, false
}

// setTimers applies the timers that the bundle set and cleared, in order.
func (o *userOp) setTimers(w *work) error {
	for f, stream := range w.out.timers {
		if len(stream.tail) > 0 {
			return fmt.Errorf("timer family %s: the bundle ended within a timer", f.Family)
		}
		for _, t := range stream.set {
			if err := o.setTimer(w, f.Family, stream.coder, t); err != nil {
				return fmt.Errorf("set timer of family %s: %w", f.Family, err)
			}
		}
	}
	return nil
}

func (o *userOp) setTimer(w *work, family string, c *coder.TimerCoder, t coder.Timer) error {
	id := state.TimerKey{Owner: o.s.owner, Key: t.Key, Family: family, Tag: t.Tag}
	_, id.Group = o.s.x.slotOf(t.Key)
	tx := w.begin()
	if o.domains[family] == state.EventTime {
		t.Fire = min(t.Fire, coder.MaxTimestamp) // the final watermark fires it
	}
	for win := range c.Window().Each(t.NumWindows, t.Windows) {
		id.Window = win
		if t.Clear {
			if err := tx.ClearTimer(id); err != nil {
				return err
			}
			continue
		}
		err := tx.SetTimer(state.Timer{
			Group: id.Group, Owner: id.Owner, Domain: o.domains[family], Family: id.Family, Tag: id.Tag, Key: id.Key, Window: win,
			Fire: t.Fire, Hold: t.Hold,
		})
		if err != nil {
			return err
		}
		if err := o.touch(tx, t.Key, win); err != nil {
			return err
		}
	}
	return nil
}

// touch sees to it that the state of a key and window ends with the window.
func (o *userOp) touch(tx *state.Tx, key, win []byte) error {
	end, err := window.End(o.s.in.Coder.Window(), win)
	if err != nil {
		return err
	}
	_, g := o.s.x.slotOf(key)
	t := state.Timer{
		Group: g, Owner: o.s.owner, Domain: state.EventTime, Family: expiryFamily, Key: key, Window: win,
		Fire: window.Expiry(o.s.plan.Windowing, end) + 2, Hold: state.NoHold,
	}
	if f := o.s.plan.OnWindowExpiration; f != "" {
		last := t
		last.Family, last.Fire, last.Hold = f, t.Fire-1, end
		if err := tx.SetTimer(last); err != nil {
			return err
		}
	}
	if end >= coder.EndOfGlobalWindow {
		return nil // the state ends with the job
	}
	return tx.SetTimer(t)
}

// expire clears all state of a key in a window.
func (o *userOp) expire(tx *state.Tx, t state.Timer) error {
	if err := userstate.Clear(tx, t.Group, o.states, t.Key, t.Window); err != nil {
		return fmt.Errorf("clear expired state: %w", err)
	}
	return nil
}

package engine

import (
	"context"
	"fmt"
	"strconv"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/userstate"
	"github.com/tinyrunner/tinyrunner/engine/window"
	"github.com/tinyrunner/tinyrunner/state"
)

// expiryFamily is the engine's own timer family: it clears the state of a key and window when the window has expired.
const expiryFamily = "\x00expiry"

// maxTimers bounds the timers of a bundle.
const maxTimers = 10_000

// userOp runs fused user code in a worker.
type userOp struct {
	base
	s       *stage
	workers Workers
	states  map[string]userstate.State // by state id
	domains map[string]state.Domain
	sides   []*sideInput
	// generation makes cache tokens new after a bundle of the slot failed: what the SDK cached may be of that bundle.
	generation []int // by slot, guarded by execution.mu
	limit      int   // elements a bundle at most
}

func newUserOp(s *stage) (operator, error) {
	o := &userOp{s: s, generation: make([]int, max(s.x.cfg.Slots, unboundedBundles)), domains: make(map[string]state.Domain), limit: s.x.cfg.MaxBundleElements}
	states, err := s.userStates()
	if err != nil {
		return nil, err
	}
	o.states = states
	for _, t := range s.plan.Timers {
		o.domains[t.ID] = state.EventTime
		if t.Domain == pipepb.TimeDomain_PROCESSING_TIME {
			o.domains[t.ID] = state.ProcessingTime
		}
	}
	if s.unbounded() {
		o.limit = 1 // each may run until it is checkpointed
	}
	for _, si := range s.plan.SideInputs {
		in, err := s.x.sideInput(s, si)
		if err != nil {
			return nil, fmt.Errorf("side input %s: %w", si.Local, err)
		}
		o.sides = append(o.sides, in)
	}
	return o, nil
}

// userStates names the cells of the stage's user states.
func (s *stage) userStates() (map[string]userstate.State, error) {
	states := make(map[string]userstate.State)
	for _, u := range s.plan.States {
		c, err := s.x.db.Cell(s.plan.Owner + "\x00" + u.ID)
		if err != nil {
			return nil, err
		}
		st := userstate.State{Cell: c}
		if ol := u.Spec.GetOrderedListSpec(); ol != nil {
			if c, err := coder.Compile(s.x.job.plan.Pipeline.GetComponents(), ol.GetElementCoderId()); err == nil {
				st.OrderedValue = c.Skip
			} // else it is length-prefixed
		}
		states[u.ID] = st
	}
	return states, nil
}

// unbounded: the stage's splittable DoFn may produce output for ever.
func (s *stage) unbounded() bool {
	if s.plan == nil || !s.plan.Splittable {
		return false
	}
	t := s.x.job.plan.Pipeline.GetComponents().GetTransforms()[s.plan.Transforms[0]]
	for _, pc := range t.GetOutputs() {
		if s.x.job.plan.Pipeline.GetComponents().GetPcollections()[pc].GetIsBounded() == pipepb.IsBounded_UNBOUNDED {
			return true
		}
	}
	return false
}

func (o *userOp) open(context.Context) error {
	o.workers = o.s.x.envs[o.s.plan.Environment]
	return nil
}

func (o *userOp) waits() bool { return o.limit == 1 }

func (o *userOp) next(slot int) *work {
	s := o.s
	if s.hasOwner {
		if w := s.dueTimers(slot); w != nil {
			return w
		}
	}
	if s.waiting = !o.sidesReady(); s.waiting {
		return nil
	}
	if s.truncated.Len() > 0 {
		w := s.take(slot, &s.truncated, o.limit)
		w.truncated = true
		return w
	}
	q := s.queue(slot)
	w := s.take(slot, q, o.share(q))
	if w != nil {
		w.upTo = s.inputWM
	}
	if w != nil && s.x.draining && s.plan.Truncate != nil {
		w.kind = truncation
		w.out = newTruncation(s)
	}
	return w
}

// share is how many elements a bundle takes: with little work in the queue the free slots share it, unless the elements are
// so few that the cost of bundles would outweigh them.
func (o *userOp) share(q *flow.Queue) int {
	s := o.s
	if s.keyed {
		return o.limit
	}
	free := 0
	for _, b := range s.busy {
		if !b {
			free++
		}
	}
	n := (q.Len() + free - 1) / max(free, 1)
	if !s.plan.Splittable {
		n = max(n, 1000)
	}
	return max(1, min(n, o.limit))
}

func (o *userOp) run(ctx context.Context, w *work) error {
	worker, err := o.workers.Worker(ctx, w.slot)
	if err != nil {
		return err
	}
	b := &bundle.Bundle{ID: w.id, Program: o.s.plan.Program, Sink: w.out}
	if w.kind == truncation {
		b.Program = o.s.plan.Truncate.Program
	}
	if err := o.prepare(w, b); err != nil {
		return err
	}
	x := o.s.x
	x.mu.Lock()
	if !o.parks(w) {
		b.Input = append(b.Input, w.blocks...)
	}
	b.Input = append(b.Input, w.extra...)
	b.CacheTokens = o.cacheTokens(worker, w.slot)
	w.worker, w.bundle, w.running = worker, b, true
	x.mu.Unlock()
	if len(b.Input) == 0 && len(b.Timers) == 0 {
		return nil
	}
	res, err := worker.Run(ctx, b)
	x.mu.Lock()
	w.running = false
	x.mu.Unlock()
	w.splitters.Wait()
	if err != nil {
		return fmt.Errorf("bundle %s: %w", w.id, err)
	}
	w.result = res
	return o.setTimers(w)
}

// prepare opens what the bundle reads besides its elements: state, side inputs, fired timers.
func (o *userOp) prepare(w *work, b *bundle.Bundle) error {
	if o.s.hasOwner && !o.s.in.Bounded && w.minInput < w.upTo {
		if err := o.dropExpired(w); err != nil {
			return err
		}
	}
	if len(o.sides) > 0 {
		if err := o.holdBack(w); err != nil {
			return err
		}
	}
	if len(o.states) > 0 || len(o.sides) > 0 || o.s.hasOwner {
		b.State = o.server(w)
	} else {
		b.State = noState{}
	}
	if o.parks(w) {
		return o.park(w)
	}
	if w.kind != eventTimers && w.kind != processingTimers {
		return nil
	}
	return o.fireTimers(w, b)
}

// parks: the work's elements wait for their time.
func (o *userOp) parks(w *work) bool { return w.kind == elements && o.s.plan.TimeSorted }

// dropExpired drops elements of windows whose state is gone: they are too late.
func (o *userOp) dropExpired(w *work) error {
	_, err := w.sift(func(end int64) verdict {
		if window.Expiry(o.s.plan.Windowing, end) < w.upTo {
			return drop
		}
		return process
	})
	return err
}

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
	taken, skipped := 0, 0
	for t, err := range o.s.x.db.DueTimers(o.s.owner, domain, g0, g1, w.upTo) {
		if err != nil {
			return fmt.Errorf("read timers: %w", err)
		}
		if taken >= maxTimers || skipped >= maxTimers {
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
	var err error
	w.extra, err = sorted.Finish()
	return err
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

// cacheTokens let the SDK keep state across bundles: what it cached is valid as long as the same worker runs the slot and no
// bundle of it failed. REQUIRES: execution.mu.
func (o *userOp) cacheTokens(worker Worker, slot int) []*fnpb.ProcessBundleRequest_CacheToken {
	var tokens []*fnpb.ProcessBundleRequest_CacheToken
	if len(o.states) > 0 {
		token := worker.ID() + "/" + strconv.Itoa(slot) + "/" + strconv.Itoa(o.generation[slot])
		tokens = append(tokens, &fnpb.ProcessBundleRequest_CacheToken{
			Token: []byte(token),
			Type: &fnpb.ProcessBundleRequest_CacheToken_UserState_{
				UserState: &fnpb.ProcessBundleRequest_CacheToken_UserState{},
			},
		})
	}
	for _, in := range o.sides {
		tokens = append(tokens, &fnpb.ProcessBundleRequest_CacheToken{
			Token: []byte(worker.ID() + "/" + strconv.FormatInt(in.op.version, 10)),
			Type: &fnpb.ProcessBundleRequest_CacheToken_SideInput_{
				SideInput: &fnpb.ProcessBundleRequest_CacheToken_SideInput{TransformId: in.spec.Transform, SideInputId: in.spec.Local},
			},
		})
	}
	return tokens
}

// noState answers a stage that declares no state.
type noState struct{}

func (noState) Handle(_ context.Context, req *fnpb.StateRequest) *fnpb.StateResponse {
	return &fnpb.StateResponse{Id: req.GetId(), Error: "the stage has no state and no side inputs"}
}

// newTruncation collects the output of a truncation: it goes back into the stage's own input.
func newTruncation(s *stage) *outputs {
	return &outputs{stage: s, ports: []*emission{{x: s.x, coll: &collection{Collection: s.in.Collection, consumers: nil, plain: true}, truncated: s}}}
}

// server answers the bundle's state requests.
func (o *userOp) server(w *work) bundle.StateServer {
	sides := make(map[userstate.SideInputID]*userstate.SideInput)
	for _, in := range o.sides {
		sides[userstate.SideInputID{Transform: in.spec.Transform, Local: in.spec.Local}] = in.op.store
	}
	return userstate.New(userstate.Config{
		Tx: w.begin(), Committed: o.s.x.db, Transform: o.s.plan.OwnerID, States: o.states, SideInputs: sides,
		KeyGroup: func(key []byte) uint16 { _, g := o.s.x.slotOf(key); return g },
		OnTouch:  func(key, win []byte) error { return o.touch(w.begin(), key, win) },
	})
}

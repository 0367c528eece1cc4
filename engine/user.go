package engine

import (
	"context"
	"fmt"
	"strconv"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/userstate"
	"github.com/tinyrunner/tinyrunner/engine/window"
	"github.com/tinyrunner/tinyrunner/state"
)

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
	pace       *pace // of a stream's bundles, guarded by execution.mu; timerPace: of those that fire timers
	timerPace  *pace
}

func newUserOp(s *stage) (operator, error) {
	o := &userOp{
		s: s, generation: make([]int, max(s.x.cfg.Slots, unboundedBundles)), domains: make(map[string]state.Domain),
		limit: s.x.cfg.MaxBundleElements,
	}
	target := min(s.x.cfg.StreamBundleTime, s.x.cfg.MaxBundleTime)
	o.pace = newPace(o.limit, s.x.cfg.MaxBundleBytes, target)
	o.timerPace = newPace(maxTimers, 0, target)
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
	if o.gathers(q) {
		return nil
	}
	w := s.take(slot, q, o.share(q))
	if w != nil {
		w.upTo = s.inputWM
	}
	if w != nil && s.x.draining && s.plan.Truncate != nil {
		w.kind = truncation
		w.out = newTruncation(w.out)
	}
	return w
}

const (
	// fewElements are so few that a bundle of them costs more than they do.
	fewElements = 1000
	// gatherTime is how long a small bundle waits for what the bundles before it are about to add.
	gatherTime = 100 * time.Millisecond
)

// gathers reports whether a small queue of a bounded PCollection had better wait for the bundles that are about to add to
// it: what is small stays one bundle then. REQUIRES: x.mu.
func (o *userOp) gathers(q *flow.Queue) bool {
	s := o.s
	if !s.in.Bounded || s.keyed || q.Len() == 0 || q.Len() >= fewElements || s.plan.Splittable {
		return false
	}
	for _, p := range s.in.producers {
		for w := range p.active {
			if !p.op.waits() && time.Since(w.started) < gatherTime {
				return true
			}
		}
	}
	return false
}

// share is how many elements a bundle takes: with little work in the queue the free slots share it, unless the elements are
// so few that the cost of bundles would outweigh them.
func (o *userOp) share(q *flow.Queue) int {
	s := o.s
	limit := o.limit
	if !s.in.Bounded {
		limit = min(limit, o.pace.elements)
	}
	if s.keyed {
		return limit
	}
	free := 0
	for _, b := range s.busy {
		if !b {
			free++
		}
	}
	n := (q.Len() + free - 1) / max(free, 1)
	if !s.plan.Splittable {
		n = max(n, fewElements)
	}
	return max(1, min(n, limit))
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
	began := time.Now()
	res, err := worker.Run(ctx, b)
	x.mu.Lock()
	w.running = false
	switch took := time.Since(began); {
	case err != nil:
	case w.kind == elements:
		o.pace.observe(countElements(b.Input), countBytes(b.Input), took)
	case w.fired > 0:
		o.timerPace.observe(w.fired, 0, took)
	}
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
	return w.sift(func(end int64) verdict {
		if window.Expiry(o.s.plan.Windowing, end) < w.upTo {
			return drop
		}
		return process
	}, nil)
}

// cacheTokens let the SDK keep state across bundles: what it cached is valid as long as the same worker runs the slot and no
// bundle of it failed. REQUIRES: execution.mu.
func (o *userOp) cacheTokens(worker Worker, slot int) []*fnpb.ProcessBundleRequest_CacheToken {
	var tokens []*fnpb.ProcessBundleRequest_CacheToken
	if len(o.states) > 0 {
		token := worker.ID() + "/" + strconv.Itoa(slot) + "/" + strconv.Itoa(o.generation[slot]) + "/" + strconv.Itoa(o.s.x.rescales)
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

// newTruncation collects the output of a truncation, instead of that of the bundle: it goes back into the stage's own input.
func newTruncation(instead *outputs) *outputs {
	s := instead.stage
	o := &outputs{stage: s, marker: instead.marker}
	o.ports = []*emission{{out: o, coll: &collection{Collection: s.in.Collection, consumers: nil, plain: true}, truncated: s}}
	return o
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

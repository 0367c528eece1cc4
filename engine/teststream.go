package engine

import (
	"context"
	"fmt"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// testStreamOp replays the events of a TestStream (TestStreamPayload in beam_runner_api.proto): the next event happens when
// the job has nothing else to do, and processing time moves only by events. All fields are guarded by execution.mu.
type testStreamOp struct {
	base
	s      *stage
	events []*pipepb.TestStreamPayload_Event
	nested bool             // elements are encoded in the nested context
	ports  map[string][]int // by tag; a PCollection may go to several queues
	wm     []int64          // by output
	clock  time.Time
}

func newTestStreamOp(s *stage) (*testStreamOp, error) {
	var p pipepb.TestStreamPayload
	if err := proto.Unmarshal(s.plan.Spec.GetPayload(), &p); err != nil {
		return nil, fmt.Errorf("read TestStream payload of %s: %w", s.name, err)
	}
	o := &testStreamOp{s: s, events: p.GetEvents(), ports: make(map[string][]int), clock: time.Now()}
	t := s.x.job.plan.Pipeline.GetComponents().GetTransforms()[s.plan.Transforms[0]]
	for tag, pc := range t.GetOutputs() {
		for i, from := range s.plan.From {
			if from == pc {
				o.ports[tag] = append(o.ports[tag], i)
			}
		}
	}
	for range s.outs {
		o.wm = append(o.wm, coder.MinTimestamp)
	}
	o.nested = o.allNested()
	s.x.now = func() time.Time { return o.clock }
	s.x.test = o
	return o, nil
}

// of are the outputs of an event's tag; nothing reads an unknown one. A single PCollection needs no tag.
func (o *testStreamOp) of(tag string) []int {
	if len(o.ports) == 1 && tag == "" {
		for _, ports := range o.ports {
			return ports
		}
	}
	return o.ports[tag]
}

// allNested reports whether all elements are whole values of the wire coder. Go encodes them so; Python encodes in the outer
// context, where the last length is left out.
func (o *testStreamOp) allNested() bool {
	for _, e := range o.events {
		for _, i := range o.of(e.GetElementEvent().GetTag()) {
			for _, el := range e.GetElementEvent().GetElements() {
				n, err := o.s.outs[i].Coder.Elem().Skip(el.GetEncodedElement())
				if err != nil || n != len(el.GetEncodedElement()) {
					return false
				}
			}
		}
	}
	return true
}

// nest turns a value encoded in the outer context into the nested one.
func nest(c *coder.Coder, b []byte) ([]byte, error) {
	switch c.URN() {
	case "beam:coder:bytes:v1", "beam:coder:string_utf8:v1", "beam:coder:length_prefix:v1":
		return coder.AppendBytes(nil, b), nil
	case "beam:coder:kv:v1":
		n, err := c.Component(0).Skip(b)
		if err != nil {
			return nil, err
		}
		last, err := nest(c.Component(1), b[n:])
		return append(b[:n:n], last...), err
	}
	return b, nil
}

func (o *testStreamOp) next(int) *work                   { return nil }
func (o *testStreamOp) run(context.Context, *work) error { return nil }
func (o *testStreamOp) idle() bool                       { return len(o.events) == 0 }

func (o *testStreamOp) hold() int64 {
	wm := coder.MaxTimestamp
	if len(o.events) > 0 {
		for _, w := range o.wm {
			wm = min(wm, w)
		}
	}
	return wm
}

// watermark of one output.
func (o *testStreamOp) watermark(c *collection) int64 {
	if len(o.events) > 0 {
		for i, out := range o.s.outs {
			if out == c {
				return o.wm[i]
			}
		}
	}
	return coder.MaxTimestamp
}

// replay lets the next event of the job's TestStream happen; when all have, it moves processing time to what is due next.
// False: there is nothing left to happen. REQUIRES: x.mu, and that the job has nothing else to do.
func (x *execution) replay() (bool, error) {
	o := x.test
	if o == nil {
		return false, nil
	}
	defer x.kick()
	if len(o.events) == 0 {
		next, ok := x.nextWake()
		if ok && next.After(o.clock) {
			o.clock = next
		}
		return ok, nil
	}
	e := o.events[0]
	o.events = o.events[1:]
	o.s.dirty = true
	for _, c := range o.s.outs {
		for _, t := range c.consumers {
			t.dirty = true
		}
	}
	switch ev := e.GetEvent().(type) {
	case *pipepb.TestStreamPayload_Event_WatermarkEvent:
		for _, i := range o.of(ev.WatermarkEvent.GetTag()) {
			o.wm[i] = max(o.wm[i], ev.WatermarkEvent.GetNewWatermark())
		}
	case *pipepb.TestStreamPayload_Event_ProcessingTimeEvent:
		o.clock = o.clock.Add(min(time.Duration(ev.ProcessingTimeEvent.GetAdvanceDuration()), 1<<43) * time.Millisecond)
	case *pipepb.TestStreamPayload_Event_ElementEvent:
		return true, o.emit(ev.ElementEvent)
	}
	return true, nil
}

func (o *testStreamOp) emit(ev *pipepb.TestStreamPayload_Event_AddElements) error {
	out := newOutputs(o.s)
	for _, i := range o.of(ev.GetTag()) {
		for _, el := range ev.GetElements() {
			if err := o.add(out.ports[i], el); err != nil {
				out.discard()
				return fmt.Errorf("element of TestStream %s: %w", o.s.name, err)
			}
		}
	}
	emitted, err := out.finish()
	if err != nil {
		return err
	}
	for _, e := range emitted {
		e.deliver()
	}
	return nil
}

func (o *testStreamOp) add(to *emission, el *pipepb.TestStreamPayload_TimestampedElement) (err error) {
	value := el.GetEncodedElement()
	if !o.nested {
		if value, err = nest(to.coll.Coder.Elem(), value); err != nil {
			return err
		}
	}
	elem := coder.AppendHeader(nil, el.GetTimestamp(), 1, nil, coder.NoFiring())
	return to.element(append(elem, value...))
}

package fnapi

import (
	"fmt"
	"math"
	"slices"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/flow"
)

// Sizes of input messages in bytes. A bundle is sent in about four messages, within these bounds: few, because Python's
// harness stops reading for all bundles when one has five messages waiting; several, so that it begins before all is sent.
const (
	minChunk   = 256 << 10
	maxChunk   = 4 << 20
	maxElement = math.MaxInt32 - 1<<20 // what fits into a protobuf message with its frame
)

// input is what is still to be sent of a bundle. Messages hold whole elements, however large: no SDK puts together one
// that was cut.
type input struct {
	goSDK bool // see lastLocked
	chunk int  // target size of a message in bytes

	mu        sync.Mutex // also held while blocks are read
	b         *bundle.Bundle
	block     int  // next of b.Input
	timer     int  // next of b.Timers
	abandoned bool // only the end is still to be sent
	over      bool // nothing is to be sent any more
}

func newInput(b *bundle.Bundle, goSDK bool) (*input, error) {
	var total int64
	for i, k := range b.Input {
		if k.Len() == 1 && k.Size() > maxElement {
			return nil, fmt.Errorf("bundle %s: element of %d bytes in block %d is larger than a message can be (2 GiB)", b.ID, k.Size(), i)
		}
		total += k.Size()
	}
	return &input{b: b, goSDK: goSDK, chunk: int(min(max(total/4, minChunk), maxChunk))}, nil
}

// scratch is memory that the messages of one stream are built in, one after the other.
type scratch struct {
	data []byte
	read flow.Data
}

// reset empties it, and lets go of what an uncommonly large element needed.
func (s *scratch) reset() {
	if cap(s.data) > 2*maxChunk {
		s.data = nil
	}
	if cap(s.read.Bytes) > 2*maxChunk {
		s.read = flow.Data{}
	}
	s.data = s.data[:0]
}

// next builds the next message in buf, or returns nil if there is none; more says whether another one follows.
func (in *input) next(buf *scratch) (msg *fnpb.Elements, more bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	msg = &fnpb.Elements{}
	switch {
	case in.over:
		return nil, false, nil
	case in.abandoned:
		in.lastLocked(msg)
		return msg, false, nil
	}
	if err := in.dataLocked(msg, buf); err != nil {
		in.over = true
		return nil, false, err
	}
	if in.block < len(in.b.Input) {
		return msg, true, nil
	}
	if in.timer < len(in.b.Timers) {
		// SDKs handle the timers of a message before its data, so fired timers wait for a message of their own.
		if len(msg.Data) == 0 {
			in.timersLocked(msg)
		}
		return msg, true, nil
	}
	in.lastLocked(msg)
	return msg, false, nil
}

// dataLocked adds the next blocks to msg.
func (in *input) dataLocked(msg *fnpb.Elements, buf *scratch) error {
	buf.reset()
	for in.block < len(in.b.Input) {
		k := in.b.Input[in.block]
		if len(buf.data) > 0 && len(buf.data)+int(k.Size()) > in.chunk {
			break
		}
		data, err := k.ReadInto(&buf.read)
		if err != nil {
			return fmt.Errorf("read input of bundle %s: %w", in.b.ID, err)
		}
		buf.data = append(buf.data, data.Bytes...)
		in.block++
	}
	if len(buf.data) > 0 {
		msg.Data = append(msg.Data, &fnpb.Elements_Data{
			InstructionId: in.b.ID,
			TransformId:   in.b.Program.Source,
			Data:          buf.data,
		})
	}
	return nil
}

// timersLocked adds fired timers to msg.
func (in *input) timersLocked(msg *fnpb.Elements) {
	for size := 0; in.timer < len(in.b.Timers); in.timer++ {
		t := in.b.Timers[in.timer]
		if size > 0 && size+len(t.Data) > in.chunk {
			return
		}
		size += len(t.Data)
		msg.Timers = append(msg.Timers, &fnpb.Elements_Timers{
			InstructionId: in.b.ID,
			TransformId:   t.Transform,
			TimerFamilyId: t.Family,
			Timers:        t.Data,
		})
	}
}

// lastLocked adds the ends of all streams to msg. An entry that ends a stream holds no data: Python would ignore it.
//
// The Go SDK (2.77, harness.elementsChan) counts one end for each transform that has timers, not for each family, and
// waits forever when it has seen more before the bundle's source opens. But it needs an entry of every family, to end it
// in turn. So there only the last family of a transform is marked.
func (in *input) lastLocked(msg *fnpb.Elements) {
	in.over = true
	families := in.b.Program.Timers
	for i, f := range families {
		last := true
		if in.goSDK {
			for _, later := range families[i+1:] {
				last = last && later.Transform != f.Transform
			}
		}
		msg.Timers = append(msg.Timers, &fnpb.Elements_Timers{
			InstructionId: in.b.ID,
			TransformId:   f.Transform,
			TimerFamilyId: f.Family,
			IsLast:        last,
		})
	}
	msg.Data = append(msg.Data, &fnpb.Elements_Data{
		InstructionId: in.b.ID,
		TransformId:   in.b.Program.Source,
		IsLast:        true,
	})
}

// close gives up the bundle's blocks. If the SDK has not answered yet it still gets the end of its input.
func (in *input) close(answered bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.abandoned = true
	in.over = in.over || answered
}

// feed is the input of all bundles of a worker, sent in turn by the owner of its data stream.
type feed struct {
	mu     sync.Mutex
	queue  []*run        // guarded by mu
	wake   chan struct{} // of the stream that is being written, nil if there is none; guarded by mu
	closed chan struct{} // closed when another stream takes over; guarded by mu
}

// attach makes the caller the writer. It is to stop when superseded is closed.
func (f *feed) attach() (wake, superseded <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed != nil {
		close(f.closed)
	}
	f.wake, f.closed = make(chan struct{}, 1), make(chan struct{})
	return f.wake, f.closed
}

// add queues a bundle's input.
func (f *feed) add(r *run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = append(f.queue, r)
	if f.wake == nil {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// remove forgets a bundle that needs no more input.
func (f *feed) remove(r *run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.Index(f.queue, r); i >= 0 {
		f.queue = slices.Delete(f.queue, i, i+1)
	}
}

// next returns the next message of the bundle whose turn it is; nil if there is nothing to send.
func (f *feed) next(buf *scratch) *fnpb.Elements {
	for {
		f.mu.Lock()
		if len(f.queue) == 0 {
			f.mu.Unlock()
			return nil
		}
		r := f.queue[0]
		f.queue[0] = nil
		f.queue = f.queue[1:]
		f.mu.Unlock()
		msg, more, err := r.in.next(buf)
		if err != nil {
			r.fail(err)
		}
		if more {
			f.mu.Lock()
			f.queue = append(f.queue, r)
			f.mu.Unlock()
		}
		if msg != nil {
			return msg
		}
	}
}

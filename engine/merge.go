package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/window"
)

// sdkMerger merges the windows of a custom WindowFn, by running beam:transform:merge_windows:v1 in its SDK.
type sdkMerger struct {
	s   *stage
	ctx context.Context // of the run: a merge happens within a call that knows no context
	out *coder.WindowedValue
}

// newMerger reads how the SDK encodes its answers.
func newMerger(s *stage) (*sdkMerger, error) {
	d := s.plan.MergeWindows.Descriptor
	var port fnpb.RemoteGrpcPort
	if err := proto.Unmarshal(d.GetTransforms()[s.plan.MergeWindows.Outputs[0]].GetSpec().GetPayload(), &port); err != nil {
		return nil, fmt.Errorf("read port of merge program: %w", err)
	}
	out, err := coder.CompileWindowedValue(&pipepb.Components{Coders: d.GetCoders()}, port.GetCoderId())
	if err != nil {
		return nil, err
	}
	return &sdkMerger{s: s, out: out}, nil
}

// Merge implements window.Merger.
func (m *sdkMerger) Merge(windows [][]byte) ([]window.Merge, error) {
	x := m.s.x
	worker, err := x.envs[m.s.plan.Windowing.GetEnvironmentId()].Worker(m.ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("merge windows: %w", err)
	}
	elem := coder.AppendHeader(nil, coder.MinTimestamp, 1, nil, coder.NoFiring())
	elem = coder.AppendBytes(elem, nil) // the nonce
	elem = coder.AppendCount(elem, len(windows))
	for _, w := range windows {
		elem = append(elem, w...)
	}
	in, err := x.blockOf(elem, coder.MinTimestamp, flow.Marker{})
	if err != nil {
		return nil, fmt.Errorf("merge windows: %w", err)
	}
	defer in.Release()
	x.mu.Lock()
	x.nextID++
	id := fmt.Sprintf("%s-merge-%d", x.job.spec.ID, x.nextID)
	x.mu.Unlock()
	var answer answer
	b := &bundle.Bundle{ID: id, Program: m.s.plan.MergeWindows, Input: []*flow.Block{in}, State: noState{}, Sink: &answer}
	if _, err := worker.Run(m.ctx, b); err != nil {
		return nil, fmt.Errorf("merge windows: %w", err)
	}
	merged, err := m.parse(answer.data)
	if err != nil {
		return nil, fmt.Errorf("read merged windows: %w", err)
	}
	return merged, nil
}

// answer is the sink of a merge: one small element.
type answer struct{ data []byte }

func (a *answer) Data(_ int, data []byte) error {
	a.data = append(a.data, data...)
	return nil
}

func (a *answer) Timers(f bundle.TimerFamily, _ []byte) error {
	return fmt.Errorf("a merge of windows set a timer of family %s", f.Family)
}

// parse reads KV<nonce, KV<Iterable<unmerged>, Iterable<KV<merged, Iterable<original>>>>>.
func (m *sdkMerger) parse(b []byte) ([]window.Merge, error) {
	h, err := m.out.ParseHeader(b)
	if err != nil {
		return nil, err
	}
	_, value, _, err := coder.SplitKV(m.out.Elem(), b[h.ValueOffset:])
	if err != nil {
		return nil, err
	}
	_, merges, _, err := coder.SplitKV(m.out.Elem().Component(1), value)
	if err != nil {
		return nil, err
	}
	mergesCoder := m.out.Elem().Component(1).Component(1)
	var out []window.Merge
	err = eachValue(mergesCoder, merges, func(one []byte) error {
		into, originals, _, err := coder.SplitKV(mergesCoder.Component(0), one)
		if err != nil {
			return err
		}
		mg := window.Merge{Into: bytes.Clone(into)}
		err = eachValue(mergesCoder.Component(0).Component(1), originals, func(w []byte) error {
			mg.Originals = append(mg.Originals, bytes.Clone(w))
			return nil
		})
		out = append(out, mg)
		return err
	})
	return out, err
}

// eachValue calls f for each value of an encoded iterable, whose length is either known or comes in chunks.
func eachValue(c *coder.Coder, b []byte, f func([]byte) error) error {
	if len(b) < 4 {
		return coder.ErrShort
	}
	n := int64(int32(binary.BigEndian.Uint32(b)))
	b = b[4:]
	chunked := n < 0
	for {
		if chunked {
			count, used, err := coder.ParseVarint(b)
			if err != nil {
				return err
			}
			n, b = count, b[used:]
			if n < 0 {
				return errors.New("the iterable is backed by state")
			}
		}
		for range n {
			used, err := c.Component(0).Skip(b)
			if err != nil {
				return err
			}
			if err := f(b[:used]); err != nil {
				return err
			}
			b = b[used:]
		}
		if !chunked || n == 0 {
			return nil
		}
	}
}

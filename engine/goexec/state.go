package goexec

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// handle sends one state request, after the append that is still pending.
func (r *run) handle(ctx context.Context, req *fnpb.StateRequest) (*fnpb.StateResponse, error) {
	if err := r.flush(ctx); err != nil {
		return nil, err
	}
	return r.send(ctx, req)
}

func (r *run) send(ctx context.Context, req *fnpb.StateRequest) (*fnpb.StateResponse, error) {
	req.InstructionId = r.b.ID
	if r.b.State == nil {
		return nil, errors.New("the stage has no state")
	}
	resp := r.b.State.Handle(ctx, req)
	if msg := resp.GetError(); msg != "" {
		return nil, fmt.Errorf("state request: %s", msg)
	}
	return resp, nil
}

// appending is the append under way: an encoder writes one value in several pieces.
type appending struct {
	key  *fnpb.StateKey
	data []byte
}

// flush sends the pending append, if any.
func (r *run) flush(ctx context.Context) error {
	p := r.pending
	if p.key == nil {
		return nil
	}
	r.pending = appending{}
	_, err := r.send(ctx, &fnpb.StateRequest{
		StateKey: p.key,
		Request:  &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{Data: p.data}},
	})
	return err
}

// stateReader reads the value of one state key, page by page.
type stateReader struct {
	r     *run
	ctx   context.Context
	key   *fnpb.StateKey
	token []byte
	page  []byte
	last  bool // no page follows
}

func (s *stateReader) Read(p []byte) (int, error) {
	for len(s.page) == 0 {
		if s.last {
			return 0, io.EOF
		}
		resp, err := s.r.handle(s.ctx, &fnpb.StateRequest{
			StateKey: s.key,
			Request:  &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{ContinuationToken: s.token}},
		})
		if err != nil {
			return 0, err
		}
		s.page, s.token = resp.GetGet().GetData(), resp.GetGet().GetContinuationToken()
		s.last = len(s.token) == 0
	}
	n := copy(p, s.page)
	s.page = s.page[n:]
	return n, nil
}

func (s *stateReader) Close() error {
	s.page, s.last = nil, true
	return nil
}

type stateAppender struct {
	r   *run
	ctx context.Context
	key *fnpb.StateKey
}

func (s *stateAppender) Write(p []byte) (int, error) {
	if s.r.pending.key != s.key {
		if err := s.r.flush(s.ctx); err != nil {
			return 0, err
		}
		s.r.pending.key = s.key
	}
	s.r.pending.data = append(s.r.pending.data, p...)
	return len(p), nil
}

// stateClearer clears its key at every Write, whatever is written.
type stateClearer struct {
	r   *run
	ctx context.Context
	key *fnpb.StateKey
}

func (s *stateClearer) Write(p []byte) (int, error) {
	_, err := s.r.handle(s.ctx, &fnpb.StateRequest{
		StateKey: s.key,
		Request:  &fnpb.StateRequest_Clear{Clear: &fnpb.StateClearRequest{}},
	})
	return len(p), err
}

func (r *run) reader(ctx context.Context, key *fnpb.StateKey) (io.ReadCloser, error) {
	return &stateReader{r: r, ctx: ctx, key: key}, nil
}

func (r *run) appender(ctx context.Context, key *fnpb.StateKey) (io.Writer, error) {
	return &stateAppender{r: r, ctx: ctx, key: key}, nil
}

func (r *run) clearer(ctx context.Context, key *fnpb.StateKey) (io.Writer, error) {
	return &stateClearer{r: r, ctx: ctx, key: key}, nil
}

// The rest implements exec.StateReader: one state key each.

func (r *run) OpenIterableSideInput(ctx context.Context, id exec.StreamID, side string, w []byte) (io.ReadCloser, error) {
	return r.reader(ctx, &fnpb.StateKey{Type: &fnpb.StateKey_IterableSideInput_{IterableSideInput: &fnpb.StateKey_IterableSideInput{
		TransformId: id.PtransformID, SideInputId: side, Window: w,
	}}})
}

func (r *run) OpenMultiMapSideInput(ctx context.Context, id exec.StreamID, side string, key, w []byte) (io.ReadCloser, error) {
	return r.reader(ctx, &fnpb.StateKey{Type: &fnpb.StateKey_MultimapSideInput_{MultimapSideInput: &fnpb.StateKey_MultimapSideInput{
		TransformId: id.PtransformID, SideInputId: side, Window: w, Key: key,
	}}})
}

func (r *run) OpenIterable(ctx context.Context, _ exec.StreamID, key []byte) (io.ReadCloser, error) {
	return r.reader(ctx, &fnpb.StateKey{Type: &fnpb.StateKey_Runner_{Runner: &fnpb.StateKey_Runner{Key: key}}})
}

func (r *run) OpenBagUserStateReader(ctx context.Context, id exec.StreamID, state string, key, w []byte) (io.ReadCloser, error) {
	return r.reader(ctx, bagKey(id, state, key, w))
}

func (r *run) OpenBagUserStateAppender(ctx context.Context, id exec.StreamID, state string, key, w []byte) (io.Writer, error) {
	return r.appender(ctx, bagKey(id, state, key, w))
}

func (r *run) OpenBagUserStateClearer(ctx context.Context, id exec.StreamID, state string, key, w []byte) (io.Writer, error) {
	return r.clearer(ctx, bagKey(id, state, key, w))
}

func bagKey(id exec.StreamID, state string, key, w []byte) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{
		TransformId: id.PtransformID, UserStateId: state, Window: w, Key: key,
	}}}
}

func (r *run) OpenMultimapUserStateReader(ctx context.Context, id exec.StreamID, state string, key, w, mk []byte) (io.ReadCloser, error) {
	return r.reader(ctx, multimapKey(id, state, key, w, mk))
}

func (r *run) OpenMultimapUserStateAppender(ctx context.Context, id exec.StreamID, state string, key, w, mk []byte) (io.Writer, error) {
	return r.appender(ctx, multimapKey(id, state, key, w, mk))
}

func (r *run) OpenMultimapUserStateClearer(ctx context.Context, id exec.StreamID, state string, key, w, mk []byte) (io.Writer, error) {
	return r.clearer(ctx, multimapKey(id, state, key, w, mk))
}

func multimapKey(id exec.StreamID, state string, key, w, mk []byte) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_MultimapUserState_{MultimapUserState: &fnpb.StateKey_MultimapUserState{
		TransformId: id.PtransformID, UserStateId: state, Window: w, Key: key, MapKey: mk,
	}}}
}

func (r *run) OpenMultimapKeysUserStateReader(ctx context.Context, id exec.StreamID, state string, key, w []byte) (io.ReadCloser, error) {
	return r.reader(ctx, multimapKeysKey(id, state, key, w))
}

func (r *run) OpenMultimapKeysUserStateClearer(ctx context.Context, id exec.StreamID, state string, key, w []byte) (io.Writer, error) {
	return r.clearer(ctx, multimapKeysKey(id, state, key, w))
}

func multimapKeysKey(id exec.StreamID, state string, key, w []byte) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_MultimapKeysUserState_{MultimapKeysUserState: &fnpb.StateKey_MultimapKeysUserState{
		TransformId: id.PtransformID, UserStateId: state, Window: w, Key: key,
	}}}
}

func (r *run) OpenOrderedListUserStateReader(ctx context.Context, id exec.StreamID, state string, key, w []byte, start, end int64) (io.ReadCloser, error) {
	return r.reader(ctx, orderedKey(id, state, key, w, &fnpb.OrderedListRange{Start: start, End: end}))
}

func (r *run) OpenOrderedListUserStateAppender(ctx context.Context, id exec.StreamID, state string, key, w []byte) (io.Writer, error) {
	return r.appender(ctx, orderedKey(id, state, key, w, nil))
}

func (r *run) OpenOrderedListUserStateClearer(ctx context.Context, id exec.StreamID, state string, key, w []byte, start, end int64) (io.Writer, error) {
	return r.clearer(ctx, orderedKey(id, state, key, w, &fnpb.OrderedListRange{Start: start, End: end}))
}

func orderedKey(id exec.StreamID, state string, key, w []byte, rng *fnpb.OrderedListRange) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_OrderedListUserState_{OrderedListUserState: &fnpb.StateKey_OrderedListUserState{
		TransformId: id.PtransformID, UserStateId: state, Window: w, Key: key, Range: rng,
	}}}
}

// GetSideInputCache implements exec.StateReader.
func (r *run) GetSideInputCache() exec.SideCache { return noCache{} }

// noCache keeps nothing: a side input is as near as the runner's own store.
type noCache struct{}

func (noCache) QueryCache(context.Context, string, string, []byte, []byte) exec.ReStream { return nil }

func (noCache) SetCache(_ context.Context, _, _ string, _, _ []byte, in exec.ReStream) exec.ReStream {
	return in
}

var (
	_ exec.StateReader = (*run)(nil)
	_ exec.DataManager = (*run)(nil)
)

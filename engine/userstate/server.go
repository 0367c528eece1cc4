package userstate

import (
	"context"
	"errors"
	"fmt"
	"iter"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/state"
)

// defaultPage is how many bytes a page has unless the configuration says otherwise. Pages of several bundles share one
// gRPC stream, so they should not be much larger.
const defaultPage = 1 << 20

// Reader reads committed state. *state.DB is one.
type Reader interface {
	ScanPrefixFrom(group uint16, cell state.Cell, prefix, from []byte) iter.Seq2[state.KV, error]
}

var (
	_ Reader             = (*state.DB)(nil)
	_ Reader             = (*state.Tx)(nil)
	_ bundle.StateServer = (*Server)(nil)
)

// Config says what a bundle may read and write.
type Config struct {
	// Tx is the bundle's transaction: user state is read and written through it.
	Tx *state.Tx
	// Committed serves side inputs and runner keys, past the Tx.
	Committed Reader
	// Transform is the id of the stage's stateful transform; "" when it has none.
	Transform string
	// States are that transform's states by their local ids.
	States map[string]State
	// KeyGroup returns the key group of an encoded key. Required when there are States.
	KeyGroup func(key []byte) uint16
	// SideInputs are those of all transforms of the stage.
	SideInputs map[SideInputID]*SideInput
	// Runner says which bag a runner key (state-backed iterable) stands for. nil: there are no runner keys.
	Runner func(key []byte) (Bag, error)
	// MaxPage is the size of a page in bytes; default 1 MiB. A page with a single larger append exceeds it.
	MaxPage int
	// OnTouch is told of each (key, window) before its state is written for the first time in this bundle, so that the
	// engine can arrange for its removal when the window expires. The slices are valid during the call. nil: nobody asks.
	OnTouch func(key, window []byte) error
}

// State is a user state: bag, value, combining and set states are bags to the runner; map and multimap states are
// multimaps; ordered lists are ordered lists. Which one it is shows in the requests.
type State struct {
	Cell state.Cell
	// OrderedValue returns the length of the first value of b, for an ordered list whose values are not length-prefixed.
	// nil: they are, as beam_fn_api.proto asks; or else a request holds one entry, as requests of the Go SDK do.
	OrderedValue func(b []byte) (int, error)
}

// Bag names a bag in committed state.
type Bag struct {
	Group  uint16
	Cell   state.Cell
	Prefix []byte
}

// Server answers the requests of one bundle, one at a time. It holds no resources.
type Server struct {
	cfg     Config
	touched map[string]struct{} // key | window that OnTouch knows
	buf     []byte
}

// New returns a server for one bundle.
func New(cfg Config) *Server {
	if cfg.MaxPage <= 0 {
		cfg.MaxPage = defaultPage
	}
	return &Server{cfg: cfg, touched: make(map[string]struct{})}
}

// Handle implements bundle.StateServer.
func (s *Server) Handle(ctx context.Context, req *fnpb.StateRequest) *fnpb.StateResponse {
	resp := &fnpb.StateResponse{Id: req.GetId()}
	err := ctx.Err()
	if err == nil {
		err = s.handle(req, resp)
	}
	if err != nil {
		resp.Response = nil
		resp.Error = err.Error()
	}
	return resp
}

func (s *Server) handle(req *fnpb.StateRequest, resp *fnpb.StateResponse) error {
	h, err := s.resolve(req.GetStateKey())
	if err != nil {
		return fmt.Errorf("answer state request: %w", err)
	}
	switch r := req.GetRequest().(type) {
	case *fnpb.StateRequest_Get:
		get, err := h.get(r.Get.GetContinuationToken())
		if err != nil {
			return fmt.Errorf("get %s: %w", h.what(), err)
		}
		resp.Response = &fnpb.StateResponse_Get{Get: get}
	case *fnpb.StateRequest_Append:
		if err := h.append(r.Append.GetData()); err != nil {
			return fmt.Errorf("append to %s: %w", h.what(), err)
		}
		resp.Response = &fnpb.StateResponse_Append{Append: &fnpb.StateAppendResponse{}}
	case *fnpb.StateRequest_Clear:
		if err := h.clear(); err != nil {
			return fmt.Errorf("clear %s: %w", h.what(), err)
		}
		resp.Response = &fnpb.StateResponse_Clear{Clear: &fnpb.StateClearResponse{}}
	default:
		return fmt.Errorf("answer state request for %s: it is none of get, append and clear", h.what())
	}
	return nil
}

// handle is what a state key stands for.
type handle interface {
	what() string // for errors
	get(token []byte) (*fnpb.StateGetResponse, error)
	append(data []byte) error
	clear() error
}

var (
	errReadOnly = errors.New("it can only be read")
	errNoAppend = errors.New("it can be read and cleared, and appended to by map key")
	errToken    = errors.New("the continuation token is not one that was given out")
)

// resolve finds what a state key stands for.
func (s *Server) resolve(key *fnpb.StateKey) (handle, error) {
	switch k := key.GetType().(type) {
	case *fnpb.StateKey_BagUserState_:
		u := k.BagUserState
		p, err := s.user(u.GetTransformId(), u.GetUserStateId(), u.GetKey(), u.GetWindow())
		return &bagState{p}, err
	case *fnpb.StateKey_MultimapUserState_:
		u := k.MultimapUserState
		p, err := s.user(u.GetTransformId(), u.GetUserStateId(), u.GetKey(), u.GetWindow())
		p.prefix = state.AppendComponent(p.prefix, u.GetMapKey())
		return &bagState{p}, err
	case *fnpb.StateKey_MultimapKeysUserState_:
		u := k.MultimapKeysUserState
		p, err := s.user(u.GetTransformId(), u.GetUserStateId(), u.GetKey(), u.GetWindow())
		return &multimapState{p}, err
	case *fnpb.StateKey_OrderedListUserState_:
		u := k.OrderedListUserState
		p, err := s.user(u.GetTransformId(), u.GetUserStateId(), u.GetKey(), u.GetWindow())
		return &orderedState{p, u.GetRange()}, err
	case *fnpb.StateKey_IterableSideInput_:
		i := k.IterableSideInput
		return s.side(i.GetTransformId(), i.GetSideInputId(), i.GetWindow(), nil, elements)
	case *fnpb.StateKey_MultimapSideInput_:
		i := k.MultimapSideInput
		return s.side(i.GetTransformId(), i.GetSideInputId(), i.GetWindow(), i.GetKey(), valuesOfKey)
	case *fnpb.StateKey_MultimapKeysSideInput_:
		i := k.MultimapKeysSideInput
		return s.side(i.GetTransformId(), i.GetSideInputId(), i.GetWindow(), nil, keys)
	case *fnpb.StateKey_MultimapKeysValuesSideInput_:
		i := k.MultimapKeysValuesSideInput
		return s.side(i.GetTransformId(), i.GetSideInputId(), i.GetWindow(), nil, keysAndValues)
	case *fnpb.StateKey_Runner_:
		return s.runner(k.Runner.GetKey())
	case nil:
		return nil, errors.New("it has no state key")
	}
	return nil, fmt.Errorf("state keys of type %T are not supported", key.GetType())
}

// runner finds the bag of a runner key.
func (s *Server) runner(key []byte) (handle, error) {
	if s.cfg.Runner == nil {
		return nil, fmt.Errorf("runner key %q was not given out", key)
	}
	b, err := s.cfg.Runner(key)
	if err != nil {
		return nil, fmt.Errorf("runner key %q: %w", key, err)
	}
	return &runnerBag{s, b}, nil
}

// runnerBag is a committed bag that an element refers to.
type runnerBag struct {
	s *Server
	Bag
}

func (r *runnerBag) what() string { return "runner key" }
func (r *runnerBag) get(token []byte) (*fnpb.StateGetResponse, error) {
	return r.s.bagPage(r.s.cfg.Committed, r.Bag, token)
}
func (r *runnerBag) append([]byte) error { return errReadOnly }
func (r *runnerBag) clear() error        { return errReadOnly }

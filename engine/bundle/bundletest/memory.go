package bundletest

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// Sink keeps a bundle's output in memory.
type Sink struct {
	// Err, when set, is what every call returns.
	Err error

	mu     sync.Mutex
	data   map[int][]byte
	timers map[bundle.TimerFamily][]byte
}

// Data implements bundle.Sink.
func (s *Sink) Data(output int, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.data == nil {
		s.data = map[int][]byte{}
	}
	s.data[output] = append(s.data[output], data...)
	return s.Err
}

// Timers implements bundle.Sink.
func (s *Sink) Timers(f bundle.TimerFamily, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timers == nil {
		s.timers = map[bundle.TimerFamily][]byte{}
	}
	s.timers[f] = append(s.timers[f], data...)
	return s.Err
}

// Bytes returns what output i took so far.
func (s *Sink) Bytes(i int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.data[i])
}

// TimerBytes returns what the family's stream took so far.
func (s *Sink) TimerBytes(f bundle.TimerFamily) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.timers[f])
}

// State answers state requests from memory, a few bytes a page so that every reader has to page. It knows bags,
// multimaps, ordered lists, side inputs and runner keys, and applies everything at once: bundletest has no transactions.
type State struct {
	// Page is the most bytes that one answer carries. Default 5.
	Page int

	mu       sync.Mutex
	values   map[string][]byte            // bags and everything else that only is read, by cell
	maps     map[string]map[string][]byte // multimaps by cell and map key
	lists    map[string][]timed           // ordered lists by cell
	Requests []string                     // what was asked: "get bag/key"
}

type timed struct {
	at   int64
	data []byte // key and value as the SDK wrote them
}

// Put sets what a side input or a runner key holds: its cell is the side input's id, a slash and the key; a runner key's
// is "runner/" and the key.
func (s *State) Put(cell string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	s.values[cell] = value
}

func (s *State) init() {
	if s.values == nil {
		s.values, s.maps, s.lists = map[string][]byte{}, map[string]map[string][]byte{}, map[string][]timed{}
	}
}

// Handle implements bundle.StateServer.
func (s *State) Handle(_ context.Context, req *fnpb.StateRequest) *fnpb.StateResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	resp := &fnpb.StateResponse{Id: req.Id}
	cell, get, add, wipe := s.cell(req.StateKey)
	switch r := req.Request.(type) {
	case *fnpb.StateRequest_Get:
		s.Requests = append(s.Requests, "get "+cell)
		resp.Response = &fnpb.StateResponse_Get{Get: s.page(get(), r.Get.ContinuationToken)}
	case *fnpb.StateRequest_Append:
		s.Requests = append(s.Requests, "append "+cell)
		add(r.Append.Data)
		resp.Response = &fnpb.StateResponse_Append{Append: &fnpb.StateAppendResponse{}}
	case *fnpb.StateRequest_Clear:
		s.Requests = append(s.Requests, "clear "+cell)
		wipe()
		resp.Response = &fnpb.StateResponse_Clear{Clear: &fnpb.StateClearResponse{}}
	default:
		resp.Error = fmt.Sprintf("bundletest: request %T", r)
	}
	return resp
}

func (s *State) page(value, token []byte) *fnpb.StateGetResponse {
	from, _ := strconv.Atoi(string(token))
	to := min(from+cmp.Or(s.Page, 5), len(value))
	out := &fnpb.StateGetResponse{Data: value[from:to]}
	if to < len(value) {
		out.ContinuationToken = []byte(strconv.Itoa(to))
	}
	return out
}

// cell names a state key and returns what can be done with it.
func (s *State) cell(key *fnpb.StateKey) (name string, get func() []byte, add func([]byte), wipe func()) {
	switch k := key.Type.(type) {
	case *fnpb.StateKey_BagUserState_:
		name = k.BagUserState.UserStateId + "/" + string(k.BagUserState.Key)
	case *fnpb.StateKey_IterableSideInput_:
		name = k.IterableSideInput.SideInputId + "/"
	case *fnpb.StateKey_MultimapSideInput_:
		name = k.MultimapSideInput.SideInputId + "/" + string(k.MultimapSideInput.Key)
	case *fnpb.StateKey_Runner_:
		name = "runner/" + string(k.Runner.Key)
	case *fnpb.StateKey_MultimapUserState_:
		return s.multimap(k.MultimapUserState)
	case *fnpb.StateKey_MultimapKeysUserState_:
		name = k.MultimapKeysUserState.UserStateId + "/" + string(k.MultimapKeysUserState.Key)
		return name, func() []byte { return s.keys(name) }, nil, func() { delete(s.maps, name) }
	case *fnpb.StateKey_OrderedListUserState_:
		return s.ordered(k.OrderedListUserState)
	}
	return name,
		func() []byte { return s.values[name] },
		func(b []byte) { s.values[name] = append(s.values[name], b...) },
		func() { delete(s.values, name) }
}

func (s *State) multimap(k *fnpb.StateKey_MultimapUserState) (name string, get func() []byte, add func([]byte), wipe func()) {
	name, mk := k.UserStateId+"/"+string(k.Key), string(k.MapKey)
	return name,
		func() []byte { return s.maps[name][mk] },
		func(b []byte) {
			if s.maps[name] == nil {
				s.maps[name] = map[string][]byte{}
			}
			s.maps[name][mk] = append(s.maps[name][mk], b...)
		},
		func() { delete(s.maps[name], mk) }
}

func (s *State) keys(name string) []byte {
	var out []byte
	for _, k := range sorted(s.maps[name]) {
		out = append(out, k...)
	}
	return out
}

func sorted(m map[string][]byte) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// ordered lists hold KV<varint sort key, value with its length> and are read sorted.
func (s *State) ordered(k *fnpb.StateKey_OrderedListUserState) (name string, get func() []byte, add func([]byte), wipe func()) {
	name = k.UserStateId + "/" + string(k.Key)
	in := func(t timed) bool {
		return k.Range == nil || t.at >= k.Range.Start && t.at < k.Range.End
	}
	return name,
		func() []byte {
			var out []byte
			for _, t := range s.lists[name] {
				if in(t) {
					out = append(out, t.data...)
				}
			}
			return out
		},
		func(b []byte) {
			for len(b) > 0 {
				at, n := binary.Uvarint(b)
				size, m := binary.Uvarint(b[n:])
				end := n + m + int(size)
				s.lists[name] = append(s.lists[name], timed{at: int64(at), data: slices.Clone(b[:end])})
				b = b[end:]
			}
			slices.SortStableFunc(s.lists[name], func(a, b timed) int { return cmp.Compare(a.at, b.at) })
		},
		func() { s.lists[name] = slices.DeleteFunc(s.lists[name], in) }
}

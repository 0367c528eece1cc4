package userstate

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// transcript runs the commands of a testdata file:
//
//	page SIZE                  bundles from here on have pages of so many bytes
//	get|append|clear KIND ID [key=] [window=] [mapkey=] [range=(START,END)]
//	                           one request; append takes its data from the lines below, get follows the tokens
//	element ID [window=]       appends the elements below (key=value for the multimap) to a side input
//	forget ID [window=]        clears a side input
//	expire [key=] [window=]    clears all state of a key and window
//	commit, discard            ends the bundle and begins another
//
// Bytes are written as in a Go string. Runs of a byte are written x{40000}.
type transcript struct {
	t      *testing.T
	db     *state.DB
	tx     *state.Tx
	server *Server
	states map[string]State
	sides  map[SideInputID]*SideInput
	page   int
	events []string // what OnTouch was told
}

const transform = "par-do"

func newTranscript(t *testing.T) *transcript {
	db, err := state.Open("db", state.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	s := &transcript{t: t, db: db, states: map[string]State{}, sides: map[SideInputID]*SideInput{}}
	t.Cleanup(func() {
		s.tx.Discard()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, id := range []string{"bag", "other", "map", "list", "go-list"} {
		s.states[id] = State{Cell: s.cell(id)}
	}
	s.states["bool-list"] = State{Cell: s.cell("bool-list"), OrderedValue: func(b []byte) (int, error) { return 1, nil }}
	components := &pipepb.Components{Coders: map[string]*pipepb.Coder{
		"b":  {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:bytes:v1"}},
		"kv": {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:kv:v1"}, ComponentCoderIds: []string{"b", "b"}},
	}}
	kv, err := coder.Compile(components, "kv")
	if err != nil {
		t.Fatal(err)
	}
	s.sides[SideInputID{transform, "iterable"}] = &SideInput{Cell: s.cell("iterable")}
	s.sides[SideInputID{transform, "multimap"}] = &SideInput{Cell: s.cell("multimap"), KV: kv}
	s.begin()
	return s
}

func (s *transcript) cell(name string) state.Cell {
	c, err := s.db.Cell(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *transcript) begin() {
	s.tx = s.db.Begin()
	s.server = New(Config{
		Tx: s.tx, Committed: s.db, Transform: transform, States: s.states, SideInputs: s.sides, MaxPage: s.page,
		KeyGroup: func(key []byte) uint16 { return uint16(coder.KeyGroup(key, 128)) },
		Runner: func(key []byte) (Bag, error) {
			if string(key) != "ref" {
				return Bag{}, errors.New("it is unknown")
			}
			return Bag{Group: sideGroup, Cell: s.cell("iterable"), Prefix: state.AppendComponent(nil, []byte("w"))}, nil
		},
		OnTouch: func(key, window []byte) error {
			s.events = append(s.events, fmt.Sprintf("touched key %q window %q", key, window))
			return nil
		},
	})
}

// text turns data of a testdata file into bytes.
func text(t *testing.T, in string) []byte {
	s, err := strconv.Unquote(`"` + strings.ReplaceAll(in, `"`, `\"`) + `"`)
	if err != nil {
		t.Fatalf("%q: %v", in, err)
	}
	var out []byte
	for {
		head, rest, ok := strings.Cut(s, "{")
		out = append(out, head...)
		if !ok {
			return out
		}
		count, tail, _ := strings.Cut(rest, "}")
		n, err := strconv.Atoi(count)
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		out = append(out, strings.Repeat(head[len(head)-1:], n-1)...)
		s = tail
	}
}

// show is the reverse of text.
func show(b []byte) string {
	var out strings.Builder
	for i := 0; i < len(b); {
		j := i
		for j < len(b) && b[j] == b[i] {
			j++
		}
		q := strconv.Quote(string(b[i : i+1]))
		q = q[1 : len(q)-1]
		if j-i > 8 {
			fmt.Fprintf(&out, "%s{%d}", q, j-i)
		} else {
			out.WriteString(strings.Repeat(q, j-i))
		}
		i = j
	}
	return out.String()
}

// arg returns a named argument, empty when it is not given.
func (s *transcript) arg(d *datadriven.TestData, name string) []byte {
	for _, a := range d.CmdArgs {
		if a.Key == name && len(a.Vals) == 1 {
			return text(s.t, a.Vals[0])
		}
	}
	return nil
}

// stateKey makes the key of a request from its arguments: kind, id, and named ones.
func (s *transcript) stateKey(d *datadriven.TestData) *fnpb.StateKey {
	kind, id := d.CmdArgs[0].Key, d.CmdArgs[1].Key
	key, window, mapKey := s.arg(d, "key"), s.arg(d, "window"), s.arg(d, "mapkey")
	name := transform
	if t := s.arg(d, "transform"); t != nil {
		name = string(t)
	}
	switch kind {
	case "bag":
		return &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{
			TransformId: name, UserStateId: id, Key: key, Window: window}}}
	case "multimap":
		return &fnpb.StateKey{Type: &fnpb.StateKey_MultimapUserState_{MultimapUserState: &fnpb.StateKey_MultimapUserState{
			TransformId: name, UserStateId: id, Key: key, Window: window, MapKey: mapKey}}}
	case "multimap-keys":
		return &fnpb.StateKey{Type: &fnpb.StateKey_MultimapKeysUserState_{MultimapKeysUserState: &fnpb.StateKey_MultimapKeysUserState{
			TransformId: name, UserStateId: id, Key: key, Window: window}}}
	case "ordered":
		k := &fnpb.StateKey_OrderedListUserState{TransformId: name, UserStateId: id, Key: key, Window: window}
		for _, a := range d.CmdArgs {
			if a.Key == "range" {
				k.Range = new(fnpb.OrderedListRange)
				fmt.Sscan(a.Vals[0], &k.Range.Start)
				fmt.Sscan(a.Vals[1], &k.Range.End)
			}
		}
		return &fnpb.StateKey{Type: &fnpb.StateKey_OrderedListUserState_{OrderedListUserState: k}}
	case "iterable-side":
		return &fnpb.StateKey{Type: &fnpb.StateKey_IterableSideInput_{IterableSideInput: &fnpb.StateKey_IterableSideInput{
			TransformId: name, SideInputId: id, Window: window}}}
	case "multimap-side":
		return &fnpb.StateKey{Type: &fnpb.StateKey_MultimapSideInput_{MultimapSideInput: &fnpb.StateKey_MultimapSideInput{
			TransformId: name, SideInputId: id, Window: window, Key: key}}}
	case "keys-side":
		return &fnpb.StateKey{Type: &fnpb.StateKey_MultimapKeysSideInput_{MultimapKeysSideInput: &fnpb.StateKey_MultimapKeysSideInput{
			TransformId: name, SideInputId: id, Window: window}}}
	case "keys-values-side":
		return &fnpb.StateKey{Type: &fnpb.StateKey_MultimapKeysValuesSideInput_{MultimapKeysValuesSideInput: &fnpb.StateKey_MultimapKeysValuesSideInput{
			TransformId: name, SideInputId: id, Window: window}}}
	case "runner":
		return &fnpb.StateKey{Type: &fnpb.StateKey_Runner_{Runner: &fnpb.StateKey_Runner{Key: []byte(id)}}}
	case "empty":
		return &fnpb.StateKey{}
	}
	s.t.Fatalf("%s: unknown kind %q", d.Pos, kind)
	return nil
}

// send sends one request and returns its response, having checked what all responses have in common.
func (s *transcript) send(req *fnpb.StateRequest) *fnpb.StateResponse {
	req.Id = "id-7"
	resp := s.server.Handle(context.Background(), req)
	if resp.GetId() != req.Id {
		s.t.Errorf("response has id %q", resp.GetId())
	}
	if (resp.GetError() == "") != (resp.GetResponse() != nil) {
		s.t.Errorf("response %v has both or neither of an error and an answer", resp)
	}
	return resp
}

// get follows the continuation tokens and shows each page on a line.
func (s *transcript) get(key *fnpb.StateKey, token []byte) string {
	var out strings.Builder
	for {
		resp := s.send(&fnpb.StateRequest{StateKey: key, Request: &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{ContinuationToken: token}}})
		if resp.GetError() != "" {
			return out.String() + "error: " + resp.GetError() + "\n"
		}
		fmt.Fprintf(&out, "page: %s\n", show(resp.GetGet().GetData()))
		token = resp.GetGet().GetContinuationToken()
		if token == nil {
			return out.String()
		}
		if len(token) == 0 {
			s.t.Fatal("a token is empty: Python takes that for the end")
		}
	}
}

func (s *transcript) request(d *datadriven.TestData) string {
	key := s.stateKey(d)
	req := &fnpb.StateRequest{StateKey: key}
	switch d.Cmd {
	case "get":
		return s.get(key, s.arg(d, "token"))
	case "append":
		req.Request = &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{Data: text(s.t, d.Input)}}
	case "clear":
		req.Request = &fnpb.StateRequest_Clear{Clear: &fnpb.StateClearRequest{}}
	}
	if resp := s.send(req); resp.GetError() != "" {
		return "error: " + resp.GetError() + "\n"
	}
	return "ok\n"
}

func (s *transcript) run(d *datadriven.TestData) string {
	s.events = nil
	out := s.command(d)
	for _, e := range s.events {
		out = e + "\n" + out
	}
	return out
}

func (s *transcript) command(d *datadriven.TestData) string {
	var err error
	switch d.Cmd {
	case "page":
		s.page, err = strconv.Atoi(d.CmdArgs[0].Key)
		s.tx.Discard()
		s.begin()
	case "get", "append", "clear", "send":
		return s.request(d)
	case "element":
		in := s.sides[SideInputID{transform, d.CmdArgs[0].Key}]
		for line := range strings.Lines(d.Input + "\n") {
			element := text(s.t, strings.TrimSuffix(line, "\n"))
			if k, v, ok := strings.Cut(string(element), "="); ok && in.KV != nil {
				element = coder.AppendBytes(coder.AppendBytes(nil, []byte(k)), []byte(v))
			}
			err = errors.Join(err, in.Append(s.tx, s.arg(d, "window"), element))
		}
	case "forget":
		err = s.sides[SideInputID{transform, d.CmdArgs[0].Key}].Clear(s.tx, s.arg(d, "window"))
	case "expire":
		key := s.arg(d, "key")
		err = Clear(s.tx, uint16(coder.KeyGroup(key, 128)), s.states, key, s.arg(d, "window"))
	case "commit":
		err = s.tx.Commit()
		s.begin()
	case "discard":
		s.tx.Discard()
		s.begin()
	default:
		s.t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	}
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	return "ok\n"
}

func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := newTranscript(t)
		datadriven.RunTest(t, path, func(_ *testing.T, d *datadriven.TestData) string { return s.run(d) })
	})
}

func TestCancelled(t *testing.T) {
	s := newTranscript(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if resp := s.server.Handle(ctx, &fnpb.StateRequest{Id: "x"}); resp.GetError() != context.Canceled.Error() || resp.GetId() != "x" {
		t.Errorf("response is %v", resp)
	}
}

// SDKs keep a first page and its token over bundles: a token must find values appended later.
func TestTokenOutlivesBundle(t *testing.T) {
	s := newTranscript(t)
	key := &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{TransformId: transform, UserStateId: "bag"}}}
	add := func(c string) {
		resp := s.send(&fnpb.StateRequest{StateKey: key, Request: &fnpb.StateRequest_Append{
			Append: &fnpb.StateAppendRequest{Data: []byte(strings.Repeat(c, 1<<20))}}})
		if resp.GetError() != "" {
			t.Fatal(resp.GetError())
		}
	}
	end := func() {
		if err := s.tx.Commit(); err != nil {
			t.Fatal(err)
		}
		s.begin()
	}
	add("a")
	add("b")
	end()
	first := s.send(&fnpb.StateRequest{StateKey: key, Request: &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{}}}).GetGet()
	add("c")
	end()
	if got, want := s.get(key, first.GetContinuationToken()), "page: b{1048576}\npage: c{1048576}\n"; got != want {
		t.Errorf("the token leads to\n%s\nwant\n%s", got, want)
	}
}

// A map key of many chunks is listed once.
func TestKeysOfManyChunks(t *testing.T) {
	s := newTranscript(t)
	const want = "page: ab\n"
	for i := range 3 * stepsPerKey {
		for _, key := range []string{"", "a", "b"} {
			for range i + 1 {
				p := state.AppendComponent(appendPlace(nil, nil, nil), []byte(key))
				if err := s.tx.Append(uint16(coder.KeyGroup(nil, 128)), s.states["map"].Cell, p, []byte("v")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.tx.Commit(); err != nil {
			t.Fatal(err)
		}
		s.begin()
		key := &fnpb.StateKey{Type: &fnpb.StateKey_MultimapKeysUserState_{MultimapKeysUserState: &fnpb.StateKey_MultimapKeysUserState{
			TransformId: transform, UserStateId: "map"}}}
		if got := s.get(key, nil); got != want {
			t.Fatalf("with %d chunks a key the keys are %q, want %q", i+1, got, want)
		}
	}
}

func FuzzSplitEntries(f *testing.F) {
	f.Add([]byte("\x05\x01e\x02\x02bb"))
	f.Add([]byte("\x02\x40\x09\x21\xfb\x54\x44\x2d\x18"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ends, err := (&orderedState{}).split(data)
		if err != nil {
			return
		}
		last := 0
		for _, end := range ends {
			if end <= last || end > len(data) {
				t.Fatalf("entries of %q end at %v", data, ends)
			}
			last = end
		}
		if last != len(data) {
			t.Fatalf("entries of %q end at %v", data, ends)
		}
	})
}

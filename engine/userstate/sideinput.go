package userstate

import (
	"errors"
	"fmt"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/state"
)

// sideGroup is the key group of all side inputs: they are not partitioned by the reading bundle's keys.
const sideGroup = 0

// SideInputID names a side input as state keys do.
type SideInputID struct {
	Transform string // transform id
	Local     string // side input id
}

// SideInput is a PCollection that bundles read by window, and, when it is a multimap, by key. Stages that read the same
// PCollection in the same way may share a cell. Immutable; any number of bundles may use it at once.
type SideInput struct {
	Cell state.Cell
	// KV is the coder of the elements when the access pattern is beam:side_input:multimap:v1; nil: the pattern is
	// beam:side_input:iterable:v1.
	KV *coder.Coder
}

// Append adds an element to one window of the side input. element is the value, encoded as on the wire (nested), of a
// windowed value; window is an encoded window. An element in several windows is appended to each.
func (in *SideInput) Append(tx *state.Tx, window, element []byte) error {
	prefix := state.AppendComponent(make([]byte, 0, 64), window)
	if in.KV == nil {
		return tx.Append(sideGroup, in.Cell, prefix, element)
	}
	key, value, _, err := coder.SplitKV(in.KV, element)
	if err != nil {
		return fmt.Errorf("split element of side input: %w", err)
	}
	return tx.Append(sideGroup, in.Cell, state.AppendComponent(prefix, key), value)
}

// Clear removes all elements of a window.
func (in *SideInput) Clear(tx *state.Tx, window []byte) error {
	return tx.DeletePrefix(sideGroup, in.Cell, state.AppendComponent(nil, window))
}

// view is how a side input is read.
type view int

const (
	elements view = iota
	valuesOfKey
	keys
	keysAndValues
)

// sideRead is one read of a side input.
type sideRead struct {
	s    *Server
	id   SideInputID
	in   *SideInput
	view view
	bag  Bag
}

// side finds a side input.
func (s *Server) side(transform, local string, window, key []byte, v view) (handle, error) {
	id := SideInputID{transform, local}
	in := s.cfg.SideInputs[id]
	if in == nil {
		return nil, fmt.Errorf("transform %q has no side input %q in this stage", transform, local)
	}
	r := &sideRead{s: s, id: id, in: in, view: v}
	if (v == elements) != (in.KV == nil) {
		return nil, fmt.Errorf("%s was not declared with the access pattern of the request", r.what())
	}
	prefix := state.AppendComponent(nil, window)
	if v == valuesOfKey {
		prefix = state.AppendComponent(prefix, key)
	}
	r.bag = Bag{Group: sideGroup, Cell: in.Cell, Prefix: prefix}
	return r, nil
}

func (r *sideRead) what() string {
	return fmt.Sprintf("side input %q of transform %q", r.id.Local, r.id.Transform)
}

func (r *sideRead) append([]byte) error { return errReadOnly }
func (r *sideRead) clear() error        { return errReadOnly }

func (r *sideRead) get(token []byte) (*fnpb.StateGetResponse, error) {
	switch r.view {
	case keys:
		return r.s.keysPage(r.s.cfg.Committed, r.bag, token)
	case keysAndValues:
		return r.groupsPage(token)
	}
	return r.s.bagPage(r.s.cfg.Committed, r.bag, token)
}

// maxGroup bounds, in bytes, the values of one key when a multimap is read as a whole: they must go into one page.
const maxGroup = 64 << 20

var errLargeGroup = errors.New("the values of one key have more than 64 MiB; read them by key (in Python without use_bulk_read)")

// groupsPage answers a get of keys and values: each key with an iterable of its values. A group is never cut.
func (r *sideRead) groupsPage(token []byte) (*fnpb.StateGetResponse, error) {
	p := pageBuilder{max: r.s.cfg.MaxPage}
	var next, group []byte
	var inner error
	err := eachKey(r.s.cfg.Committed, r.bag, token, func(key []byte) bool {
		group, inner = r.appendGroup(group[:0], key)
		if inner != nil {
			return false
		}
		if !p.fits(len(group)) {
			next = state.AppendComponent(nil, key)
			return false
		}
		p.data = append(p.data, group...)
		return true
	})
	if err = errors.Join(err, inner); err != nil {
		return nil, err
	}
	return p.response(next), nil
}

// appendGroup appends a KV<key, iterable<value>>: the key, the iterable in chunks as its length is not known beforehand
// (beam:coder:iterable:v1).
func (r *sideRead) appendGroup(dst, key []byte) ([]byte, error) {
	prefix := state.AppendComponent(append([]byte(nil), r.bag.Prefix...), key)
	dst = coder.AppendChunks(append(dst, key...))
	for kv, err := range r.s.cfg.Committed.ScanPrefixFrom(sideGroup, r.in.Cell, prefix, nil) {
		if err != nil {
			return nil, err
		}
		if len(dst)+len(kv.Value) > maxGroup {
			return nil, errLargeGroup
		}
		n, err := countValues(r.in.KV.Component(1), kv.Value)
		if err != nil {
			return nil, err
		}
		if n > 0 { // a chunk of none would end the iterable
			dst = append(coder.AppendChunk(dst, n), kv.Value...)
		}
	}
	return coder.AppendEnd(dst), nil
}

// countValues returns how many values b consists of.
func countValues(c *coder.Coder, b []byte) (int, error) {
	n := 0
	for len(b) > 0 {
		k, err := c.Skip(b)
		if err != nil {
			return 0, fmt.Errorf("read value %d: %w", n, err)
		}
		if k == 0 {
			return 0, errEntry
		}
		b = b[k:]
		n++
	}
	return n, nil
}

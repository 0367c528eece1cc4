package userstate

import (
	"encoding/binary"
	"errors"
	"fmt"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/tinyrunner/tinyrunner/state"
)

var errEntry = errors.New("entry of state is corrupt")

// place is where a user state of one key and window lies.
type place struct {
	s           *Server
	id          string // user state id
	state       State
	group       uint16
	key, window []byte
	prefix      []byte
}

// appendPlace appends the prefix of all state of a key and window within a cell.
func appendPlace(dst, key, window []byte) []byte {
	return state.AppendComponent(state.AppendComponent(dst, key), window)
}

// user finds the place of a user state.
func (s *Server) user(transform, id string, key, window []byte) (place, error) {
	if s.cfg.Transform == "" || transform != s.cfg.Transform {
		return place{}, fmt.Errorf("transform %q has no state in this stage", transform)
	}
	st, ok := s.cfg.States[id]
	if !ok {
		return place{}, fmt.Errorf("transform %q has no state %q", transform, id)
	}
	s.buf = appendPlace(s.buf[:0], key, window)
	return place{
		s: s, id: id, state: st, group: s.cfg.KeyGroup(key), key: key, window: window, prefix: s.buf,
	}, nil
}

func (p *place) what() string {
	return fmt.Sprintf("state %q of transform %q", p.id, p.s.cfg.Transform)
}

func (p *place) bag() Bag { return Bag{Group: p.group, Cell: p.state.Cell, Prefix: p.prefix} }

// touch tells the engine of the key and window before the first write.
func (p *place) touch() error {
	if p.s.cfg.OnTouch == nil {
		return nil
	}
	var stack [64]byte
	k := appendPlace(stack[:0], p.key, p.window)
	if _, ok := p.s.touched[string(k)]; ok {
		return nil
	}
	if err := p.s.cfg.OnTouch(p.key, p.window); err != nil {
		return err
	}
	p.s.touched[string(k)] = struct{}{}
	return nil
}

// bagState is a bag, or the bag of one map key.
type bagState struct{ place }

func (b *bagState) get(token []byte) (*fnpb.StateGetResponse, error) {
	return b.s.bagPage(b.s.cfg.Tx, b.bag(), token)
}

func (b *bagState) append(data []byte) error {
	if err := b.touch(); err != nil {
		return err
	}
	return b.s.cfg.Tx.Append(b.group, b.state.Cell, b.prefix, data)
}

func (b *bagState) clear() error { return b.s.cfg.Tx.DeletePrefix(b.group, b.state.Cell, b.prefix) }

// multimapState is the keys of a multimap. Clearing it clears the values too.
type multimapState struct{ place }

func (m *multimapState) get(token []byte) (*fnpb.StateGetResponse, error) {
	return m.s.keysPage(m.s.cfg.Tx, m.bag(), token)
}

func (m *multimapState) append([]byte) error { return errNoAppend }

func (m *multimapState) clear() error {
	return m.s.cfg.Tx.DeletePrefix(m.group, m.state.Cell, m.prefix)
}

// orderedState is an ordered list, or a range of it: entries with start <= sort key < end. nil: all.
type orderedState struct {
	place
	bounds *fnpb.OrderedListRange
}

const sortKeyLen = 8

// appendSortKey appends k so that byte order is its order.
func appendSortKey(dst []byte, k int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(k)^(1<<63))
}

// limits returns the suffixes between which the range lies.
func (o *orderedState) limits() (lo, hi []byte) {
	lo = appendSortKey(append([]byte(nil), o.prefix...), o.bounds.GetStart())
	hi = appendSortKey(append([]byte(nil), o.prefix...), o.bounds.GetEnd())
	return lo, hi
}

func (o *orderedState) get(token []byte) (*fnpb.StateGetResponse, error) {
	if len(token) != 0 && len(token) != sortKeyLen+seqLen {
		return nil, errToken
	}
	from := token
	if o.bounds != nil && len(token) == 0 {
		from = appendSortKey(nil, o.bounds.GetStart())
	}
	p := pageBuilder{max: o.s.cfg.MaxPage}
	for kv, err := range o.s.cfg.Tx.ScanPrefixFrom(o.group, o.state.Cell, o.prefix, from) {
		if err != nil {
			return nil, err
		}
		tail := kv.Suffix[len(o.prefix):]
		if len(tail) != sortKeyLen+seqLen {
			return nil, errEntry
		}
		if o.bounds != nil && int64(binary.BigEndian.Uint64(tail)^(1<<63)) >= o.bounds.GetEnd() {
			break
		}
		if !p.fits(len(kv.Value)) {
			return p.response(append([]byte(nil), tail...)), nil
		}
		p.data = append(p.data, kv.Value...)
	}
	return p.response(nil), nil
}

func (o *orderedState) clear() error {
	if o.bounds == nil {
		return o.s.cfg.Tx.DeletePrefix(o.group, o.state.Cell, o.prefix)
	}
	lo, hi := o.limits()
	return o.s.cfg.Tx.DeleteRange(o.group, o.state.Cell, lo, hi)
}

// append adds entries, each a varint sort key and a value. Entries are kept as they came, by sort key and then in the
// order of arrival.
func (o *orderedState) append(data []byte) error {
	if err := o.touch(); err != nil {
		return err
	}
	ends, err := o.split(data)
	if err != nil {
		return err
	}
	prefix := append([]byte(nil), o.prefix...)
	begin := 0
	for _, end := range ends {
		entry := data[begin:end]
		begin = end
		k, _ := binary.Uvarint(entry)
		key := appendSortKey(prefix, int64(k))
		if err := o.s.cfg.Tx.Append(o.group, o.state.Cell, key, entry); err != nil {
			return err
		}
	}
	return nil
}

// split returns where the entries of an append request end.
func (o *orderedState) split(data []byte) ([]int, error) {
	if len(data) == 0 {
		return nil, nil
	}
	if o.state.OrderedValue != nil {
		return splitEntries(data, o.state.OrderedValue)
	}
	ends, err := splitEntries(data, prefixedValue)
	if err == nil {
		return ends, nil
	}
	// The Go SDK sends one entry per request and does not prefix the value with its length.
	if _, n := binary.Uvarint(data); n > 0 {
		return []int{len(data)}, nil
	}
	return nil, err
}

func splitEntries(data []byte, value func([]byte) (int, error)) ([]int, error) {
	var ends []int
	for pos := 0; pos < len(data); {
		_, n := binary.Uvarint(data[pos:])
		if n <= 0 {
			return nil, fmt.Errorf("entry %d of the ordered list has no sort key", len(ends))
		}
		pos += n
		m, err := value(data[pos:])
		if err == nil && (m < 0 || m > len(data)-pos) {
			err = errValue
		}
		if err != nil {
			return nil, fmt.Errorf("entry %d of the ordered list has no whole value: %w", len(ends), err)
		}
		pos += m
		ends = append(ends, pos)
	}
	return ends, nil
}

var errValue = errors.New("its length is wrong")

// prefixedValue returns the length of a beam:coder:length_prefix:v1 value.
func prefixedValue(b []byte) (int, error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return 0, errValue
	}
	return k + int(n), nil
}

// Clear removes all state of a key and window: what the engine does when the window expires.
func Clear(tx *state.Tx, group uint16, states map[string]State, key, window []byte) error {
	prefix := appendPlace(nil, key, window)
	for id, st := range states {
		if err := tx.DeletePrefix(group, st.Cell, prefix); err != nil {
			return fmt.Errorf("clear state %q: %w", id, err)
		}
	}
	return nil
}

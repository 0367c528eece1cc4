package coder

import (
	"errors"
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// URNs of the model coders (StandardCoders in beam_runner_api.proto).
const (
	URNBytes               = "beam:coder:bytes:v1"
	URNString              = "beam:coder:string_utf8:v1"
	URNBool                = "beam:coder:bool:v1"
	URNVarint              = "beam:coder:varint:v1"
	URNDouble              = "beam:coder:double:v1"
	URNKV                  = "beam:coder:kv:v1"
	URNIterable            = "beam:coder:iterable:v1"
	URNStateBackedIterable = "beam:coder:state_backed_iterable:v1"
	URNNullable            = "beam:coder:nullable:v1"
	URNLengthPrefix        = "beam:coder:length_prefix:v1"
	URNShardedKey          = "beam:coder:sharded_key:v1"
	URNGlobalWindow        = "beam:coder:global_window:v1"
	URNIntervalWindow      = "beam:coder:interval_window:v1"
	URNCustomWindow        = "beam:coder:custom_window:v1"
	URNWindowedValue       = "beam:coder:windowed_value:v1"
	URNParamWindowedValue  = "beam:coder:param_windowed_value:v1"
	URNTimer               = "beam:coder:timer:v1"
)

// kind is what Skip switches on.
type kind uint8

const (
	opaque kind = iota // unknown, behind a length prefix
	prefixed
	boolean
	varint
	double
	kv
	iterable
	stateBackedIterable
	nullable
	shardedKey
	globalWindow
	intervalWindow
	customWindow
	windowedValue
	paramWindowedValue
	timer
)

// kindOf returns the kind of a URN and how many components its coder has; false when the runner cannot read it.
func kindOf(urn string) (k kind, components int, known bool) {
	switch urn {
	case URNBytes, URNString:
		return prefixed, 0, true
	case URNLengthPrefix:
		return prefixed, 1, true
	case URNBool:
		return boolean, 0, true
	case URNVarint:
		return varint, 0, true
	case URNDouble:
		return double, 0, true
	case URNKV:
		return kv, 2, true
	case URNIterable:
		return iterable, 1, true
	case URNStateBackedIterable:
		return stateBackedIterable, 1, true
	case URNNullable:
		return nullable, 1, true
	case URNShardedKey:
		return shardedKey, 1, true
	case URNGlobalWindow:
		return globalWindow, 0, true
	case URNIntervalWindow:
		return intervalWindow, 0, true
	case URNCustomWindow:
		return customWindow, 1, true
	case URNWindowedValue:
		return windowedValue, 2, true
	case URNParamWindowedValue:
		return paramWindowedValue, 2, true
	case URNTimer:
		return timer, 2, true
	}
	return opaque, 0, false
}

// Known says whether the runner can read values of a coder with this URN, if it can read those of its components. All
// others must stand behind a length prefix.
func Known(urn string) bool {
	_, _, ok := kindOf(urn)
	return ok
}

// Coder knows where a value of one of the pipeline's coders ends. It is immutable.
type Coder struct {
	id, urn    string
	kind       kind
	size       int // of every value, in bytes; -1 when values differ
	components []*Coder
	window     *WindowCoder // of a windowed value or timer
}

// UnknownError names a coder that the runner cannot read and that no length prefix encloses.
type UnknownError struct {
	ID, URN string
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("coder %s: the runner cannot read %q: enclose it in %s", e.ID, e.URN, URNLengthPrefix)
}

// Compile compiles the coder id and what it is made of. The error is an *UnknownError when a coder in it is not Known and
// not behind a length prefix.
func Compile(components *pipepb.Components, id string) (*Coder, error) {
	c := compiler{coders: components.GetCoders(), done: map[string]*Coder{}}
	return c.compile(id, 0)
}

// maxDepth bounds how deep coders may nest: Skip recurses that deep.
const maxDepth = 256

// maxFixed bounds the size that is computed for values of one size, so that it cannot overflow.
const maxFixed = 1 << 20

type compiler struct {
	coders map[string]*pipepb.Coder
	done   map[string]*Coder // nil while being compiled
}

func (c *compiler) compile(id string, depth int) (*Coder, error) {
	if done, ok := c.done[id]; ok {
		if done == nil {
			return nil, fmt.Errorf("coder %s contains itself", id)
		}
		return done, nil
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("coder %s: coders nest deeper than %d", id, maxDepth)
	}
	proto, ok := c.coders[id]
	if !ok {
		return nil, fmt.Errorf("coder %s is not in the pipeline", id)
	}
	urn := proto.GetSpec().GetUrn()
	k, want, known := kindOf(urn)
	if !known {
		return nil, &UnknownError{ID: id, URN: urn}
	}
	out := &Coder{id: id, urn: urn, kind: k}
	c.done[id] = nil
	if err := c.fill(out, proto.GetComponentCoderIds(), want, depth); err != nil {
		delete(c.done, id)
		return nil, err
	}
	c.done[id] = out
	return out, nil
}

// fill compiles the components of out.
func (c *compiler) fill(out *Coder, ids []string, want, depth int) error {
	// A length prefix tells where the value ends whatever it is, so that it may come without a component.
	if len(ids) != want && (out.kind != prefixed || len(ids) != 0) {
		return fmt.Errorf("coder %s (%s) has %d components, want %d", out.id, out.urn, len(ids), want)
	}
	for _, id := range ids {
		x, err := c.component(out, id, depth+1)
		if err != nil {
			return err
		}
		out.components = append(out.components, x)
	}
	out.size = out.fixedSize()
	if out.kind == windowedValue || out.kind == timer {
		w, err := NewWindowCoder(out.components[1])
		if err != nil {
			return fmt.Errorf("compile coder %s: %w", out.id, err)
		}
		out.window = w
	}
	return nil
}

// component compiles a component of parent; behind a length prefix an unknown one, or one made of unknown ones, is opaque.
func (c *compiler) component(parent *Coder, id string, depth int) (*Coder, error) {
	x, err := c.compile(id, depth)
	if _, unknown := errors.AsType[*UnknownError](err); unknown && parent.kind == prefixed {
		return &Coder{id: id, urn: c.coders[id].GetSpec().GetUrn(), kind: opaque, size: -1}, nil
	}
	return x, err
}

// fixedSize returns the size of all values if it is the same.
func (c *Coder) fixedSize() int {
	switch c.kind {
	case boolean:
		return 1
	case double:
		return 8
	case globalWindow:
		return 0
	case paramWindowedValue:
		return c.components[0].size
	case kv:
		a, b := c.components[0].size, c.components[1].size
		if a >= 0 && b >= 0 && a+b <= maxFixed {
			return a + b
		}
	}
	return -1
}

// ID returns the coder's id in the pipeline; "" for coders that were not compiled from one.
func (c *Coder) ID() string { return c.id }

// URN returns the coder's URN.
func (c *Coder) URN() string { return c.urn }

// NumComponents returns the number of component coders.
func (c *Coder) NumComponents() int { return len(c.components) }

// Component returns the i-th component coder. One behind a length prefix may be unknown: its Skip fails.
func (c *Coder) Component(i int) *Coder { return c.components[i] }

package plan

import (
	"fmt"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// coders adds coders to a pipeline and compares them. Ids are assumed to be valid.
type coders struct {
	all   map[string]*pipepb.Coder
	added map[string]string // what a coder is -> its id
}

func newCoders(comps *pipepb.Components) *coders {
	if comps.Coders == nil {
		comps.Coders = map[string]*pipepb.Coder{}
	}
	return &coders{all: comps.Coders, added: map[string]string{}}
}

// add returns the id of a coder made of the given components, adding it under an id like the wanted one if need be.
func (c *coders) add(want string, spec *pipepb.FunctionSpec, components ...string) string {
	what := spec.GetUrn() + "\x00" + string(spec.GetPayload()) + "\x00" + strings.Join(components, "\x00")
	if id, ok := c.added[what]; ok {
		return id
	}
	id := unused(c.all, want)
	c.all[id] = &pipepb.Coder{Spec: spec, ComponentCoderIds: components}
	c.added[what] = id
	return id
}

// of adds a coder with a URN and no payload. Its id tells what it is.
func (c *coders) of(urn string, components ...string) string {
	return c.add(shortURN(urn)+"<"+strings.Join(components, ",")+">", &pipepb.FunctionSpec{Urn: urn}, components...)
}

func (c *coders) urn(id string) string { return c.all[id].GetSpec().GetUrn() }

// kv returns the components of a KV coder; false when it is none.
func (c *coders) kv(id string) (key, value string, ok bool) {
	sub := c.all[id].GetComponentCoderIds()
	if c.urn(id) != coder.URNKV || len(sub) != 2 {
		return "", "", false
	}
	return sub[0], sub[1], true
}

// same says whether two coders are made of the same parts, whatever their ids.
func (c *coders) same(a, b string) bool {
	if a == b {
		return true
	}
	x, y := c.all[a], c.all[b]
	return proto.Equal(x.GetSpec(), y.GetSpec()) && slices.EqualFunc(x.GetComponentCoderIds(), y.GetComponentCoderIds(), c.same)
}

// contains says whether a coder with the URN is a part of coder id.
func (c *coders) contains(id, urn string) bool {
	return c.urn(id) == urn || slices.ContainsFunc(c.all[id].GetComponentCoderIds(), func(sub string) bool { return c.contains(sub, urn) })
}

// collect adds the coder and all of its parts to out.
func (c *coders) collect(id string, out map[string]*pipepb.Coder) {
	if out[id] != nil || c.all[id] == nil {
		return
	}
	out[id] = c.all[id]
	for _, sub := range c.all[id].GetComponentCoderIds() {
		c.collect(sub, out)
	}
}

// String renders a coder for people: kv<bytes,length_prefix<beam:go:coder:custom:v1>>.
func (c *coders) String(id string) string {
	sub := c.all[id].GetComponentCoderIds()
	if len(sub) == 0 {
		return shortURN(c.urn(id))
	}
	names := make([]string, len(sub))
	for i, s := range sub {
		names[i] = c.String(s)
	}
	return shortURN(c.urn(id)) + "<" + strings.Join(names, ",") + ">"
}

// shortURN drops what all URNs of model coders have in common.
func shortURN(urn string) string {
	if s, ok := strings.CutPrefix(urn, "beam:coder:"); ok {
		return strings.TrimSuffix(s, ":v1")
	}
	return urn
}

// unused returns want, or something like it that is not a key of m.
func unused[V any](m map[string]V, want string) string {
	id := want
	for i := 2; ; i++ {
		if _, taken := m[id]; !taken {
			return id
		}
		id = fmt.Sprintf("%s#%d", want, i)
	}
}

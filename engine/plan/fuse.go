package plan

import (
	"fmt"
	"maps"
	"slices"
)

// vertex is a stage while it is being made: leaves that run in one bundle.
type vertex struct {
	kind  Kind
	env   string // of User vertices
	input string // PCollection; "" for roots
	// suffix tells vertices apart that transcode inputs of the same Flatten.
	suffix  string
	members []*member
	emits   []emit
}

// member is a leaf, or a copy of one, in a vertex.
type member struct {
	*leaf
	// inputs are those of the leaf's inputs that this copy of a Flatten has.
	inputs map[string]string
}

// emit: the elements of PCollection from leave the vertex for collection to. They are the same but for Flatten and
// Redistribute, whose outputs their inputs' producers write.
type emit struct{ from, to string }

// origin is a place where elements leave: a vertex and a PCollection in it.
type origin struct {
	v    *vertex
	from string
}

// fuser places leaves, in topological order, in vertices.
type fuser struct {
	*wiring
	vertices []*vertex
	// inside are, by PCollection, the User vertices that compute it: its consumers may be fused there.
	inside map[string][]*vertex
	// outside are the origins of the rest of its elements. They go through a queue.
	outside map[string][]origin
	// readers are vertices that begin with a queue for no other reason than that, by queue and environment: all consumers
	// of that kind share one.
	readers map[[2]string]*vertex
}

// fuse places every leaf and finds the collections between the vertices, which it returns in topological order.
func fuse(w *wiring) ([]*vertex, error) {
	f := &fuser{wiring: w, inside: map[string][]*vertex{}, outside: map[string][]origin{}, readers: map[[2]string]*vertex{}}
	for _, l := range w.leaves {
		if err := f.place(l); err != nil {
			return nil, err
		}
	}
	queued := map[string]bool{}
	for _, v := range f.vertices {
		for _, id := range v.reads() {
			if !queued[id] {
				queued[id] = true
				f.queue(id)
			}
		}
	}
	return f.sort()
}

func (f *fuser) place(l *leaf) error {
	switch l.role {
	case native:
		v := f.vertex(l.kind, "", l.main)
		v.members = append(v.members, &member{leaf: l})
		for _, out := range sorted(l.t.GetOutputs()) {
			f.outside[out.id] = []origin{{v, out.id}}
		}
	case redistribute:
		f.outside[l.output()] = f.origins(l.main)
	case flatten:
		return f.flatten(l)
	case user:
		return f.user(l)
	}
	return nil
}

// user places a leaf in all vertices that compute its input, or at the beginning of one.
func (f *fuser) user(l *leaf) error {
	env := l.t.GetEnvironmentId()
	fits := f.fits(l.main, env)
	inseparable := f.coders.contains(f.comps.GetPcollections()[l.main].GetCoderId(), urnCoGBKList)
	switch {
	case inseparable && !fits:
		return l.unsupported("its input, of a CoGroupByKey of the Go SDK, can only be used in the same environment")
	case inseparable && (l.stateful() || l.splittable()):
		return l.unsupported("its input, of a CoGroupByKey of the Go SDK, has no coder: put a ParDo between the two")
	case fits && (!l.begins() || inseparable):
		for _, v := range f.inside[l.main] {
			f.join(v, &member{leaf: l})
		}
	case l.begins():
		f.join(f.vertex(User, env, l.main), &member{leaf: l})
	default:
		reader := [2]string{l.main, env}
		if f.readers[reader] == nil {
			f.readers[reader] = f.vertex(User, env, l.main)
		}
		f.join(f.readers[reader], &member{leaf: l})
	}
	return nil
}

// fits says whether all elements of a PCollection are computed in stages of the environment.
func (f *fuser) fits(pcollection, env string) bool {
	in := f.inside[pcollection]
	return len(in) > 0 && len(f.outside[pcollection]) == 0 && !slices.ContainsFunc(in, func(v *vertex) bool { return v.env != env })
}

// flatten copies a Flatten into the stages that compute its inputs. Elements of other inputs pass by it, if they look the
// same before and behind it, and else through a vertex of its own.
func (f *fuser) flatten(l *leaf) error {
	out := l.output()
	copies := map[*vertex]*member{}
	for _, in := range sorted(l.t.GetInputs()) {
		vs := f.inside[in.id]
		if !f.passes(l, in.id) {
			v, err := f.transcoder(l, in)
			if err != nil {
				return err
			}
			vs = []*vertex{v}
		} else {
			f.outside[out] = append(f.outside[out], f.outside[in.id]...)
		}
		for _, v := range vs {
			if copies[v] == nil {
				copies[v] = &member{leaf: l, inputs: map[string]string{}}
				f.join(v, copies[v])
			}
			copies[v].inputs[in.local] = in.id
		}
	}
	return nil
}

// passes says whether a Flatten need not see the elements of its input, but for copies of it where the input is computed.
func (f *fuser) passes(l *leaf, in string) bool {
	out := l.output()
	same := f.coders.same(f.elements[in], f.elements[out])
	for _, v := range f.inside[in] {
		if env := l.t.GetEnvironmentId(); env != "" && env != v.env && !same {
			return false
		}
	}
	for _, o := range f.outside[in] {
		// The same elements twice are two inputs, which one queue entry cannot tell.
		if !same || slices.Contains(f.outside[out], o) {
			return false
		}
	}
	return true
}

// transcoder makes a vertex for one input of a Flatten.
func (f *fuser) transcoder(l *leaf, in end) (*vertex, error) {
	env := l.t.GetEnvironmentId()
	if env == "" {
		for _, env = range slices.Sorted(maps.Keys(f.comps.GetEnvironments())) {
			break
		}
	}
	if env == "" {
		return nil, l.unsupported("input %q needs another coder, and there is no environment that could change it", in.local)
	}
	v := f.vertex(User, env, in.id)
	v.suffix = "[" + in.local + "]"
	return v, nil
}

func (f *fuser) vertex(k Kind, env, input string) *vertex {
	v := &vertex{kind: k, env: env, input: input}
	f.vertices = append(f.vertices, v)
	return v
}

// join adds a member to a User vertex.
func (f *fuser) join(v *vertex, m *member) {
	v.members = append(v.members, m)
	for _, out := range sorted(m.t.GetOutputs()) {
		f.inside[out.id] = append(f.inside[out.id], v)
	}
}

// origins returns where the elements of a PCollection leave their vertices.
func (f *fuser) origins(pcollection string) []origin {
	var out []origin
	for _, v := range f.inside[pcollection] {
		out = append(out, origin{v, pcollection})
	}
	return append(out, f.outside[pcollection]...)
}

// queue makes all vertices that have elements of a PCollection emit them.
func (f *fuser) queue(pcollection string) {
	for _, o := range f.origins(pcollection) {
		o.v.emits = append(o.v.emits, emit{o.from, pcollection})
	}
}

// reads returns the collections that a vertex needs: its input and the side inputs of its members.
func (v *vertex) reads() []string {
	var out []string
	if v.input != "" {
		out = append(out, v.input)
	}
	for _, m := range v.members {
		for _, in := range sorted(m.t.GetInputs()) {
			if _, side := m.pardo.GetSideInputs()[in.local]; side {
				out = append(out, in.id)
			}
		}
	}
	return out
}

// sort orders vertices topologically. They are so already, unless a leaf with a side input was fused where it could not
// stay away.
func (f *fuser) sort() ([]*vertex, error) {
	producers := map[string][]*vertex{}
	for _, v := range f.vertices {
		for _, e := range v.emits {
			producers[e.to] = append(producers[e.to], v)
		}
	}
	const visiting, visited = 1, 2
	state := map[*vertex]int{}
	var out []*vertex
	var visit func(v *vertex) error
	visit = func(v *vertex) error {
		state[v] = visiting
		for _, id := range v.reads() {
			for _, p := range producers[id] {
				if state[p] == visiting {
					return p.cyclic(id)
				}
				if state[p] == 0 {
					if err := visit(p); err != nil {
						return err
					}
				}
			}
		}
		state[v] = visited
		out = append(out, v)
		return nil
	}
	for _, v := range f.vertices {
		if state[v] == 0 {
			if err := visit(v); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// cyclic says that a vertex would have to wait for itself.
func (v *vertex) cyclic(pcollection string) error {
	for _, m := range v.members {
		if len(m.pardo.GetSideInputs()) > 0 {
			return m.unsupported("side input from PCollection %q, which is computed in the same stage as the CoGroupByKey that it reads", pcollection)
		}
	}
	return fmt.Errorf("PCollection %q is needed for itself", pcollection)
}

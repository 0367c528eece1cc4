package plan

import (
	"errors"
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// Options of Compile.
type Options struct {
	// Job makes the ids of process bundle descriptors unique in the process: they are "Job/stage name". It may be empty.
	Job string
	// Native tells the runner's own sources and sinks by URN; nil: there are none. Their Kind is Source or Sink.
	Native func(urn string) (Kind, bool)
}

func (o Options) native(urn string) (Kind, bool) {
	if o.Native == nil || urn == "" {
		return 0, false
	}
	return o.Native(urn)
}

// UnsupportedError says what in a well-formed pipeline this runner cannot run. Any other error of Compile means that the
// pipeline is malformed.
type UnsupportedError struct {
	Transform string // unique name; "" when it is about the whole pipeline
	URN       string // of the transform or of what it asks for
	Reason    string
}

func (e *UnsupportedError) Error() string {
	if e.Transform == "" {
		return fmt.Sprintf("unsupported pipeline: %s: %s", e.URN, e.Reason)
	}
	return fmt.Sprintf("unsupported transform %q (%s): %s", e.Transform, e.URN, e.Reason)
}

// Compile makes the plan of a pipeline. It does not change p, nor does the plan refer to it. What the runner cannot run
// is an *UnsupportedError.
func Compile(p *pipepb.Pipeline, opts Options) (*Plan, error) {
	if p.GetComponents() == nil {
		return nil, errors.New("the pipeline has no components")
	}
	p = proto.Clone(p).(*pipepb.Pipeline)
	if err := validate(p); err != nil {
		return nil, err
	}
	cs := newCoders(p.Components)
	if err := adoptTestCoders(p.Components, cs); err != nil {
		return nil, err
	}
	leaves, err := expand(p, cs, opts)
	if err != nil {
		return nil, err
	}
	g, err := newGraph(p.Components, cs, leaves)
	if err != nil {
		return nil, err
	}
	w, err := wire(g)
	if err != nil {
		return nil, err
	}
	vertices, err := fuse(w)
	if err != nil {
		return nil, err
	}
	return assemble(p, w, vertices, opts.Job)
}

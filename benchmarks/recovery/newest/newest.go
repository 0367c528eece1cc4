// Package newest is the pipeline of benchmarks/recovery: the newest value of each key.
package newest

import (
	"reflect"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/typex"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

// URNs of the native source and the native sink that the runner must have.
const (
	SourceURN = "benchmark:updates:v1"
	SinkURN   = "benchmark:count:v1"
)

func init() { //nolint:gochecknoinits // Beam finds functions by name, in a registry that must be filled before beam.Init
	register.DoFn3x2[state.Provider, []byte, []byte, []byte, []byte](&remember{})
}

// remember keeps the newest value of each key, and passes on the key.
type remember struct {
	Newest state.Value[[]byte]
}

// ProcessElement reads the old value, as a job that does something with it would.
func (f *remember) ProcessElement(p state.Provider, key, value []byte) ([]byte, []byte) {
	if _, _, err := f.Newest.Read(p); err != nil {
		panic(err)
	}
	if err := f.Newest.Write(p, value); err != nil {
		panic(err)
	}
	return key, nil
}

// Pipeline is source, stateful DoFn, sink.
func Pipeline() *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	bytes := reflect.TypeFor[[]byte]()
	kv := typex.NewKV(typex.New(bytes), typex.New(bytes))
	in := beam.External(s, SourceURN, nil, nil, []beam.FullType{kv}, false)[0]
	out := beam.ParDo(s, &remember{Newest: state.MakeValueState[[]byte]("newest")}, in)
	beam.External(s, SinkURN, nil, []beam.PCollection{out}, nil, false)
	return p
}

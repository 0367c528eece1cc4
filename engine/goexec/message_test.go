package goexec

import (
	"errors"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/cockroachdb/datadriven"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// TestMessage shows exec's errors (input) beside what users are told (output).
func TestMessage(t *testing.T) {
	st := newStage(&bundle.Program{Descriptor: &fnpb.ProcessBundleDescriptor{Transforms: map[string]*pipepb.PTransform{
		"e4": {UniqueName: "Count/Parse"},
	}}}, false)
	datadriven.RunTest(t, "testdata/message", func(t *testing.T, d *datadriven.TestData) string {
		return st.message(errors.New(d.Input)) + "\n"
	})
}

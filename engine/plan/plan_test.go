package plan

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// TestGo prints the plans of pipelines of the Go SDK (gopipelines_test.go).
func TestGo(t *testing.T) {
	seen := map[string]bool{}
	datadriven.RunTest(t, "testdata/go", func(t *testing.T, d *datadriven.TestData) string {
		name := d.Input
		seen[name] = true
		return planned(t, goPipeline(t, name))
	})
	for _, name := range slices.Sorted(maps.Keys(goPipelines)) {
		if !seen[name] {
			t.Errorf("testdata/go has no pipeline %q", name)
		}
	}
}

// TestGoReadsDescriptors: the Go SDK can execute what it is given.
func TestGoReadsDescriptors(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(goPipelines)) {
		plan, err := Compile(goPipeline(t, name), Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range plan.Stages {
			for _, prog := range []*bundle.Program{s.Program, truncateProgram(s)} {
				if prog == nil {
					continue
				}
				if _, err := exec.UnmarshalPlan(prog.Descriptor, nil); err != nil {
					t.Errorf("%s: stage %s: %v", name, prog.Descriptor.Id, err)
				}
			}
		}
	}
}

// TestPython prints the plans of pipelines of the Python SDK, which testdata/python/make.py wrote.
func TestPython(t *testing.T) {
	datadriven.RunTest(t, "testdata/py", func(t *testing.T, d *datadriven.TestData) string {
		return planned(t, pythonPipeline(t, d.Input))
	})
}

func pythonPipeline(t testing.TB, name string) *pipepb.Pipeline {
	file, err := os.ReadFile(filepath.Join("testdata", "python", name+".pb"))
	if err != nil {
		t.Fatal(err)
	}
	var p pipepb.Pipeline
	if err := proto.Unmarshal(file, &p); err != nil {
		t.Fatal(err)
	}
	return &p
}

// TestSketches prints the plans of pipelines that are written as in sketch_test.go.
func TestSketches(t *testing.T) {
	datadriven.Walk(t, "testdata/sketches", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return planned(t, sketched(t, d.Input))
		})
	})
}

// planned compiles a pipeline and returns the plan, or the error, as text.
func planned(t testing.TB, p *pipepb.Pipeline) string {
	before := proto.Clone(p)
	plan, err := Compile(p, Options{Job: "job", Native: sketchNative})
	if err != nil {
		return "error: " + err.Error()
	}
	if !proto.Equal(before, p) {
		t.Error("Compile changed its input")
	}
	check(t, plan)
	return plan.String()
}

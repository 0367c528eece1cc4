package engine_test

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// layers of the packages, the top first: a package imports only what is in a later layer. Tests may import anything.
var layers = [][]string{
	{"cmd/tinyrunner", "benchmarks", "web/clients"},
	{"engine/enginetest", "engine/kafka/demo"},
	{"engine/tiny"},
	{"web", "engine/jobapi"},
	{"engine", "engine/kafka/expand"},
	{"engine/fnapi", "engine/goexec", "engine/userstate", "engine/kafka"},
	{"engine/native", "engine/plan", "engine/window"},
	{"engine/bundle", "engine/metric"},
	{"engine/coder", "engine/flow", "engine/latency", "checkpoint", "state"},
	{"checkpoint/objstore", "engine/kafka/brokertest", "web/ui"},
}

const module = "github.com/tinyrunner/tinyrunner/"

func TestImportsPointDownwards(t *testing.T) {
	level := make(map[string]int)
	for i, l := range layers {
		for _, p := range l {
			level[p] = i
		}
	}
	levelOf := func(pkg string) (int, bool) {
		if strings.HasPrefix(pkg, "benchmarks/") {
			pkg = "benchmarks"
		}
		if pkg == "engine/bundle/bundletest" {
			return 0, true // test support
		}
		n, ok := level[pkg]
		return n, ok
	}
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "testdata") {
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		from := filepath.ToSlash(strings.TrimPrefix(filepath.Dir(path), ".."+string(filepath.Separator)))
		at, known := levelOf(from)
		if !known {
			t.Errorf("package %s is in no layer: give it one in layering_test.go", from)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imp := range f.Imports {
			to, ours := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), module)
			if strings.HasPrefix(from, "benchmarks/") && strings.HasPrefix(to, "benchmarks/") {
				continue
			}
			if n, _ := levelOf(to); ours && n <= at {
				t.Errorf("%s imports %s, which is not below it", path, to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

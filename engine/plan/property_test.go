package plan

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// drawSketch returns a random valid pipeline.
func drawSketch(t *rapid.T) string {
	lines := []string{"env py", "env java"}
	var all, keyed []string // PCollections, and those of KVs
	input := func(from []string) string { return rapid.SampledFrom(from).Draw(t, "input") }
	for i := range rapid.IntRange(1, 14).Draw(t, "transforms") {
		env := rapid.SampledFrom([]string{"py", "py", "java"}).Draw(t, "env")
		kind := rapid.SampledFrom([]string{"impulse", "source", "pardo", "pardo", "flatten", "flatten", "redistribute", "gbk", "state", "splittable", "stable", "combine"}).Draw(t, "kind")
		if len(all) == 0 || len(keyed) == 0 && (kind == "gbk" || kind == "state" || kind == "combine") {
			kind = "impulse"
		}
		out := fmt.Sprintf("p%d", i)
		line := ""
		switch kind {
		case "impulse", "source":
			line = kind
		case "flatten":
			line = rapid.SampledFrom([]string{"flatten", "flatten@" + env}).Draw(t, "flatten")
			for range rapid.IntRange(0, 3).Draw(t, "inputs") {
				line += " in=" + input(all)
			}
		case "redistribute":
			line = "redistribute in=" + input(all)
		case "gbk":
			line = "gbk in=" + input(keyed)
		case "combine":
			line = "combine@" + env + " in=" + input(keyed)
		case "state":
			line = "pardo@" + env + " in=" + input(keyed) + " state=s timer=t"
		default:
			line = "pardo@" + env + " in=" + input(all)
			if kind != "pardo" {
				line += " " + kind
			}
			if rapid.IntRange(0, 3).Draw(t, "has side input") == 0 {
				line += " side=" + input(all)
			}
		}
		coder := rapid.SampledFrom([]string{"bytes", "custom", "kv<bytes,varint>", "kv<custom,bytes>"}).Draw(t, "coder")
		// What a GroupByKey puts out is not grouped again, nor what only repeats it.
		all = append(all, out)
		if strings.HasPrefix(coder, "kv") && (strings.HasPrefix(line, "pardo") || strings.HasPrefix(line, "combine")) {
			keyed = append(keyed, out)
		}
		lines = append(lines, fmt.Sprintf("t%d %s out=%s:%s", i, line, out, coder))
	}
	return strings.Join(lines, "\n")
}

// TestElementsAreKept: whatever is fused, copied and queued, each transform processes every element of its input once.
// Roots put out one element each, other transforms one for each that they get.
func TestElementsAreKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := drawSketch(t)
		p := sketched(t, text)
		plan, err := Compile(p, Options{Native: sketchNative})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		check(t, plan)
		want := elements(p)
		got, processed := planElements(plan)
		for id, c := range plan.Collections {
			if n, ok := want[id]; ok && got[id] != n {
				t.Errorf("collection %s has %d elements, want %d (%v)", id, got[id], n, c.Producers)
			}
		}
		for id, tr := range p.Components.Transforms {
			if urn := tr.Spec.Urn; urn != urnParDo && urn != urnGBK {
				continue
			}
			if n := want[tr.Inputs["i0"]]; processed[id] != n {
				t.Errorf("transform %s processes %d elements, want %d", id, processed[id], n)
			}
		}
		if t.Failed() {
			t.Logf("%s\n%s", text, plan)
		}
	})
}

// elements counts the elements of each PCollection of a sketch whose transforms are in order.
func elements(p *pipepb.Pipeline) map[string]uint64 {
	out := map[string]uint64{}
	for _, id := range p.RootTransformIds {
		t := p.Components.Transforms[id]
		n := uint64(0)
		switch {
		case len(t.Inputs) == 0 && t.Spec.Urn != urnFlatten:
			n = 1
		case t.Spec.Urn == urnFlatten:
			for _, in := range t.Inputs {
				n += out[in]
			}
		default:
			n = out[t.Inputs["i0"]]
		}
		out[t.Outputs["o0"]] = n
	}
	return out
}

// planElements counts elements by collection, and those that transforms process, as the plan is run.
func planElements(p *Plan) (collections, processed map[string]uint64) {
	collections, processed = map[string]uint64{}, map[string]uint64{}
	for _, s := range p.Stages {
		local := map[string]uint64{s.Input: collections[s.Input]}
		for _, id := range s.Transforms {
			t := p.Pipeline.Components.Transforms[id]
			if s.Program != nil {
				t = s.Program.Descriptor.Transforms[id]
			}
			n := uint64(0)
			switch {
			case s.Input == "":
				n = 1
			case t.Spec.Urn == urnFlatten:
				for _, in := range t.Inputs {
					n += local[in]
				}
			default:
				var pardo pipepb.ParDoPayload
				if hasParDoPayload(t.Spec.Urn) {
					_ = proto.Unmarshal(t.Spec.Payload, &pardo)
				}
				for name, in := range t.Inputs {
					if pardo.SideInputs[name] == nil {
						n = local[in]
					}
				}
				processed[id] += n
			}
			for _, out := range t.Outputs {
				local[out] = n
			}
		}
		for i, out := range s.Outputs {
			collections[out] += local[s.From[i]]
		}
	}
	return collections, processed
}

// TestOrder: the order in which a pipeline lists its transforms does not matter but for the order of stages.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := sketched(t, drawSketch(t))
		a, err := Compile(p, Options{Native: sketchNative})
		if err != nil {
			t.Fatal(err)
		}
		p.RootTransformIds = rapid.Permutation(p.RootTransformIds).Draw(t, "order")
		b, err := Compile(p, Options{Native: sketchNative})
		if err != nil {
			t.Fatal(err)
		}
		if x, y := summary(a), summary(b); !maps.Equal(x, y) {
			t.Errorf("stages %v and %v", x, y)
		}
	})
}

// summary tells by stage name what a stage reads and runs, in any order.
func summary(p *Plan) map[string]string {
	out := map[string]string{}
	for _, s := range p.Stages {
		out[s.Name] = fmt.Sprint(s.Input, slices.Sorted(slices.Values(s.Transforms)), slices.Sorted(slices.Values(s.Outputs)))
	}
	return out
}

// TestMutations: no pipeline, however broken, makes Compile panic, and what it accepts it plans well.
func TestMutations(t *testing.T) {
	var pipelines []*pipepb.Pipeline
	for _, name := range slices.Sorted(maps.Keys(goPipelines)) {
		pipelines = append(pipelines, goPipeline(t, name))
	}
	for _, name := range []string{"flatten", "stateful", "windows", "side_inputs"} {
		pipelines = append(pipelines, pythonPipeline(t, name))
	}
	accepted, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		p := proto.Clone(rapid.SampledFrom(pipelines).Draw(t, "pipeline")).(*pipepb.Pipeline)
		if rapid.Bool().Draw(t, "sketch") {
			p = sketched(t, drawSketch(t))
		}
		for range rapid.IntRange(1, 3).Draw(t, "mutations") {
			mutate(t, p)
		}
		plan, err := Compile(p, Options{Job: "job", Native: sketchNative})
		if err != nil {
			refused++
			return
		}
		accepted++
		check(t, plan)
	})
	if n := accepted + refused; n >= 100 && (accepted == 0 || refused == 0) { // rapid draws 100, and with -short so few that all may be refused
		t.Errorf("%d accepted, %d refused: the mutations are too hard or too soft", accepted, refused)
	}
}

// mutate changes one thing in a pipeline.
func mutate(t *rapid.T, p *pipepb.Pipeline) {
	c := p.Components
	pick := func(ids []string) string {
		if len(ids) == 0 {
			return "nothing"
		}
		return rapid.SampledFrom(ids).Draw(t, "id")
	}
	transforms, pcs := slices.Sorted(maps.Keys(c.Transforms)), slices.Sorted(maps.Keys(c.Pcollections))
	coders, windows := slices.Sorted(maps.Keys(c.Coders)), slices.Sorted(maps.Keys(c.WindowingStrategies))
	tr, pc := c.Transforms[pick(transforms)], c.Pcollections[pick(pcs)]
	if tr == nil || pc == nil {
		return
	}
	switch rapid.IntRange(0, 15).Draw(t, "mutation") {
	case 0:
		delete(c.Transforms, pick(transforms))
	case 1:
		delete(c.Pcollections, pick(pcs))
	case 2:
		delete(c.Coders, pick(coders))
	case 3:
		delete(c.WindowingStrategies, pick(windows))
	case 4:
		clear(c.Environments)
	case 5:
		tr.EnvironmentId = ""
	case 6:
		tr.Spec = &pipepb.FunctionSpec{Urn: pick(slices.Sorted(maps.Values(sketchURNs))), Payload: tr.GetSpec().GetPayload()}
	case 7:
		pc.CoderId = pick(coders)
	case 8:
		pc.WindowingStrategyId = pick(windows)
	case 9:
		c.Coders[pick(coders)] = proto.Clone(c.Coders[pick(coders)]).(*pipepb.Coder)
	case 10:
		if coder := c.Coders[pick(coders)]; coder != nil {
			coder.ComponentCoderIds = []string{pick(coders), pick(coders)}
		}
	case 11:
		for local := range tr.Inputs {
			tr.Inputs[local] = pick(pcs)
			break
		}
	case 12:
		tr.Inputs = nil
	case 13:
		tr.Outputs = map[string]string{"out": pick(pcs)}
	case 14:
		tr.Subtransforms = append(tr.Subtransforms, pick(transforms))
	case 15:
		if tr.Spec != nil && len(tr.Spec.Payload) > 0 {
			tr.Spec.Payload = tr.Spec.Payload[:rapid.IntRange(0, len(tr.Spec.Payload)).Draw(t, "cut")]
		}
	}
}

// TestOnlyUnsupportedIsUnsupported: errors tell a pipeline that this runner cannot run from one that no runner can.
func TestOnlyUnsupportedIsUnsupported(t *testing.T) {
	for text, want := range map[string]bool{
		"i impulse out=a\nx some:urn in=a out=b":                      true,
		"i impulse out=a\nx pardo@nowhere in=a":                       false,
		"i impulse out=a\ng gbk in=a out=b:kv<bytes,iterable<bytes>>": false,
	} {
		_, err := Compile(sketched(t, text), Options{})
		var unsupported *UnsupportedError
		if err == nil || errors.As(err, &unsupported) != want {
			t.Errorf("%s: error %v, unsupported: want %v", text, err, want)
		}
	}
}

// FuzzCompile feeds Compile with files, some of them pipelines.
func FuzzCompile(f *testing.F) {
	files, err := filepath.Glob("testdata/python/*.pb")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, name := range files {
		file, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(file)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		var p pipepb.Pipeline
		if proto.Unmarshal(file, &p) != nil {
			return
		}
		plan, err := Compile(&p, Options{})
		if err != nil {
			return
		}
		check(t, plan)
		_ = plan.String()
	})
}

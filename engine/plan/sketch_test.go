package plan

import (
	"fmt"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// sketch builds pipelines from lines such as
//
//	NAME KIND in=PCOLLECTION side=PCOLLECTION out=PCOLLECTION:CODER TRAIT...
//
// KIND is impulse, gbk, flatten, redistribute, teststream, combine, source, sink, a URN, or "pardo". ENV behind it, as in
// pardo@py, is the environment. CODER is bytes unless given: model coders by their short names, with components in <>;
// any other name is a coder that the runner does not know, and ?NAME is the id of none. A line "env NAME" adds an
// environment, "requires URN" a requirement, "in COMPOSITE NAME..." makes a composite of transforms.
type sketch struct {
	p *pipepb.Pipeline
	c *pipepb.Components
}

func newSketch() *sketch {
	c := &pipepb.Components{
		Transforms:          map[string]*pipepb.PTransform{},
		Pcollections:        map[string]*pipepb.PCollection{},
		Coders:              map[string]*pipepb.Coder{},
		WindowingStrategies: map[string]*pipepb.WindowingStrategy{},
		Environments:        map[string]*pipepb.Environment{},
	}
	return &sketch{&pipepb.Pipeline{Components: c}, c}
}

func sketched(t rapid.TB, text string) *pipepb.Pipeline {
	s := newSketch()
	for _, line := range strings.Split(text, "\n") {
		if words := strings.Fields(line); len(words) > 0 {
			if err := s.line(words); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
	}
	return s.p
}

func (s *sketch) line(words []string) error {
	if len(words) < 2 {
		return fmt.Errorf("too short")
	}
	switch words[0] {
	case "env":
		s.c.Environments[words[1]] = &pipepb.Environment{Urn: "beam:env:external:v1"}
		return nil
	case "requires":
		s.p.Requirements = append(s.p.Requirements, words[1])
		return nil
	case "in":
		s.c.Transforms[words[1]] = &pipepb.PTransform{UniqueName: words[1], Subtransforms: words[2:]}
		s.p.RootTransformIds = append([]string{words[1]}, s.p.RootTransformIds...)
		for _, sub := range words[2:] {
			s.p.RootTransformIds = without(s.p.RootTransformIds, sub)
		}
		return nil
	}
	return s.transform(words[0], words[1], words[2:])
}

func without(list []string, s string) []string {
	var out []string
	for _, x := range list {
		if x != s {
			out = append(out, x)
		}
	}
	return out
}

var sketchURNs = map[string]string{
	"impulse": urnImpulse, "gbk": urnGBK, "flatten": urnFlatten, "redistribute": urnReshuffle, "teststream": urnTestStream,
	"combine": urnCombinePerKey, "pardo": urnParDo, "source": "tiny:source", "sink": "tiny:sink",
}

// sketchNative are the runner's sources and sinks in sketches.
func sketchNative(urn string) (Kind, bool) {
	switch urn {
	case "tiny:source":
		return Source, true
	case "tiny:sink":
		return Sink, true
	}
	return 0, false
}

func (s *sketch) transform(name, kind string, traits []string) error {
	kind, env, _ := strings.Cut(kind, "@")
	urn, ok := sketchURNs[kind]
	if !ok {
		urn = kind
	}
	t := &pipepb.PTransform{UniqueName: name, EnvironmentId: env, Inputs: map[string]string{}, Outputs: map[string]string{}}
	pardo := &pipepb.ParDoPayload{SideInputs: map[string]*pipepb.SideInput{}}
	window := "global"
	for _, trait := range traits {
		if w, ok := strings.CutPrefix(trait, "window="); ok {
			window = w
		}
	}
	for _, trait := range traits {
		what, value, _ := strings.Cut(trait, "=")
		local := fmt.Sprintf("i%d", len(t.Inputs))
		switch what {
		case "in":
			t.Inputs[local] = value
		case "side", "map":
			t.Inputs[local] = value
			urn := map[string]string{"side": urnIterableSideInput, "map": urnMultimapSideInput}[what]
			pardo.SideInputs[local] = &pipepb.SideInput{AccessPattern: &pipepb.FunctionSpec{Urn: urn}}
		case "out":
			id, coder, _ := strings.Cut(value, ":")
			t.Outputs[fmt.Sprintf("o%d", len(t.Outputs))] = id
			s.c.Pcollections[id] = &pipepb.PCollection{UniqueName: id, CoderId: s.coder(coder), WindowingStrategyId: s.window(window)}
		case "window":
		default:
			if err := s.trait(pardo, what, value); err != nil {
				return err
			}
		}
	}
	t.Spec = &pipepb.FunctionSpec{Urn: urn}
	switch {
	case hasParDoPayload(urn):
		t.Spec.Payload, _ = proto.Marshal(pardo)
	case urn == urnCombinePerKey:
		t.Spec.Payload, _ = proto.Marshal(&pipepb.CombinePayload{AccumulatorCoderId: s.coder("accumulator")})
	case urn == urnTestStream:
		t.Spec.Payload, _ = proto.Marshal(&pipepb.TestStreamPayload{CoderId: s.coder("")})
	}
	s.c.Transforms[name] = t
	s.p.RootTransformIds = append(s.p.RootTransformIds, name)
	return nil
}

func (s *sketch) trait(p *pipepb.ParDoPayload, what, value string) error {
	switch what {
	case "state":
		p.StateSpecs = map[string]*pipepb.StateSpec{value: {Spec: &pipepb.StateSpec_BagSpec{BagSpec: &pipepb.BagStateSpec{ElementCoderId: s.coder("")}}}}
	case "timer":
		p.TimerFamilySpecs = map[string]*pipepb.TimerFamilySpec{value: {TimeDomain: pipepb.TimeDomain_EVENT_TIME, TimerFamilyCoderId: s.coder("timer<custom,global_window>")}}
	case "expire":
		p.OnWindowExpirationTimerFamilySpec = value
	case "splittable":
		p.RestrictionCoderId = s.coder("kv<restriction,varint>")
	case "stable":
		p.RequiresStableInput = true
	case "sorted":
		p.RequiresTimeSortedInput = true
	default:
		return fmt.Errorf("unknown trait %q", what)
	}
	return nil
}

// coder adds the coder that is written like kv<bytes,custom> and returns its id.
func (s *sketch) coder(text string) string {
	if text == "" {
		text = "bytes"
	}
	if strings.HasPrefix(text, "?") || s.c.Coders[text] != nil {
		return text
	}
	name, rest, _ := strings.Cut(text, "<")
	urn := "beam:coder:" + name + ":v1"
	if name == "cogbklist" {
		urn = urnCoGBKList
	}
	c := &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}}
	s.c.Coders[text] = c
	depth, from := 0, 0
	rest = strings.TrimSuffix(rest, ">") + ","
	for i, r := range rest {
		switch r {
		case '<':
			depth++
		case '>':
			depth--
		case ',':
			if depth == 0 {
				if sub := rest[from:i]; sub != "" {
					c.ComponentCoderIds = append(c.ComponentCoderIds, s.coder(sub))
				}
				from = i + 1
			}
		}
	}
	return text
}

// window adds a windowing strategy.
func (s *sketch) window(name string) string {
	ws := &pipepb.WindowingStrategy{
		WindowFn:         &pipepb.FunctionSpec{Urn: urnGlobalWindows},
		MergeStatus:      pipepb.MergeStatus_NON_MERGING,
		AccumulationMode: pipepb.AccumulationMode_DISCARDING,
	}
	coder := "global_window"
	switch name {
	case "sessions":
		ws.WindowFn.Urn, coder = urnSessionWindows, "interval_window"
		ws.MergeStatus = pipepb.MergeStatus_NEEDS_MERGE
	case "custom":
		ws.WindowFn.Urn, coder = "custom", "window"
	case "merging":
		ws.WindowFn.Urn, coder = "custom", "interval_window"
		ws.MergeStatus, ws.EnvironmentId = pipepb.MergeStatus_NEEDS_MERGE, "py"
	case "retracting":
		ws.AccumulationMode = pipepb.AccumulationMode_RETRACTING
	case "counting":
		ws.Trigger = &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: &pipepb.Trigger{
			Trigger: &pipepb.Trigger_ElementCount_{ElementCount: &pipepb.Trigger_ElementCount{ElementCount: 1}}}}}}
	}
	if strings.HasPrefix(name, "?") {
		return name
	}
	ws.WindowCoderId = s.coder(coder)
	s.c.WindowingStrategies[name] = ws
	return name
}

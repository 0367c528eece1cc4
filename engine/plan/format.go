package plan

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

func (k Kind) String() string {
	switch k {
	case User:
		return "user"
	case Impulse:
		return "impulse"
	case GroupByKey:
		return "group by key"
	case Source:
		return "source"
	case Sink:
		return "sink"
	case TestStream:
		return "test stream"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// String returns what Format writes.
func (p *Plan) String() string {
	var b strings.Builder
	_ = p.Format(&b) // a Builder takes everything
	return b.String()
}

// Format writes the plan for people: its stages, then its collections. Equal plans give equal text.
func (p *Plan) Format(w io.Writer) error {
	// One write at the end: a tabwriter keeps its first error, but the lines between do not look at it.
	var b strings.Builder
	for _, s := range p.Stages {
		p.formatStage(&b, s)
	}
	b.WriteString("collections\n")
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	coders := newCoders(p.Pipeline.GetComponents())
	for _, id := range slices.Sorted(maps.Keys(p.Collections)) {
		c := p.Collections[id]
		fmt.Fprintf(t, "  %s\t%s\t%s%s\n", id, c.flow(), coders.String(c.CoderID), c.traits(coders))
	}
	_ = t.Flush()
	_, err := io.WriteString(w, b.String())
	return err
}

func (p *Plan) formatStage(w io.Writer, s *Stage) {
	fmt.Fprintf(w, "%d %s", s.Index, s.Kind)
	if s.Environment != "" {
		fmt.Fprintf(w, " in %s", s.Environment)
	}
	fmt.Fprintf(w, ": %s%s\n", s.Name, s.traits())
	line := func(what, format string, args ...any) {
		fmt.Fprintf(w, "    %-6s %s\n", what, fmt.Sprintf(format, args...))
	}
	if s.Input != "" {
		line("in", "%s", s.Input)
	}
	for _, id := range s.Transforms {
		t := p.Pipeline.GetComponents().GetTransforms()[id]
		line("run", "%s (%s)", t.GetUniqueName(), shortTransform(t.GetSpec().GetUrn()))
	}
	for _, side := range s.SideInputs {
		pattern := strings.TrimSuffix(strings.TrimPrefix(side.AccessPattern, "beam:side_input:"), ":v1")
		consumer := p.Pipeline.GetComponents().GetTransforms()[side.Transform].GetUniqueName()
		line("side", "%s as %s of %s, %s", side.Collection, side.Local, consumer, pattern)
	}
	if s.Kind == GroupByKey {
		line("group", "%s", windowing(s.Windowing))
	}
	for _, st := range s.States {
		line("state", "%s: %s", st.ID, stateType(st.Spec))
	}
	for _, t := range s.Timers {
		line("timer", "%s: %s", t.ID, strings.ToLower(strings.ReplaceAll(t.Domain.String(), "_", " ")))
	}
	if len(s.Outputs) > 0 {
		line("out", "%s", s.writes())
	}
}

// writes names the outputs of a stage, and where they are from if they have another name there.
func (s *Stage) writes() string {
	out := slices.Clone(s.Outputs)
	for i, from := range s.From {
		if from != out[i] {
			out[i] += " (from " + from + ")"
		}
	}
	return strings.Join(out, ", ")
}

// traits are what is special about a stage.
func (s *Stage) traits() string {
	var out []string
	for _, t := range []struct {
		has  bool
		name string
	}{
		{s.Kind == User && s.Keyed, "keyed"},
		{s.Splittable, "splittable"},
		{s.TimeSorted, "time-sorted"},
		{s.StableInput, "stable input"},
		{s.OnWindowExpiration != "", "on window expiration " + s.OnWindowExpiration},
		{s.MergeWindows != nil, "windows merge in the SDK"},
	} {
		if t.has {
			out = append(out, t.name)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return " (" + strings.Join(out, ", ") + ")"
}

// flow tells where a collection comes from and goes to, in indices of stages.
func (c *Collection) flow() string {
	join := func(stages []int) string {
		return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(stages)), ","), "[]")
	}
	from := join(c.Producers)
	if from == "" {
		from = "nothing"
	}
	to := join(c.Consumers)
	if len(c.SideConsumers) > 0 {
		to = strings.TrimSpace(to + " side " + join(c.SideConsumers))
	}
	return from + " -> " + to
}

func (c *Collection) traits(coders *coders) string {
	out := ""
	if w := coders.String(c.Windowing.GetWindowCoderId()); w != "global_window" {
		out += " in " + w
	}
	if !c.Bounded {
		out += ", unbounded"
	}
	return out
}

// windowing tells what matters to a grouping: windows, trigger, and what is not the default.
func windowing(ws *pipepb.WindowingStrategy) string {
	urn := ws.GetWindowFn().GetUrn()
	out := strings.TrimSuffix(strings.TrimPrefix(urn, "beam:window_fn:"), ":v1")
	if t := ws.GetTrigger(); t != nil && t.GetDefault() == nil {
		name := "trigger"
		if field := t.ProtoReflect().WhichOneof(t.ProtoReflect().Descriptor().Oneofs().ByName("trigger")); field != nil {
			name = strings.ReplaceAll(string(field.Name()), "_", " ")
		}
		out += ", trigger " + name
	}
	if ws.GetAccumulationMode() == pipepb.AccumulationMode_ACCUMULATING {
		out += ", accumulating"
	}
	if l := ws.GetAllowedLateness(); l != 0 {
		out += fmt.Sprintf(", %d ms late", l)
	}
	return out
}

func stateType(s *pipepb.StateSpec) string {
	m := s.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("spec"))
	if field == nil {
		return "unknown"
	}
	return strings.ReplaceAll(strings.TrimSuffix(string(field.Name()), "_spec"), "_", " ")
}

func shortTransform(urn string) string {
	if s, ok := strings.CutPrefix(urn, "beam:transform:"); ok {
		return strings.TrimSuffix(s, ":v1")
	}
	return urn
}

package window

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// assign puts a timestamp into windows, as an SDK would.
type assign func(ts int64) [][]byte

func fixed(size int64) assign {
	return func(ts int64) [][]byte {
		start := ts - ((ts%size)+size)%size
		return [][]byte{coder.AppendInterval(nil, start, start+size)}
	}
}

func sliding(size, period int64) assign {
	return func(ts int64) (windows [][]byte) {
		for start := ts - ((ts%period)+period)%period; start > ts-size; start -= period {
			windows = append(windows, coder.AppendInterval(nil, start, start+size))
		}
		return windows
	}
}

func session(gap int64) assign {
	return func(ts int64) [][]byte { return [][]byte{coder.AppendInterval(nil, ts, ts+gap)} }
}

func global(int64) [][]byte { return [][]byte{{}} }

// element is one that was made for a test.
func (a assign) element(ts int64, value string) Element {
	windows := a(ts)
	return Element{NumWindows: len(windows), Windows: bytes.Join(windows, nil), Timestamp: ts, Value: []byte(value)}
}

// sameStart is the merging of a custom WindowFn: windows with the same start become the longest of them.
type sameStart struct{ calls int }

func (m *sameStart) Merge(windows [][]byte) ([]Merge, error) {
	m.calls++
	byStart := map[int64][][]byte{}
	for _, w := range windows {
		start, _, _, err := coder.ParseInterval(w)
		if err != nil {
			return nil, err
		}
		byStart[start] = append(byStart[start], w)
	}
	var merges []Merge
	for _, group := range byStart {
		longest := slices.MaxFunc(group, func(a, b []byte) int {
			_, x, _, _ := coder.ParseInterval(a)
			_, y, _, _ := coder.ParseInterval(b)
			return cmp.Compare(x, y)
		})
		if len(group) > 1 {
			merges = append(merges, Merge{Originals: group, Into: longest})
		}
	}
	return merges, nil
}

// strategy is what a test says of a WindowingStrategy.
type strategy struct {
	ws     *pipepb.WindowingStrategy
	assign assign
	merger Merger
	// bounded and streaming are what is known of the input.
	bounded, streaming bool
}

func (s *strategy) compile() (*Grouping, error) {
	wc := coder.IntervalWindow()
	if s.ws.GetWindowFn().GetUrn() == globalURN {
		wc = coder.GlobalWindow()
	}
	g, err := Compile(s.ws, wc, s.merger)
	if err != nil {
		return nil, err
	}
	return g.ForInput(s.bounded, s.streaming), nil
}

// parseStrategy reads words such as "sessions=10", "trigger=repeat(count(2))", "lateness=5", "discarding".
func parseStrategy(text string) (*strategy, error) {
	s := &strategy{assign: global, ws: &pipepb.WindowingStrategy{
		WindowFn:         &pipepb.FunctionSpec{Urn: globalURN},
		MergeStatus:      pipepb.MergeStatus_NON_MERGING,
		AccumulationMode: pipepb.AccumulationMode_DISCARDING,
		ClosingBehavior:  pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
		OnTimeBehavior:   pipepb.OnTimeBehavior_FIRE_ALWAYS,
		OutputTime:       pipepb.OutputTime_END_OF_WINDOW,
	}}
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		if err := s.option(key, value); err != nil {
			return nil, fmt.Errorf("%s: %w", word, err)
		}
	}
	return s, nil
}

func (s *strategy) option(key, value string) (err error) {
	var n, m int64
	switch key {
	case "fixed", "sessions", "samestart", "lateness":
		n, err = strconv.ParseInt(value, 10, 64)
	case "sliding":
		_, err = fmt.Sscanf(value, "%d/%d", &n, &m)
	}
	if err != nil {
		return err
	}
	switch key {
	case "global":
	case "fixed":
		s.ws.WindowFn.Urn, s.assign = fixedURN, fixed(n)
	case "sliding":
		s.ws.WindowFn.Urn, s.assign = slidingURN, sliding(n, m)
	case "sessions":
		s.ws.WindowFn.Urn, s.assign, s.ws.MergeStatus = sessionURN, session(n), pipepb.MergeStatus_NEEDS_MERGE
	case "samestart": // the element's timestamp is the end of a window that starts at the multiple of n before
		s.ws.WindowFn.Urn, s.merger, s.ws.MergeStatus = "test:same_start", &sameStart{}, pipepb.MergeStatus_NEEDS_MERGE
		s.assign = func(ts int64) [][]byte { return [][]byte{coder.AppendInterval(nil, ts-ts%n, ts+1)} }
	case "lateness":
		s.ws.AllowedLateness = n
	case "accumulating":
		s.ws.AccumulationMode = pipepb.AccumulationMode_ACCUMULATING
	case "retracting":
		s.ws.AccumulationMode = pipepb.AccumulationMode_RETRACTING
	case "discarding":
	case "bounded":
		s.bounded = true
	case "streaming":
		s.streaming = true
	case "earliest":
		s.ws.OutputTime = pipepb.OutputTime_EARLIEST_IN_PANE
	case "latest":
		s.ws.OutputTime = pipepb.OutputTime_LATEST_IN_PANE
	case "closing-always":
		s.ws.ClosingBehavior = pipepb.ClosingBehavior_EMIT_ALWAYS
	case "ontime-if-nonempty":
		s.ws.OnTimeBehavior = pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY
	case "trigger":
		s.ws.Trigger, err = parseTrigger(value)
	default:
		return fmt.Errorf("unknown option")
	}
	return err
}

// parseTrigger reads "default", "count(2)", "eow(early=..,late=..)", "all(..,..)", "any", "each", "finally(main,until)", "repeat(..)",
// "ptime(delay)", "ptime(delay,align=period+offset)", "synced", "always", "never", and "nothing" for a trigger of no kind.
func parseTrigger(text string) (*pipepb.Trigger, error) {
	name, args := cutCall(text)
	switch name {
	case "default":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{}}, nil
	case "always":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_Always_{}}, nil
	case "never":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_Never_{}}, nil
	case "synced":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterSynchronizedProcessingTime_{}}, nil
	case "nothing":
		return &pipepb.Trigger{}, nil
	case "count":
		n, err := strconv.Atoi(args[0])
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_ElementCount_{
			ElementCount: &pipepb.Trigger_ElementCount{ElementCount: int32(n)},
		}}, err
	case "ptime":
		return parseProcessingTime(args)
	case "eow":
		return parseEndOfWindow(args)
	}
	return parseComposite(name, args)
}

// cutCall cuts name(arg,arg(..)).
func cutCall(text string) (name string, args []string) {
	name, rest, _ := strings.Cut(text, "(")
	depth, from := 0, 0
	for i, c := range rest {
		switch {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == ',' && depth == 0, c == ')':
			args, from = append(args, rest[from:i]), i+1
		}
	}
	return name, args
}

func parseComposite(name string, args []string) (*pipepb.Trigger, error) {
	var subs []*pipepb.Trigger
	for _, arg := range args {
		if arg == "" {
			continue
		}
		sub, err := parseTrigger(arg)
		if err != nil {
			return nil, err
		}
		subs = append(subs, sub)
	}
	switch name {
	case "all":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterAll_{AfterAll: &pipepb.Trigger_AfterAll{Subtriggers: subs}}}, nil
	case "any":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterAny_{AfterAny: &pipepb.Trigger_AfterAny{Subtriggers: subs}}}, nil
	case "each":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEach_{AfterEach: &pipepb.Trigger_AfterEach{Subtriggers: subs}}}, nil
	case "repeat":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: subs[0]}}}, nil
	case "finally":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_OrFinally_{
			OrFinally: &pipepb.Trigger_OrFinally{Main: subs[0], Finally: subs[1]},
		}}, nil
	}
	return nil, fmt.Errorf("unknown trigger %q", name)
}

func parseProcessingTime(args []string) (*pipepb.Trigger, error) {
	p := &pipepb.Trigger_AfterProcessingTime{}
	for _, arg := range args {
		var a, b int64
		if _, err := fmt.Sscanf(arg, "align=%d+%d", &a, &b); err == nil {
			p.TimestampTransforms = append(p.TimestampTransforms, &pipepb.TimestampTransform{
				TimestampTransform: &pipepb.TimestampTransform_AlignTo_{
					AlignTo: &pipepb.TimestampTransform_AlignTo{Period: a, Offset: b},
				},
			})
			continue
		}
		if _, err := fmt.Sscanf(arg, "%d", &a); err != nil {
			return nil, err
		}
		p.TimestampTransforms = append(p.TimestampTransforms, &pipepb.TimestampTransform{
			TimestampTransform: &pipepb.TimestampTransform_Delay_{Delay: &pipepb.TimestampTransform_Delay{DelayMillis: a}},
		})
	}
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterProcessingTime_{AfterProcessingTime: p}}, nil
}

func parseEndOfWindow(args []string) (_ *pipepb.Trigger, err error) {
	p := &pipepb.Trigger_AfterEndOfWindow{}
	for _, arg := range args {
		phase, text, _ := strings.Cut(arg, "=")
		switch phase {
		case "early":
			p.EarlyFirings, err = parseTrigger(text)
		case "late":
			p.LateFirings, err = parseTrigger(text)
		case "":
		default:
			err = fmt.Errorf("unknown phase %q", phase)
		}
		if err != nil {
			return nil, err
		}
	}
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEndOfWindow_{AfterEndOfWindow: p}}, nil
}

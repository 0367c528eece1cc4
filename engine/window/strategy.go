package window

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// URNs of the WindowFns that the runner knows, from standard_window_fns.proto.
const (
	globalURN  = "beam:window_fn:global_windows:v1"
	fixedURN   = "beam:window_fn:fixed_windows:v1"
	slidingURN = "beam:window_fn:sliding_windows:v1"
	sessionURN = "beam:window_fn:session_windows:v1"
)

// Grouping is a compiled WindowingStrategy. Immutable; safe for concurrent use.
type Grouping struct {
	wc       *coder.WindowCoder
	trigger  *trigger
	merger   Merger // nil unless windows merge
	lateness int64  // ms
	output   pipepb.OutputTime_Enum

	accumulating bool // panes repeat what earlier panes had
	keeps        bool // what comes after the trigger has finished is kept for a last pane, not dropped
	perBatch     bool // triggers of elements are looked at once for each batch, not after each element
	closingPane  bool // an empty last pane is emitted
	onTimePane   bool // an empty on-time pane is emitted
}

// Compile checks a windowing strategy and prepares it. wc reads its windows. merger merges the windows of a custom WindowFn; it
// is not used when the windows do not merge, or are sessions. The error says what cannot be run and what to use instead.
func Compile(ws *pipepb.WindowingStrategy, wc *coder.WindowCoder, merger Merger) (*Grouping, error) {
	g := &Grouping{
		wc:           wc,
		lateness:     ws.GetAllowedLateness(),
		output:       ws.GetOutputTime(),
		accumulating: ws.GetAccumulationMode() == pipepb.AccumulationMode_ACCUMULATING,
		closingPane:  ws.GetClosingBehavior() == pipepb.ClosingBehavior_EMIT_ALWAYS,
		onTimePane:   ws.GetOnTimeBehavior() != pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY,
	}
	if wc == nil {
		return nil, errors.New("compile windowing: no window coder")
	}
	if g.lateness < 0 {
		return nil, fmt.Errorf("compile windowing: allowed lateness is %d ms: it must not be negative", g.lateness)
	}
	if ws.GetAccumulationMode() == pipepb.AccumulationMode_RETRACTING {
		return nil, errors.New("compile windowing: accumulation mode RETRACTING is not supported by any Beam SDK: " +
			"use ACCUMULATING or DISCARDING")
	}
	switch g.output {
	case pipepb.OutputTime_UNSPECIFIED:
		g.output = pipepb.OutputTime_END_OF_WINDOW
	case pipepb.OutputTime_END_OF_WINDOW, pipepb.OutputTime_EARLIEST_IN_PANE, pipepb.OutputTime_LATEST_IN_PANE:
	default:
		return nil, fmt.Errorf("compile windowing: output time %v is unknown: use END_OF_WINDOW, EARLIEST_IN_PANE or LATEST_IN_PANE", g.output)
	}
	if ws.GetMergeStatus() == pipepb.MergeStatus_NEEDS_MERGE {
		if g.merger = merger; ws.GetWindowFn().GetUrn() == sessionURN {
			g.merger = sessions{}
		}
		if g.merger == nil {
			return nil, fmt.Errorf("compile windowing: windows of %s merge, and there is no SDK to merge them", ws.GetWindowFn().GetUrn())
		}
	}
	var err error
	if g.trigger, err = compileTrigger(ws.GetTrigger(), g.merger != nil); err != nil {
		return nil, fmt.Errorf("compile windowing: %w", err)
	}
	// A trigger that finishes by the clock must not close the window: what is lost would depend on the machine's speed.
	g.keeps = g.trigger.root.kind == kindProcessing || g.trigger.root.kind == kindSynchronized
	return g, nil
}

// ForInput returns the grouping for an input that is bounded or not, in a job that was declared streaming or not. Of a bounded
// input nothing is ever dropped: what comes after the trigger has finished makes a last pane at the end. When the job is not
// declared streaming either, a bundle counts as one arrival: "after 3 elements" then means at least 3.
func (g *Grouping) ForInput(bounded, streaming bool) *Grouping {
	c := *g
	c.keeps = g.keeps || bounded
	c.perBatch = bounded && !streaming
	return &c
}

// Simple tells that every key and window has exactly one pane, which fires when the watermark passes the end of the window, with
// that timestamp and the pane info {First, Last, OnTime, 0, 0}; later elements are dropped. The caller may then group without this
// package.
func (g *Grouping) Simple() bool {
	root := g.trigger.root
	once := root.kind == kindDefault || root.kind == kindEndOfWindow && root.early == nil && root.late == nil
	return once && g.merger == nil && g.lateness == 0 && g.output == pipepb.OutputTime_END_OF_WINDOW
}

// End is the time (ms) that the input watermark must pass for the encoded window to be complete: its maximum timestamp, at most
// that of the global window.
func (g *Grouping) End(window []byte) (int64, error) { return End(g.wc, window) }

// Expiry is the time (ms) that the input watermark must pass for the encoded window to be forgotten.
func (g *Grouping) Expiry(window []byte) (int64, error) {
	end, err := End(g.wc, window)
	return expiry(end, g.lateness), err
}

// End is the maximum timestamp (ms) of the encoded window, at most coder.EndOfGlobalWindow.
func End(wc *coder.WindowCoder, window []byte) (int64, error) {
	ts, err := wc.MaxTimestamp(window)
	if err != nil {
		return 0, fmt.Errorf("read window: %w", err)
	}
	return min(ts, coder.EndOfGlobalWindow), nil
}

// Expiry is the time (ms) that the input watermark must pass for a window with this maximum timestamp to be forgotten, state and
// timers of a stateful ParDo included: allowed lateness after its end, at most coder.EndOfGlobalWindow.
func Expiry(ws *pipepb.WindowingStrategy, maxTimestamp int64) int64 {
	return expiry(maxTimestamp, ws.GetAllowedLateness())
}

func expiry(end, lateness int64) int64 {
	return min(addSat(end, max(lateness, 0)), coder.EndOfGlobalWindow)
}

// IsDefault tells whether the strategy is the one that pipelines begin with: global windows with the default trigger and without
// lateness.
func IsDefault(ws *pipepb.WindowingStrategy) bool {
	switch ws.GetTrigger().GetTrigger().(type) {
	case nil, *pipepb.Trigger_Default_:
		return ws.GetWindowFn().GetUrn() == globalURN && ws.GetAllowedLateness() == 0
	}
	return false
}

// ForSDK returns the strategy as the SDK that wrote it means it; env is the strategy's environment. The Python SDK always writes
// EMIT_ALWAYS, for want of an option, while its users and its tests expect no empty last panes; it becomes EMIT_IF_NONEMPTY. ws is
// not changed.
func ForSDK(ws *pipepb.WindowingStrategy, env *pipepb.Environment) *pipepb.WindowingStrategy {
	python := slices.ContainsFunc(env.GetCapabilities(), func(c string) bool {
		return strings.HasPrefix(c, "beam:version:sdk_base:") && strings.Contains(c, "python")
	})
	if !python || ws.GetClosingBehavior() != pipepb.ClosingBehavior_EMIT_ALWAYS {
		return ws
	}
	return &pipepb.WindowingStrategy{
		WindowFn:           ws.WindowFn,
		MergeStatus:        ws.MergeStatus,
		WindowCoderId:      ws.WindowCoderId,
		Trigger:            ws.Trigger,
		AccumulationMode:   ws.AccumulationMode,
		OutputTime:         ws.OutputTime,
		ClosingBehavior:    pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
		AllowedLateness:    ws.AllowedLateness,
		OnTimeBehavior:     ws.OnTimeBehavior,
		AssignsToOneWindow: ws.AssignsToOneWindow,
		EnvironmentId:      ws.EnvironmentId,
	}
}

// addSat is a+b, or the nearest int64.
func addSat(a, b int64) int64 {
	c := a + b
	switch {
	case b > 0 && c < a:
		return math.MaxInt64
	case b < 0 && c > a:
		return math.MinInt64
	}
	return c
}

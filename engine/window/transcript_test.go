package window

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// TestTranscripts plays what happens to one key and compares the panes. All times are in ms. The commands are
//
//	strategy          words of parseStrategy; begins with an empty key
//	elements a@1 b@2  one batch
//	watermark 10      moves the input watermark, fires timers, then moves the output watermark
//	ptime 5           moves the processing time and the synchronized processing time
//	synced 5          moves the processing time to 5 but leaves the synchronized one
//	state             shows what is stored
//	cost              shows how often the engine was called since the last time
//	finish            moves the watermark to the end of time; then nothing may be left
//
// and every line of output is a pane: window @timestamp timing index/non-speculative index: values; or a count of drops.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		var k *fakeKey
		var s *strategy
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "strategy" {
				var err error
				if s, err = parseStrategy(d.Input); err != nil {
					d.Fatalf(t, "%v", err)
				}
				g, err := s.compile()
				if err != nil {
					return err.Error()
				}
				k = newFakeKey(g)
				if g.Simple() {
					return "simple"
				}
				return ""
			}
			out, err := play(k, s, d)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			return out
		})
	})
}

func play(k *fakeKey, s *strategy, d *datadriven.TestData) (string, error) {
	var out strings.Builder
	switch d.Cmd {
	case "elements":
		var elems []Element
		for _, arg := range d.CmdArgs {
			value, at, _ := strings.Cut(arg.Key, "@")
			ts, err := strconv.ParseInt(at, 10, 64)
			if err != nil {
				return "", err
			}
			elems = append(elems, s.assign.element(ts, value))
		}
		if err := k.g.Elements(k, elems); err != nil {
			return err.Error(), nil
		}
	case "watermark", "ptime", "synced":
		ms, err := strconv.ParseInt(d.CmdArgs[0].Key, 10, 64)
		if err != nil {
			return "", err
		}
		switch d.Cmd {
		case "watermark":
			k.watermark = ms
		case "ptime":
			k.processing, k.synchronized = ms, ms
		case "synced":
			k.processing = ms
		}
	case "state":
		fmt.Fprintf(&out, "output watermark: %s\n", showTime(k.output))
		out.WriteString(k.left())
	case "cost":
		for _, op := range slices.Sorted(maps.Keys(k.ops)) {
			fmt.Fprintf(&out, "%s: %d\n", op, k.ops[op])
		}
		clear(k.ops)
	case "finish":
		k.watermark = coder.MaxTimestamp
	default:
		return "", fmt.Errorf("unknown command")
	}
	if err := k.settle(); err != nil {
		return "", err
	}
	panes, dropped := k.take()
	for _, p := range panes {
		fmt.Fprintln(&out, p)
	}
	if dropped > 0 {
		fmt.Fprintf(&out, "dropped: %d\n", dropped)
	}
	if d.Cmd == "finish" {
		out.WriteString(k.left())
	}
	return out.String(), nil
}

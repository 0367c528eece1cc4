package web

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestLatencyMetrics: of a job of many stages and subtasks there are not all, but some of each stage.
func TestLatencyMetrics(t *testing.T) {
	var all []Latency
	for k := range 200 {
		l := Latency{Source: "Read", Stage: fmt.Sprint("Stage ", k)}
		for range 20 {
			l.Slots = append(l.Slots, took(1, 1500*time.Microsecond))
		}
		all = append(all, l)
	}
	got := latencyMetrics(all)
	if len(got) != 10*maxLatencies {
		t.Fatalf("%d metrics", len(got))
	}
	stages := make(map[string]int)
	for _, m := range got {
		stages[strings.Split(m.id, ".")[4]]++
	}
	if len(stages) != len(all) {
		t.Errorf("metrics of %d stages of %d", len(stages), len(all))
	}
	first := "latency.source_id." + HexID("Read") + ".operator_id." + HexID("Stage 0") + ".operator_subtask_index.0.latency_"
	if got[0] != (measure{first + "min", "0.75"}) || got[3] != (measure{first + "median", "1.5"}) {
		t.Errorf("got %v, %v", got[0], got[3])
	}
	all[0].Slots[0].Count = 0 // nothing lately
	if got := latencyMetrics(all[:1]); len(got) != 10*19 || strings.Contains(got[0].id, "index.0.") {
		t.Errorf("%d metrics, first %v", len(got), got[0])
	}
}

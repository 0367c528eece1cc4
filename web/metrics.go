package web

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// measure is one metric of one thing; its value is a number in most cases.
type measure struct {
	id    string
	value string
}

type metricJSON struct {
	ID    string `json:"id"`
	Value string `json:"value,omitempty"`
}

// aggregateJSON is a metric over several things. Fields that were not asked for are nil.
type aggregateJSON struct {
	ID   string `json:"id"`
	Min  *ratio `json:"min,omitempty"`
	Max  *ratio `json:"max,omitempty"`
	Avg  *ratio `json:"avg,omitempty"`
	Sum  *ratio `json:"sum,omitempty"`
	Skew *ratio `json:"skew,omitempty"`
}

func number(f float64) string {
	switch {
	case f == math.Trunc(f) && math.Abs(f) < 1e15:
		return strconv.FormatInt(int64(f), 10)
	default:
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
}

func count(n int64) string { return strconv.FormatInt(n, 10) }

// metrics answers a call for metrics of one thing: all names, or the values of those named. Unknown names are left out.
func metrics(r *http.Request, all []measure) []metricJSON {
	get := list(r, "get")
	out := []metricJSON{}
	if len(get) == 0 {
		for _, m := range all {
			out = append(out, metricJSON{ID: m.id})
		}
		return out
	}
	values := make(map[string]string, len(all))
	for _, m := range all {
		values[m.id] = m.value
	}
	for _, name := range get {
		if v, ok := values[name]; ok {
			out = append(out, metricJSON{ID: name, Value: v})
		}
	}
	return out
}

// aggregate answers a call for metrics over several things. Where one name is unknown, or is no number, the answer is empty:
// Flink's autoscaler relies on it.
func aggregate(r *http.Request, all [][]measure) ([]aggregateJSON, error) {
	aggs := list(r, "agg")
	for _, a := range aggs {
		if !slices.Contains([]string{"min", "max", "avg", "sum", "skew"}, strings.ToLower(a)) {
			return nil, badRequest("unknown aggregation %q: use min, max, avg, sum or skew", a)
		}
	}
	out := []aggregateJSON{}
	get := list(r, "get")
	if len(get) == 0 {
		seen := make(map[string]bool)
		for _, ms := range all {
			for _, m := range ms {
				if !seen[m.id] {
					seen[m.id] = true
					out = append(out, aggregateJSON{ID: m.id})
				}
			}
		}
		return out, nil
	}
	for _, name := range get {
		values, ok := valuesOf(name, all)
		if !ok {
			return []aggregateJSON{}, nil
		}
		out = append(out, aggregated(name, values, aggs))
	}
	return out, nil
}

// valuesOf collects a metric's values; false: nobody has it, or one is no number.
func valuesOf(name string, all [][]measure) ([]float64, bool) {
	var values []float64
	for _, ms := range all {
		for _, m := range ms {
			if m.id != name {
				continue
			}
			f, err := strconv.ParseFloat(m.value, 64)
			if err != nil {
				return nil, false
			}
			values = append(values, f)
		}
	}
	return values, len(values) > 0
}

func aggregated(name string, values []float64, aggs []string) aggregateJSON {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	avg := sum / float64(len(values))
	out := aggregateJSON{ID: name}
	for field, v := range map[**ratio]float64{
		&out.Min: slices.Min(values), &out.Max: slices.Max(values), &out.Avg: avg, &out.Sum: sum, &out.Skew: skew(values, avg),
	} {
		*field = new(ratio(v))
	}
	if len(aggs) == 0 {
		return out
	}
	wanted := aggregateJSON{ID: name}
	for _, a := range aggs {
		switch strings.ToLower(a) {
		case "min":
			wanted.Min = out.Min
		case "max":
			wanted.Max = out.Max
		case "avg":
			wanted.Avg = out.Avg
		case "sum":
			wanted.Sum = out.Sum
		case "skew":
			wanted.Skew = out.Skew
		}
	}
	return wanted
}

// skew is how uneven values are, in percent: the mean distance from their average, as part of it; 0 to 100.
func skew(values []float64, avg float64) float64 {
	if avg == 0 {
		return 0
	}
	d := 0.0
	for _, v := range values {
		d += math.Abs(v - avg)
	}
	return min(100, 100*d/float64(len(values))/math.Abs(avg))
}

// list splits a query parameter at its commas.
func list(r *http.Request, name string) []string {
	var out []string
	for _, v := range r.URL.Query()[name] {
		for part := range strings.SplitSeq(v, ",") {
			if part != "" {
				out = append(out, part)
			}
		}
	}
	return out
}

// taskMetrics are those of one subtask, by Flink's names. A root's records out are also what it read: Flink's autoscaler
// looks for them under the name of the source.
func taskMetrics(s Stage, t Subtask, r Rates) []measure {
	ms := func(share float64) string { return number(math.Round(share * 1000)) }
	out := []measure{
		{"numRecordsIn", count(t.RecordsIn)}, {"numRecordsInPerSecond", number(r.RecordsIn)},
		{"numRecordsOut", count(t.RecordsOut)}, {"numRecordsOutPerSecond", number(r.RecordsOut)},
		{"numBytesIn", count(t.BytesIn)}, {"numBytesInPerSecond", number(r.BytesIn)},
		{"numBytesOut", count(t.BytesOut)}, {"numBytesOutPerSecond", number(r.BytesOut)},
		{"busyTimeMsPerSecond", ms(r.Busy)}, {"idleTimeMsPerSecond", ms(r.Idle)},
		{"backPressuredTimeMsPerSecond", ms(r.BackPressured)}, {"softBackPressuredTimeMsPerSecond", ms(r.BackPressured)},
		{"hardBackPressuredTimeMsPerSecond", "0"}, {"isBackPressured", strconv.FormatBool(r.BackPressured > 0.5)},
		{"accumulateBusyTimeMs", count(t.Busy.Milliseconds())}, {"accumulateBackPressuredTimeMs", count(t.BackPressured.Milliseconds())},
		{"currentInputWatermark", count(s.InputWatermark)}, {"currentOutputWatermark", count(s.OutputWatermark)},
		{"buffers.inputQueueLength", count(t.QueuedRecords)}, {"buffers.inputQueueSize", count(t.QueuedBytes)},
		{"numRunningBundles", strconv.Itoa(t.Running)},
	}
	if len(s.Inputs) > 0 {
		return out
	}
	src := "Source__" + metricName(s.Name)
	out = append(out, measure{src + ".numRecordsIn", count(t.RecordsOut)}, measure{src + ".numRecordsInPerSecond", number(r.RecordsOut)},
		measure{src + ".numRecordsOut", count(t.RecordsOut)}, measure{src + ".numRecordsOutPerSecond", number(r.RecordsOut)},
		measure{src + ".currentOutputWatermark", count(s.OutputWatermark)})
	if t.Backlog >= 0 {
		out = append(out, measure{src + ".pendingRecords", count(t.Backlog)})
	}
	return out
}

// metricName has no characters that mean something in the names or the query of metrics.
func metricName(s string) string {
	return strings.Map(func(c rune) rune {
		if strings.ContainsRune(" .:;,<>&#?=", c) {
			return '_'
		}
		return c
	}, s)
}

// jobMetrics are those of a job, by Flink's names.
func jobMetrics(i Info, c Checkpoints, now time.Time) []measure {
	spent := make(map[string]time.Duration)
	for k, change := range i.Changes {
		until := now
		if k+1 < len(i.Changes) {
			until = i.Changes[k+1].At
		}
		spent[flinkState(change.State)] += until.Sub(change.At)
	}
	uptime := int64(-1)
	if flinkState(i.state()) == "RUNNING" {
		uptime = now.Sub(i.running(now)).Milliseconds()
	}
	out := []measure{
		{"uptime", count(uptime)}, {"downtime", "0"}, {"runningTime", count(spent["RUNNING"].Milliseconds())},
		{"initializingTime", count(spent["INITIALIZING"].Milliseconds())}, {"cancellingTime", count(spent["CANCELLING"].Milliseconds())},
		{"createdTime", "0"}, {"deployingTime", "0"}, {"failingTime", "0"}, {"restartingTime", "0"},
		{"numRestarts", strconv.Itoa(i.Restarts)}, {"fullRestarts", strconv.Itoa(i.Restarts)},
		{"numberOfCompletedCheckpoints", count(c.Completed)}, {"numberOfFailedCheckpoints", count(c.Failed)},
		{"numberOfInProgressCheckpoints", count(c.InProgress)}, {"totalNumberOfCheckpoints", count(c.Total)},
	}
	last := Checkpoint{ID: -1, Size: -1, Uploaded: -1, InFlightBytes: -1}
	duration := int64(-1)
	if p := c.newest(); p != nil {
		last = *p
		duration = last.Ended.Sub(last.Started).Milliseconds()
	}
	restored := int64(-1)
	if c.LatestRestored != nil {
		restored = c.LatestRestored.Restored.UnixMilli()
	}
	return append(out, measure{"lastCompletedCheckpointId", count(last.ID)}, measure{"lastCheckpointDuration", count(duration)},
		measure{"lastCheckpointSize", count(last.Uploaded)}, measure{"lastCheckpointFullSize", count(last.Size)},
		measure{"lastCheckpointProcessedData", "0"}, measure{"lastCheckpointPersistedData", count(last.InFlightBytes)},
		measure{"lastCheckpointExternalPath", externalPath(last)}, measure{"lastCheckpointRestoreTimestamp", count(restored)})
}

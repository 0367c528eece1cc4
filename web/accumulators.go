package web

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
)

// userMetric is a metric that user code has made, decoded.
type userMetric struct {
	transform, namespace, name string
	kind                       metricKind
	value                      float64 // of a counter or gauge; of a distribution the sum
	count, least, greatest     float64 // of a distribution
}

type metricKind int

const (
	counter metricKind = iota
	distribution
	gauge
)

// userMetrics decodes the counters, distributions and gauges among monitoring infos, in order. What has another type, or
// cannot be read, is left out.
func userMetrics(infos []*pipepb.MonitoringInfo) []userMetric {
	var out []userMetric
	for _, in := range infos {
		if !strings.HasPrefix(in.GetUrn(), "beam:metric:user:") {
			continue
		}
		l := in.GetLabels()
		m := userMetric{transform: l["PTRANSFORM"], namespace: l["NAMESPACE"], name: l["NAME"]}
		if m.decode(in.GetType(), in.GetPayload()) {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b userMetric) int {
		return cmp.Or(strings.Compare(a.namespace, b.namespace), strings.Compare(a.name, b.name), strings.Compare(a.transform, b.transform))
	})
	return out
}

// decode reads a payload as MonitoringInfoTypeUrns in metrics.proto has it: numbers are Beam's varints.
func (m *userMetric) decode(typ string, payload []byte) bool {
	switch typ {
	case "beam:metrics:sum_int64:v1":
		n, ok := varints(payload, 1)
		if ok {
			m.kind, m.value = counter, n[0]
		}
		return ok
	case "beam:metrics:distribution_int64:v1":
		n, ok := varints(payload, 4)
		if ok {
			m.kind, m.count, m.value, m.least, m.greatest = distribution, n[0], n[1], n[2], n[3]
		}
		return ok
	case "beam:metrics:latest_int64:v1":
		n, ok := varints(payload, 2) // the timestamp is first
		if ok {
			m.kind, m.value = gauge, n[1]
		}
		return ok
	}
	return false
}

func varints(b []byte, n int) ([]float64, bool) {
	var out []float64
	for range n {
		v, size := protowire.ConsumeVarint(b)
		if size < 0 {
			return nil, false
		}
		out = append(out, float64(int64(v)))
		b = b[size:]
	}
	return out, true
}

// accumulator shows a metric as Flink's accumulators are shown.
func (m userMetric) accumulator() accumulatorJSON {
	name := m.namespace + ":" + m.name
	switch m.kind {
	case counter:
		return accumulatorJSON{name, "LongCounter", number(m.value)}
	case gauge:
		return accumulatorJSON{name, "LongGauge", number(m.value)}
	default:
		return accumulatorJSON{name, "Distribution", fmt.Sprintf("count=%s sum=%s min=%s max=%s",
			number(m.count), number(m.value), number(m.least), number(m.greatest))}
	}
}

// merge adds up the metrics of one name that different transforms have made.
func merge(metrics []userMetric) []userMetric {
	var out []userMetric
	for _, m := range metrics {
		k := slices.IndexFunc(out, func(o userMetric) bool { return o.namespace == m.namespace && o.name == m.name && o.kind == m.kind })
		if k < 0 {
			out = append(out, m)
			continue
		}
		o := &out[k]
		if m.kind == gauge {
			o.value = m.value
			continue
		}
		if m.count > 0 && (o.count == 0 || m.least < o.least) {
			o.least = m.least
		}
		if m.count > 0 && (o.count == 0 || m.greatest > o.greatest) {
			o.greatest = m.greatest
		}
		o.value += m.value
		o.count += m.count
	}
	return out
}

// metricsContainer is the accumulator that Beam's uber-jar client reads: all metrics, as its Job API has them.
const metricsContainer = "__metricscontainers"

func (h *Handler) accumulators(r *http.Request) (any, error) {
	j, i, err := h.job(r)
	if err != nil {
		return nil, err
	}
	m, err := h.metrics(j, i)
	return m.answer, err
}

func newAccumulators(m jobMetricInfos) (accumulatorsJSON, error) {
	out := accumulatorsJSON{Job: []accumulatorJSON{}, User: []accumulatorJSON{}, Serialized: map[string]string{}}
	for _, m := range merge(m.user) {
		out.User = append(out.User, m.accumulator())
	}
	all, err := protojson.Marshal(&jobpb.GetJobMetricsResponse{Metrics: &jobpb.MetricResults{Attempted: m.attempted, Committed: m.committed}})
	if err != nil {
		return out, fmt.Errorf("encode metrics: %w", err)
	}
	var compact bytes.Buffer // protojson puts in spaces by chance
	if err := json.Compact(&compact, all); err != nil {
		return out, fmt.Errorf("encode metrics: %w", err)
	}
	out.User = append(out.User, accumulatorJSON{metricsContainer, "MetricsContainerStepMap", compact.String()})
	return out, nil
}

type vertexAccumulatorsJSON struct {
	ID   string            `json:"id"`
	User []accumulatorJSON `json:"user-accumulators"`
}

type subtasksAccumulatorsJSON struct {
	ID          string                    `json:"id"`
	Parallelism int                       `json:"parallelism"`
	Subtasks    []subtaskAccumulatorsJSON `json:"subtasks"`
}

type subtaskAccumulatorsJSON struct {
	Subtask  int               `json:"subtask"`
	Attempt  int               `json:"attempt"`
	Host     string            `json:"host,omitempty"`
	Endpoint string            `json:"endpoint,omitempty"`
	ID       string            `json:"id,omitempty"`
	User     []accumulatorJSON `json:"user-accumulators"`
}

// vertexAccumulators shows the metrics of the stage's transforms.
func (h *Handler) vertexAccumulators(r *http.Request) (any, error) {
	j, i, s, err := h.vertex(r)
	if err != nil {
		return nil, err
	}
	all, err := h.metrics(j, i)
	if err != nil {
		return nil, err
	}
	out := vertexAccumulatorsJSON{ID: HexID(s.Name), User: []accumulatorJSON{}}
	var own []userMetric
	for _, m := range all.user {
		if slices.Contains(s.Transforms, m.transform) {
			own = append(own, m)
		}
	}
	for _, m := range merge(own) {
		out.User = append(out.User, m.accumulator())
	}
	return out, nil
}

// subtasksAccumulators has no metrics: they are added up by job, not by slot.
func (h *Handler) subtasksAccumulators(r *http.Request) (any, error) {
	_, i, s, err := h.vertex(r)
	if err != nil {
		return nil, err
	}
	out := subtasksAccumulatorsJSON{ID: HexID(s.Name), Parallelism: i.Slots, Subtasks: []subtaskAccumulatorsJSON{}}
	for k := range i.Slots {
		out.Subtasks = append(out.Subtasks, subtaskAccumulatorsJSON{
			Subtask: k, Attempt: i.Restarts, Host: h.host(), Endpoint: h.endpoint(), User: []accumulatorJSON{},
		})
	}
	return out, nil
}

func (h *Handler) attemptAccumulators(r *http.Request) (any, error) {
	_, i, s, k, err := h.subtaskOf(r)
	if err != nil {
		return nil, err
	}
	if err := attempt(r, i); err != nil {
		return nil, err
	}
	return subtaskAccumulatorsJSON{
		Subtask: k, Attempt: i.Restarts, ID: fmt.Sprintf("%s_%s_%d_%d", HexID(i.ID), HexID(s.Name), k, i.Restarts), User: []accumulatorJSON{},
	}, nil
}

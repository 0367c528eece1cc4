package web

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

const (
	// endedFor is how long the metrics of a job that has ended are still there, so that the last values are scraped.
	endedFor = 5 * time.Minute
	// maxUserSeries bounds the metrics of user code, by job: user code chooses the names.
	maxUserSeries = 1000
)

// newRegistry returns a registry of its own, never the global one, with the metrics of the process, of Go and of the
// cluster. The values of labels are bounded: by the jobs that run, the stages of their plans, and maxUserSeries.
func newRegistry(c Cluster) (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	for _, col := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newClusterCollector(c),
	} {
		if err := r.Register(col); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return r, nil
}

// clusterCollector reads the cluster when it is asked.
type clusterCollector struct {
	cluster Cluster
	descs   map[string]*prometheus.Desc
}

var _ prometheus.Collector = (*clusterCollector)(nil)

// family is one metric: its name without the prefix, what it is, and its labels.
type family struct {
	name, help string
	labels     []string
}

func families() []family {
	job, stage := []string{"job"}, []string{"job", "stage"}
	edge := []string{"job", "stage", "direction"}
	user := []string{"job", "namespace", "name", "transform"}
	return []family{
		{"jobs", "Jobs that are running or remembered, by state.", []string{"state"}},
		{"slots", "Bundles of one stage that may run at once.", nil},
		{"memory_limit_bytes", "Memory that the process aims to stay below.", nil},
		{"buffer_pool_limit_bytes", "Elements between stages that may be in memory.", nil},
		{"buffer_pool_used_bytes", "Elements between stages in memory.", nil},
		{"buffer_pool_spilled_bytes", "Elements between stages in files.", nil},
		{"state_cache_limit_bytes", "Memory for blocks and memtables of the state.", nil},
		{"job_info", "A job; the value is 1.", []string{"job", "name", "flink_id"}},
		{"job_running", "Whether a job runs.", job},
		{"job_start_time_seconds", "When a job was started, in seconds since the epoch.", job},
		{"job_slots", "Slots of a job.", job},
		{"job_restarts_total", "Times that a job went back to a checkpoint.", job},
		{"job_checkpoints_total", "Checkpoints that have ended.", []string{"job", "status"}},
		{"job_checkpoints_in_progress", "Checkpoints under way.", job},
		{"job_last_checkpoint_size_bytes", "Size of the newest complete checkpoint.", job},
		{"job_last_checkpoint_duration_seconds", "Time from the start to the end of the newest complete checkpoint.", job},
		{"job_last_checkpoint_pause_seconds", "Time that commits waited for the newest complete checkpoint.", job},
		{"job_last_checkpoint_timestamp_seconds", "When the newest complete checkpoint ended, in seconds since the epoch.", job},
		{"stage_records_total", "Records of committed bundles.", edge},
		{"stage_bytes_total", "Bytes of committed bundles.", edge},
		{"stage_bundles_total", "Bundles that have ended.", []string{"job", "stage", "result"}},
		{"stage_splits_total", "Splits of running bundles.", stage},
		{"stage_dropped_late_records_total", "Records that came after their window had expired.", stage},
		{"stage_busy_seconds_total", "Time in bundles, summed up over slots.", stage},
		{"stage_back_pressured_seconds_total", "Time in which full queues behind the stage kept slots from working, summed up over slots.", stage},
		{"stage_running_bundles", "Bundles under way.", stage},
		{"stage_queued_records", "Records that wait for the stage.", stage},
		{"stage_queued_bytes", "Bytes that wait for the stage.", stage},
		{"stage_backlog_records", "Records that a source knows to be waiting outside.", stage},
		{"stage_watermark_timestamp_seconds", "Event time that a stage has reached, in seconds since the epoch.", edge},
		{"stage_latency_seconds", "How long records took from where they entered the job to the stage's commits: quantiles of the last minutes, one value a bundle.", []string{"job", "stage", "source"}},
		{"user_sum_total", "Counters of user code, and what else is summed up.", user},
		{"user_latest", "Gauges of user code: the latest value.", user},
		{"user_distribution", "Distributions of user code.", user},
		{"user_distribution_min", "Least values of distributions of user code.", user},
		{"user_distribution_max", "Greatest values of distributions of user code.", user},
		{"user_metrics_left_out", "Metrics of user code beyond the bound by job.", job},
	}
}

func newClusterCollector(c Cluster) *clusterCollector {
	out := &clusterCollector{cluster: c, descs: make(map[string]*prometheus.Desc)}
	for _, f := range families() {
		out.descs[f.name] = prometheus.NewDesc("tinyrunner_"+f.name, f.help, f.labels, nil)
	}
	return out
}

// Describe sends the metrics' descriptions.
func (c *clusterCollector) Describe(out chan<- *prometheus.Desc) {
	for _, f := range families() {
		out <- c.descs[f.name]
	}
}

// scrape is one collection.
type scrape struct {
	*clusterCollector
	out chan<- prometheus.Metric
}

func (s scrape) gauge(name string, v float64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(s.descs[name], prometheus.GaugeValue, v, labels...)
}

func (s scrape) counter(name string, v float64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(s.descs[name], prometheus.CounterValue, v, labels...)
}

// Collect sends the metrics' values.
func (c *clusterCollector) Collect(out chan<- prometheus.Metric) {
	s := scrape{c, out}
	byState := make(map[string]int)
	for _, name := range jobStates() {
		byState[name] = 0
	}
	now := time.Now()
	for _, j := range c.cluster.Jobs() {
		i := j.Info()
		byState[flinkState(i.state())]++
		if end, ended := i.end(); !ended || now.Sub(end) < endedFor {
			s.job(j, i)
		}
	}
	for name, n := range byState {
		s.gauge("jobs", float64(n), name)
	}
	m := c.cluster.Memory()
	s.gauge("slots", float64(c.cluster.Slots()))
	s.gauge("memory_limit_bytes", float64(m.Limit))
	s.gauge("buffer_pool_limit_bytes", float64(m.PoolLimit))
	s.gauge("buffer_pool_used_bytes", float64(m.PoolUsed))
	s.gauge("buffer_pool_spilled_bytes", float64(m.PoolSpilled))
	s.gauge("state_cache_limit_bytes", float64(m.CacheLimit))
}

func (s scrape) job(j Job, i Info) {
	id := label(i.ID)
	_, ended := i.end()
	running := 1.0
	if ended {
		running = 0
	}
	s.gauge("job_info", 1, id, label(i.Name), HexID(i.ID))
	s.gauge("job_running", running, id)
	s.gauge("job_start_time_seconds", seconds(i.start()), id)
	s.gauge("job_slots", float64(i.Slots), id)
	s.counter("job_restarts_total", float64(i.Restarts), id)
	if c := j.Checkpoints(); c.Enabled {
		s.checkpoints(id, c)
	}
	for _, st := range j.Stages() {
		s.stage(id, st)
	}
	for _, l := range j.Latencies("") {
		s.latency(id, l)
	}
	_, committed := j.Metrics()
	s.user(id, userMetrics(committed))
}

func (s scrape) checkpoints(job string, c Checkpoints) {
	s.counter("job_checkpoints_total", float64(c.Completed), job, "completed")
	s.counter("job_checkpoints_total", float64(c.Failed), job, "failed")
	s.gauge("job_checkpoints_in_progress", float64(c.InProgress), job)
	if p := c.newest(); p != nil {
		s.gauge("job_last_checkpoint_size_bytes", float64(p.Size), job)
		s.gauge("job_last_checkpoint_duration_seconds", p.Ended.Sub(p.Started).Seconds(), job)
		s.gauge("job_last_checkpoint_pause_seconds", p.Pause.Seconds(), job)
		s.gauge("job_last_checkpoint_timestamp_seconds", seconds(p.Ended), job)
	}
}

func (s scrape) stage(job string, st Stage) {
	name := label(st.Name)
	counters := st.counters()
	total := counters[len(counters)-1]
	s.counter("stage_records_total", float64(total.RecordsIn), job, name, "in")
	s.counter("stage_records_total", float64(total.RecordsOut), job, name, "out")
	s.counter("stage_bytes_total", float64(total.BytesIn), job, name, "in")
	s.counter("stage_bytes_total", float64(total.BytesOut), job, name, "out")
	s.counter("stage_bundles_total", float64(st.Bundles), job, name, "committed")
	s.counter("stage_bundles_total", float64(st.FailedBundles), job, name, "failed")
	s.counter("stage_splits_total", float64(st.Splits), job, name)
	s.counter("stage_dropped_late_records_total", float64(st.DroppedLate), job, name)
	s.counter("stage_busy_seconds_total", total.Busy.Seconds(), job, name)
	s.counter("stage_back_pressured_seconds_total", total.BackPressured.Seconds(), job, name)
	var queued, bytes, backlog int64
	running, known := 0, false
	for _, t := range st.Subtasks {
		queued, bytes, running = queued+t.QueuedRecords, bytes+t.QueuedBytes, running+t.Running
		if t.Backlog >= 0 {
			backlog, known = backlog+t.Backlog, true
		}
	}
	s.gauge("stage_running_bundles", float64(running), job, name)
	s.gauge("stage_queued_records", float64(queued), job, name)
	s.gauge("stage_queued_bytes", float64(bytes), job, name)
	if known {
		s.gauge("stage_backlog_records", float64(backlog), job, name)
	}
	for direction, wm := range map[string]int64{"in": st.InputWatermark, "out": st.OutputWatermark} {
		if wm != MinWatermark && wm != MaxWatermark {
			s.gauge("stage_watermark_timestamp_seconds", float64(wm)/1000, job, name, direction)
		}
	}
}

func (s scrape) latency(job string, l Latency) {
	quantiles := make(map[float64]float64)
	if t := l.Total; t.Count > 0 {
		quantiles[0.5], quantiles[0.95], quantiles[0.99] = t.P50.Seconds(), t.P95.Seconds(), t.P99.Seconds()
	}
	s.out <- prometheus.MustNewConstSummary(s.descs["stage_latency_seconds"], uint64(l.Observed), l.Sum.Seconds(), quantiles, job, label(l.Stage), label(l.Source))
}

func (s scrape) user(job string, metrics []userMetric) {
	s.gauge("user_metrics_left_out", float64(max(0, len(metrics)-maxUserSeries)), job)
	seen := make(map[userMetric]bool) // series that differ in other labels would be the same here
	for _, m := range metrics[:min(len(metrics), maxUserSeries)] {
		key := userMetric{transform: m.transform, namespace: m.namespace, name: m.name, kind: m.kind}
		if seen[key] {
			continue
		}
		seen[key] = true
		labels := []string{job, label(m.namespace), label(m.name), label(m.transform)}
		switch m.kind {
		case counter:
			s.counter("user_sum_total", m.value, labels...)
		case gauge:
			s.gauge("user_latest", m.value, labels...)
		case distribution:
			s.out <- prometheus.MustNewConstSummary(s.descs["user_distribution"], uint64(m.count), m.value, nil, labels...)
			if m.count > 0 {
				s.gauge("user_distribution_min", m.least, labels...)
				s.gauge("user_distribution_max", m.greatest, labels...)
			}
		}
	}
}

// maxLabel bounds a label's value, in bytes.
const maxLabel = 200

// label makes a name fit to be a label's value: it must be UTF-8. Different names stay different.
func label(s string) string {
	if len(s) <= maxLabel && utf8.ValidString(s) {
		return s
	}
	s, id := strings.ToValidUTF8(s, "?"), HexID(s)[:8]
	return strings.ToValidUTF8(s[:min(len(s), maxLabel-9)], "") + "~" + id
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

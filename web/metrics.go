package web

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// newRegistry returns a registry of its own, never the global one, with the metrics of the process, of Go and of the
// cluster. The values of labels are bounded: nothing is labelled by job.
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
	cluster     Cluster
	jobs        *prometheus.Desc
	slots       *prometheus.Desc
	poolLimit   *prometheus.Desc
	poolUsed    *prometheus.Desc
	poolSpilled *prometheus.Desc
}

var _ prometheus.Collector = (*clusterCollector)(nil)

func newClusterCollector(c Cluster) *clusterCollector {
	return &clusterCollector{
		cluster:     c,
		jobs:        prometheus.NewDesc("tinyrunner_jobs", "Jobs that are running or remembered, by state.", []string{"state"}, nil),
		slots:       prometheus.NewDesc("tinyrunner_slots", "Bundles of one stage that may run at once.", nil, nil),
		poolLimit:   prometheus.NewDesc("tinyrunner_buffer_pool_limit_bytes", "Elements between stages that may be in memory.", nil, nil),
		poolUsed:    prometheus.NewDesc("tinyrunner_buffer_pool_used_bytes", "Elements between stages in memory.", nil, nil),
		poolSpilled: prometheus.NewDesc("tinyrunner_buffer_pool_spilled_bytes", "Elements between stages in files.", nil, nil),
	}
}

// Describe sends the metrics' descriptions.
func (c *clusterCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.jobs, c.slots, c.poolLimit, c.poolUsed, c.poolSpilled} {
		out <- d
	}
}

// Collect sends the metrics' values.
func (c *clusterCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	byState := make(map[string]int)
	for _, s := range jobStates() {
		byState[s] = 0
	}
	for _, j := range c.cluster.Jobs() {
		byState[flinkState(j.state())]++
	}
	for s, n := range byState {
		gauge(c.jobs, float64(n), s)
	}
	p := c.cluster.Pool()
	gauge(c.slots, float64(c.cluster.Slots()))
	gauge(c.poolLimit, float64(p.Limit))
	gauge(c.poolUsed, float64(p.Used))
	gauge(c.poolSpilled, float64(p.Spilled))
}

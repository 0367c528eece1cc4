package goexec

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/metrics"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/metricsx"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// samplePeriod of the time that transforms spend, as Beam's Go harness has it.
const samplePeriod = 200 * time.Millisecond

// metrics returns what the bundle counted so far: the monitoring infos that Beam's Go harness reports
// (beam/model/pipeline/metrics.proto), with full labels.
func (r *run) metrics() []*pipepb.MonitoringInfo {
	c := collector{st: r.st}
	// An extractor returns an error only when none of its fields is set.
	_ = metrics.Extractor{
		SumInt64: func(l metrics.Labels, v int64) {
			c.add(metricsx.UrnUserSumInt64, l, v)
		},
		DistributionInt64: func(l metrics.Labels, count, sum, least, most int64) {
			c.add(metricsx.UrnUserDistInt64, l, count, sum, least, most)
		},
		GaugeInt64: func(l metrics.Labels, v int64, t time.Time) {
			c.add(metricsx.UrnUserLatestMsInt64, l, t.UnixMilli(), v)
		},
		MsecsInt64: func(transform string, states *[4]metrics.ExecutionState) {
			for i, s := range states {
				if ms := s.TotalTime.Milliseconds(); ms > 0 {
					c.add(metricsx.ExecutionMsecUrn(i), metrics.PTransformLabels(transform), ms)
				}
			}
		},
	}.ExtractFrom(r.store)
	if r.task.fast != nil {
		c.fast(r.task.fast)
		return c.infos
	}
	snap, ok := r.task.plan.Progress()
	for _, p := range snap.PCols {
		c.collection(p.ID, p.ElementCount, sizes{count: p.SizeCount, sum: p.SizeSum, least: p.SizeMin, most: p.SizeMax})
	}
	if ok {
		c.add(metricsx.UrnDataChannelReadIndex, metrics.PTransformLabels(snap.Source.ID), snap.Source.Count)
	}
	return c.infos
}

type collector struct {
	st    *stage
	infos []*pipepb.MonitoringInfo
}

// fast adds what the ends of a fast stage have counted.
func (c *collector) fast(f *fastPlan) {
	n, size := f.source.snapshot()
	c.collection(f.source.collection, n, size)
	c.add(metricsx.UrnDataChannelReadIndex, metrics.PTransformLabels(f.source.id), n)
	for _, p := range f.collections {
		c.collection(p.id, p.n.Load(), sizes{})
	}
	for _, s := range f.sinks {
		if s.collection != "" {
			size := s.snapshot()
			c.collection(s.collection, size.count, size)
		}
	}
}

func (c *collector) collection(id string, n int64, size sizes) {
	l := metrics.PCollectionLabels(id)
	c.add(metricsx.UrnElementCount, l, n)
	if size.count > 0 {
		c.add(metricsx.UrnSampledByteSize, l, size.count, size.sum, size.least, size.most)
	}
}

// add appends an info whose payload is values as varints: the encoding of all int64 metrics.
func (c *collector) add(urn metricsx.Urn, l metrics.Labels, values ...int64) {
	payload := make([]byte, 0, 10)
	for _, v := range values {
		payload = protowire.AppendVarint(payload, uint64(v))
	}
	c.infos = append(c.infos, &pipepb.MonitoringInfo{
		Urn:     metricsx.UrnToString(urn),
		Type:    metricsx.UrnToType(urn),
		Payload: payload,
		Labels:  c.st.labelMap(l),
	})
}

// labelMap returns the labels as a map that nobody changes.
func (st *stage) labelMap(l metrics.Labels) map[string]string {
	st.mu.Lock()
	defer st.mu.Unlock()
	m, ok := st.labels[l]
	if !ok {
		m = l.Map()
		maps.DeleteFunc(m, func(_, v string) bool { return v == "" })
		st.labels[l] = m
	}
	return m
}

// sample charges time to the transforms of the running bundles until ctx ends.
func (w *Worker) sample(ctx context.Context) {
	defer close(w.sampled)
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.mu.Lock()
		runs := slices.Collect(maps.Values(w.running))
		w.mu.Unlock()
		for _, r := range runs {
			// Only a time limit for elements, which we do not set, makes an error.
			_ = r.sampler.Sample(ctx, samplePeriod)
		}
	}
}

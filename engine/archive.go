package engine

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// archive is what is asked of a job that has ended, packed: a cluster remembers many of them, and as messages the pipeline,
// the plan and the metrics of a small job are half a megabyte.
type archive struct {
	pipeline []byte // pipepb.Pipeline
	metrics  []byte // jobpb.MetricResults
}

// archive packs what stays of the job and lets go of everything else that its execution needed. REQUIRES: the execution has
// ended.
func (j *Job) archive() {
	attempted, committed := j.metrics.snapshot()
	var a archive
	var err error
	if a.pipeline, err = pack(j.spec.Pipeline); err == nil {
		a.metrics, err = pack(&jobpb.MetricResults{Attempted: attempted, Committed: committed})
	}
	if err != nil { // it stays as it is, only larger
		j.log.Warn("archive the job", "error", err)
		return
	}
	j.mu.Lock()
	j.archived = &a
	j.spec.Pipeline, j.spec.Open, j.spec.Files = nil, nil, nil
	j.plan = j.plan.Outline()
	j.mu.Unlock()
	j.metrics.reset()
}

func pack(m proto.Message) ([]byte, error) {
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return bytes.Clone(out.Bytes()), nil
}

// unpack fills m with what pack made of another one. Memory cannot rot, so it never fails.
func unpack(data []byte, m proto.Message) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err == nil {
		data, err = io.ReadAll(r)
	}
	if err == nil {
		err = proto.Unmarshal(data, m)
	}
	if err != nil {
		panic(fmt.Sprintf("not reached: unpack %s: %v", m.ProtoReflect().Descriptor().Name(), err))
	}
}

// Pipeline is the pipeline as it was submitted. Callers must not change it.
func (j *Job) Pipeline() *pipepb.Pipeline {
	j.mu.Lock()
	p, a := j.spec.Pipeline, j.archived
	j.mu.Unlock()
	if a != nil {
		p = new(pipepb.Pipeline)
		unpack(a.pipeline, p)
	}
	return p
}

// Metrics returns the monitoring infos of all bundles that ran, failed ones included, and of those that were committed.
func (j *Job) Metrics() (attempted, committed []*pipepb.MonitoringInfo) {
	attempted, committed = j.metrics.snapshot()
	j.mu.Lock()
	a := j.archived // looked at last: it is there before the metrics are reset
	j.mu.Unlock()
	if a == nil {
		return attempted, committed
	}
	var m jobpb.MetricResults
	unpack(a.metrics, &m)
	return m.GetAttempted(), m.GetCommitted()
}

package engine

import (
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// Overview is what a job is doing, for people and monitoring.
type Overview struct {
	State  jobpb.JobState_Enum
	Stages []StageOverview
}

// StageOverview tells of one stage. Counters are of committed bundles since the job started.
type StageOverview struct {
	Name                            string
	Kind                            string
	InputWatermark, OutputWatermark int64 // ms since the epoch
	QueuedElements                  int
	QueuedBytes                     int64
	RunningBundles                  int
	ElementsIn, ElementsOut         int64
	BytesIn, BytesOut               int64
	Bundles, FailedBundles, Splits  int64
	DroppedLate                     int64
	Busy                            time.Duration // sum over bundles
	// Ended is when the stage had finished: nothing is left to do, nor ever will be. Zero: it has not.
	Ended time.Time
	// Inputs are the stages whose output this one reads, by name; Keyed says that elements go where their key belongs.
	Inputs []string
	Keyed  bool
	Slots  []SlotOverview
	// Backlog is what a source knows to be waiting outside; -1: unknown or no source.
	Backlog int64
}

func (x *execution) overview() Overview {
	x.mu.Lock()
	defer x.mu.Unlock()
	o := Overview{Stages: make([]StageOverview, 0, len(x.stages))}
	for _, s := range x.stages {
		so := StageOverview{
			Name: s.name, Kind: "SideInput", InputWatermark: s.inputWM, OutputWatermark: s.outputWM,
			QueuedElements: s.queued(), QueuedBytes: s.queuedBytes(), RunningBundles: len(s.active),
			ElementsIn: s.stats.ElementsIn, ElementsOut: s.stats.ElementsOut, BytesIn: s.stats.BytesIn, BytesOut: s.stats.BytesOut,
			Bundles: s.stats.Bundles, FailedBundles: s.stats.Failures, Splits: s.stats.Splits, DroppedLate: s.stats.Dropped,
			Busy: s.stats.Busy, Ended: s.ended, Backlog: -1, Keyed: s.keyed, Slots: s.slotOverviews(),
		}
		if s.in != nil {
			for _, p := range s.in.producers {
				so.Inputs = append(so.Inputs, p.name)
			}
		}
		if s.plan != nil {
			so.Kind = s.plan.Kind.String()
		}
		if src, ok := s.op.(*sourceOp); ok {
			so.Backlog = 0
			for _, b := range src.backlog {
				so.Backlog += max(b, 0)
			}
		}
		o.Stages = append(o.Stages, so)
	}
	return o
}

// Changes returns the states that the job went through, and when, oldest first.
func (j *Job) Changes() []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []Event
	for _, e := range j.events {
		if e.Message == nil {
			out = append(out, e)
		}
	}
	return out
}

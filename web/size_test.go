package web

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// large makes words a job of so many stages in 20 slots.
func large(c *fakeCluster, stages int) *fakeJob {
	job := c.jobs[len(c.jobs)-1]
	job.info.Slots = 20
	job.stages = nil
	for k := range stages {
		s := Stage{Name: fmt.Sprint("stage", k), Subtasks: make([]Subtask, 20)}
		if k > 0 {
			s.Inputs = []Input{{Stage: fmt.Sprint("stage", k-1)}}
		}
		job.stages = append(job.stages, s)
	}
	return job
}

// BenchmarkLivePage is what an open page of a job of 203 stages in 20 slots costs every 2 s.
func BenchmarkLivePage(b *testing.B) {
	c := example(time.Now())
	job := large(c, 203)
	h := newTestHandler(b, c, nil)
	v := jobView{ofJob: ofJob{h: h, id: job.ID()}}
	cursor, now := uint64(0), time.Now()
	b.ReportAllocs()
	for n := int64(0); b.Loop(); n++ {
		now = now.Add(liveInterval)
		for k := range job.stages {
			job.stages[k].Total.RecordsIn += n * int64(k)
		}
		if err := v.update(now); err != nil {
			b.Fatal(err)
		}
		_, cursor = v.since(cursor)
	}
}

// BenchmarkLargeJob asks for everything about a job of 200 stages in 20 slots, in turn.
func BenchmarkLargeJob(b *testing.B) {
	c := example(time.Now())
	large(c, 200)
	h := newTestHandler(b, c, nil)
	for _, path := range []string{
		"/jobs/overview", "/jobs/{words}", "/jobs/{words}/checkpoints/details/3", "/metrics",
		"/jobs/{words}/vertices/{words/stage}/subtasks/metrics?get=busyTimeMsPerSecond,numRecordsInPerSecond",
	} {
		path = strings.ReplaceAll(path, "{words/stage}", HexID("stage100"))
		b.Run(path[:min(len(path), 30)], func(b *testing.B) {
			for b.Loop() {
				h.shared.changed() // the answer is made, not that of the call before
				if code, _, body := call(b, h, http.MethodGet, names(path), ""); code != http.StatusOK {
					b.Fatalf("%d %s", code, body)
				}
			}
		})
	}
}

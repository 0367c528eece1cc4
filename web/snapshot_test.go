package web

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// watchedJob counts looks at a job.
type watchedJob struct {
	*fakeJob
	stages, metrics int
}

func (j *watchedJob) Stages() []Stage {
	j.stages++
	return j.fakeJob.Stages()
}

func (j *watchedJob) Metrics() (attempted, committed []*pipepb.MonitoringInfo) {
	j.metrics++
	return j.fakeJob.Metrics()
}

// TestSnapshots: many who ask at once cost a job one look, but nobody is shown what was before the job's end.
func TestSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := example(time.Now())
		job := &watchedJob{fakeJob: c.jobs[0]}
		h := newTestHandler(t, c, func(cfg *Config) { cfg.Cluster = oneJob{c, job} })
		base := "/jobs/" + HexID(job.ID())
		ask := func(paths ...string) {
			h.shared.changed()
			for _, path := range paths {
				for n := range 10 {
					path := fmt.Sprintf("%s%s?n=%d", base, path, n) // each has an answer of its own
					if code, _, body := call(t, h, http.MethodGet, path, ""); code != http.StatusOK {
						t.Fatalf("%s: %d %s", path, code, body)
					}
				}
			}
		}
		want := func(when string, stages, metrics int) {
			t.Helper()
			if job.stages != stages || job.metrics != metrics {
				t.Errorf("%s: %d looks at stages, %d at metrics", when, job.stages, job.metrics)
			}
		}
		vertex := "/vertices/" + HexID(job.fakeJob.stages[0].Name)
		ask("", "/plan", vertex, vertex+"/subtasks/metrics", vertex+"/accumulators", "/accumulators")
		want("at once", 1, 1)
		time.Sleep(stagesAge)
		ask("", "/accumulators")
		want("later", 2, 1)
		time.Sleep(metricsAge)
		ask("/accumulators")
		want("much later", 2, 2)
		ask("")
		want("much later", 3, 2)
		job.info.Changes = append(job.info.Changes, Change{State: jobpb.JobState_DONE, At: time.Now()})
		ask("", "/accumulators")
		want("at the end", 4, 3)
	})
}

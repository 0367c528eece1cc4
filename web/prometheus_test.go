package web

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// TestPrometheus compares the metrics of the example cluster with testdata/prometheus, and checks names and units.
func TestPrometheus(t *testing.T) {
	datadriven.RunTest(t, "testdata/prometheus", func(t *testing.T, _ *datadriven.TestData) string {
		var own []string
		synctest.Test(t, func(t *testing.T) {
			c := example(time.Now())
			time.Sleep(endedFor - time.Minute) // the jobs that ended a minute ago have no metrics of their own any more
			code, _, body := call(t, newTestHandler(t, c, nil), http.MethodGet, "/metrics", "")
			if code != http.StatusOK {
				t.Fatalf("%d %s", code, body)
			}
			problems, err := promlint.New(bytes.NewReader(append(body, '\n'))).Lint()
			if err != nil {
				t.Error(err)
			}
			for _, p := range problems {
				if strings.HasPrefix(p.Metric, "tinyrunner_") {
					t.Errorf("%s: %s", p.Metric, p.Text)
				}
			}
			for line := range strings.SplitSeq(string(body), "\n") {
				if strings.HasPrefix(line, "tinyrunner_") {
					own = append(own, line)
				}
			}
			for _, name := range []string{"go_goroutines ", "process_resident_memory_bytes "} {
				if !bytes.Contains(body, []byte("\n"+name)) {
					t.Errorf("no %s", name)
				}
			}
		})
		return strings.Join(own, "\n")
	})
}

// TestLabels: user code cannot make the metrics unreadable, or too many.
func TestLabels(t *testing.T) {
	c := example(time.Now())
	job := c.jobs[len(c.jobs)-1]
	long := strings.Repeat("x", 300)
	for k := range maxUserSeries + 10 {
		job.metrics = append(job.metrics, monitoringInfo("sum_int64", "sum_int64", "t", fmt.Sprint("n", k), varintPayload(1)))
	}
	for _, name := range []string{long + "a", long + "b", "a\xff", "a\"\n"} {
		job.stages = append(job.stages, Stage{Name: name})
	}
	job.metrics = append(job.metrics, slices.Clone(job.metrics)...) // twice, as if they differed in other labels
	code, _, body := call(t, newTestHandler(t, c, nil), http.MethodGet, "/metrics", "")
	if n := bytes.Count(body, []byte("\ntinyrunner_user_")); code != http.StatusOK || n > maxUserSeries+10 {
		t.Errorf("%d, %d series: %.300s", code, n, body)
	}
	if label(long+"a") == label(long+"b") || len(label(long)) > maxLabel {
		t.Errorf("long names: %q, %q", label(long+"a"), label(long+"b"))
	}
}

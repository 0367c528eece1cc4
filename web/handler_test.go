package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"github.com/cockroachdb/datadriven"
)

type fakeCluster struct{ jobs []Job }

func (fakeCluster) Slots() int    { return 2 }
func (c fakeCluster) Jobs() []Job { return c.jobs }
func (fakeCluster) Pool() Pool    { return Pool{Limit: 32 << 20, Used: 4096, Spilled: 7} }

// sample is a running job, and one for each end that a job can have.
func sample(now time.Time) fakeCluster {
	at := func(s jobpb.JobState_Enum, ago time.Duration) Change { return Change{State: s, At: now.Add(-ago)} }
	ended := func(id string, s jobpb.JobState_Enum) Job {
		return Job{ID: id, Name: id, MaxParallelism: 128, Changes: []Change{
			at(jobpb.JobState_STARTING, time.Hour), at(jobpb.JobState_RUNNING, time.Hour-time.Second), at(s, time.Minute),
		}, Stages: []Stage{{Name: "Impulse", ElementsOut: 1, BytesOut: 3, Finished: true}, {Name: "Work", ElementsIn: 1, BytesIn: 3, Inputs: []Input{{Stage: "Impulse"}}}}}
	}
	return fakeCluster{jobs: []Job{
		ended("done", jobpb.JobState_DONE), ended("drained", jobpb.JobState_DRAINED),
		ended("failed", jobpb.JobState_FAILED), ended("cancelled", jobpb.JobState_CANCELLED),
		{ID: "words-abc", Name: "words", Streaming: true, MaxParallelism: 128, Changes: []Change{
			at(jobpb.JobState_STARTING, 10*time.Second), at(jobpb.JobState_RUNNING, 9*time.Second),
		}, Stages: []Stage{
			{Name: "Read", Finished: true, ElementsOut: 100, BytesOut: 2000, Busy: time.Second},
			{Name: "Group", Inputs: []Input{{Stage: "Read", Keyed: true}}, ElementsIn: 100, BytesIn: 2000, ElementsOut: 7, BytesOut: 70, Busy: 3 * time.Second},
		}},
	}}
}

// TestREST plays testdata/rest: GET PATH prints the status and the answer. Time stands still at 2000-01-01 00:00 UTC.
func TestREST(t *testing.T) {
	datadriven.RunTest(t, "testdata/rest", func(t *testing.T, d *datadriven.TestData) string {
		var out string
		synctest.Test(t, func(t *testing.T) {
			code, contentType, body := request(t, sample(time.Now()), strings.ToUpper(d.Cmd), strings.TrimSpace(d.Input))
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, body, "", " "); err != nil {
				t.Fatalf("%v in %q", err, body)
			}
			out = fmt.Sprintf("%d %s\n%s", code, contentType, pretty.String())
		})
		return out
	})
}

func request(t *testing.T, c Cluster, method, path string) (code int, contentType string, body []byte) {
	t.Helper()
	h, err := NewHandler(Config{Cluster: c, Revision: "abc", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	body, err = io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, w.Header().Get("Content-Type"), body
}

func TestPrefixAndOwnID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sample(time.Now())
		for _, pair := range [][2]string{
			{"/jobs/overview", "/v1/jobs/overview"}, {"/overview", "/v1/overview"}, {"/config", "/v1/config"},
			{"/jobs/words-abc", "/v1/jobs/" + hexID("words-abc")},
		} {
			_, _, a := request(t, c, http.MethodGet, pair[0])
			code, _, b := request(t, c, http.MethodGet, pair[1])
			if code != http.StatusOK || !bytes.Equal(a, b) {
				t.Errorf("%s and %s differ: %d\n%s\n%s", pair[0], pair[1], code, a, b)
			}
		}
	})
}

func TestConfig(t *testing.T) {
	_, _, body := request(t, fakeCluster{}, http.MethodGet, "/config")
	var got map[string]any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"refresh-interval", "timezone-name", "timezone-offset", "flink-version", "flink-revision", "features"} {
		if _, ok := got[key]; !ok {
			t.Errorf("%s is missing in %s", key, body)
		}
	}
}

func TestMetricsAndHealth(t *testing.T) {
	code, _, body := request(t, sample(time.Now()), http.MethodGet, "/metrics")
	for _, line := range []string{
		`tinyrunner_jobs{state="FINISHED"} 2`, `tinyrunner_jobs{state="RUNNING"} 1`, `tinyrunner_jobs{state="CREATED"} 0`,
		"tinyrunner_slots 2", "tinyrunner_buffer_pool_limit_bytes 3.3554432e+07", "tinyrunner_buffer_pool_used_bytes 4096",
		"tinyrunner_buffer_pool_spilled_bytes 7", "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(string(body), "\n"+line) {
			t.Errorf("no line %q (status %d)", line, code)
		}
	}
	if code, _, body := request(t, fakeCluster{}, http.MethodGet, "/healthz"); code != http.StatusOK || string(body) != "ok\n" {
		t.Errorf("healthz: %d %q", code, body)
	}
}

package web

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// TestShared: a second client is given the first one's answer, unless that is too old or something has changed. Answers tell the
// time in ms, so that equal ones are the same one.
func TestShared(t *testing.T) {
	const details = "/jobs/{words}"
	words := func(c *fakeCluster) *fakeJob { return c.jobs[len(c.jobs)-1] }
	type server struct {
		*Handler
		*fakeCluster
	}
	ask := func(method, path, body string) func(*testing.T, server) {
		return func(t *testing.T, s server) { call(t, s.Handler, method, names(path), body) }
	}
	for _, tt := range []struct {
		name, path, again string // again: "" is path
		meanwhile         func(*testing.T, server)
		same              bool
	}{
		{name: "at once", path: details, same: true},
		{name: "young", path: details, meanwhile: func(*testing.T, server) { time.Sleep(sharedAge - 2*time.Millisecond) }, same: true},
		{name: "old", path: details, meanwhile: func(*testing.T, server) { time.Sleep(sharedAge) }},
		{name: "another query", path: details, again: details + "?n=1"},
		{name: "same query", path: "/jobs/overview?n=1", again: "/jobs/overview?n=1", same: true},
		{name: "escaped", path: "/jobs/words-abc", again: "/jobs/words%2Dabc"},
		{name: "escaped slash", path: details, again: "/jobs%2F{words}"},
		{name: "a body that says nothing", path: details, same: true, meanwhile: ask(http.MethodGet, "/overview", "{}")},
		{name: "state", path: details, meanwhile: func(_ *testing.T, s server) { words(s.fakeCluster).end(jobpb.JobState_DRAINING) }},
		{name: "state in the list", path: "/jobs/overview", meanwhile: func(_ *testing.T, s server) { words(s.fakeCluster).end(jobpb.JobState_DRAINING) }},
		{name: "state of another job", path: details, same: true, meanwhile: func(_ *testing.T, s server) { s.jobs[0].end(jobpb.JobState_DONE) }},
		{name: "restart", path: details, meanwhile: func(_ *testing.T, s server) { words(s.fakeCluster).info.Restarts++ }},
		{name: "slots", path: details, meanwhile: func(_ *testing.T, s server) { words(s.fakeCluster).info.Slots++ }},
		{name: "job gone", path: "/jobs/overview", meanwhile: func(_ *testing.T, s server) { s.fakeCluster.jobs = s.fakeCluster.jobs[1:] }},
		{name: "cancelled", path: details, meanwhile: ask(http.MethodPatch, "/jobs/{words}", "")},
		{name: "cancelled by GET", path: details, meanwhile: ask(http.MethodGet, "/jobs/{words}/yarn-cancel", "")},
		{name: "jar of another client", path: details, meanwhile: ask(http.MethodPost, "/jars/upload", "")},
		{name: "checkpoint", path: details, meanwhile: ask(http.MethodPost, "/jobs/{words}/checkpoints", "")},
		{name: "operation ended", path: details, meanwhile: func(t *testing.T, s server) {
			words(s.fakeCluster).wait = make(chan struct{})
			call(t, s.Handler, http.MethodPost, names("/jobs/{words}/savepoints"), "{}")
			call(t, s.Handler, http.MethodGet, names(details), "")
			time.Sleep(time.Millisecond)
			_, _, during := call(t, s.Handler, http.MethodGet, names(details), "")
			close(words(s.fakeCluster).wait)
			synctest.Wait()
			time.Sleep(time.Millisecond)
			if _, _, after := call(t, s.Handler, http.MethodGet, names(details), ""); bytes.Equal(during, after) {
				t.Error("the answer is from before the operation's end")
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := example(time.Now())
				s := server{newTestHandler(t, c, nil), c}
				_, first, before := call(t, s.Handler, http.MethodGet, names(tt.path), "")
				time.Sleep(time.Millisecond)
				if tt.meanwhile != nil {
					tt.meanwhile(t, s)
				}
				if tt.again == "" {
					tt.again = tt.path
				}
				_, second, after := call(t, s.Handler, http.MethodGet, names(tt.again), "")
				if same := bytes.Equal(before, after); same != tt.same {
					t.Errorf("the same answer: %v\n%s\n%s", same, before, after)
				}
				if tt.same && fmt.Sprint(first) != fmt.Sprint(second) {
					t.Errorf("headers %v and %v", first, second)
				}
			})
		})
	}
}

// TestSharedRoutes: every call says whether its answers are shared.
func TestSharedRoutes(t *testing.T) {
	var own []string
	for _, rt := range newTestHandler(t, example(time.Now()), nil).routes() {
		switch {
		case rt.shared && (rt.changes || rt.upload || rt.method != http.MethodGet || rt.status != http.StatusOK):
			t.Errorf("answers of %s %s are shared", rt.method, rt.path)
		case !rt.shared && !rt.changes:
			own = append(own, rt.path)
		}
	}
	want := "/jobs/{job}/checkpoints/{trigger} /jobs/{job}/savepoints/{trigger} /savepoint-disposal/{trigger}"
	if got := strings.Join(own, " "); got != want {
		t.Errorf("not shared: %s, want %s", got, want)
	}
}

// TestSharedAnswersAreGuarded: who may not ask is not given what others have asked for.
func TestSharedAnswersAreGuarded(t *testing.T) {
	h := newTestHandler(t, example(time.Now()), func(c *Config) { c.Token, c.ReadOnly, c.Hosts = "t", true, []string{"here"} })
	const token = "Authorization: Bearer t"
	r := func(path, host string, header ...string) int {
		code, _, _ := call(t, h, http.MethodGet, names("http://"+host+path), "", header...)
		return code
	}
	for _, tt := range []struct {
		path, host string
		headers    []string
		want       int
	}{
		{"/jobs/{words}", "here", []string{token}, http.StatusOK},
		{"/jobs/{words}", "here", nil, http.StatusUnauthorized},
		{"/jobs/{words}", "here", []string{"Authorization: Bearer u"}, http.StatusUnauthorized},
		{"/jobs/{words}", "there", []string{token}, http.StatusMisdirectedRequest},
		{"/jobs/{words}", "here", []string{token}, http.StatusOK},
		{"/jobs/{words}/yarn-cancel", "here", []string{token}, http.StatusForbidden},
	} {
		if got := r(tt.path, tt.host, tt.headers...); got != tt.want {
			t.Errorf("%s of %s with %v: %d, want %d", tt.path, tt.host, tt.headers, got, tt.want)
		}
	}
}

// slowJob waits before it tells of its stages, or panics.
type slowJob struct {
	*watchedJob
	wait   chan struct{}
	panics bool
}

func (j *slowJob) Stages() []Stage {
	if j.panics {
		panic("on purpose")
	}
	<-j.wait
	return j.watchedJob.Stages()
}

// TestSharedOnce: while an answer is made, others wait for it, but those who know of something newer.
func TestSharedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := example(time.Now())
		job := &slowJob{watchedJob: &watchedJob{fakeJob: c.jobs[0]}, wait: make(chan struct{})}
		h := newTestHandler(t, c, func(cfg *Config) { cfg.Cluster = oneJob{c, job} })
		path := "/jobs/" + HexID(job.ID())
		var all sync.WaitGroup
		codes := make(chan int, 100)
		for range 10 {
			all.Go(func() {
				code, _, _ := call(t, h, http.MethodGet, path, "")
				codes <- code
			})
		}
		synctest.Wait()
		gone, cancel := context.WithCancel(t.Context())
		all.Go(func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(gone, http.MethodGet, path, nil))
		})
		cancel() // it is given its own, which nobody reads
		close(job.wait)
		all.Wait()
		close(codes)
		for code := range codes {
			if code != http.StatusOK {
				t.Errorf("%d", code)
			}
		}
		if job.watchedJob.stages != 1 || len(h.shared.all) != 1 {
			t.Errorf("%d looks, %d answers", job.watchedJob.stages, len(h.shared.all))
		}
	})
}

// TestSharedFailure: what has gone wrong is tried again.
func TestSharedFailure(t *testing.T) {
	c := example(time.Now())
	job := &slowJob{watchedJob: &watchedJob{fakeJob: c.jobs[0]}, panics: true}
	h := newTestHandler(t, c, func(cfg *Config) { cfg.Cluster = oneJob{c, job} })
	path := "/jobs/" + HexID(job.ID())
	for range 2 {
		if code, _, _ := call(t, h, http.MethodGet, path, ""); code != http.StatusInternalServerError {
			t.Errorf("panic: %d", code)
		}
	}
	job.panics = false
	job.wait = make(chan struct{})
	close(job.wait)
	for _, missing := range []string{path + "/vertices/" + HexID("nothing"), "/jobs/" + HexID("nothing"), "/nothing"} {
		if code, _, _ := call(t, h, http.MethodGet, missing, ""); code != http.StatusNotFound {
			t.Errorf("%s: %d", missing, code)
		}
	}
	if n := len(h.shared.all); n != 0 {
		t.Errorf("%d answers are kept", n)
	}
	if code, _, _ := call(t, h, http.MethodGet, path, ""); code != http.StatusOK {
		t.Errorf("after the panic: %d", code)
	}
}

// TestSharedBounds: neither many calls nor large answers make the process grow.
func TestSharedBounds(t *testing.T) {
	s := newSharedAnswers()
	keep := func(path string, bytes int) {
		key := sharedKey{path: path}
		a, mine := s.begin(key, nil, mark{})
		if !mine {
			t.Fatalf("%s is there", path)
		}
		a.answer = encoded{"text/plain", make([]byte, bytes)}
		s.end(key, a)
	}
	check := func() {
		t.Helper()
		sum := 0
		for _, a := range s.all {
			sum += a.bytes
		}
		if sum != s.bytes || sum > maxShared || len(s.all) > maxSharedCount {
			t.Fatalf("%d answers of %d bytes, %d in the books", len(s.all), sum, s.bytes)
		}
	}
	keep("large", maxShared/4+1)
	if len(s.all) != 0 {
		t.Error("a large answer is kept")
	}
	for k := range 3 * maxSharedCount {
		keep(fmt.Sprint("small", k), 1)
		check()
	}
	for k := range 20 {
		keep(fmt.Sprint("middling", k), maxShared/4)
		check()
	}
	under, _ := s.begin(sharedKey{path: "under way"}, nil, mark{})
	s.forget(time.Now().Add(sharedAge))
	s.end(sharedKey{path: "under way"}, under)
	if check(); len(s.all) != 0 || s.bytes != 0 {
		t.Errorf("%d answers of %d bytes are not forgotten", len(s.all), s.bytes)
	}
}

// TestSharedOwnActions: many clients at once, each of whom sees what it has just done.
func TestSharedOwnActions(t *testing.T) {
	h := newTestHandler(t, example(time.Now()), nil)
	form := uberJar(t, nil)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				_, _, answer := call(t, h, http.MethodPost, "/jars/upload", form, "Content-Type: multipart/form-data; boundary=x")
				jar := between(string(answer), "/jars/", `"`)
				if _, _, list := call(t, h, http.MethodGet, "/jars", ""); jar == "" || !strings.Contains(string(list), jar) {
					t.Errorf("jar %q is not in %s", jar, list)
				}
				call(t, h, http.MethodDelete, "/jars/"+jar, "")
				if _, _, list := call(t, h, http.MethodGet, "/jars", ""); strings.Contains(string(list), jar) {
					t.Errorf("jar %q is still in %s", jar, list)
				}
			}
		})
		all.Go(func() {
			for range 200 {
				call(t, h, http.MethodGet, "/jars", "")
				call(t, h, http.MethodGet, names("/jobs/{words}"), "")
			}
		})
	}
	all.Wait()
}

// BenchmarkCalls makes every call that reads of a job of the demo's size: with an answer that is made for it, and with one that
// somebody else has been given.
func BenchmarkCalls(b *testing.B) {
	h := newTestHandler(b, example(time.Now()), nil)
	var requests []*http.Request
	for _, rt := range h.routes() {
		if rt.method == http.MethodGet && !rt.changes && !strings.Contains(rt.path, "{trigger}") {
			path := strings.NewReplacer("{job}", HexID("words-abc"), "{vertex}", HexID("Group"), "{checkpoint}", "3",
				"{subtask}", "1", "{attempt}", "1", "{taskmanager}", taskManagerID, "{file}", logFile).Replace(rt.path)
			requests = append(requests, httptest.NewRequest(http.MethodGet, path, nil))
		}
	}
	for _, kind := range []string{"made", "shared"} {
		b.Run(kind, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				r := requests[n%len(requests)]
				if n++; kind == "made" {
					h.shared.changed()
				}
				w := discard{header: make(http.Header)}
				if h.ServeHTTP(&w, r); w.code != http.StatusOK {
					b.Fatalf("%s: %d", r.URL.Path, w.code)
				}
			}
		})
	}
}

// discard is a client that reads nothing.
type discard struct {
	header http.Header
	code   int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(code int)        { d.code = code }

package web

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// mayFail are the statuses from 500 on that are documented: no JVM, shutting down or too much under way.
func mayFail() []int { return []int{http.StatusNotImplemented, http.StatusServiceUnavailable} }

func FuzzRequests(f *testing.F) {
	h := newTestHandler(f, example(time.Now()), nil)
	for _, rt := range h.routes() {
		f.Add(rt.method, strings.NewReplacer("{job}", hexID("words-abc"), "{vertex}", hexID("Group"), "{taskmanager}", taskManagerID).Replace(rt.path), "get=a&agg=max", "{}")
	}
	f.Add("POST", "/jars/upload", "", uberJar(f, nil))
	f.Fuzz(func(t *testing.T, method, path, query, body string) { request(t, h, method, path, query, body) })
}

// request sends anything that is HTTP, and checks that the answer is Flink's.
func request(t *testing.T, h http.Handler, method, path, query, body string) {
	r, err := http.NewRequest(method, "http://localhost/", strings.NewReader(body))
	if err != nil {
		return // no HTTP
	}
	r.URL.Path, r.URL.RawQuery = path, query
	if strings.HasSuffix(path, "/upload") {
		r.Header.Set("Content-Type", "multipart/form-data; boundary=x")
	}
	if strings.HasSuffix(path, "flamegraph") {
		r.URL.RawQuery = "type=full" // a profile of the CPU takes its time
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code >= 500 && !slices.Contains(mayFail(), w.Code) {
		t.Fatalf("%s %q?%q %q: %d %s", method, path, query, body, w.Code, w.Body)
	}
	if w.Code < 400 || path == "/metrics" || strings.HasSuffix(path, "z") {
		return
	}
	var got errorsJSON
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Errors) == 0 {
		t.Fatalf("%s %q: %d without errors: %s", method, path, w.Code, w.Body)
	}
}

// TestMalformed sends 10,000 requests that are a little wrong: pieces of right paths, queries and bodies, in wrong places.
func TestMalformed(t *testing.T) {
	h := newTestHandler(t, example(time.Now()), nil)
	r := rand.New(rand.NewPCG(1, 2))
	methods := []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"}
	var parts []string
	for _, rt := range h.routes() {
		parts = append(parts, strings.Split(strings.Trim(rt.path, "/"), "/")...)
	}
	parts = append(parts, hexID("words-abc"), hexID("Group"), hexID("done"), "tinyrunner", "0", "-1", "99999999999999999999", "..", "", "%", "\x00", "\xff", "v1", "é")
	pieces := []string{"{", "}", "[", "]", `"triggerId"`, ":", `"x"`, "null", "1e999", "-1", `"parallelism"`, `{"lowerBound":1}`, hexID("Group"), ",", "\x00", `"target-directory":"file:///x"`}
	queries := []string{"get=", "agg=", "subtasks=", "0-9999", "9999999999-1", "numRecordsIn", "max", ",", "&", "=", "maxExceptions=", "-1", "mode=", "cancel", "%zz", ";", "type=", "jobs="}
	pick := func(from []string, n int, sep string) string {
		var out []string
		for range r.IntN(n) {
			out = append(out, from[r.IntN(len(from))])
		}
		return strings.Join(out, sep)
	}
	for range 10_000 {
		request(t, h, methods[r.IntN(len(methods))], "/"+pick(parts, 9, "/"), pick(queries, 6, ""), pick(pieces, 9, ""))
	}
}

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
		f.Add(rt.method, strings.NewReplacer("{job}", HexID("words-abc"), "{vertex}", HexID("Group"), "{taskmanager}", taskManagerID).Replace(rt.path), "get=a&agg=max", "{}")
	}
	f.Add("POST", "/jars/upload", "", uberJar(f, nil))
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		request(t, h, method, path, query, body)
	})
}

// request sends anything that is HTTP, and checks that the answer is Flink's.
func request(t *testing.T, h http.Handler, method, path, query, body string, headers ...string) (code int) {
	r, err := http.NewRequestWithContext(t.Context(), method, "http://localhost/", strings.NewReader(body))
	if err != nil {
		return 0 // no HTTP
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
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
		return w.Code
	}
	var got errorsJSON
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Errors) == 0 {
		t.Fatalf("%s %q: %d without errors: %s", method, path, w.Code, w.Body)
	}
	return w.Code
}

// malformed makes requests that are a little wrong.
type malformed struct {
	*rand.Rand
	routes []route
	parts  []string // of paths
}

func newMalformed(h *Handler) *malformed {
	m := &malformed{Rand: rand.New(rand.NewPCG(1, 2)), routes: h.routes()}
	for _, rt := range m.routes {
		m.parts = append(m.parts, strings.Split(strings.Trim(rt.path, "/"), "/")...)
	}
	m.parts = append(m.parts, HexID("words-abc"), HexID("Group"), HexID("done"), "tinyrunner", "0", "-1", "99999999999999999999", "..", "", "%", "\x00",
		"\xff", "v1", "\u00e9", strings.Repeat("a", 5000), "a/../../etc/passwd", "healthz", "metrics")
	return m
}

func (m *malformed) pick(n int, sep string, from ...string) string {
	var out []string
	for range m.IntN(n) {
		out = append(out, from[m.IntN(len(from))])
	}
	return strings.Join(out, sep)
}

// target is a method and a path: mostly those of a call, with anything for its parameters, else pieces of several.
func (m *malformed) target() (method, path string) {
	method = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"}[m.IntN(8)]
	if m.IntN(4) == 0 {
		return method, "/" + m.pick(9, "/", m.parts...)
	}
	rt := m.routes[m.IntN(len(m.routes))]
	parts := strings.Split(rt.path, "/")
	for k, part := range parts {
		switch known := map[string]string{
			"{job}": HexID("words-abc"), "{vertex}": HexID("Group"), "{taskmanager}": taskManagerID, "{checkpoint}": "3", "{subtask}": "1", "{attempt}": "1",
		}[part]; {
		case known != "" && m.IntN(4) > 0:
			parts[k] = known
		case strings.HasPrefix(part, "{"):
			parts[k] = m.parts[m.IntN(len(m.parts))]
		}
	}
	if m.IntN(4) > 0 {
		method = rt.method
	}
	return method, []string{"", "/v1", "/v2"}[m.IntN(3)] + strings.Join(parts, "/")
}

// body is JSON, nearly.
func (m *malformed) body() string {
	valid := []string{
		`{"triggerId":"abababababababababababababababab","drain":true}`, `{"savepoint-path":"file:///../x"}`, `{"target-directory":"file:///x"}`,
		`{"` + HexID("Group") + `":{"parallelism":{"lowerBound":1,"upperBound":2}}}`, `{"savepointPath":"s3://x","allowNonRestoredState":true}`,
		"--x\r\nContent-Disposition: form-data; name=\"jarfile\"; filename=\"../../x.jar\"\r\n\r\nPK\x03\x04\r\n--x--\r\n",
	}
	text := m.pick(9, "", "{", "}", "[", "]", `"triggerId"`, ":", `"x"`, "null", "1e999", "-1", `"parallelism"`, `{"lowerBound":1}`, HexID("Group"), ",", "\x00")
	if m.IntN(2) == 0 {
		text = valid[m.IntN(len(valid))]
		for range m.IntN(3) { // spoilt
			k := m.IntN(len(text))
			text = text[:k] + string(rune(m.IntN(256))) + text[k+m.IntN(2):]
		}
	}
	if m.IntN(100) == 0 {
		text = strings.Repeat("[", 100_000)
	}
	return text
}

func (m *malformed) headers() []string {
	return strings.Split(m.pick(4, "\n", "Content-Type: application/json", "Content-Type: multipart/form-data; boundary=x", "Content-Type: multipart/form-data",
		"Content-Type: \xff", "Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site", "Authorization: Basic !", "Authorization: Bearer",
		"Accept-Encoding: gzip;q=x", "Range: bytes=9-1", "Expect: 100-continue", "Cookie: "+strings.Repeat("a", 4000), "X-Forwarded-For: \x01"), "\n")
}

// TestMalformed sends 10,000 of them. Nothing may answer with an error of the server's that is not documented, panics among
// them. Most requests must have reached a call, or this would show nothing.
func TestMalformed(t *testing.T) {
	c := example(time.Now())
	h := newTestHandler(t, c, nil)
	m := newMalformed(h)
	codes := make(map[int]int)
	for range 10_000 {
		method, path := m.target()
		query := m.pick(6, "", "get=", "agg=", "subtasks=", "0-9999", "9999999999-1", "numRecordsIn", "max", ",", "&", "=", "maxExceptions=", "-1", "mode=",
			"cancel", "%zz", ";", "type=", "jobs=", "allowNonRestoredState=", "savepointPath=")
		codes[request(t, h, method, path, query, m.body(), m.headers()...)]++
	}
	if codes[http.StatusOK]+codes[http.StatusAccepted] < 1000 || codes[http.StatusBadRequest] < 1000 || codes[http.StatusForbidden] < 100 {
		t.Errorf("few requests have reached a call: %v", codes)
	}
}

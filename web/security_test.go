package web

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestToken(t *testing.T) {
	h := newTestHandler(t, example(time.Now()), func(c *Config) { c.Token = "open sesame" })
	for _, tc := range []struct {
		path, header string
		code         int
	}{
		{"/overview", "", http.StatusUnauthorized},
		{"/v1/jobs/overview", "Authorization: Bearer open sesam", http.StatusUnauthorized},
		{"/metrics", "Authorization: Bearer ", http.StatusUnauthorized},
		{"/nope", "Authorization: Basic !", http.StatusUnauthorized},
		{"/overview", "Authorization: Bearer open sesame", http.StatusOK},
		{"/metrics", "Authorization: Basic YTpvcGVuIHNlc2FtZQ==", http.StatusOK}, // a:open sesame
		{"/healthz", "", http.StatusOK},
		{"/readyz", "", http.StatusOK},
	} {
		code, header, body := call(t, h, http.MethodGet, tc.path, "", tc.header)
		if code != tc.code || code == http.StatusUnauthorized && header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s with %q: %d %s, want %d", tc.path, tc.header, code, body, tc.code)
		}
	}
}

// TestReadOnly: whatever is not a GET is refused, and so is the GET that changes something.
func TestReadOnly(t *testing.T) {
	c := example(time.Now())
	h := newTestHandler(t, c, func(c *Config) { c.ReadOnly = true })
	for _, rt := range h.routes() {
		path, body, contentType := names("/jobs/{words}"+strings.TrimPrefix(rt.path, "/jobs/{job}")), "{}", "Content-Type: application/json"
		if !strings.HasPrefix(rt.path, "/jobs/{job}") {
			path = strings.NewReplacer("{job}", hexID("words-abc"), "{jar}", "x").Replace(rt.path)
		}
		changes := rt.method != http.MethodGet || strings.Contains(rt.path, "yarn")
		if rt.changes != changes {
			t.Errorf("%s %s: changes is %v", rt.method, rt.path, rt.changes)
		}
		if code, _, answer := call(t, h, rt.method, path, body, contentType); changes && code != http.StatusForbidden {
			t.Errorf("%s %s: %d %s", rt.method, path, code, answer)
		}
	}
	if c.called() != "" {
		t.Errorf("changed: %s", c.called())
	}
}

// TestOrigin: a page of another site can make a browser send a request, but not hide where it comes from.
func TestOrigin(t *testing.T) {
	for _, tc := range []struct {
		method, path, header string
		code                 int
	}{
		{http.MethodPatch, "", "Origin: http://evil.example", http.StatusForbidden},
		{http.MethodPatch, "", "Sec-Fetch-Site: cross-site", http.StatusForbidden},
		{http.MethodGet, "/yarn-cancel", "Sec-Fetch-Site: cross-site", http.StatusForbidden},
		{http.MethodGet, "/yarn-cancel", "Origin: http://evil.example", http.StatusForbidden},
		{http.MethodPost, "/savepoints", "Origin: null", http.StatusForbidden},
		{http.MethodGet, "", "Origin: http://evil.example", http.StatusOK}, // it cannot read the answer: there is no CORS header
		{http.MethodGet, "/yarn-cancel", "Sec-Fetch-Site: same-origin", http.StatusAccepted},
		{http.MethodPatch, "", "Origin: http://example.com", http.StatusAccepted}, // the host of the test's requests
		{http.MethodPatch, "", "", http.StatusAccepted},
	} {
		c := example(time.Now())
		h := newTestHandler(t, c, nil)
		code, header, body := call(t, h, tc.method, names("/jobs/{words}"+tc.path), "", tc.header)
		if code != tc.code || header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s %s: %d %s, want %d", tc.method, tc.path, tc.header, code, body, tc.code)
		}
		if called := c.called() != ""; called != (code == http.StatusAccepted) {
			t.Errorf("%s %s %s: called %q", tc.method, tc.path, tc.header, c.called())
		}
	}
}

func TestHosts(t *testing.T) {
	for name, code := range map[string]int{"example.com": http.StatusOK, "other": http.StatusMisdirectedRequest} {
		h := newTestHandler(t, example(time.Now()), func(c *Config) { c.Hosts = []string{name} })
		if got, _, body := call(t, h, http.MethodGet, "/overview", ""); got != code {
			t.Errorf("%s: %d %s, want %d", name, got, body, code)
		}
	}
}

func TestBodyLimit(t *testing.T) {
	h := newTestHandler(t, example(time.Now()), func(c *Config) { c.MaxBody = 100 })
	body := `{"triggerId":"` + strings.Repeat("x", 200) + `"}`
	if code, _, answer := call(t, h, http.MethodPost, names("/jobs/{words}/savepoints"), body); code != http.StatusRequestEntityTooLarge {
		t.Errorf("%d %s", code, answer)
	}
}

// TestTraversal: no path leads to a file, and none makes the server fail.
func TestTraversal(t *testing.T) {
	h := newTestHandler(t, example(time.Now()), nil)
	for _, evil := range []string{"..%2f..%2fetc%2fpasswd", "..", "%2e%2e/%2e%2e/etc/passwd", "....//etc/passwd", "%00", "a%00b", `..\..\etc`, "/etc/passwd"} {
		evil = strings.ReplaceAll(evil, `\`, "%5c")
		for _, path := range []string{"/jobmanager/logs/", "/taskmanagers/tinyrunner/logs/", "/jars/", "/", "/jobs/", "/v1/jars/"} {
			for _, method := range []string{http.MethodGet, http.MethodDelete, http.MethodPost} {
				code, _, body := call(t, h, method, path+evil, "")
				if code < 400 || code >= 500 || strings.Contains(string(body), "root:") {
					t.Errorf("%s %s: %d %.100s", method, path+evil, code, body)
				}
			}
		}
	}
}

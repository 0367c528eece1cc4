package web

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strings"
	"testing"
	"testing/synctest"
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
			path = strings.NewReplacer("{job}", HexID("words-abc"), "{jar}", "x").Replace(rt.path)
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

// TestClientCerts: a certificate that TLS has verified is as good as the token.
func TestClientCerts(t *testing.T) {
	verified := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{}}}
	for name, tc := range map[string]struct {
		token, header string
		certs         bool
		tls           *tls.ConnectionState
		code          int
	}{
		"certificate":                       {certs: true, tls: verified, code: http.StatusOK},
		"certificate in place of the token": {certs: true, token: "x", tls: verified, code: http.StatusOK},
		"token in place of the certificate": {certs: true, token: "x", header: "Bearer x", tls: &tls.ConnectionState{}, code: http.StatusOK},
		"none":                              {certs: true, tls: &tls.ConnectionState{}, code: http.StatusUnauthorized},
		"no TLS":                            {certs: true, code: http.StatusUnauthorized},
		"an empty token":                    {certs: true, header: "Bearer ", code: http.StatusUnauthorized},
		"a certificate nobody asked for":    {token: "x", tls: verified, code: http.StatusUnauthorized},
	} {
		h := newTestHandler(t, example(time.Now()), func(c *Config) { c.Token, c.ClientCerts = tc.token, tc.certs })
		r := httptest.NewRequest(http.MethodGet, "/overview", nil)
		r.TLS = tc.tls
		if tc.header != "" {
			r.Header.Set("Authorization", tc.header)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tc.code {
			t.Errorf("%s: %d %s, want %d", name, w.Code, w.Body, tc.code)
		}
	}
}

// slowBody fails as a connection does whose deadline is over.
type slowBody struct{ err error }

func (b slowBody) Read([]byte) (int, error) { return 0, b.err }

// TestBrokenBody: what a client does wrong is not this server's error.
func TestBrokenBody(t *testing.T) {
	h := newTestHandler(t, example(time.Now()), nil)
	for err, want := range map[error]int{os.ErrDeadlineExceeded: http.StatusRequestTimeout, io.ErrUnexpectedEOF: http.StatusBadRequest} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, names("/jobs/{words}/savepoints"), slowBody{err}))
		if w.Code != want {
			t.Errorf("%v: %d %s, want %d", err, w.Code, w.Body, want)
		}
	}
}

// deadlines is a connection that remembers them.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error  { d.read = append(d.read, t); return nil }
func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = append(d.write, t); return nil }

// TestSlowClients: bodies and answers have deadlines, and none is left for what comes next on the connection.
func TestSlowClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		h := newTestHandler(t, example(now), nil)
		d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		h.ServeHTTP(d, httptest.NewRequest(http.MethodPost, names("/jobs/{words}/savepoints"), strings.NewReader("{}")))
		if len(d.read) < 3 || !d.read[1].Equal(now.Add(pieceTime)) || !d.read[len(d.read)-1].IsZero() {
			t.Errorf("reading: %v", d.read)
		}
		if len(d.write) != 2 || !d.write[0].IsZero() || !d.write[1].Equal(now.Add(answerTime)) {
			t.Errorf("writing: %v", d.write)
		}
	})
}

// TestHostsByAddress: probes of health and people without names use IP addresses, which no other site can have.
func TestHostsByAddress(t *testing.T) {
	h := newTestHandler(t, example(time.Now()), func(c *Config) { c.Hosts = []string{"runner"} })
	for host, want := range map[string]int{
		"10.0.0.1": http.StatusOK, "10.0.0.1:8081": http.StatusOK, "[::1]:8081": http.StatusOK, "[::1]": http.StatusOK, "RUNNER:80": http.StatusOK,
		"runner.evil.example": http.StatusMisdirectedRequest, "": http.StatusMisdirectedRequest,
	} {
		r := httptest.NewRequest(http.MethodGet, "/overview", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%q: %d %s, want %d", host, w.Code, w.Body, want)
		}
	}
}

// TestSavepointTraversal: an id of a job never becomes a part of a path that leaves the target directory.
func TestSavepointTraversal(t *testing.T) {
	h := newTestHandler(t, example(time.Now()), nil)
	for _, id := range []string{"../../etc", "words/../..", "/", "a\x00b"} {
		location, err := h.savepointLocation(new("file:///savepoints"), Info{ID: id, Name: id})
		if err != nil || path.Dir(location) != "file:/savepoints" || strings.ContainsAny(location, "\x00") {
			t.Errorf("%q: %q, %v", id, location, err)
		}
	}
}

package web

import (
	"crypto/sha256"
	"crypto/subtle"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// guard lets a request through, or answers it.
//
// A browser sends what other sites ask it to send. So whatever changes something must come from the same origin if it comes
// from a browser at all, also where Flink has a GET for it.
func (h *Handler) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.knows(r.Host) {
			h.fail(w, fail(http.StatusMisdirectedRequest, "Host %q is not a name of this server: --allowed_hosts tells it its names", r.Host))
			return
		}
		if r.URL.Path != "/healthz" && r.URL.Path != "/readyz" && !h.allowed(r) {
			h.refuse(w)
			return
		}
		if r.ContentLength != 0 { // what nobody reads of a body is read by net/http before the next request
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
		}
		if answer, ok := h.sharedAnswer(r); ok {
			h.send(w, http.StatusOK, answer)
			return
		}
		linger(w)
		next.ServeHTTP(w, r)
	})
}

// knows reports whether the server may be called so: a foreign name is a sign of DNS rebinding.
func (h *Handler) knows(host string) bool {
	if len(h.Hosts) == 0 {
		return true
	}
	name := strings.Trim(host, "[]")
	if n, _, err := net.SplitHostPort(host); err == nil {
		name = n
	}
	return net.ParseIP(name) != nil || slices.Contains(h.Hosts, strings.ToLower(name))
}

// refuse tells what is missing.
func (h *Handler) refuse(w http.ResponseWriter) {
	text := "connect with a client certificate that this server knows"
	if h.Token != "" {
		w.Header().Add("WWW-Authenticate", `Bearer realm="tinyrunner"`)
		w.Header().Add("WWW-Authenticate", `Basic realm="tinyrunner"`)
		text = "send the token: Authorization: Bearer TOKEN"
	}
	h.fail(w, fail(http.StatusUnauthorized, "%s", text))
}

// allowed looks for a certificate that was verified, or compares the token in constant time. Browsers send it as a password.
func (h *Handler) allowed(r *http.Request) bool {
	if h.ClientCerts && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return true
	}
	if h.Token == "" {
		return !h.ClientCerts
	}
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		_, given, ok = r.BasicAuth()
	}
	return ok && IsToken(given, h.Token)
}

// IsToken compares in constant time, whatever the lengths.
func IsToken(given, token string) bool {
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// mayChange refuses calls that change something in read-only mode, and those that another site's page made a browser send.
func (h *Handler) mayChange(r *http.Request) error {
	if h.ReadOnly {
		return fail(http.StatusForbidden, "this server is read-only")
	}
	check := r.Clone(r.Context())
	check.Method = http.MethodPost // a GET that changes something is no safer
	if err := h.origins.Check(check); err != nil {
		return fail(http.StatusForbidden, "%v: send it from this server's own pages, or without an Origin header", err)
	}
	return nil
}

// How long a client may take: for each piece of a request's body, for all of it, and for the answer.
const (
	pieceTime  = 30 * time.Second
	bodyTime   = time.Minute
	uploadTime = time.Hour
	answerTime = time.Minute
)

// patientBody reads a request's body for as long as its client is not too slow.
type patientBody struct {
	io.ReadCloser
	conn *http.ResponseController
	end  time.Time
}

// patiently bounds how long a client may take to send a body. Of connections that know no deadlines (those of tests) nothing is
// asked.
func patiently(w http.ResponseWriter, body io.ReadCloser, upload bool) io.ReadCloser {
	total := bodyTime
	if upload {
		total = uploadTime
	}
	return &patientBody{body, http.NewResponseController(w), time.Now().Add(total)}
}

// Read sets a deadline, and takes it back at the end: net/http reads on, to see whether the client is still there.
func (b *patientBody) Read(p []byte) (int, error) {
	deadline := time.Now().Add(pieceTime)
	if b.end.Before(deadline) {
		deadline = b.end
	}
	_ = b.conn.SetReadDeadline(deadline) // not of every connection
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		_ = b.conn.SetReadDeadline(time.Time{})
	}
	return n, err
}

// hurry bounds how long a client may take to read an answer. Streams of events are no answers.
func hurry(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime)) // not of every connection
}

// linger takes back the bound of the answer that was the last one on this connection.
func linger(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
}

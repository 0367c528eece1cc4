package web

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"slices"
	"strings"
)

// guard lets a request through, or answers it.
//
// A browser sends what other sites ask it to send. So whatever changes something must come from the same origin if it comes
// from a browser at all, also where Flink has a GET for it.
func (h *Handler) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.knows(r.Host) {
			h.fail(w, fail(http.StatusMisdirectedRequest, "Host %q is not a name of this server", r.Host))
			return
		}
		if r.URL.Path != "/healthz" && r.URL.Path != "/readyz" && !h.allowed(r) {
			w.Header().Add("WWW-Authenticate", `Bearer realm="tinyrunner"`)
			w.Header().Add("WWW-Authenticate", `Basic realm="tinyrunner"`)
			h.fail(w, fail(http.StatusUnauthorized, "send the token: Authorization: Bearer TOKEN"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// knows reports whether the server may be called so: a foreign name is a sign of DNS rebinding.
func (h *Handler) knows(host string) bool {
	if len(h.Hosts) == 0 {
		return true
	}
	name := host
	if n, _, err := net.SplitHostPort(host); err == nil {
		name = n
	}
	return slices.Contains(h.Hosts, strings.ToLower(name))
}

// allowed compares the token in constant time. Browsers send it as a password.
func (h *Handler) allowed(r *http.Request) bool {
	if h.Token == "" {
		return true
	}
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		_, given, ok = r.BasicAuth()
	}
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(h.Token))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && ok
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

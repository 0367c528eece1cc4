package web

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestStoredJobs(t *testing.T) {
	place := func(identity string) string { return "/stored-jobs/" + HexID(identity) }
	for _, tt := range []struct {
		name, method, path string
		change             func(*fakeCluster, *Config)
		code               int
		answer             string // a part of it
		called             string
	}{
		{
			name: "list", method: http.MethodGet, path: "/stored-jobs", code: http.StatusOK,
			answer: `"name":"failed","state":"KEPT","last-modification":946684800000,"checkpoint-id":7,"checkpoint-timestamp":946684800000,"checkpoint-size":500},`,
		},
		{name: "list, ended", method: http.MethodGet, path: "/stored-jobs", code: http.StatusOK, answer: `"name":"old one","state":"ENDED","how":"finished"`},
		{name: "list, running", method: http.MethodGet, path: "/stored-jobs", code: http.StatusOK, answer: `"name":"words","state":"RUNNING"`},
		{
			name: "store away", method: http.MethodGet, path: "/stored-jobs", code: http.StatusServiceUnavailable, answer: "the store of the checkpoints: no network",
			change: func(c *fakeCluster, _ *Config) { c.storeAway = errors.New("no network") },
		},
		{name: "by place", method: http.MethodDelete, path: place("failed"), code: http.StatusOK, answer: `{"name":"failed","objects":3,"bytes":900}`, called: "forget failed false"},
		{name: "by job", method: http.MethodDelete, path: place("old"), code: http.StatusOK, answer: `"old one"`, called: "forget old%20one false"},
		{name: "unknown", method: http.MethodDelete, path: place("nobody"), code: http.StatusNotFound, answer: "GET /stored-jobs"},
		{name: "no id", method: http.MethodDelete, path: "/stored-jobs/failed", code: http.StatusBadRequest, answer: "32 hex digits"},
		{name: "odd flag", method: http.MethodDelete, path: place("failed") + "?force=1", code: http.StatusBadRequest, answer: "true or false"},
		{name: "running", method: http.MethodDelete, path: place("words") + "?force=true", code: http.StatusConflict, answer: "it is running", called: "forget words true"},
		{
			name: "elsewhere", method: http.MethodDelete, path: place("failed"), code: http.StatusConflict, called: "forget failed false",
			change: func(c *fakeCluster, _ *Config) { c.rival = true },
		},
		{
			name: "elsewhere, forced", method: http.MethodDelete, path: place("failed") + "?force=true", code: http.StatusOK, called: "forget failed true",
			change: func(c *fakeCluster, _ *Config) { c.rival = true },
		},
		{
			name: "read-only", method: http.MethodDelete, path: place("failed"), code: http.StatusForbidden, answer: "read-only",
			change: func(_ *fakeCluster, cfg *Config) { cfg.ReadOnly = true },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := example(time.Now())
			h := newTestHandler(t, c, func(cfg *Config) {
				if tt.change != nil {
					tt.change(c, cfg)
				}
			})
			code, _, answer := call(t, h, tt.method, tt.path, "")
			if code != tt.code || !strings.Contains(string(answer), tt.answer) || c.called() != tt.called {
				t.Errorf("%d %s, called %q; want %d %s, %q", code, answer, c.called(), tt.code, tt.answer, tt.called)
			}
		})
	}
}

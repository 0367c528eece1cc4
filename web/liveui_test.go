package web

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// TestPage: the page and what it loads, as a browser asks for it.
func TestPage(t *testing.T) {
	h := newTestHandler(t, &fakeCluster{}, nil)
	code, header, page := call(t, h, http.MethodGet, "/", "")
	if code != http.StatusOK || !strings.Contains(header.Get("Content-Security-Policy"), "script-src 'self';") ||
		header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Referrer-Policy") != "no-referrer" {
		t.Fatalf("%d %v", code, header)
	}
	if code, _, _ := call(t, h, http.MethodGet, "/", "", "If-None-Match: "+header.Get("ETag")); code != http.StatusNotModified {
		t.Errorf("unchanged page: %d", code)
	}
	if regexp.MustCompile(`<script>|<style|style=|onclick`).Match(page) {
		t.Error("the page has what its own policy forbids")
	}
	assets := regexp.MustCompile(`(?:href|src)="(ui/[^"]+)"`).FindAllStringSubmatch(string(page), -1)
	if len(assets) < 5 {
		t.Fatalf("assets: %v", assets)
	}
	for _, a := range assets {
		code, header, body := call(t, h, http.MethodGet, "/"+a[1], "", "Accept-Encoding: gzip")
		if code != http.StatusOK || !strings.Contains(header.Get("Cache-Control"), "immutable") || len(body) == 0 {
			t.Errorf("%s: %d %v", a[1], code, header)
		}
		_, plain, whole := call(t, h, http.MethodGet, "/"+a[1], "")
		if plain.Get("Content-Encoding") != "" || plain.Get("ETag") == header.Get("ETag") && header.Get("Content-Encoding") != "" || len(whole) < len(body) {
			t.Errorf("%s without gzip: %v", a[1], plain)
		}
	}
	version := strings.Split(assets[0][1], "/")[1]
	for _, path := range []string{"/ui/", "/ui", "/ui/000000000000/app.js", "/ui/" + version + "/none.js", "/ui/" + version + "/index.html", "/ui/" + version + "/../app.js", "/ui/live/none"} {
		if code, _, _ := call(t, h, http.MethodGet, path, ""); code != http.StatusNotFound {
			t.Errorf("%s: %d", path, code)
		}
	}
	if code, _, _ := call(t, h, http.MethodPost, "/", ""); code != http.StatusNotFound {
		t.Errorf("POST /: %d", code)
	}
}

// TestPageIsGuarded: with a token nothing of the UI is there without it.
func TestPageIsGuarded(t *testing.T) {
	h := newTestHandler(t, &fakeCluster{}, func(c *Config) { c.Token, c.ReadOnly = "secret", true })
	for _, path := range []string{"/", "/ui/about", "/ui/live/jobs?once"} {
		if code, header, _ := call(t, h, http.MethodGet, path, ""); code != http.StatusUnauthorized || !strings.Contains(strings.Join(header["Www-Authenticate"], " "), "Basic") {
			t.Errorf("%s without token: %d %v", path, code, header)
		}
		if code, _, _ := call(t, h, http.MethodGet, path, "", "Authorization: Basic eDpzZWNyZXQ="); code != http.StatusOK {
			t.Errorf("%s with token: %d", path, code)
		}
	}
	if _, _, body := call(t, h, http.MethodGet, "/ui/about", "", "Authorization: Bearer secret"); !strings.Contains(string(body), `"readOnly":true`) {
		t.Errorf("%s", body)
	}
}

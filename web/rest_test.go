package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
)

var randomPart = regexp.MustCompile(`-[0-9a-f]{12}\b`)

// TestREST plays testdata/flink/*. The command is the method, the first line of the input the path, the rest the body.
// {words} is the id of the running job, {words/Group} of its stage. Time stands still at 2000-01-01 00:00 UTC. What the
// cluster was told to do is printed last.
func TestREST(t *testing.T) {
	datadriven.Walk(t, "testdata/flink", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out string
			synctest.Test(t, func(t *testing.T) {
				c := example(time.Now())
				h := newTestHandler(t, c, nil)
				for line := range strings.SplitSeq(strings.TrimSpace(d.Input), "\n") {
					target, body, _ := strings.Cut(line, " ")
					out += transcript(t, h, strings.ToUpper(d.Cmd), names(target), names(body))
					synctest.Wait()
				}
				if calls := c.called(); calls != "" {
					out += "cluster:\n" + calls + "\n"
				}
			})
			return out
		})
	})
}

var nameInBraces = regexp.MustCompile(`\{([a-z]+)(/[A-Za-z]+)?\}`)

// names replaces the names of jobs and stages by ids.
func names(s string) string {
	return nameInBraces.ReplaceAllStringFunc(s, func(m string) string {
		job, stage, both := strings.Cut(strings.Trim(m, "{}"), "/")
		switch {
		case both:
			return HexID(stage)
		case job == "words":
			return HexID("words-abc")
		default:
			return HexID(job)
		}
	})
}

var randomID = regexp.MustCompile(`"request-id": "[0-9a-f]{32}"`)

func transcript(t *testing.T, h *Handler, method, path, body string) string {
	code, header, answer := call(t, h, method, path, body)
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, answer, "", " "); err != nil {
		pretty.Reset()
		pretty.Write(answer)
	}
	text := randomID.ReplaceAllString(pretty.String(), `"request-id": "RANDOM"`)
	return fmt.Sprintf("%d %s\n%s\n", code, header.Get("Content-Type"), randomPart.ReplaceAllString(text, "-RANDOM"))
}

func TestPrefixAndOwnID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHandler(t, example(time.Now()), nil)
		for _, pair := range [][2]string{
			{"/jobs/overview", "/v1/jobs/overview"}, {"/overview", "/v1/overview"}, {"/config", "/v1/config"},
			{"/jobs/words-abc", "/v1/jobs/" + HexID("words-abc")}, {"/openapi.json", "/v1/openapi.json"},
		} {
			_, _, a := call(t, h, http.MethodGet, pair[0], "")
			code, _, b := call(t, h, http.MethodGet, pair[1], "{}") // Flink's Java clients send a body with a GET
			if code != http.StatusOK || !bytes.Equal(a, b) {
				t.Errorf("%s and %s differ: %d\n%s\n%s", pair[0], pair[1], code, a, b)
			}
		}
		if code, _, _ := call(t, h, http.MethodGet, "/v2/overview", ""); code != http.StatusNotFound {
			t.Errorf("/v2: %d", code)
		}
	})
}

func TestReady(t *testing.T) {
	c := example(time.Now())
	h := newTestHandler(t, c, nil)
	if code, _, body := call(t, h, http.MethodGet, "/readyz", ""); code != http.StatusOK || string(body) != "ok" {
		t.Errorf("ready: %d %s", code, body)
	}
	c.notReady = fmt.Errorf("the store is away")
	if code, _, body := call(t, h, http.MethodGet, "/readyz", ""); code != http.StatusServiceUnavailable || !strings.Contains(string(body), "the store is away") {
		t.Errorf("not ready: %d %s", code, body)
	}
	if code, _, body := call(t, h, http.MethodGet, "/healthz", ""); code != http.StatusOK || string(body) != "ok" {
		t.Errorf("healthz: %d %s", code, body)
	}
}

package main

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/web"
)

func TestWebStage(t *testing.T) {
	in := engine.StageOverview{
		Name: "s", Kind: "User", InputWatermark: coder.MinTimestamp, OutputWatermark: 5, ElementsIn: 7, BytesOut: 8, Inputs: []string{"a", "b"},
		Keyed: true, Slots: []engine.SlotOverview{{ElementsIn: 3, QueuedElements: 4, Running: 1, Backlog: -1}, {Backlog: 6}},
	}
	s := webStage(in)
	if s.InputWatermark != web.MinWatermark || s.OutputWatermark != 5 || s.Total.RecordsIn != 7 || s.Total.BytesOut != 8 || !s.Ended.IsZero() {
		t.Errorf("%+v", s)
	}
	if len(s.Inputs) != 2 || s.Inputs[1] != (web.Input{Stage: "b", Keyed: true}) {
		t.Errorf("inputs: %+v", s.Inputs)
	}
	if len(s.Subtasks) != 2 || s.Subtasks[0].RecordsIn != 3 || s.Subtasks[0].QueuedRecords != 4 || s.Subtasks[1].Backlog != 6 {
		t.Errorf("subtasks: %+v", s.Subtasks)
	}
	in.OutputWatermark, in.Ended = coder.MaxTimestamp, time.UnixMilli(7)
	if s := webStage(in); s.OutputWatermark != web.MaxWatermark || !s.Ended.Equal(in.Ended) {
		t.Errorf("at the end: %+v", s)
	}
}

// TestRESTOfServer calls what needs the rest of the server: settings, logs, jars, health.
func TestRESTOfServer(t *testing.T) {
	p := startServer(t, "serve", "--checkpoints=file://"+t.TempDir())
	url := fmt.Sprintf("http://localhost:%d", p.ports["http_port"])
	for path, want := range map[string]string{
		"/readyz":                  "ok",
		"/v1/jobmanager/config":    `{"key":"checkpoint_interval","value":"10s"}`,
		"/jobmanager/log":          "tinyrunner is ready",
		"/taskmanagers/tinyrunner": `"totalProcessMemory":262144000`,
		"/openapi.json":            `"openapi":"3.1.0"`,
		"/jars":                    `"files":[]`,
	} {
		if got := get(t, url+path); !strings.Contains(got, want) {
			t.Errorf("%s: no %q in %.500s", path, want, got)
		}
	}
	code, body := post(t, url+"/savepoint-disposal", "application/json", []byte(`{"savepoint-path":"file://`+t.TempDir()+`/none"}`))
	if code != http.StatusOK || !strings.Contains(body, "request-id") {
		t.Errorf("disposal: %d %s", code, body)
	}
	code, body = upload(t, url, "not a jar")
	if code != http.StatusBadRequest || !strings.Contains(body, "is no jar") {
		t.Errorf("upload: %d %s", code, body)
	}
}

func post(t *testing.T, url, contentType string, body []byte) (code int, answer string) {
	t.Helper()
	resp, err := http.Post(url, contentType, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func upload(t *testing.T, url, content string) (code int, answer string) {
	t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	w, err := m.CreateFormFile("jarfile", "beam.jar")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return post(t, url+"/v1/jars/upload", m.FormDataContentType(), b.Bytes())
}

// TestShutdown: DELETE /cluster ends the process as SIGTERM does.
func TestShutdown(t *testing.T) {
	p := startServer(t, "serve")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, fmt.Sprintf("http://localhost:%d/v1/cluster", p.ports["http_port"]), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%v %v", resp.Status, err)
	}
	p.end(t)
	if c := p.cmd.ProcessState.ExitCode(); c != 0 {
		t.Errorf("exit code %d", c)
	}
}

// TestUberJarClient: an existing Flink command line runs here by changing one address.
func TestUberJarClient(t *testing.T) {
	interpreter := python(t)
	pool := workerPool(t, interpreter)
	p := startServer(t, "serve")
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	text, err := pipeline(t, interpreter, "testdata/uber_jar.py", filepath.Join(dir, "x.jar"), fmt.Sprintf("localhost:%d", p.ports["http_port"]), pool, out)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if got, err := os.ReadFile(out); err != nil || string(got) != "('b', 2)" {
		t.Errorf("%q, %v", got, err)
	}
}

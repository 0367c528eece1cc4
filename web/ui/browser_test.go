package ui_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	logevents "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// realEnv is 1 where the browser has to be there: make browser sees to that. Elsewhere the test would take a minute of every
// make test, so it is skipped.
const realEnv = "TINYRUNNER_REAL_CHROMIUM"

// browser is one tab of a headless Chromium with a fresh profile.
type browser struct {
	ctx context.Context

	mu       sync.Mutex
	problems []string // what the console has shown as errors; guarded by mu
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	if os.Getenv(realEnv) != "1" {
		t.Skipf("%s is not 1: make browser runs this test", realEnv)
	}
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("no chromium on the PATH (make browser installs Debian's): %v", err)
	}
	options := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.NoFirstRun, chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(time.Minute)}
	for _, flag := range []string{
		"headless", "no-sandbox", "disable-gpu", "disable-quic", "disable-background-networking", "disable-component-update", "disable-sync", "hide-scrollbars",
	} {
		options = append(options, chromedp.Flag(flag, true))
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &browser{ctx: ctx}
	chromedp.ListenTarget(ctx, b.listen)
	if err := chromedp.Run(ctx, logevents.Enable()); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	return b
}

func (b *browser) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			text += " " + e.ExceptionDetails.Exception.Description
		}
		b.problems = append(b.problems, text)
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning {
			b.problems = append(b.problems, fmt.Sprint(e.Type, e.Args))
		}
	case *logevents.EventEntryAdded:
		if e.Entry.Level == logevents.LevelError || e.Entry.Level == logevents.LevelWarning {
			b.problems = append(b.problems, e.Entry.Text+" "+e.Entry.URL)
		}
	}
}

// quiet fails the test for every error in the console so far.
func (b *browser) quiet(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.problems {
		t.Errorf("console: %s", p)
	}
	b.problems = nil
}

func (b *browser) run(t *testing.T, actions ...chromedp.Action) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatalf("chromium: %v", err)
	}
}

// eval returns the value of an expression as text.
func (b *browser) eval(t *testing.T, js string) string {
	t.Helper()
	var v any
	b.run(t, chromedp.Evaluate("(() => { const v = "+js+"; return v === undefined ? null : v })()", &v))
	if s, ok := v.(string); ok {
		return s
	}
	return fmt.Sprint(v)
}

// await waits until an expression is true.
func (b *browser) await(t *testing.T, what, js string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); b.eval(t, "!!("+js+")") != "true"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s; the page says:\n%.3000s", what, b.eval(t, "document.body.innerText"))
		}
	}
}

func quote(s string) string {
	data, err := json.Marshal(s)
	if err != nil {
		panic("not reached")
	}
	return string(data)
}

// sees waits for texts on the page, in any case: style sheets may change it.
func (b *browser) sees(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		b.await(t, quote(text), "document.body.innerText.toLowerCase().includes("+quote(strings.ToLower(text))+")")
	}
}

func (b *browser) view(t *testing.T, scheme string, width, height int64) {
	t.Helper()
	b.run(t, chromedp.EmulateViewport(width, height), chromedp.ActionFunc(func(ctx context.Context) error {
		return emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}).Do(ctx)
	}))
}

// fits fails if the page is wider than the window.
func (b *browser) fits(t *testing.T, width int64) {
	t.Helper()
	if over := b.eval(t, fmt.Sprintf("Math.max(0, document.documentElement.scrollWidth - %d, document.body.scrollWidth - %[1]d)", width)); over != "0" {
		t.Errorf("the page is %s wider than its window of %d", over, width)
	}
}

// shoot keeps a picture of the page.
func (b *browser) shoot(t *testing.T, name string) {
	t.Helper()
	var png []byte
	b.run(t, chromedp.ActionFunc(func(ctx context.Context) (err error) {
		png, err = page.CaptureScreenshot().WithCaptureBeyondViewport(true).Do(ctx)
		return err
	}))
	dir := filepath.Join("..", "..", ".build", "screenshots")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)); err != nil {
		t.Error(err)
	}
}

// server is a tinyrunner that runs.
type server struct {
	cmd   *exec.Cmd
	dir   string
	ports map[string]int
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "tinyrunner")
	cmd := exec.Command("go", "build", "-o", binary, "../../cmd/tinyrunner")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// serve starts a server and waits until it listens.
func serve(t *testing.T, binary, dir string, flags ...string) *server {
	t.Helper()
	s := &server{dir: dir}
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	s.cmd = exec.Command(binary, append([]string{"serve", "--job_port=0", "--worker_port=0", "--http_port=0", "--data_dir=" + dir, "--slots=2"}, flags...)...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		data, err := os.ReadFile(filepath.Join(dir, "ports.json"))
		said, rerr := os.ReadFile(log.Name())
		if err == nil && rerr == nil && strings.Contains(string(said), "tinyrunner is ready") && json.Unmarshal(data, &s.ports) == nil {
			return s
		}
	}
	said, err := os.ReadFile(log.Name())
	t.Fatalf("the server does not start: %s, %v", said, err)
	return nil
}

func (s *server) kill() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

func (s *server) url(hash string) string {
	return fmt.Sprintf("http://127.0.0.1:%d/%s", s.ports["http_port"], hash)
}

// submit starts a program that submits a job with harnesses that the server starts.
func (s *server) submit(t *testing.T, program, name string, flags ...string) {
	t.Helper()
	python := os.Getenv("PYTHON")
	if python == "" {
		python = filepath.Join("..", "..", ".build", "venv", "bin", "python")
	}
	python, err := filepath.Abs(python)
	if err == nil {
		err = exec.Command(python, "-c", "import apache_beam").Run()
	}
	if err != nil {
		t.Fatalf("no Python with apache_beam (make venv, or set PYTHON): %v", err)
	}
	boot, err := filepath.Abs(filepath.Join("testdata", "boot.sh"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"command": boot, "env": map[string]string{"PYTHON": python}})
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{
		filepath.Join("testdata", program), "--job_name=" + name, "--runner=PortableRunner", fmt.Sprintf("--job_endpoint=127.0.0.1:%d", s.ports["job_port"]),
		"--environment_type=PROCESS", "--environment_config=" + string(config),
	}, flags...)
	// It need not end by itself: what matters is that the job comes.
	var said bytes.Buffer
	cmd := exec.Command(python, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &said, &said, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		if err := cmd.Wait(); t.Failed() {
			t.Logf("%s: %v\n%s", program, err, said.String())
		}
	})
}

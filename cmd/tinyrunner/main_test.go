package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// These tests drive the real binary: TestMain builds it, and binary() says where it is.

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tinyrunner-test-")
	if err == nil {
		err = os.Setenv(binaryEnv, filepath.Join(dir, "tinyrunner"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", binary(), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

const binaryEnv = "TINYRUNNER_TEST_BINARY"

func binary() string { return os.Getenv(binaryEnv) }

// invoke runs the binary to its end.
func invoke(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(), args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%v: %v\n%s", args, err, errs.String())
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// process is a server that runs.
type process struct {
	cmd   *exec.Cmd
	dir   string
	ports map[string]int
	log   *syncBuffer
	done  chan error
}

// syncBuffer may be written while it is read.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// startServer starts the binary on free ports and waits until it listens.
func startServer(t *testing.T, args ...string) *process {
	t.Helper()
	return startServerIn(t, t.TempDir(), args...)
}

func startServerIn(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := &process{dir: dir, log: new(syncBuffer), done: make(chan error, 1)}
	args = append(args, "--job_port=0", "--worker_port=0", "--http_port=0", "--data_dir="+p.dir)
	p.cmd = exec.Command(binary(), args...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.cmd.Process.Kill()
			<-p.done
		}
		if t.Failed() {
			t.Logf("server's log:\n%s", p.log)
		}
	})
	p.readPorts(t)
	return p
}

func (p *process) readPorts(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if !strings.Contains(p.log.String(), "tinyrunner is ready") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(p.dir, "ports.json"))
		if err != nil {
			t.Fatal(err)
		}
		var ports portsJSON
		if err := json.Unmarshal(data, &ports); err != nil {
			t.Fatal(err)
		}
		p.ports = map[string]int{"job_port": ports.Job, "worker_port": ports.Worker, "http_port": ports.HTTP}
		return
	}
	t.Fatalf("the server is not ready; log:\n%s", p.log)
}

func (p *process) endpoint() string { return "localhost:" + strconv.Itoa(p.ports["job_port"]) }

// end waits for the process to end by itself, or after the given signals.
func (p *process) end(t *testing.T, signals ...os.Signal) {
	t.Helper()
	for _, s := range signals {
		if err := p.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-p.done:
		p.done <- err
	case <-time.After(time.Minute):
		t.Fatal("the process does not end")
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v, %v\n%s", url, resp.Status, err, body)
	}
	return string(body)
}

func TestHelp(t *testing.T) {
	for args, wants := range map[string][]string{
		"":             {"tinyrunner serve", "--runner=PortableRunner", "--prism_location", "TINYRUNNER_JOB_PORT", "Exit codes"},
		"--help":       {"tinyrunner serve", "Available Commands"},
		"serve --help": {"Examples:", "--data_dir", "--memory bytes", "(default 250MiB)", "ports.json", "SIGTERM"},
		"run --help":   {"Examples:", "{job_endpoint}", "JOB_ENDPOINT", "130"},
		"plan --help":  {"Examples:", "SerializeToString"},
		"demo --help":  {"Examples:", "--duration duration", "--json", "--memory bytes"},
		"version":      {"tinyrunner ", "go1.", "beam       v2.77.0", "pebble     v2."},
	} {
		code, out, stderr := invoke(t, nil, strings.Fields(args)...)
		if code != 0 || stderr != "" {
			t.Errorf("%q: exit code %d, %s", args, code, stderr)
		}
		for _, w := range wants {
			if !strings.Contains(out, w) {
				t.Errorf("%q: no %q in\n%s", args, w, out)
			}
		}
	}
}

// TestUsage: what the user can mend is one line on stderr with a remedy, and exit code 2.
func TestUsage(t *testing.T) {
	const dirRemedy = ": name one that this user may write with --data_dir"
	empty := filepath.Join(t.TempDir(), "empty.pb")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, env, want string
	}{
		{args: "dance", want: `unknown command "dance": 'tinyrunner --help' lists the commands`},
		{args: "serve --dance", want: `unknown flag: --dance; see 'tinyrunner serve --help'`},
		{args: "serve quickly", want: `tinyrunner serve takes no arguments, got "quickly"; flags begin with --, see 'tinyrunner serve --help'`},
		{args: "serve --job_port 70000", want: `invalid argument "70000" for "--job_port" flag: use a port from 1 to 65535, or 0 for any free one; see 'tinyrunner serve --help'`},
		{args: "serve --memory lots", want: `invalid argument "lots" for "--memory" flag: use a number of bytes with a unit, like 250MiB or 1GiB; see 'tinyrunner serve --help'`},
		{args: "serve --memory 10MiB", want: `invalid --memory 10MiB: less than 64MiB is not enough to run a job`},
		{args: "serve --buffer_pool 200MiB", want: `invalid --buffer_pool 200MiB: use at least 1MiB and at most half of --memory (250MiB)`},
		{args: "serve --slots 129", want: `invalid --slots 129: use at most 128, the number of key groups`},
		{args: "serve --worker_wait soon", want: `invalid argument "soon" for "--worker_wait" flag: use a time with a unit, like 30s or 5m; see 'tinyrunner serve --help'`},
		{args: "serve --worker_wait 0s", want: `invalid --worker_wait 0s: use a positive time, like 2m`},
		{args: "serve --log_format xml", want: `invalid --log_format "xml": use text, json or auto`},
		{args: "serve --log_level loud", want: `invalid --log_level "loud": use debug, info, warn or error`},
		{args: "serve", env: "TINYRUNNER_SLOTS=few", want: `invalid TINYRUNNER_SLOTS="few": use a whole number, 0 or more`},
		{args: "serve --data_dir /dev/null/x", want: `cannot use the data directory: mkdir /dev/null: not a directory` + dirRemedy},
		{args: "serve --data_dir /proc", want: `cannot use the data directory: open /proc/LOCK: no such file or directory` + dirRemedy},
		{args: "run", want: `run takes either one pipeline file or '-- COMMAND'; see 'tinyrunner run --help'`},
		{args: "run --", want: `run takes either one pipeline file or '-- COMMAND'; see 'tinyrunner run --help'`},
		{args: "run a.pb b.pb", want: `run takes either one pipeline file or '-- COMMAND'; see 'tinyrunner run --help'`},
		{args: "run /no-such-file.pb", want: `cannot read the pipeline: open /no-such-file.pb: no such file or directory`},
		{args: "run -- /no-such-file", want: `cannot run /no-such-file: fork/exec /no-such-file: no such file or directory`},
		{args: "plan", want: `tinyrunner plan takes one pipeline file, got 0 arguments; see 'tinyrunner plan --help'`},
		{args: "plan " + empty, want: empty + ` holds no pipeline: it has no transforms`},
	} {
		t.Run(c.args+c.env, func(t *testing.T) {
			args := strings.Fields(c.args)
			if args[0] == "run" {
				args = append([]string{"run", "--log_level=error"}, args[1:]...)
			}
			code, _, stderr := invoke(t, []string{c.env}, args...)
			if want := "tinyrunner: " + c.want + "\n"; code != exitUsage || stderr != want {
				t.Errorf("exit code %d\ngot  %swant %s", code, stderr, want)
			}
		})
	}
}

func TestBusyPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	for _, flag := range []string{"job_port", "worker_port", "http_port"} {
		args := []string{"serve", "--job_port=0", "--worker_port=0", "--http_port=0", fmt.Sprintf("--%s=%d", flag, port)}
		code, _, stderr := invoke(t, nil, args...)
		want := fmt.Sprintf("tinyrunner: port %d (--%s) is in use: stop the process that has it, or let --%s=0 choose a free one\n", port, flag, flag)
		if code != exitUsage || stderr != want {
			t.Errorf("exit code %d\ngot  %swant %s", code, stderr, want)
		}
	}
}

func TestServe(t *testing.T) {
	p := startServer(t, "serve", "--slots=3")
	web := fmt.Sprintf("http://localhost:%d", p.ports["http_port"])
	if got := get(t, web+"/healthz"); got != "ok\n" {
		t.Errorf("healthz: %q", got)
	}
	if o := overviewOf(t, web+"/v1/overview"); o["slots-total"] != 3.0 || o["jobs-running"] != 0.0 {
		t.Errorf("overview: %v", o)
	}
	if m := get(t, web+"/metrics"); !strings.Contains(m, "tinyrunner_buffer_pool_limit_bytes 3.3554432e+07") {
		t.Errorf("metrics:\n%s", m)
	}

	code, _, stderr := invoke(t, nil, "serve", "--data_dir="+p.dir, "--job_port=0", "--worker_port=0", "--http_port=0")
	want := fmt.Sprintf("tinyrunner: cannot use the data directory %s: another tinyrunner uses it: name a different one with --data_dir\n", p.dir)
	if code != exitUsage || stderr != want {
		t.Errorf("the directory is in use: exit code %d\ngot  %swant %s", code, stderr, want)
	}

	p.end(t, syscall.SIGTERM)
	if c := p.cmd.ProcessState.ExitCode(); c != 0 {
		t.Errorf("exit code %d after SIGTERM", c)
	}
	if _, err := os.Stat(filepath.Join(p.dir, "ports.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ports.json is left: %v", err)
	}
	var first map[string]any
	line, _, _ := strings.Cut(p.log.String(), "\n")
	if err := json.Unmarshal([]byte(line), &first); err != nil || first["job_endpoint"] != "127.0.0.1:"+strconv.Itoa(p.ports["job_port"]) {
		t.Errorf("the log does not tell the ports in JSON: %v in %s", err, line)
	}
}

// TestLeftovers: a process that was killed leaves nothing behind for the next one.
func TestLeftovers(t *testing.T) {
	p := startServer(t, "serve")
	conn, err := grpc.NewClient(p.endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := submit(t.Context(), conn, pardo("beam:coder:bytes:v1", nobody(t)), "waits-for-a-harness"); err != nil {
		t.Fatal(err)
	}
	jobs := filepath.Join(p.dir, "jobs")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if files, err := filepath.Glob(filepath.Join(jobs, "*", "MANIFEST*")); err != nil || len(files) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the job has no state")
		}
	}
	p.end(t, syscall.SIGKILL)

	p = startServerIn(t, p.dir, "serve")
	if left, err := os.ReadDir(jobs); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if !strings.Contains(p.log.String(), `"msg":"removing jobs of a process that was killed","jobs":1}`) {
		t.Error("the log does not say what was removed")
	}
}

// TestForeignDirectory: nothing is removed from a directory that tinyrunner has never used.
func TestForeignDirectory(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "jobs", "applications.txt")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		code, _, stderr := invoke(t, nil, "serve", "--job_port=0", "--worker_port=0", "--http_port=0", "--data_dir="+dir)
		want := fmt.Sprintf("tinyrunner: cannot use the data directory %s: it has another program's \"jobs\": name a different one with --data_dir\n", dir)
		if code != exitUsage || stderr != want {
			t.Errorf("exit code %d\ngot  %swant %s", code, stderr, want)
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// TestPrismFlags: as Beam Python starts Prism, and as people do by hand.
func TestPrismFlags(t *testing.T) {
	p := startServer(t, "-log_level=debug", "-log_kind", "console", "--serve_http=false", "-idle_shutdown_timeout", "-1", "--web_port=1")
	if p.ports["http_port"] != 0 {
		t.Errorf("ports %v", p.ports)
	}
	p.end(t, os.Interrupt)
	if c := p.cmd.ProcessState.ExitCode(); c != 0 || !strings.Contains(p.log.String(), "level=INFO msg=") {
		t.Errorf("exit code %d", c)
	}
}

func TestIdleShutdown(t *testing.T) {
	p := startServer(t, "serve", "--idle_shutdown_timeout=200ms")
	p.end(t)
	if c := p.cmd.ProcessState.ExitCode(); c != 0 {
		t.Errorf("exit code %d", c)
	}
}

func TestPlan(t *testing.T) {
	code, out, stderr := invoke(t, nil, "plan", "testdata/impulse.txtpb")
	if code != 0 || !strings.Contains(out, "impulse: Impulse") {
		t.Errorf("exit code %d, %s\n%s", code, stderr, out)
	}
}

func TestRunFile(t *testing.T) {
	code, _, stderr := invoke(t, nil, "run", "--log_format=text", "testdata/impulse.txtpb")
	if code != 0 || !strings.Contains(stderr, "state=DONE") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}

// TestRunCommand: the result is the jobs', then the command's.
func TestRunCommand(t *testing.T) {
	run := func(script string) (int, string) {
		code, _, stderr := invoke(t, nil, "run", "--log_level=error", "--", "sh", "-c", script, "{job_endpoint}")
		return code, stderr
	}
	code, stderr := run(`echo "$JOB_ENDPOINT = $0" >&2; exit 3`)
	if m := regexp.MustCompile(`(?m)^(127.0.0.1:\d+) = (127.0.0.1:\d+)$`).FindStringSubmatch(stderr); m == nil || m[1] != m[2] {
		t.Errorf("the command got %q", stderr)
	}
	if code != exitFailed || !strings.HasSuffix(stderr, "tinyrunner: sh: exit status 3\n") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	code, stderr = run("true")
	if want := "tinyrunner: sh submitted no job: give it the endpoint, for instance --job_endpoint={job_endpoint}\n"; code != exitFailed || stderr != want {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

func TestRunIsCancelled(t *testing.T) {
	cmd := exec.Command(binary(), "run", "--", "sh", "-c", "echo started; exec sleep 60")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if c := cmd.ProcessState.ExitCode(); c != exitCancelled || !strings.HasSuffix(stderr.String(), "tinyrunner: cancelled by a signal\n") {
		t.Errorf("exit code %d, %v\n%s", c, err, stderr.String())
	}
}

// TestDemo: REST answers while it runs, and the last line is one JSON object.
func TestDemo(t *testing.T) {
	cmd := exec.Command(binary(), "demo", "--duration=3s", "--json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	out := bufio.NewScanner(pipe)
	last, rest, running := "", "", 0.0
	for out.Scan() {
		last = out.Text()
		if strings.Contains(last, "records/s") && running == 0 {
			running = overviewOf(t, rest)["jobs-running"].(float64)
		}
		if url, ok := strings.CutPrefix(last, "REST: "); ok {
			rest = url
		}
	}
	if err := cmd.Wait(); err != nil || running != 1 {
		t.Errorf("%v; %v jobs were running\n%s", err, running, stderr.String())
	}
	var summary map[string]float64
	if err := json.Unmarshal([]byte(last), &summary); err != nil || summary["records"] < 1000 || summary["rss_mb_max"] > 120 {
		t.Errorf("%v in %s", err, last)
	}
}

func overviewOf(t *testing.T, url string) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(get(t, url)), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

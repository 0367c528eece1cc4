package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/tinyrunner/tinyrunner/web"
)

// tape is a server that answers as a real one did: it expects the calls of a recording, in their order.
type tape struct {
	mu    sync.Mutex
	calls []taped
	wrong []string
}

// taped is a call and its answer.
type taped struct {
	method, path, request string
	status                int
	answer                string
	text                  bool // the answer is no JSON
}

// readTape reads "> METHOD PATH [BODY]" and "< STATUS [text] ANSWER", line by line.
func readTape(t *testing.T, lines []string) *tape {
	t.Helper()
	out := new(tape)
	for k := 0; k+1 < len(lines); k += 2 {
		call := strings.SplitN(strings.TrimPrefix(lines[k], "> "), " ", 3)
		status, answer, ok := strings.Cut(strings.TrimPrefix(lines[k+1], "< "), " ")
		n, err := strconv.Atoi(status)
		if len(call) < 2 || !ok || err != nil {
			t.Fatalf("no call and answer: %s\n%s", lines[k], lines[k+1])
		}
		c := taped{method: call[0], path: call[1], request: strings.Join(call[2:], ""), status: n, answer: answer}
		if quoted, ok := strings.CutPrefix(answer, "text "); ok {
			c.text = true
			if err := json.Unmarshal([]byte(quoted), &c.answer); err != nil {
				t.Fatal(err)
			}
		}
		out.calls = append(out.calls, c)
	}
	return out
}

func (p *tape) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	got := strings.TrimSpace(fmt.Sprint(r.Method, " ", r.URL.RequestURI(), " ", string(body)))
	if len(p.calls) == 0 {
		p.wrong = append(p.wrong, "a call too many: "+got)
		w.WriteHeader(http.StatusTeapot)
		return
	}
	c := p.calls[0]
	p.calls = p.calls[1:]
	if want := strings.TrimSpace(c.method + " " + c.path + " " + c.request); got != want {
		p.wrong = append(p.wrong, fmt.Sprintf("got call %s\nwant     %s", got, want))
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	if c.text {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.WriteHeader(c.status)
	io.WriteString(w, c.answer)
}

// words splits a command line; "" is an empty word.
func words(line string) []string {
	out := strings.Fields(line)
	for k, w := range out {
		out[k] = strings.Trim(w, `"`)
	}
	return out
}

// command runs a command line in this process.
func command(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

// TestClient: each command makes the calls that it made when testdata/client was recorded, and prints what is there. The
// answers are a real server's, with less of tracebacks and of the history of checkpoints.
func TestClient(t *testing.T) {
	changing := regexp.MustCompile(`cpu: [\d.]+ cores|"cpu_cores":[\d.e-]+`) // of the real clock
	datadriven.Walk(t, filepath.Join("testdata", "client"), func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			lines := strings.Split(strings.TrimSpace(d.Input), "\n")
			p := readTape(t, lines[1:])
			server := httptest.NewServer(p)
			defer server.Close()
			t.Setenv("TINYRUNNER_ADDRESS", server.URL)
			code, out, errs := command(t.Context(), words(strings.TrimPrefix(lines[0], "$ "))...)
			for _, w := range p.wrong {
				t.Errorf("%s: %s", d.Pos, w)
			}
			if len(p.calls) > 0 {
				t.Errorf("%s: %d calls were not made, the first is %s %s", d.Pos, len(p.calls), p.calls[0].method, p.calls[0].path)
			}
			if strings.HasSuffix(path, "top") {
				out = changing.ReplaceAllString(out, "cpu: CHANGING")
			}
			return strings.ReplaceAll(fmt.Sprintf("%s%sexit code %d\n", out, errs, code), server.URL, "http://SERVER")
		})
	})
}

// empty is a cluster without jobs.
type emptyCluster struct{ web.Cluster }

func (emptyCluster) Jobs() []web.Job             { return nil }
func (emptyCluster) Slots() int                  { return 2 }
func (emptyCluster) Memory() web.Memory          { return web.Memory{Limit: 250 << 20, PoolLimit: 32 << 20} }
func (emptyCluster) Ready(context.Context) error { return nil }

// emptyServer is the real REST API of a cluster without jobs.
func emptyServer(t *testing.T, token string) *httptest.Server {
	t.Helper()
	h, err := web.NewHandler(web.Config{Cluster: emptyCluster{}, Token: token, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.Close()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// portsIn writes ports.json as a server does.
func portsIn(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, portsFile), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestClientFindsServer(t *testing.T) {
	s := emptyServer(t, "secret")
	port := s.URL[strings.LastIndex(s.URL, ":")+1:]
	dir := portsIn(t, `{"http_port":`+port+`}`)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, env string }{
		{args: "--address " + s.URL + "/ --auth_token secret"},
		{args: "--address localhost:" + port + " --auth-token-file " + token},
		{args: "--data_dir " + dir + " --auth_token_file " + token},
		{args: "--data_dir " + dir + " --auth_token secret", env: "ADDRESS=http://localhost:1 AUTH_TOKEN=wrong"},
		{args: "--address " + s.URL, env: "DATA_DIR=/absent AUTH_TOKEN_FILE=" + token},
		{args: "--auth_token_file " + token, env: "AUTH_TOKEN=wrong DATA_DIR=" + dir},
		{env: "AUTH_TOKEN=secret ADDRESS=" + s.URL + " DATA_DIR=/absent"},
	} {
		t.Run(c.args+c.env, func(t *testing.T) {
			setenv(t, c.env)
			code, out, errs := command(t.Context(), append([]string{"jobs"}, strings.Fields(c.args)...)...)
			if code != 0 || out != "ID  NAME  STATE  STARTED  DURATION\n" || errs != "" {
				t.Errorf("exit code %d, %q, %s", code, out, errs)
			}
		})
	}
}

func setenv(t *testing.T, env string) {
	t.Helper()
	for _, e := range strings.Fields(env) {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv("TINYRUNNER_"+name, value)
	}
}

// TestClientErrors: what is wrong and what to do, in one line.
func TestClientErrors(t *testing.T) {
	s := emptyServer(t, "secret")
	other := httptest.NewServer(http.RedirectHandler("http://localhost:1/", http.StatusFound))
	t.Cleanup(other.Close)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "<html>") }))
	t.Cleanup(page.Close)
	absent := filepath.Join(t.TempDir(), "absent")
	free, noHTTP, broken := t.TempDir(), portsIn(t, `{"http_port":0}`), portsIn(t, `{`)
	const atJobs = ": 'tinyrunner jobs' lists the jobs, see 'tinyrunner "
	for _, c := range []struct {
		args, env string
		code      int
		want      string
	}{
		{"jobs", "", 1, "cannot reach a server at http://127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused: start one with 'tinyrunner serve', or name it with --address or --data_dir"},
		{"jobs --address ftp://x", "", 2, `invalid --address "ftp://x": use a URL like http://127.0.0.1:8081`},
		{"jobs --address http://u:secret@127.0.0.1:1", "", 1, "cannot reach a server at http://u:xxxxx@127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused: start one with 'tinyrunner serve', or name it with --address or --data_dir"},
		{"jobs --address x --data_dir y", "", 2, "--address and --data_dir say the same in two ways: give one of them"},
		{"jobs --data_dir " + free, "", 2, "no server uses " + free + ": it has no ports.json. Start one with 'tinyrunner serve --data_dir " + free + "', or name one with --address"},
		{"jobs --data_dir " + noHTTP, "", 2, "the server of " + noHTTP + " has no http_port: start it without --serve_http=false"},
		{"jobs --data_dir " + broken, "", 2, "cannot read ports.json of " + broken + ": unexpected end of JSON input: name the server with --address"},
		{"jobs --auth_token_file " + absent, "", 2, "cannot read --auth_token_file: open " + absent + ": no such file or directory"},
		{"jobs --auth_token_file /dev/null", "", 2, "cannot use --auth_token_file: /dev/null is empty"},
		{"jobs --address " + s.URL, "", 2, s.URL + " asks for a token: give it with --auth_token_file"},
		{"jobs --address " + s.URL, "AUTH_TOKEN=guess", 2, s.URL + " does not know this token: give another one with --auth_token_file"},
		{"jobs --address " + other.URL, "", 1, other.URL + " is no tinyrunner: it answers 302 Found"},
		{"jobs --address " + page.URL, "", 1, page.URL + " is no tinyrunner: its answer to GET /jobs/overview cannot be read: invalid character '<' looking for beginning of value"},
		{"jobs --json", "JSON=maybe", 1, ""},
		{"jobs", "JSON=maybe", 2, `invalid TINYRUNNER_JSON="maybe": strconv.ParseBool: parsing "maybe": invalid syntax`},
		{"cancel", "", 2, "tinyrunner cancel takes a job, got 0 arguments" + atJobs + "cancel --help'"},
		{"rescale x", "", 2, "tinyrunner rescale takes a job and a number of slots, got 1 arguments" + atJobs + "rescale --help'"},
		{"rescale x 0", "", 2, `"0" is no number of slots: use 1 to 128`},
		{"logs x y", "", 2, "tinyrunner logs takes at most one job, got 2 arguments" + atJobs + "logs --help'"},
		{"stop x --timeout soon", "", 2, `invalid argument "soon" for "--timeout" flag: use a time with a unit, like 30s or 5m; see 'tinyrunner stop --help'`},
	} {
		t.Run(c.args+c.env, func(t *testing.T) {
			setenv(t, "ADDRESS=http://127.0.0.1:1 "+c.env)
			code, out, errs := command(t.Context(), strings.Fields(c.args)...)
			if code != c.code || out != "" || c.want != "" && errs != "tinyrunner: "+c.want+"\n" {
				t.Errorf("exit code %d, %s\ngot  %swant tinyrunner: %s", code, out, errs, c.want)
			}
		})
	}
}

func TestClientHelp(t *testing.T) {
	code, out, _ := command(t.Context(), "--help")
	for _, name := range []string{"jobs", "job", "cancel", "stop", "savepoint", "checkpoint", "restore", "forget", "rescale", "logs", "top", "completion"} {
		if !regexp.MustCompile(`(?m)^  ` + name + ` +\S`).MatchString(out) {
			t.Errorf("exit code %d, no command %s in\n%s", code, name, out)
		}
		code, help, _ := command(t.Context(), name, "--help")
		if code != 0 || name != "completion" && (!strings.Contains(help, "Examples:\n  tinyrunner "+name) || !strings.Contains(help, "--address string")) {
			t.Errorf("%s: exit code %d, no example in\n%s", name, code, help)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, errs := command(t.Context(), "completion", shell); code != 0 || !strings.Contains(out, "tinyrunner") {
			t.Errorf("%s: exit code %d, %s", shell, code, errs)
		}
	}
}

// waiting answers like a job whose savepoint never ends.
func waiting(polled chan<- struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/jobs/overview":
			io.WriteString(w, `{"jobs":[{"jid":"0123456789abcdef0123456789abcdef","name":"clicks","state":"RUNNING"}]}`)
		case r.Method == http.MethodPost:
			io.WriteString(w, `{"request-id":"77"}`)
		default:
			select {
			case polled <- struct{}{}:
			default:
			}
			io.WriteString(w, `{"status":{"id":"IN_PROGRESS"},"operation":null}`)
		}
	})
}

// TestClientStopsWaiting: for a signal, after --timeout, and when the server is gone.
func TestClientStopsWaiting(t *testing.T) {
	const what = "the savepoint of job clicks"
	for _, c := range []struct {
		name, flags, want string
		code              int
	}{
		{"signal", "", "ended by a signal: stopped waiting for " + what + ", the server goes on with it: context canceled", exitCancelled},
		{"timeout", "--timeout=60ms", "stopped waiting for " + what + ", the server goes on with it: --timeout 60ms is over", exitFailed},
		{"gone", "", "lost the server at SERVER while waiting for " + what + ", it may have ended with its job: ", exitFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			polled := make(chan struct{}, 1)
			s := httptest.NewServer(waiting(polled))
			defer s.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-polled
				switch c.name {
				case "signal":
					cancel()
				case "gone":
					s.Listener.Close()
					s.CloseClientConnections()
				}
			}()
			code, out, errs := command(ctx, append(strings.Fields(c.flags), "savepoint", "clicks", "--target_directory=/x", "--address="+s.URL)...)
			if want := "tinyrunner: " + strings.ReplaceAll(c.want, "SERVER", s.URL); code != c.code || out != "" || !strings.HasPrefix(errs, want) {
				t.Errorf("exit code %d, %s\ngot  %swant %s", code, out, errs, want)
			}
		})
	}
}

// TestClientFind: the ways to name a job.
func TestClientFind(t *testing.T) {
	const a, b, c = "aaaa1111000000000000000000000000", "aaaa2222000000000000000000000000", "bbbb0000000000000000000000000000"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.EscapedPath() {
		case "/jobs/overview":
			fmt.Fprintf(w, `{"jobs":[{"jid":%q,"name":"clicks","state":"FAILED"},{"jid":%q,"name":"clicks","state":"RUNNING"},`+
				`{"jid":%q,"name":"aaaa","state":"FINISHED"},{"jid":"cccc0000000000000000000000000000","name":"two","state":"RUNNING"},`+
				`{"jid":"dddd0000000000000000000000000000","name":"two","state":"RUNNING"}]}`, a, b, c)
		case "/jobs/clicks-x2y":
			fmt.Fprintf(w, `{"jid":%q,"name":"clicks"}`, a)
		default:
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"errors":["no job id: %s"]}`, r.URL.EscapedPath())
		}
	}))
	t.Cleanup(s.Close)
	base, err := parseAddress(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	cl := &client{base: base, http: s.Client()}
	for which, want := range map[string]string{
		a: a, strings.ToUpper(b): b, "aaaa1": a, "bbbb": c, "clicks": b, "aaaa": c, "clicks-x2y": a,
		"two":           `"two" may be any of 2 jobs, use an id: cccc0000000000000000000000000000 (RUNNING), dddd0000000000000000000000000000 (RUNNING)`,
		"bbb":           `there is no job "bbb" at ` + s.URL + `: 'tinyrunner jobs' lists them`,
		"../overview?x": `there is no job "../overview?x" at ` + s.URL + `: 'tinyrunner jobs' lists them`,
	} {
		j, err := cl.find(t.Context(), which)
		got := j.ID
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", which, got, want)
		}
	}
}

func TestClientFormats(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct{ got, want string }{
		{quantity(nan), "-"}, {quantity(0), "0"}, {quantity(3), "3"}, {quantity(0.25), "0.2"}, {quantity(999.4), "999"}, {quantity(999.7), "1.0k"},
		{quantity(54460), "54.5k"}, {quantity(123456), "123k"}, {quantity(2.5e15), "2500T"},
		{byteCount(nan), "-"}, {byteCount(0), "0 B"}, {byteCount(1536), "1.5 KiB"}, {byteCount(250 << 20), "250 MiB"},
		{span(-1), "-"}, {span(38), "38ms"}, {span(9900), "9.9s"}, {span(59900), "59s"}, {span(185e3), "3m05s"}, {span(7620e3), "2h07m"}, {span(273600e3), "3d04h"},
		{percent(nan), "-"}, {percent(1000), "100%"}, {percent(4), "0%"},
		{lag(5000, nan), "-"}, {lag(5000, math.MinInt64), "-"}, {lag(5000, math.MaxInt64), "end"}, {lag(5000, 3500), "1.5s"}, {lag(5000, 5100), "-100ms"},
		{printable("a\x1b[2Jb\n\tü\u202e"), "a?[2Jb\n\tü?"}, {cell("a\nb\tc"), "a b c"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

// TestProgress: a terminal has one line that changes and goes away; a log gets a line for each state, of what takes long.
func TestProgress(t *testing.T) {
	for _, c := range []struct {
		terminal bool
		waited   time.Duration
		want     string
	}{
		{true, 0, "\rwaiting for x?: A, 0ms\x1b[K\rwaiting for x?: A, 0ms\x1b[K\rwaiting for x?: B, 0ms\x1b[K\r\x1b[K"},
		{false, 0, ""},
		{false, time.Minute, "waiting for x?: A\nwaiting for x?: B\n"},
	} {
		var b bytes.Buffer
		p := &progress{out: &b, terminal: c.terminal, began: time.Now().Add(-c.waited)}
		for _, state := range []string{"A", "A", "B"} {
			p.show("x\x1b", state)
		}
		p.end()
		if got := regexp.MustCompile(`\d+ms`).ReplaceAllString(b.String(), "0ms"); got != c.want {
			t.Errorf("terminal %v after %s: got %q, want %q", c.terminal, c.waited, got, c.want)
		}
	}
}

func TestLogLines(t *testing.T) {
	for line, want := range map[string]string{
		`time=T level=INFO msg="it \"ran\"" job=a "odd key"=1 empty= last=x`: `{"empty":"","job":"a","last":"x","level":"INFO","msg":"it \"ran\"","odd key":"1","time":"T"}`,
		`no fields at all`: `{"line":"no fields at all"}`,
		`a="open`:          `{"line":"a=\"open"}`,
		`a=1 "open`:        `{"line":"a=1 \"open"}`,
	} {
		if got, err := json.Marshal(logFields(line)); err != nil || string(got) != want {
			t.Errorf("%s: got %s, want %s", line, got, want)
		}
	}
	for _, c := range []struct{ old, text, want string }{
		{"", "a\nb\n", "a\nb\n"}, {"a\nb\n", "a\nb\n", ""}, {"a\nb\n", "a\nb\nc\n", "c\n"}, {"a\nb\nc\n", "b\nc\nd\n", "d\n"},
		{"a\na\nb\n", "a\nb\nc\n", "c\n"}, {"a\nb\n", "x\ny\n", "x\ny\n"}, {"a\n", "", ""},
	} {
		if got := added(c.old, c.text); got != c.want {
			t.Errorf("%q after %q: got %q, want %q", c.text, c.old, got, c.want)
		}
	}
}

// TestFollowLogs: new lines are printed once, until the signal, which is no error.
func TestFollowLogs(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 3 {
			cancel()
		}
		fmt.Fprint(w, []string{"", "msg=a\nmsg=b\n", "msg=b\nmsg=c\n", "msg=c\n"}[asked])
	}))
	defer s.Close()
	began := time.Now()
	code, out, errs := command(ctx, "logs", "-f", "--address", s.URL)
	if code != 0 || out != "msg=a\nmsg=b\nmsg=c\n" || time.Since(began) > time.Minute {
		t.Errorf("exit code %d, %q, %s", code, out, errs)
	}
}

// TestTopScreen: whatever the size of the terminal, the screen is not larger, and says what is missing.
func TestTopScreen(t *testing.T) {
	f := &topFrame{view: &jobView{}}
	for k := range 15 {
		f.Jobs = append(f.Jobs, topJob{jobSummary: jobSummary{ID: fmt.Sprintf("%032d", k), Name: "job\x1b", State: "RUNNING"}, CheckpointAge: -1})
	}
	f.view.ID = f.Jobs[0].ID
	for k := range 200 {
		f.view.Vertices = append(f.view.Vertices, vertexAnswer{Name: "stage" + strconv.Itoa(k)})
		f.view.Stages = append(f.view.Stages, stageView{Name: "stage" + strconv.Itoa(k)})
	}
	base, err := parseAddress("http://x")
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range [][2]int{{80, 24}, {20, 30}, {1, 1}, {200, 5}} {
		var b bytes.Buffer
		v := *f.view
		v.Stages = v.Stages[:min(200, max(1, size[1]-topFixed-11))]
		g := *f
		g.view = &v
		p := &top{session: &session{client: &client{base: base}, out: &b}}
		if err := p.draw(&g, nil, size[0], size[1]); err != nil {
			t.Fatal(err)
		}
		plain := regexp.MustCompile("\x1b\\[[0-9?]*[A-Za-z]").ReplaceAllString(b.String(), "")
		lines := strings.Split(plain, "\r\n")
		for _, l := range lines {
			if len(l) > size[0] || strings.Contains(l, "\x1b") {
				t.Errorf("%v: line %q", size, l)
			}
		}
		if len(lines) > size[1] {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		if size[1] == 24 && !strings.HasPrefix(lines[23], "and more, 200 stages in all: 'tinyrunner job 00000000' shows them") {
			t.Errorf("%v: %q", size, lines)
		}
	}
}

// TestTopRates: rates of samples that cannot be compared are not known.
func TestTopRates(t *testing.T) {
	v := &jobView{Stages: []stageView{{Name: "a"}}}
	v.Vertices = []vertexAnswer{{ID: "1"}}
	sample := func(at int64, slots int, s sumAnswer) topSample {
		return topSample{at, slots, map[string]sumAnswer{"1": s}}
	}
	old := sample(1000, 2, sumAnswer{RecordsIn: 100, RecordsOut: 10, Busy: 500, Blocked: 100})
	if got := v.recent(old, sample(3000, 2, sumAnswer{300, 30, 2500, 500})); got != 100 {
		t.Errorf("got %v records a second, want 100", got)
	}
	if s := v.Stages[0]; s.RateIn != 100 || s.RateOut != 10 || s.Busy != 500 || s.Blocked != 100 {
		t.Errorf("got %+v", s)
	}
	for name, s := range map[string]topSample{
		"no time": sample(1000, 2, sumAnswer{300, 30, 2500, 500}), "rescaled": sample(3000, 3, sumAnswer{300, 30, 2500, 500}),
		"went back": sample(3000, 2, sumAnswer{}),
	} {
		if got := v.recent(old, s); got == got {
			t.Errorf("%s: %v records a second", name, got)
		}
	}
}

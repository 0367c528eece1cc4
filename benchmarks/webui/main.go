package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options of a run.
type options struct {
	binary, python string
	stages, slots  int
	watch          time.Duration
}

// figures are the results. Times are in ms, CPU in percent of one core.
type figures struct {
	Stages        int                `json:"stages"`
	Slots         int                `json:"slots"`
	CallMillis    map[string]float64 `json:"call_ms_max"` // slowest of 20 calls
	FirstPaint    float64            `json:"first_paint_ms"`
	Contentful    float64            `json:"first_contentful_paint_ms"`
	GraphDrawn    float64            `json:"graph_drawn_ms"` // since the navigation began
	PageBytes     int64              `json:"page_bytes"`     // over the wire, without the stream
	PageRequests  int                `json:"page_requests"`
	FrameP95      float64            `json:"frame_p95_ms"`       // while the graph is moved
	ClosedCPU     float64            `json:"cpu_percent_closed"` // mean of before and after it is open
	OpenCPU       float64            `json:"cpu_percent_open"`
	ClosedRSS     float64            `json:"rss_mb_closed"`
	OpenRSS       float64            `json:"rss_mb_open"`
	StreamBytesPS float64            `json:"stream_bytes_per_s"`
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", ".build/tinyrunner", "the server's program")
	flag.StringVar(&o.python, "python", ".build/venv/bin/python", "a Python with apache_beam")
	flag.IntVar(&o.stages, "stages", 200, "about how many stages the job has")
	flag.IntVar(&o.slots, "slots", 20, "subtasks of each stage")
	flag.DurationVar(&o.watch, "watch", 30*time.Second, "how long CPU is measured, with and without a page")
	flag.Parse()
	if err := run(context.Background(), o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "webui:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "webui-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := serve(ctx, o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.submit(ctx, o); err != nil {
		return err
	}
	f := figures{Slots: o.slots, CallMillis: make(map[string]float64)}
	job, stages, err := s.ready(ctx, o.stages)
	if err != nil {
		return err
	}
	f.Stages = len(stages)
	for name, path := range map[string]string{
		"jobs": "ui/live/jobs", "graph": "ui/live/jobs/" + job, "stage": "ui/live/jobs/" + job + "/stages/" + stages[len(stages)/2],
		"checkpoints": "ui/live/jobs/" + job + "/checkpoints", "errors": "ui/live/jobs/" + job + "/errors", "harnesses": "ui/live/harnesses",
		"memory": "ui/live/memory", "logs": "ui/live/logs", "flink_job": "jobs/" + job,
	} {
		if f.CallMillis[name], err = s.slowest(ctx, path+"?once"); err != nil {
			return err
		}
	}
	if f.ClosedCPU, f.ClosedRSS, err = s.load(o.watch); err != nil {
		return err
	}
	if err := browse(ctx, s.url("#/jobs/"+job), len(stages), &f, func() (err error) {
		f.OpenCPU, f.OpenRSS, err = s.load(o.watch)
		return err
	}); err != nil {
		return err
	}
	cpu, rss, err := s.load(o.watch)
	if err != nil {
		return err
	}
	f.ClosedCPU, f.ClosedRSS = (f.ClosedCPU+cpu)/2, (f.ClosedRSS+rss)/2
	return report(out, f)
}

func report(out io.Writer, f figures) error {
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	var rows map[string]any
	if err := json.Unmarshal(data, &rows); err != nil {
		return err
	}
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for k := range rows {
			if !yield(k) {
				return
			}
		}
	}) {
		fmt.Fprintf(out, "%-28s %v\n", name, rows[name])
	}
	_, err = fmt.Fprintf(out, "%s\n", data)
	return err
}

// server is a tinyrunner that runs.
type server struct {
	cmd   *exec.Cmd
	ports map[string]int
}

func serve(ctx context.Context, o options, dir string) (*server, error) {
	s := &server{cmd: exec.Command(o.binary, "serve", "--job_port=0", "--worker_port=0", "--http_port=0", "--data_dir="+dir, fmt.Sprint("--slots=", o.slots))}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	for range 200 {
		time.Sleep(50 * time.Millisecond)
		data, err := os.ReadFile(filepath.Join(dir, "ports.json"))
		if err != nil || json.Unmarshal(data, &s.ports) != nil {
			continue
		}
		if _, err := s.get(ctx, "healthz"); err == nil {
			return s, nil
		}
	}
	return nil, errors.Join(errors.New("the server does not start"), s.stop())
}

func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.cmd.Wait()
}

func (s *server) url(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d/%s", s.ports["http_port"], path)
}

func (s *server) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url(path), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", path, resp.Status, data)
	}
	return data, err
}

// submit starts the job with a harness of the server's.
func (s *server) submit(ctx context.Context, o options) error {
	python, err := filepath.Abs(o.python)
	if err != nil {
		return err
	}
	boot, err := filepath.Abs("web/ui/testdata/boot.sh")
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{"command": boot, "env": map[string]string{"PYTHON": python}})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, python, "benchmarks/webui/stages.py", fmt.Sprint(o.stages), "--streaming", "--job_name=wide", "--runner=PortableRunner",
		fmt.Sprintf("--job_endpoint=127.0.0.1:%d", s.ports["job_port"]), "--environment_type=PROCESS", "--environment_config="+string(config))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("submit the job: %w\n%s", err, out)
	}
	return nil
}

// ready waits until records have come to the job's last stage, and returns its id and its stages'.
func (s *server) ready(ctx context.Context, atLeast int) (job string, stages []string, err error) {
	for range 300 {
		time.Sleep(200 * time.Millisecond)
		data, err := s.get(ctx, "jobs/overview")
		if err != nil {
			return "", nil, err
		}
		var list struct{ Jobs []struct{ JID, State string } }
		if err := json.Unmarshal(data, &list); err != nil {
			return "", nil, err
		}
		if len(list.Jobs) == 0 || list.Jobs[0].State != "RUNNING" {
			continue
		}
		if data, err = s.get(ctx, "jobs/"+list.Jobs[0].JID); err != nil {
			return "", nil, err
		}
		var one struct {
			Vertices []struct {
				ID      string
				Metrics map[string]any
			}
		}
		if err := json.Unmarshal(data, &one); err != nil {
			return "", nil, err
		}
		stages = nil
		for _, v := range one.Vertices {
			stages = append(stages, v.ID)
		}
		if n := len(one.Vertices); n >= atLeast && fmt.Sprint(one.Vertices[n-1].Metrics["read-records"]) != "0" {
			return list.Jobs[0].JID, stages, nil
		}
	}
	return "", nil, fmt.Errorf("the job has not come to its last stage within a minute; it has %d stages", len(stages))
}

// slowest of 20 calls, in ms.
func (s *server) slowest(ctx context.Context, path string) (most float64, err error) {
	for range 20 {
		began := time.Now()
		if _, err := s.get(ctx, path); err != nil {
			return 0, err
		}
		most = max(most, float64(time.Since(began).Microseconds())/1000)
	}
	return most, nil
}

// load measures the CPU that the server takes, in percent of a core, and at the end what it has in memory besides pages of files, in
// MB: the first call of a kind brings in pages of the binary, which no second page needs.
func (s *server) load(d time.Duration) (cpu, rss float64, err error) {
	before, err := s.ticks()
	if err != nil {
		return 0, 0, err
	}
	time.Sleep(d)
	after, err := s.ticks()
	if err != nil {
		return 0, 0, err
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	var size, resident, files float64
	if _, err := fmt.Sscan(string(data), &size, &resident, &files); err != nil {
		return 0, 0, err
	}
	return 100 * (after - before) / d.Seconds(), (resident - files) * float64(os.Getpagesize()) / (1 << 20), nil
}

// ticks is the CPU time so far, in seconds: fields 14 and 15 of proc_pid_stat(5), in hundredths.
func (s *server) ticks() (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("odd stat: %q", data)
	}
	var user, system float64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, err
	}
	return (user + system) / 100, nil
}

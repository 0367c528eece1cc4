package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// statefulSum is testdata/stateful_sum.py on a server, with harnesses of a worker pool.
type statefulSum struct {
	server           *process
	output, progress string
	done             chan error
}

// startSum submits the job.
func startSum(t *testing.T, interpreter string, server *process, pool string) *statefulSum {
	t.Helper()
	dir := t.TempDir()
	s := &statefulSum{server: server, output: filepath.Join(dir, "sums"), progress: filepath.Join(dir, "progress"), done: make(chan error, 1)}
	go func() {
		out, err := pipeline(t, interpreter, "testdata/stateful_sum.py", "--output="+s.output, "--progress="+s.progress,
			"--runner=PortableRunner", "--job_endpoint="+server.endpoint(), "--environment_type=EXTERNAL", "--environment_config="+pool)
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
		s.done <- err
	}()
	return s
}

// sums waits for the job's end and returns its output, sorted.
func (s *statefulSum) sums(t *testing.T) []string {
	t.Helper()
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(s.output)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	slices.Sort(lines)
	return lines
}

// waitFor waits until a harness has written n lines of a kind to the progress file, and returns its process id. That harness
// is running a bundle then. The dead ones do not count.
func (s *statefulSum) waitFor(t *testing.T, kind string, n int, dead []int) int {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		data, err := os.ReadFile(s.progress)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		lines := make(map[int]int)
		for line := range strings.Lines(string(data)) {
			id, what, _ := strings.Cut(strings.TrimSpace(line), " ")
			pid, err := strconv.Atoi(id)
			if err != nil {
				t.Fatalf("line %q in the progress file", line)
			}
			if what == kind && !slices.Contains(dead, pid) {
				lines[pid]++
			}
			if lines[pid] >= n {
				return pid
			}
		}
		select {
		case err := <-s.done:
			t.Fatalf("the job has ended before: %v", err)
		default:
		}
	}
	t.Fatalf("no harness came to %d %s; killed were %v", n, kind, dead)
	return 0
}

// record is a line of the server's log.
type record struct {
	Msg, Job, Stage, State string
	Elements               int
}

// records returns the log's records with a message, of all jobs.
func (p *process) records(t *testing.T, message string) []record {
	t.Helper()
	var out []record
	for lines := bufio.NewScanner(strings.NewReader(p.log.String())); lines.Scan(); {
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("line %q in the log: %v", lines.Text(), err)
		}
		if r.Msg == message {
			out = append(out, r)
		}
	}
	return out
}

const (
	bundleLost  = "bundle lost its worker and runs again"
	harnessLost = "SDK harness lost, starting another"
)

// kill ends a harness with no warning, and waits until the server has noticed what that cost.
func (s *statefulSum) kill(t *testing.T, pid int) {
	t.Helper()
	before := len(s.server.records(t, bundleLost))
	args, err := exec.Command("ps", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
	if err != nil || !strings.Contains(string(args), "SdkHarness") {
		t.Fatalf("process %d is not a harness: %s, %v", pid, args, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); len(s.server.records(t, bundleLost)) == before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("harness %d was killed while it ran a bundle, and no bundle was lost", pid)
		}
	}
}

// TestHarnessKilled: a harness lost is a bundle lost, and nothing else. A stateful job gives the same result whether or not
// five of its harnesses are killed amid bundles.
func TestHarnessKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: two Python jobs of 200,000 elements and seven harnesses take half a minute")
	}
	interpreter := python(t)
	pool := workerPool(t, interpreter)
	p := startServer(t, "serve", "--slots=2")
	var want []string
	for key := range 1000 {
		want = append(want, fmt.Sprintf("key%03d %d 200 200", key, 200*key+1000*(199*200/2)))
	}
	equal := func(name string, got []string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %d keys, want %d; got %.300v\nwant %.300v", name, len(got), len(want), got, want)
		}
	}

	equal("undisturbed", startSum(t, interpreter, p, pool).sums(t))
	if n := len(p.records(t, harnessLost)); n != 0 {
		t.Errorf("%d harnesses were lost, none was killed", n)
	}

	s := startSum(t, interpreter, p, pool)
	var killed []int
	for _, k := range []struct {
		kind  string
		lines int
	}{
		{"elements", 20},   // of 2,000: in the first bundles
		{"elements", 1100}, // some bundles are committed, with bundles of up to 50,000 elements
		{"elements", 50},
		{"elements", 1},
		{"timer", 1}, // while timers fire
	} {
		pid := s.waitFor(t, k.kind, k.lines, killed)
		s.kill(t, pid)
		killed = append(killed, pid)
	}
	equal("harnesses killed", s.sums(t))

	if n := len(p.records(t, harnessLost)); n != len(killed) {
		t.Errorf("%d harnesses were lost, %d killed", n, len(killed))
	}
	elements := 0
	for _, r := range p.records(t, bundleLost) {
		elements += r.Elements
		if r.Stage != "Sum" {
			t.Errorf("stage %s lost a bundle", r.Stage)
		}
	}
	t.Logf("%d bundles of %d elements were lost", len(p.records(t, bundleLost)), elements)
	states := make(map[string][]string)
	for _, r := range p.records(t, "job state") {
		states[r.Job] = append(states[r.Job], r.State)
	}
	for job, got := range states {
		if len(states) != 2 || !slices.Equal(got, []string{"STARTING", "RUNNING", "DONE"}) {
			t.Errorf("of %d jobs, %s went through %v", len(states), job, got)
		}
	}
}

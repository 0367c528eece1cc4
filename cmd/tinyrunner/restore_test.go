package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// address is where the client's commands find a server.
func (p *process) address() string {
	return fmt.Sprintf("--address=http://localhost:%d", p.ports["http_port"])
}

// tinyrunner runs a command of the client that has to succeed, and reads its JSON.
func tinyrunner(t *testing.T, p *process, args ...string) map[string]string {
	t.Helper()
	code, out, errs := command(t.Context(), append(args, "--json", p.address())...)
	var answer map[string]string
	if err := json.Unmarshal([]byte(out), &answer); code != exitDone || err != nil {
		t.Fatalf("%v: %d %v %s%s", args, code, err, out, errs)
	}
	return answer
}

func waitForState(t *testing.T, p *process, job, state string) {
	t.Helper()
	url := fmt.Sprintf("http://localhost:%d/jobs/%s/status", p.ports["http_port"], job)
	got := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got = get(t, url); strings.Contains(got, state) {
			return
		}
	}
	t.Fatalf("job %s is %s, want %s", job, got, state)
}

// sums reads what testdata/slow_sums.py has written.
func sums(t *testing.T, output string) []string {
	t.Helper()
	var got []string
	shards, err := filepath.Glob(output + "*")
	must(t, err)
	for _, s := range shards {
		data, err := os.ReadFile(s)
		must(t, err)
		got = append(got, strings.Split(strings.TrimSpace(string(data)), "\n")...)
	}
	slices.Sort(got)
	return got
}

func wantSums(n int) []string {
	sums := [3]int{}
	for i := range n {
		sums[i%3] += i
	}
	return []string{fmt.Sprint("0 ", sums[0]), fmt.Sprint("1 ", sums[1]), fmt.Sprint("2 ", sums[2])}
}

// TestRestore: a job is stopped in the middle and goes on from its savepoint on another server, with the pipeline that the
// savepoint holds; a drained one ends with everything processed.
func TestRestore(t *testing.T) {
	interpreter := python(t)
	pool := workerPool(t, interpreter)
	backups, output := t.TempDir(), filepath.Join(t.TempDir(), "sums")
	const n = 200
	start := func() *process {
		return startServer(t, "serve", "--checkpoints=file://"+t.TempDir(), "--checkpoint_interval=300ms", "--savepoint_dir=file://"+backups)
	}
	submit := func(p *process, output string, args ...string) (string, error) {
		return pipeline(t, interpreter, append([]string{
			"testdata/slow_sums.py", output, fmt.Sprint(n), "--runner=PortableRunner", "--job_endpoint=" + p.endpoint(),
			"--environment_type=EXTERNAL", "--environment_config=" + pool, "--job_name=slow",
		}, args...)...)
	}
	p := start()
	out, err := submit(p, output)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	time.Sleep(1500 * time.Millisecond)
	code, _, errs := command(t.Context(), "restore", p.address(), "file://"+backups+"/none")
	if want := "there is no savepoint"; code != exitUsage || !strings.Contains(errs, want) {
		t.Errorf("%d %s, want %q", code, errs, want)
	}
	stopped := tinyrunner(t, p, "stop", "slow")
	if len(sums(t, output)) > 0 {
		t.Fatal("the job was done before it was stopped: it must take longer")
	}

	p = start()
	hold := filepath.Join(filepath.Dir(output), "hold")
	must(t, os.WriteFile(hold, nil, 0o600))
	restored := tinyrunner(t, p, "restore", stopped["location"])
	if restored["name"] != "slow" || restored["state"] != "RUNNING" {
		t.Errorf("restored %v", restored)
	}
	code, _, errs = command(t.Context(), "restore", p.address(), stopped["location"])
	if want := `a job named "slow" is running`; code != exitUsage || !strings.Contains(errs, want) {
		t.Errorf("%d %s, want %q", code, errs, want)
	}
	if out, err := submit(p, output, "--savepoint_path="+stopped["location"]); err == nil || !strings.Contains(out, "is running: stop it first") {
		t.Errorf("submitted with the name of a running job: %v\n%s", err, out)
	}
	latest := get(t, fmt.Sprintf("http://localhost:%d/jobs/%s/checkpoints", p.ports["http_port"], restored["job"]))
	if want := `"is_savepoint":true,"external_path":"` + stopped["location"]; !strings.Contains(latest, want) {
		t.Errorf("no %s in %s", want, latest)
	}
	must(t, os.Remove(hold))
	waitForState(t, p, restored["job"], "FINISHED")
	if got := sums(t, output); !slices.Equal(got, wantSums(n)) {
		t.Errorf("got %v, want %v", got, wantSums(n))
	}

	code, _, errs = command(t.Context(), "restore", p.address(), stopped["location"], "--pipeline=testdata/impulse.txtpb")
	if want := "has no place for"; code != exitFailed || !strings.Contains(errs, want) || !strings.Contains(errs, "elements on their way to stage") {
		t.Errorf("another pipeline: %d %s, want %q", code, errs, want)
	}
	dropped := tinyrunner(t, p, "restore", stopped["location"], "--pipeline=testdata/impulse.txtpb", "--allow_non_restored_state", "--job_name=other")
	waitForState(t, p, dropped["job"], "FINISHED")

	second := output + "-second"
	if out, err := submit(p, second, "--savepoint_path="+stopped["location"]); err != nil { // the same transforms, another file
		t.Fatalf("%v\n%s", err, out)
	}
	drained := tinyrunner(t, p, "stop", "slow", "--drain")
	if got := sums(t, second); drained["state"] != "FINISHED" || !slices.Equal(got, wantSums(n)) {
		t.Errorf("drained %v: %v, want %v", drained, got, wantSums(n))
	}
	waitForState(t, p, tinyrunner(t, p, "restore", drained["location"])["job"], "FINISHED")
}

// TestRestoreNeedsCheckpoints: a job that begins with a savepoint makes some of its own, or nobody could go on with it.
func TestRestoreNeedsCheckpoints(t *testing.T) {
	p := startServer(t, "serve")
	code, _, errs := command(t.Context(), "restore", p.address(), "file://"+t.TempDir())
	if want := "start it with --checkpoints"; code != exitUsage || !strings.Contains(errs, want) {
		t.Errorf("%d %s, want %q", code, errs, want)
	}
	p = startServer(t, "serve", "--checkpoints=file://"+t.TempDir())
	broken := t.TempDir()
	must(t, os.WriteFile(filepath.Join(broken, "savepoint"), []byte("{}"), 0o600))
	for location, want := range map[string]string{
		"gopher://x":            "gopher",
		"file://" + broken:      "corrupt",
		"file://" + t.TempDir(): "there is no savepoint",
		broken + "/none":        "no such directory on the server's machine",
	} {
		if code, _, errs := command(t.Context(), "restore", p.address(), location); code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: %d %s, want %q", location, code, errs, want)
		}
	}
	if _, err := os.Stat(filepath.Join(broken, "none")); err == nil {
		t.Error("looking for a savepoint has made its directory")
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// flink is the command, with a server that it talks to.
type flink struct {
	*server
	kept, cancelled, stopped string // ids of jobs
}

// driveCLI tries all commands of flink that make sense here: run sends a Java job, which cannot be executed.
func driveCLI(ctx context.Context, r *run) error {
	s, err := r.startServer(ctx, 1)
	if err != nil {
		return err
	}
	defer s.close()
	f := &flink{server: s}
	for name, id := range map[string]*string{"kept": &f.kept, "cancelled": &f.cancelled, "stopped": &f.stopped} {
		if *id, err = s.submit(ctx, name, "live.py"); err != nil {
			return err
		}
	}
	t := r.table
	t.step("flink list", func() (string, error) { return "3 jobs run", f.list(ctx) })
	t.step("flink checkpoint JOB", func() (string, error) { return f.checkpoint(ctx) })
	var location string
	if t.step("flink savepoint JOB DIR", func() (string, error) {
		location, err = f.savepoint(ctx)
		return filepath.Base(location), err
	}) {
		t.step("flink savepoint -d PATH", func() (string, error) { return "its files are gone", f.dispose(ctx, location) })
	}
	t.step("flink savepoint -d PATH (not there)", func() (string, error) { return f.disposeNothing(ctx) })
	t.step("flink stop -p DIR JOB", func() (string, error) { return f.stopJob(ctx) })
	t.step("flink cancel JOB", func() (string, error) { return "the job is CANCELED", f.cancelJob(ctx) })
	t.step("flink list -a", func() (string, error) { return "one job of each state", f.listAll(ctx) })
	t.step("flink run JAR", func() (string, error) { return f.runJar(ctx) })
	return nil
}

// command runs flink and expects a text in what it prints.
func (f *flink) command(ctx context.Context, want string, args ...string) (string, error) {
	home := f.run.tools.flink
	all := append([]string{"bash", filepath.Join(home, "bin", "flink")}, args...)
	out, err := output(ctx, f.run.tmp, []string{"FLINK_CONF_DIR=" + filepath.Join(home, "conf")}, all...)
	if err != nil {
		return out, err
	}
	if !regexp.MustCompile(want).MatchString(out) {
		return out, fmt.Errorf("flink %s printed no %q but:\n%s", strings.Join(args, " "), want, out)
	}
	return out, nil
}

func (f *flink) list(ctx context.Context) error {
	out, err := f.command(ctx, "Running/Restarting Jobs", "list", "-m", f.address())
	if err != nil {
		return err
	}
	for name, id := range map[string]string{"kept": f.kept, "cancelled": f.cancelled, "stopped": f.stopped} {
		if line := id + " : " + name + " (RUNNING)"; !strings.Contains(out, line) {
			return fmt.Errorf("no %q in:\n%s", line, out)
		}
	}
	return nil
}

type checkpoints struct {
	Counts map[string]int
	Latest struct {
		Completed, Savepoint *struct {
			ID           int
			ExternalPath string `json:"external_path"`
		}
	}
}

// checkpoint: the number that flink prints is that of a complete checkpoint.
func (f *flink) checkpoint(ctx context.Context) (string, error) {
	out, err := f.command(ctx, `Checkpoint \d+ for job `+f.kept+` completed`, "checkpoint", "-m", f.address(), f.kept)
	if err != nil {
		return "", err
	}
	id := regexp.MustCompile(`Checkpoint (\d+) for`).FindStringSubmatch(out)[1]
	var c struct{ Status string }
	if err := f.get(ctx, "/jobs/"+f.kept+"/checkpoints/details/"+id, &c); err != nil {
		return "", err
	}
	if c.Status != "COMPLETED" {
		return "", fmt.Errorf("checkpoint %s is %s", id, c.Status)
	}
	return "checkpoint " + id + " is COMPLETED", nil
}

// savepoint: the place that flink prints is there, and is the latest savepoint.
func (f *flink) savepoint(ctx context.Context) (string, error) {
	out, err := f.command(ctx, "Savepoint completed. Path: file:", "savepoint", "-m", f.address(), f.kept, f.savepoints())
	if err != nil {
		return "", err
	}
	location := regexp.MustCompile(`Path: (\S+)`).FindStringSubmatch(out)[1]
	if err := f.exists(location); err != nil {
		return "", err
	}
	var c checkpoints
	if err := f.get(ctx, "/jobs/"+f.kept+"/checkpoints", &c); err != nil {
		return "", err
	}
	if c.Latest.Savepoint == nil || c.Latest.Savepoint.ExternalPath != location {
		return "", fmt.Errorf("the latest savepoint is %+v and not at %s", c.Latest.Savepoint, location)
	}
	return location, f.state(ctx, f.kept, "RUNNING")
}

// exists reports an error if no files lie at a location. Directories may: in an object store there are none.
func (f *flink) exists(location string) error {
	u, err := url.Parse(location)
	if err != nil {
		return err
	}
	files := 0
	err = filepath.WalkDir(u.Path, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files++
		}
		return err
	})
	if err == nil && files == 0 {
		err = fmt.Errorf("%s has no files", location)
	}
	return err
}

func (f *flink) dispose(ctx context.Context, location string) error {
	if _, err := f.command(ctx, "disposed", "savepoint", "-m", f.address(), "-d", location); err != nil {
		return err
	}
	if f.exists(location) == nil {
		return fmt.Errorf("%s still has files", location)
	}
	return nil
}

// disposeNothing: the client must be able to read the error, which it gets as a serialised Java exception.
func (f *flink) disposeNothing(ctx context.Context) (string, error) {
	out, err := f.command(ctx, "", "savepoint", "-m", f.address(), "-d", f.savepoints()+"/nothing")
	if err == nil {
		return "", fmt.Errorf("it succeeded:\n%s", out)
	}
	if strings.Contains(out, "NullPointerException") || !regexp.MustCompile(`Caused by: .*/nothing: .*no checkpoint`).MatchString(out) {
		return "", fmt.Errorf("no readable error in:\n%s", out)
	}
	return "fails with a readable error", nil
}

func (f *flink) stopJob(ctx context.Context) (string, error) {
	out, err := f.command(ctx, "Savepoint completed. Path: file:", "stop", "-m", f.address(), "--savepointPath", f.savepoints(), f.stopped)
	if err != nil {
		return "", err
	}
	location := regexp.MustCompile(`Path: (\S+)`).FindStringSubmatch(out)[1]
	return "FINISHED with a savepoint", errors.Join(f.exists(location), f.state(ctx, f.stopped, "FINISHED"))
}

func (f *flink) cancelJob(ctx context.Context) error {
	if _, err := f.command(ctx, "Cancelled job "+f.cancelled, "cancel", "-m", f.address(), f.cancelled); err != nil {
		return err
	}
	return f.state(ctx, f.cancelled, "CANCELED")
}

func (f *flink) listAll(ctx context.Context) error {
	out, err := f.command(ctx, "Terminated Jobs", "list", "-a", "-m", f.address())
	if err != nil {
		return err
	}
	for _, line := range []string{f.kept + " : kept (RUNNING)", f.cancelled + " : cancelled (CANCELED)", f.stopped + " : stopped (FINISHED)"} {
		if !strings.Contains(out, line) {
			return fmt.Errorf("no %q in:\n%s", line, out)
		}
	}
	return nil
}

// runJar: a Java job cannot be executed. The client must be able to tell why.
func (f *flink) runJar(ctx context.Context) (string, error) {
	classes, jar := filepath.Join(f.data, "classes"), filepath.Join(f.data, "job.jar")
	for _, args := range [][]string{
		{"javac", "-cp", filepath.Join(f.run.tools.flink, "lib", "*"), "-d", classes, filepath.Join(f.run.source, "javajob", "JavaJob.java")},
		{"jar", "--create", "--file", jar, "--main-class", "JavaJob", "-C", classes, "."},
	} {
		if _, err := output(ctx, f.data, nil, args...); err != nil {
			return "", err
		}
	}
	out, err := f.command(ctx, "", "run", "-m", f.address(), jar)
	if err == nil {
		return "", fmt.Errorf("it succeeded:\n%s", out)
	}
	if !strings.Contains(out, "JVM") {
		return "", fmt.Errorf("it does not say why:\n%s", out)
	}
	return "refused, as there is no JVM", nil
}

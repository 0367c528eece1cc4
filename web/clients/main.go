// Command clients drives Flink's own clients, unchanged, against a running tinyrunner, and looks whether they get what they want:
//
//   - cli: the flink command (Flink's Python package on PyPI) lists, cancels and stops live jobs, and makes and removes
//     checkpoints and savepoints;
//   - uberjar: Beam's FlinkRunner uploads a word count and runs it (--flink_submit_uber_jar);
//   - rest: the conformance suite compares answers with those of a real Flink (--suites, left out when they are not there);
//   - webui: every page of Flink's web UI is opened in headless Chromium, and its text looked at, as that UI hides failed calls;
//   - autoscaler: the scaling library of the Flink Kubernetes Operator (Maven Central) finds a job with a backlog and rescales it.
//
// What the clients need is installed below --dir first: Flink and Beam from PyPI, the library from Maven Central, the browser's
// driver from npm. Only Chromium comes from the system, by apt-get if it is not there. Go, Python, Java, Maven and node must be.
//
//	make clients [CLIENTS=cli,webui]
//
// It prints a table of what was done, one line for each action, and exits with 1 if an action failed. The logs of all that it has
// started stay in DIR/logs, pictures of the web UI's pages in DIR/../screenshots/flink-ui. Nothing that it has started is left running.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// options are the flags.
type options struct {
	tinyrunner string // binary
	python     string // of an environment with Beam
	suites     string // directory with flink_rest
	source     string // this directory
	dir        string
	only       []string
}

func parse(args []string) (options, error) {
	var o options
	var only string
	fs := flag.NewFlagSet("clients", flag.ContinueOnError)
	fs.StringVar(&o.tinyrunner, "tinyrunner", ".build/tinyrunner", "binary under test")
	fs.StringVar(&o.python, "python", ".build/venv/bin/python", "Python of an environment with apache-beam")
	fs.StringVar(&o.suites, "suites", "", "directory with flink_rest/rest_conformance.py; empty or not there: rest is left out")
	fs.StringVar(&o.source, "source", "web/clients", "this program's directory in the repository")
	fs.StringVar(&o.dir, "dir", ".build/clients", "directory for what is installed, and for logs")
	fs.StringVar(&only, "only", "", "these clients, by commas: "+strings.Join(names(), ", ")+"; empty: all")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	o.only = strings.FieldsFunc(only, func(c rune) bool { return c == ',' })
	for _, name := range o.only {
		if !slices.Contains(names(), name) {
			return o, fmt.Errorf("--only: no client %q: there are %s", name, strings.Join(names(), ", "))
		}
	}
	for _, path := range []*string{&o.tinyrunner, &o.python, &o.source, &o.dir, &o.suites} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return o, err
		}
		*path = abs
	}
	for _, f := range []struct{ path, remedy string }{{o.tinyrunner, "make build"}, {o.python, "make venv"}, {o.source, "--source"}} {
		if _, err := os.Stat(f.path); err != nil {
			return o, fmt.Errorf("%w: use %s", err, f.remedy)
		}
	}
	return o, nil
}

// client is one of Flink's clients.
type client struct {
	name  string
	drive func(context.Context, *run) error
}

func clients() []client {
	return []client{{"cli", driveCLI}, {"uberjar", driveUberJar}, {"rest", driveSuite}, {"webui", driveWebUI}, {"autoscaler", driveAutoscaler}}
}

func names() []string {
	var out []string
	for _, c := range clients() {
		out = append(out, c.name)
	}
	return out
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = drive(ctx, o)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(1)
	}
}

// run is what the drivers of clients share.
type run struct {
	options
	tools tools
	table *table
	logs  string // directory
	tmp   string // directory that is removed at the end
}

// drive installs what is needed and drives the clients one after the other, each with servers of its own.
func drive(ctx context.Context, o options) (err error) {
	r := &run{options: o, table: newTable(os.Stdout), logs: filepath.Join(o.dir, "logs")}
	if err := os.MkdirAll(r.logs, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if r.tmp, err = os.MkdirTemp("", "tinyrunner-clients-"); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.tmp)) }()
	if r.tools, err = install(ctx, o); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	for _, c := range clients() {
		if len(o.only) > 0 && !slices.Contains(o.only, c.name) {
			continue
		}
		r.table.client = c.name
		if err := c.drive(ctx, r); err != nil {
			r.table.fail("", err)
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
	}
	return r.table.result()
}

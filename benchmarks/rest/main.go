// Command rest measures the REST API of a running tinyrunner from outside.
//
// Large asks every endpoint, one call after the other, about a job of 200 stages with 20 subtasks each that is running (in a Python
// harness, so that --python needs apache-beam): how long do the answers take?
//
// Load has 200 clients ask every endpoint in turn about the job of tinyrunner demo, a pipeline that is as fast as the CPU lets it be:
// how much slower is the job, and does the process grow? Each client makes two calls a second, which is what an open page of Flink's
// web UI makes. Clients use CPU, too, and on the same machine that is the job's loss whatever the server does: so each phase with
// clients stands between one with nobody and one with strangers, who use as much CPU as the clients do at the same pace, and ask nothing.
// What REST costs the job is the ratio to strangers; the ratio to nobody is given beside it. All phases are of one run of one process.
//
//	make build venv && go run ./benchmarks/rest
//
// A table for people goes to standard error, one JSON object a part to standard output. Nothing is judged: what else the machine
// does is in load_average, the runnable tasks in the last minute.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// settings are the flags.
type settings struct {
	tinyrunner, python, source string
	part                       string
	stages, slots, calls       int
	clients, rounds            int
	pace, phase                time.Duration
}

func parse(args []string) (settings, error) {
	var s settings
	fs := flag.NewFlagSet("rest", flag.ContinueOnError)
	fs.StringVar(&s.tinyrunner, "tinyrunner", ".build/tinyrunner", "binary under test")
	fs.StringVar(&s.python, "python", ".build/venv/bin/python", "Python of an environment with apache-beam")
	fs.StringVar(&s.source, "source", "benchmarks/rest", "this program's directory in the repository")
	fs.StringVar(&s.part, "part", "", "large or load; empty: both")
	fs.IntVar(&s.stages, "stages", 200, "stages of the large job")
	fs.IntVar(&s.slots, "slots", 20, "slots of the large job")
	fs.IntVar(&s.calls, "calls", 50, "calls of each endpoint about the large job")
	fs.IntVar(&s.clients, "clients", 200, "clients at once")
	fs.IntVar(&s.rounds, "rounds", 4, "phases with clients")
	fs.DurationVar(&s.phase, "phase", 15*time.Second, "length of a phase")
	fs.DurationVar(&s.pace, "pace", 500*time.Millisecond, "time between two calls of a client")
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	if s.part != "" && s.part != "large" && s.part != "load" {
		return s, fmt.Errorf("--part=%q is unknown: use large or load", s.part)
	}
	for _, path := range []*string{&s.tinyrunner, &s.python, &s.source} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return s, err
		}
		*path = abs
	}
	return s, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	s, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil && s.part != "load" {
		err = large(ctx, s)
	}
	if err == nil && s.part != "large" {
		err = load(ctx, s)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "rest:", err)
		os.Exit(1)
	}
}

// loadAverage is the machine's, of the last minute; empty where it is not known.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	one, _, _ := strings.Cut(string(text), " ")
	return one
}

// Command kafkafilter measures Kafka -> filter 1 % -> Kafka: tinyrunner with a linked-in Go function beside a bare franz-go
// loop, the ceiling of any Go runner, in turns against the same broker.
//
//	go run ./benchmarks/kafkafilter                        # a fake broker in a process of its own
//	go run ./benchmarks/kafkafilter --brokers host:9092    # a real one; makes and fills the topics it needs
//
// Each run is a process of its own and prints one JSON line; the last line is the ratio of the medians. mb_per_s counts
// input values between 5 % and 95 % of progress, read from what the output topic has acknowledged; cpu_s and
// rss_mb_max are of the whole run.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"github.com/tinyrunner/tinyrunner/benchmarks/internal/measure"
)

// Topics of the benchmark.
const (
	inTopic    = "tinyrunner-kafkafilter-in"
	outTopic   = "tinyrunner-kafkafilter-out"
	partitions = 4
	keepEvery  = 100 // records
)

// settings are the flags.
type settings struct {
	Brokers string
	Records int64 // a run
	Value   int   // bytes of a record's value
	Runs    int   // of each side
	Slots   int   // of tinyrunner; 0: the number of CPUs
	Profile string
}

// result is the line of one run.
type result struct {
	Benchmark string  `json:"benchmark"`
	Side      string  `json:"side"`
	Records   int64   `json:"records"`
	Value     int     `json:"value_bytes"`
	MBPerS    float64 `json:"mb_per_s"` // 1 MB = 1,000,000 bytes
	CPU       float64 `json:"cpu_s"`
	CPUPerGB  float64 `json:"cpu_s_per_gb"`
	RSSMax    float64 `json:"rss_mb_max"`
}

// sides by name: what is measured.
func sides() map[string]func(context.Context, settings, *progress) error {
	return map[string]func(context.Context, settings, *progress) error{"tinyrunner": runTinyrunner, "bare": runBare}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kafkafilter:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var s settings
	fs := flag.NewFlagSet("kafkafilter", flag.ContinueOnError)
	fs.StringVar(&s.Brokers, "brokers", "", "real brokers, host:port,...; empty: a fake one in a process of its own")
	fs.Int64Var(&s.Records, "records", 4_000_000, "records a run")
	fs.IntVar(&s.Value, "value", 1024, "bytes of a record's value")
	fs.IntVar(&s.Runs, "runs", 3, "runs of each side")
	fs.IntVar(&s.Slots, "slots", 0, "tinyrunner's slots; 0: the number of CPUs")
	fs.StringVar(&s.Profile, "cpuprofile", "", "write a CPU profile of each side to this file, with .SIDE added")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch name := fs.Arg(0); {
	case name == "broker":
		return serveBroker(s)
	case name != "":
		return runSide(ctx, s, name)
	}
	return compare(ctx, s)
}

// compare runs the sides in turns.
func compare(ctx context.Context, s settings) (err error) {
	if s.Brokers == "" {
		addrs, stop, err := startBroker(ctx, s)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
		s.Brokers = addrs
	} else if err := fill(ctx, s); err != nil {
		return err
	}
	speeds := map[string][]float64{}
	for range s.Runs {
		for _, side := range []string{"tinyrunner", "bare"} {
			line, err := command(ctx, s, side).Output()
			if err != nil {
				return fmt.Errorf("run %s: %w", side, withStderr(err))
			}
			var r result
			if err := json.Unmarshal(line, &r); err != nil {
				return fmt.Errorf("run %s: %q: %w", side, line, err)
			}
			if err := measure.Print(os.Stdout, r); err != nil {
				return err
			}
			speeds[side] = append(speeds[side], r.MBPerS)
		}
	}
	ours, bare := median(speeds["tinyrunner"]), median(speeds["bare"])
	return measure.Print(os.Stdout, map[string]any{
		"benchmark": "kafkafilter", "value_bytes": s.Value, "tinyrunner_mb_per_s": ours, "bare_mb_per_s": bare,
		"ratio": float64(int(ours/bare*1000+0.5)) / 1000,
	})
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// command is this program again, in another part.
func command(ctx context.Context, s settings, part string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	args := []string{"--brokers", s.Brokers, "--records", strconv.FormatInt(s.Records, 10),
		"--value", strconv.Itoa(s.Value), "--slots", strconv.Itoa(s.Slots)}
	if s.Profile != "" && part != "broker" {
		args = append(args, "--cpuprofile", s.Profile+"."+part)
	}
	return exec.CommandContext(ctx, self, append(args, part)...)
}

func withStderr(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}

// startBroker starts the fake broker's process. It ends when its standard input does.
func startBroker(ctx context.Context, s settings) (addrs string, stop func() error, err error) {
	cmd := command(ctx, s, "broker")
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", nil, fmt.Errorf("start broker: %w", err)
	}
	stop = func() error { return errors.Join(in.Close(), cmd.Wait()) }
	addrs, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", nil, fmt.Errorf("start broker: %w", errors.Join(err, stop()))
	}
	return strings.TrimSpace(addrs), stop, nil
}

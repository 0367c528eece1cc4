// Command recovery measures what checkpoints of a large keyed state cost, and how long a job needs to come back after a
// kill -9. It fills the state of a stateful DoFn of linked-in Go functions, and then:
//
//   - touches 1 % of the keys, at random, and looks how much the next checkpoint uploads;
//   - updates random keys at full speed, in turns without checkpoints and with one a second: throughput, pauses of commits;
//   - kills the process while it does that, starts it again and waits for its first output: with what is on the local disk,
//     and with the disk emptied.
//
// The process under test is set up as "tinyrunner serve --memory 250MiB" is. The store is a directory, or an S3 server:
//
//	go run ./benchmarks/recovery
//	go run ./benchmarks/recovery --checkpoints s3://bucket/recovery --s3_endpoint http://127.0.0.1:7070
//
// With --harness the functions are not linked in: once the state is filled, they run in a harness of the Go SDK, as those of every job
// of "tinyrunner serve" run in one.
//
// It prints one JSON line. The S3 credentials come from the usual variables.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tinyrunner/tinyrunner/benchmarks/internal/measure"
)

// options are those of the command; a child process gets them too.
type options struct {
	keys        int64
	value       int
	rounds      int
	phase       time.Duration
	restarts    int
	slots       int
	memory      int64
	dir         string
	checkpoints string
	endpoint    string
	profile     string
	harness     string
	child       string // "fill", "load" or "resume": this process is the one under test
}

func (o *options) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("recovery", flag.ContinueOnError)
	fs.Int64Var(&o.keys, "keys", 1_000_000, "keys with state")
	fs.IntVar(&o.value, "value", 1000, "bytes of state of a key")
	fs.IntVar(&o.rounds, "rounds", 3, "turns without and with checkpoints")
	fs.DurationVar(&o.phase, "phase", 10*time.Second, "length of a turn")
	fs.IntVar(&o.restarts, "restarts", 5, "kills with, and as many without, an intact local disk")
	fs.IntVar(&o.slots, "slots", 2, "bundles of a stage at once")
	fs.Int64Var(&o.memory, "memory_mib", 250, "memory of the process that is aimed at, in MiB")
	fs.StringVar(&o.dir, "dir", "", "directory for everything; empty: a temporary one")
	fs.StringVar(&o.checkpoints, "checkpoints", "", "file:///DIR or s3://BUCKET/PREFIX; empty: below --dir")
	fs.StringVar(&o.endpoint, "s3_endpoint", "", "URL of the S3 server")
	fs.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile of the first process to this file")
	fs.StringVar(&o.harness, "harness", "", "binary of ./benchmarks/recovery/job: run the function in harnesses, once the state is filled")
	fs.StringVar(&o.child, "child", "", "used by the command itself")
	return fs
}

func (o *options) args(child string) []string {
	return []string{
		fmt.Sprintf("--keys=%d", o.keys), fmt.Sprintf("--value=%d", o.value), fmt.Sprintf("--rounds=%d", o.rounds),
		fmt.Sprintf("--phase=%s", o.phase), fmt.Sprintf("--slots=%d", o.slots), fmt.Sprintf("--memory_mib=%d", o.memory),
		"--dir=" + o.dir, "--checkpoints=" + o.checkpoints, "--s3_endpoint=" + o.endpoint, "--cpuprofile=" + o.profile, "--harness=" + o.harness, "--child=" + child,
	}
}

// result is the benchmark's line.
type result struct {
	Benchmark string  `json:"benchmark"`
	Store     string  `json:"store"`
	StateMB   float64 `json:"state_mb"` // 1 MB = 1,000,000 bytes
	filled
	loaded
	RecoveryDiskMS  []int64 `json:"recovery_disk_ms"` // from the start of the process to its first output, each
	RecoveryStoreMS []int64 `json:"recovery_store_ms"`
	DiskP50         int64   `json:"recovery_disk_ms_p50"`
	StoreP50        int64   `json:"recovery_store_ms_p50"`
	RestoreRSSMax   float64 `json:"restore_rss_mb_max"` // 1 MB = 1 MiB
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "recovery:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	var o options
	if err := o.flags().Parse(args); err != nil {
		return err
	}
	if o.child != "" {
		return o.runChild(ctx)
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "recovery-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	if o.checkpoints == "" {
		o.checkpoints = "file://" + filepath.Join(o.dir, "store")
	}
	r := result{Benchmark: "recovery", Store: strings.SplitN(o.checkpoints, ":", 2)[0]}
	first, err := o.start(ctx, "fill")
	if err != nil {
		return err
	}
	if err := first.until("filled", &r.filled); err != nil {
		return err
	}
	r.StateMB = measure.Round(float64(r.Bytes) / 1e6)
	p := first
	if o.harness != "" {
		p.kill()
		if p, err = o.start(ctx, "load"); err != nil {
			return err
		}
	}
	if err := p.until("loaded", &r.loaded); err != nil {
		return err
	}
	if p, err = o.restart(ctx, p, &r); err != nil {
		return err
	}
	p.kill()
	r.DiskP50, r.StoreP50 = median(r.RecoveryDiskMS), median(r.RecoveryStoreMS)
	return measure.Print(os.Stdout, r)
}

// restart kills p, and each process that goes on after it, with the local disk left intact and emptied by turns. It gives the last one.
func (o *options) restart(ctx context.Context, p *process, r *result) (*process, error) {
	for i := range 2 * o.restarts {
		p.kill()
		times := &r.RecoveryDiskMS
		if i%2 == 1 {
			times = &r.RecoveryStoreMS
			if err := os.RemoveAll(filepath.Join(o.dir, "data")); err != nil {
				return nil, err
			}
		}
		began := time.Now()
		next, err := o.start(ctx, "resume")
		if err != nil {
			return nil, err
		}
		p = next
		if err := p.until("output", nil); err != nil {
			return nil, err
		}
		*times = append(*times, time.Since(began).Milliseconds())
		var after resumed
		if err := p.until("checkpointed", &after); err != nil {
			return nil, err
		}
		r.RestoreRSSMax = max(r.RestoreRSSMax, after.RSSMax)
	}
	return p, nil
}

func median(ms []int64) int64 {
	if len(ms) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(ms))
	return s[len(s)/2]
}

// process is a child that reports by lines "WORD JSON".
type process struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func (o *options) start(ctx context.Context, child string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, o.args(child)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start child: %w", err)
	}
	return &process{cmd: cmd, lines: bufio.NewScanner(out)}, nil
}

// until waits for a line that begins with word and decodes the rest of it.
func (p *process) until(word string, into any) error {
	for p.lines.Scan() {
		got, rest, _ := strings.Cut(p.lines.Text(), " ")
		if got != word {
			continue
		}
		if into == nil {
			return nil
		}
		return json.Unmarshal([]byte(rest), into)
	}
	return fmt.Errorf("the child ended before it said %q: %w", word, errors.Join(p.lines.Err(), p.cmd.Wait()))
}

// kill ends the child as kill -9 does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // its error is the signal
}

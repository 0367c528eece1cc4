// Command chaos kills everything around a running job, again and again, and then looks whether anything is lost or doubled.
//
// The job reads deposits to accounts from a real Kafka broker, keeps a running sum of each key and gives statements by a timer,
// and writes both to Kafka. Its checkpoints go to a real S3 server (versitygw) once a second. While it runs at full speed,
// kill -9 hits tinyrunner (--kills times), the harness and the S3 server (a tenth as often each) and the broker (a twentieth),
// at random and in places that are known to be delicate: just after an object of a checkpoint appears in the store, just
// after its manifest does (when the transactions of the sinks are committed), while a checkpoint is being restored, while the
// restored checkpoint's transactions are committed. Each tenth start of tinyrunner finds an empty disk.
//
// Between two faults are half a second to four seconds. Each second one also waits for new output, for some time, so that the
// job gets on however slow the machine is.
//
//	make chaos [KILLS=200] [MODE=exactly_once] [KAFKA_VERSION=4.1.0]
//
// The last line is one JSON object; see result. Exit code 1 says that something is lost, doubled, out of order or wrong, that
// the memory of tinyrunner went over the limit, or that nothing came for a minute: then the directory with all logs is named.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tinyrunner/tinyrunner/benchmarks/internal/measure"
)

// Modes of the sink.
const (
	exactlyOnce = "exactly_once"
	atLeastOnce = "at_least_once"
)

// options are the flags.
type options struct {
	kills    int
	mode     string
	kafka    string // version
	keys     int
	backlog  int64 // records
	interval time.Duration
	pause    time.Duration // between two faults, at most
	rssLimit float64       // MiB
	patience time.Duration
	seed     uint64
	dir      string

	tinyrunner, job, versitygw string // binaries
}

const help = `
recovery_ms is the time from a kill of tinyrunner to the first new record that a read_committed reader of the output gets once
the process that was started in its place is ready. A kill that is followed by another one before that is not counted; other
faults that fall into the time are. rss_mb_max is the greatest memory (VmHWM, in MiB) that any tinyrunner process had.
`

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("chaos", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "usage: chaos [flags]")
		fs.PrintDefaults()
		fmt.Fprint(fs.Output(), help)
	}
	fs.IntVar(&o.kills, "kills", 200, "kills of tinyrunner; a tenth as many of the harness and of the S3 server, a twentieth of the broker, but at least one")
	fs.StringVar(&o.mode, "mode", exactlyOnce, "what the sink promises: exactly_once or at_least_once")
	fs.StringVar(&o.kafka, "kafka", "4.1.0", "version of the broker: 4.1.0 or 3.9.1")
	fs.IntVar(&o.keys, "keys", 1000, "accounts")
	fs.Int64Var(&o.backlog, "backlog", 200_000, "records that the producer is ahead of the output, at most")
	fs.DurationVar(&o.interval, "interval", time.Second, "time between two checkpoints")
	fs.DurationVar(&o.pause, "pause", 4*time.Second, "time between two faults, at most; at least it is 500ms")
	fs.Float64Var(&o.rssLimit, "rss_limit", 250, "memory that tinyrunner may have, in MiB")
	fs.DurationVar(&o.patience, "patience", time.Minute, "time without new output after which the run has failed")
	fs.Uint64Var(&o.seed, "seed", 0, "of the order and times of faults; 0: a new one")
	fs.StringVar(&o.dir, "dir", "", "directory for data and logs, which is kept; empty: a new one, kept when the run fails")
	fs.StringVar(&o.tinyrunner, "tinyrunner", ".build/tinyrunner", "binary under test")
	fs.StringVar(&o.job, "job", ".build/chaos-job", "binary of ./benchmarks/chaos/job")
	fs.StringVar(&o.versitygw, "versitygw", ".build/bin/versitygw", "binary of the S3 server")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.pause <= leastPause {
		return o, fmt.Errorf("--pause=%s must be more than %s", o.pause, leastPause)
	}
	if o.kills < 1 || o.keys < 1 || o.backlog < 1 {
		return o, errors.New("--kills, --keys and --backlog must be at least 1")
	}
	if o.mode != exactlyOnce && o.mode != atLeastOnce {
		return o, fmt.Errorf("--mode=%q is unknown: use %s or %s", o.mode, exactlyOnce, atLeastOnce)
	}
	for _, bin := range []*string{&o.tinyrunner, &o.job, &o.versitygw} {
		if _, err := os.Stat(*bin); err != nil {
			return o, fmt.Errorf("%w: make chaos builds it", err)
		}
		abs, err := filepath.Abs(*bin)
		if err != nil {
			return o, err
		}
		*bin = abs
	}
	return o, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(2)
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		stop()
		os.Exit(1)
	}
}

// run makes the directory, and removes it when all is well.
func run(ctx context.Context, o options) error {
	temporary := o.dir == ""
	if temporary {
		dir, err := os.MkdirTemp("", "tinyrunner-chaos-")
		if err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		o.dir = dir
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return fmt.Errorf("find directory: %w", err)
	}
	o.dir = dir
	if err := os.MkdirAll(filepath.Join(o.dir, "logs"), 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	res, err := newRun(o, log).run(ctx)
	if res == nil {
		return fmt.Errorf("%w; everything is in %s (logs, broker/log)", err, o.dir)
	}
	if perr := measure.Print(os.Stdout, res); perr != nil {
		return errors.Join(err, perr)
	}
	if err != nil {
		return fmt.Errorf("%w; everything is in %s (logs, broker/log)", err, o.dir)
	}
	if temporary {
		return os.RemoveAll(o.dir)
	}
	return nil
}

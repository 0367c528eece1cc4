// Command groupbykey measures what a large GroupByKey costs in memory: a batch pipeline of linked-in Go functions makes N
// records with distinct keys, groups them, and checks that every key came out once with its value.
//
//	go run ./benchmarks/groupbykey                 # 20 M keys of 16 bytes, values of 180 bytes: 4 GB
//	go run ./benchmarks/groupbykey --keys 1000000
//
// The process is set up as "tinyrunner serve --memory 250MiB" is. It prints one JSON line; rss_mb_max is the peak of the
// process, which /usr/bin/time -v confirms.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/metrics"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tinyrunner/tinyrunner/benchmarks/internal/measure"
	"github.com/tinyrunner/tinyrunner/engine/tiny"
)

// perTask is how many records one input element stands for.
const perTask = 10_000

const (
	counterSpace = "groupbykey"
	groupsName   = "groups"
	valuesName   = "values"
	bytesName    = "value_bytes"
)

func init() { //nolint:gochecknoinits // Beam finds functions by name, in a registry that must be filled before beam.Init
	register.DoFn2x0[int64, func([]byte, []byte)](&makeRecords{})
	register.DoFn3x0[context.Context, []byte, func(*[]byte) bool](&countGroups{})
	register.Emitter2[[]byte, []byte]()
	register.Iter1[[]byte]()
}

// result is the benchmark's line.
type result struct {
	Benchmark string  `json:"benchmark"`
	Keys      int64   `json:"keys"`
	MB        float64 `json:"mb"` // keys and values; 1 MB = 1,000,000 bytes
	Seconds   float64 `json:"seconds"`
	MBPerS    float64 `json:"mb_per_s"`
	CPU       float64 `json:"cpu_s"`
	RSSMax    float64 `json:"rss_mb_max"` // 1 MB = 1 MiB
}

// makeRecords makes the records of a task.
type makeRecords struct {
	Keys  int64
	Value int
}

// ProcessElement emits records task*perTask and on. Keys differ in their first eight bytes; values do not compress.
func (f *makeRecords) ProcessElement(task int64, emit func([]byte, []byte)) {
	for i := task * perTask; i < min((task+1)*perTask, f.Keys); i++ {
		key := make([]byte, 16)
		state := uint64(i)
		binary.LittleEndian.PutUint64(key, mix(state))
		binary.LittleEndian.PutUint64(key[8:], mix(state+1<<40))
		value := make([]byte, f.Value+7)
		for at := 0; at < f.Value; at += 8 {
			state += 0x9e3779b97f4a7c15
			binary.LittleEndian.PutUint64(value[at:], mix(state))
		}
		emit(key, value[:f.Value])
	}
}

// mix is the finalizer of splitmix64, a bijection.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// countGroups counts what was grouped.
type countGroups struct {
	groups, values, bytes beam.Counter
}

// Setup makes the counters.
func (f *countGroups) Setup() {
	f.groups = beam.NewCounter(counterSpace, groupsName)
	f.values = beam.NewCounter(counterSpace, valuesName)
	f.bytes = beam.NewCounter(counterSpace, bytesName)
}

// ProcessElement counts a group.
func (f *countGroups) ProcessElement(ctx context.Context, _ []byte, values func(*[]byte) bool) {
	var v []byte
	for values(&v) {
		f.values.Inc(ctx, 1)
		f.bytes.Inc(ctx, int64(len(v)))
	}
	f.groups.Inc(ctx, 1)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "groupbykey:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	fs := flag.NewFlagSet("groupbykey", flag.ContinueOnError)
	keys := fs.Int64("keys", 20_000_000, "distinct keys")
	value := fs.Int("value", 180, "bytes of a value")
	slots := fs.Int("slots", 0, "bundles of a stage at once; 0: the number of CPUs")
	memory := fs.Int64("memory_mib", 250, "memory of the process that is aimed at, in MiB")
	dir := fs.String("data_dir", "", "directory of the state; empty: a temporary one")
	profile := fs.String("cpuprofile", "", "write a CPU profile to this file")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *profile != "" {
		stop, err := measure.Profile(*profile)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	debug.SetGCPercent(100)
	debug.SetMemoryLimit((*memory - 60) << 20)
	beam.Init()
	p := build(*keys, *value)
	start := time.Now()
	r, err := tiny.Run(ctx, p, tiny.Options{DataDir: *dir, Slots: *slots, Name: "groupbykey",
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	if err := check(r.Metrics(), *keys, *value); err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	u, err := measure.Self()
	if err != nil {
		return err
	}
	mb := float64(*keys) * float64(*value+16) / 1e6
	return measure.Print(os.Stdout, result{
		Benchmark: "groupbykey", Keys: *keys, MB: measure.Round(mb), Seconds: measure.Round(seconds), MBPerS: measure.Round(mb / seconds),
		CPU: measure.Round(u.CPU.Seconds()), RSSMax: measure.MB(u.PeakRSS),
	})
}

func build(keys int64, value int) *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	tasks := make([]int64, (keys+perTask-1)/perTask)
	for i := range tasks {
		tasks[i] = int64(i)
	}
	// Reshuffle: each task can be a bundle of its own.
	spread := beam.Reshuffle(s, beam.CreateList(s, tasks))
	records := beam.ParDo(s, &makeRecords{Keys: keys, Value: value}, spread)
	beam.ParDo0(s, &countGroups{}, beam.GroupByKey(s, records))
	return p
}

// check compares the counters with what was sent.
func check(r metrics.Results, keys int64, value int) error {
	want := map[string]int64{groupsName: keys, valuesName: keys, bytesName: keys * int64(value)}
	for _, c := range r.AllMetrics().Counters() {
		if n, ok := want[c.Name()]; ok && c.Key.Namespace == counterSpace {
			if c.Result() != n {
				return fmt.Errorf("%d %s came out, want %d", c.Result(), c.Name(), n)
			}
			delete(want, c.Name())
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("counters %v are missing", want)
	}
	return nil
}

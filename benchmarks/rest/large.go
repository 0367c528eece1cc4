package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/tinyrunner/tinyrunner/benchmarks/internal/measure"
)

// largeResult is what large prints. Times are milliseconds.
type largeResult struct {
	Benchmark   string           `json:"benchmark"`
	Stages      int              `json:"stages"`
	Subtasks    int              `json:"subtasks"` // of a stage
	MaxMillis   float64          `json:"max_ms"`
	LoadAverage string           `json:"load_average"`
	Endpoints   []endpointResult `json:"endpoints"`
}

type endpointResult struct {
	Path  string  `json:"path"`
	Bytes int     `json:"bytes"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

// large asks about a large job. Calls of different endpoints follow each other, and are of random stages.
func large(ctx context.Context, s settings) (err error) {
	i, err := start(ctx, s, "run", "--data_dir=DIR/data", "--http_port=0", "--slots="+strconv.Itoa(s.slots), "--checkpoints=file://DIR/checkpoints", "--job_name=large", "--",
		s.python, filepath.Join(s.source, "stages.py"), strconv.Itoa(s.stages), "--runner=PortableRunner", "--environment_type=LOOPBACK", "--job_endpoint={job_endpoint}")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	var job struct{ Vertices []struct{ Parallelism int } }
	if err := i.get(ctx, "/jobs/"+i.job, &job); err != nil {
		return err
	}
	all, err := i.endpoints(ctx)
	if err != nil {
		return err
	}
	times := make([][]time.Duration, len(all))
	for range s.calls {
		for k, e := range all {
			url := e.urls[rand.IntN(len(e.urls))]
			began := time.Now()
			if _, err := i.read(ctx, url); err != nil {
				return err
			}
			times[k] = append(times[k], time.Since(began))
		}
	}
	res := largeResult{Benchmark: "rest-large", Stages: len(job.Vertices), Subtasks: job.Vertices[0].Parallelism, LoadAverage: loadAverage()}
	fmt.Fprintf(os.Stderr, "%d stages, %d subtasks each, %d calls of each endpoint\n%-72s %9s %8s %8s %8s\n",
		res.Stages, res.Subtasks, s.calls, "endpoint", "bytes", "p50 ms", "p99 ms", "max ms")
	for k, e := range all {
		slices.Sort(times[k])
		at := func(p float64) float64 { return millis(times[k][int(p*float64(len(times[k])-1))]) }
		r := endpointResult{Path: e.path, Bytes: e.bytes, P50: at(0.5), P99: at(0.99), Max: at(1)}
		res.MaxMillis = max(res.MaxMillis, r.Max)
		res.Endpoints = append(res.Endpoints, r)
		fmt.Fprintf(os.Stderr, "%-72s %9d %8.2f %8.2f %8.2f\n", r.Path, r.Bytes, r.P50, r.P99, r.Max)
	}
	return measure.Print(os.Stdout, res)
}

// millis has two decimals.
func millis(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

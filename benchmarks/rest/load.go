package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tinyrunner/tinyrunner/benchmarks/internal/measure"
)

// loadResult is what load prints.
type loadResult struct {
	Benchmark   string  `json:"benchmark"`
	Clients     int     `json:"clients"`
	Endpoints   int     `json:"endpoints"`
	CallsPerSec float64 `json:"calls_per_s"`
	// Ratios of the job's records per second and of the server's CPU for one record, medians of the rounds: with clients to
	// strangers, which use as much CPU as clients and ask nothing, and with clients to nobody.
	Ratio         float64   `json:"ratio"`
	Ratios        []float64 `json:"ratios"`
	CPURatio      float64   `json:"cpu_per_record_ratio"`
	RatioAlone    float64   `json:"ratio_to_alone"`
	RatiosAlone   []float64 `json:"ratios_to_alone"`
	CPURatioAlone float64   `json:"cpu_per_record_ratio_to_alone"`
	// The CPU that clients and strangers used themselves, in cores.
	ClientCores   float64 `json:"client_cores"`
	StrangerCores float64 `json:"stranger_cores"`
	// Of the server at the end of the first phase and of the last one, both without clients.
	GoroutinesBefore int     `json:"goroutines_before"`
	GoroutinesAfter  int     `json:"goroutines_after"`
	HeapMBBefore     float64 `json:"heap_mb_before"`
	HeapMBAfter      float64 `json:"heap_mb_after"`
	RSSMBBefore      float64 `json:"rss_mb_before"`
	RSSMBAfter       float64 `json:"rss_mb_after"`
	LoadAverage      string  `json:"load_average"`
}

// load has phases with nobody, clients, strangers, clients, nobody and so on: those with clients have one of each beside them.
func load(ctx context.Context, s settings) (err error) {
	i, err := start(ctx, s, "demo", "--memory=250MiB", "--data_dir=DIR/data", "--http_port=0", "--checkpoints=file://DIR/checkpoints")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	all, err := i.endpoints(ctx)
	if err != nil {
		return err
	}
	with, err := i.phase(ctx, s, clients, i.caller(all)) // to warm up, and to see what a call costs a client
	if err != nil {
		return err
	}
	work := time.Duration(with.others / with.calls * float64(time.Second))
	var phases []phase
	fmt.Fprintf(os.Stderr, "%-10s %12s %14s %10s %12s %10s %10s %8s\n", "beside", "records/s", "us CPU/record", "calls/s", "their cores", "goroutines", "heap MB", "RSS MB")
	for k := range 2*s.rounds + 1 {
		var p phase
		switch k % 4 {
		case 0:
			p, err = i.phase(ctx, s, nobody, nil)
		case 1, 3:
			p, err = i.phase(ctx, s, clients, i.caller(all))
			with = p
		case 2:
			p, err = i.phase(ctx, s, strangers, func(context.Context) (func(int) error, func(), error) {
				return func(int) error { spin(work); return nil }, func() {}, nil
			})
			work = time.Duration(float64(work) * with.others / p.others) // to meet it better the next time
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "%-10s %12.0f %14.3f %10.0f %12.3f %10d %10.1f %8.1f\n", p.beside, p.rate, p.cpu*1e6, p.calls, p.others, p.goroutines, p.heap, p.rss)
		phases = append(phases, p)
	}
	return measure.Print(os.Stdout, summary(s, len(all), phases))
}

// spin uses the CPU for about so long.
func spin(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}

func summary(s settings, endpoints int, phases []phase) loadResult {
	first, last := phases[0], phases[len(phases)-1]
	res := loadResult{
		Benchmark: "rest-load", Clients: s.clients, Endpoints: endpoints, LoadAverage: loadAverage(),
		GoroutinesBefore: first.goroutines, GoroutinesAfter: last.goroutines, HeapMBBefore: measure.Round(first.heap),
		HeapMBAfter: measure.Round(last.heap), RSSMBBefore: measure.Round(first.rss), RSSMBAfter: measure.Round(last.rss),
	}
	var cpu, cpuAlone, calls, cores, stranger []float64
	for k := 1; k < len(phases); k += 2 {
		with, alone, beside := phases[k], phases[k-1], phases[k+1]
		if k%4 == 3 {
			alone, beside = beside, alone
		}
		res.Ratios, cpu = append(res.Ratios, with.rate/beside.rate), append(cpu, with.cpu/beside.cpu)
		res.RatiosAlone, cpuAlone = append(res.RatiosAlone, with.rate/alone.rate), append(cpuAlone, with.cpu/alone.cpu)
		calls, cores, stranger = append(calls, with.calls), append(cores, with.others), append(stranger, beside.others)
	}
	res.Ratio, res.CPURatio = median(res.Ratios), median(cpu)
	res.RatioAlone, res.CPURatioAlone = median(res.RatiosAlone), median(cpuAlone)
	res.CallsPerSec, res.ClientCores, res.StrangerCores = median(calls), median(cores), median(stranger)
	return res
}

// median of at least one value; of an even number the lower one.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	return v[(len(v)-1)/2]
}

// Who is beside the job in a phase.
const (
	nobody    = "nobody"
	clients   = "clients"
	strangers = "strangers"
)

// phase is what a phase was like.
type phase struct {
	beside     string
	rate       float64 // records a second
	cpu        float64 // seconds of the server for a record
	calls      float64 // a second
	others     float64 // cores that those beside the job used
	goroutines int     // at its end
	heap, rss  float64
}

// counters of the server since its start.
type counters struct {
	at      time.Time
	records float64
	cpu     float64 // seconds
}

// enter begins what one of those beside the job does: call is repeated at a pace, and counted by the caller; leave ends it.
type enter func(context.Context) (call func(k int) error, leave func(), err error)

// caller enters clients that ask for one endpoint after the other.
func (i *instance) caller(ask []*endpoint) enter {
	return func(ctx context.Context) (func(int) error, func(), error) {
		c, err := i.connect(ctx)
		if err != nil {
			return nil, nil, err
		}
		return func(k int) error {
			e := ask[k%len(ask)]
			return c.get(e.urls[k%len(e.urls)])
		}, func() { _ = c.Close() }, nil // nothing more is read
	}
}

// phase lasts for its time, with s.clients of those who enter, if there are any.
func (i *instance) phase(ctx context.Context, s settings, beside string, in enter) (phase, error) {
	running, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	var calls, failed atomic.Int64
	p := phase{beside: beside}
	if in != nil {
		for k := range s.clients {
			all.Go(func() {
				if repeat(running, s, in, k, &calls) != nil && running.Err() == nil {
					failed.Add(1)
				}
			})
		}
	}
	time.Sleep(time.Second) // for connections to be made, and clients before to be gone
	before, usage, err := i.counters(ctx)
	if err != nil {
		return p, err
	}
	calls.Store(0)
	select {
	case <-time.After(s.phase):
	case <-ctx.Done():
		return p, ctx.Err()
	}
	after, ended, err := i.counters(ctx)
	if err != nil {
		return p, err
	}
	seconds := after.at.Sub(before.at).Seconds()
	p.calls = float64(calls.Load()) / seconds
	p.others = (ended - usage) / seconds
	stop()
	all.Wait()
	i.client.CloseIdleConnections()
	if n := failed.Load(); n > 0 {
		return p, fmt.Errorf("%d calls failed", n)
	}
	p.rate = (after.records - before.records) / seconds
	p.cpu = (after.cpu - before.cpu) / (after.records - before.records)
	return p, i.size(ctx, &p)
}

// repeat makes one call after the other at a pace, beginning with the k-th, until ctx ends.
func repeat(ctx context.Context, s settings, in enter, k int, calls *atomic.Int64) error {
	time.Sleep(s.pace * time.Duration(k) / time.Duration(s.clients))
	call, leave, err := in(ctx)
	if err != nil {
		return err
	}
	defer leave()
	tick := time.NewTicker(s.pace)
	defer tick.Stop()
	for ; ; k++ {
		if err := call(k); err != nil {
			return err
		}
		calls.Add(1)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// connection makes calls with as little CPU as can be: it is the job's loss, too.
type connection struct {
	net.Conn
	in *bufio.Reader
}

func (i *instance) connect(ctx context.Context) (connection, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(i.base, "http://"))
	return connection{c, bufio.NewReader(c)}, err
}

// get makes a call and drops the answer.
func (c connection) get(path string) error {
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("GET %s: %s", path, resp.Status))
	}
	return errors.Join(err, resp.Body.Close())
}

// counters reads the server's, and the CPU that this process has used, in seconds.
func (i *instance) counters(ctx context.Context) (counters, float64, error) {
	c := counters{at: time.Now()}
	var job struct {
		Vertices []struct {
			Metrics struct {
				Read  float64 `json:"read-records"`
				Write float64 `json:"write-records"`
			}
		}
	}
	fresh := fmt.Sprintf("?n=%d", c.at.UnixNano()) // answers are shared for a second by those who ask for the same
	if err := i.get(ctx, "/jobs/"+i.job+fresh, &job); err != nil {
		return c, 0, err
	}
	c.records = job.Vertices[0].Metrics.Write
	values, err := i.gauges(ctx, "process_cpu_seconds_total")
	if err != nil {
		return c, 0, err
	}
	c.cpu = values[0]
	self, err := measure.Self()
	return c, self.CPU.Seconds(), err
}

// size reads how large the server is.
func (i *instance) size(ctx context.Context, p *phase) error {
	v, err := i.gauges(ctx, "go_goroutines", "go_memstats_heap_alloc_bytes", "process_resident_memory_bytes")
	if err != nil {
		return err
	}
	p.goroutines, p.heap, p.rss = int(v[0]), v[1]/(1<<20), v[2]/(1<<20)
	return nil
}

// gauges reads metrics of the server by name.
func (i *instance) gauges(ctx context.Context, names ...string) ([]float64, error) {
	text, err := i.read(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	out := make([]float64, len(names))
	for k, name := range names {
		_, rest, ok := strings.Cut(string(text), "\n"+name+" ")
		if !ok {
			return nil, fmt.Errorf("/metrics has no %s", name)
		}
		if _, err := fmt.Sscan(rest, &out[k]); err != nil {
			return nil, fmt.Errorf("/metrics: %s: %w", name, err)
		}
	}
	return out, nil
}

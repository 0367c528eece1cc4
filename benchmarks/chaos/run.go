package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tinyrunner/tinyrunner/benchmarks/internal/measure"
	"github.com/tinyrunner/tinyrunner/engine/kafka/brokertest"
)

// result is the last line.
type result struct {
	Kills        int     `json:"kills"`      // of tinyrunner
	Records      int64   `json:"records"`    // deposits
	Statements   int64   `json:"statements"` // by timers
	Lost         int64   `json:"lost"`
	Duplicated   int64   `json:"duplicated"`
	Disordered   int64   `json:"out_of_order"`
	Wrong        int64   `json:"wrong_sums"`
	RecoveryP50  int64   `json:"recovery_ms_p50"`
	RecoveryP99  int64   `json:"recovery_ms_p99"`
	Recoveries   int     `json:"recoveries"` // measured
	RSSMax       float64 `json:"rss_mb_max"`
	HarnessKills int     `json:"harness_kills"`
	S3Kills      int     `json:"s3_kills"`
	BrokerKills  int     `json:"broker_kills"`
	EmptyDisks   int     `json:"empty_disks"`
	JobFailures  int64   `json:"job_failures"` // jobs that failed, or were not resumed, until tinyrunner was started again
	Exits        int     `json:"exits"`        // of tinyrunner, by itself
	Mode         string  `json:"mode"`
	Kafka        string  `json:"kafka"`
	Seconds      float64 `json:"seconds"`
	Seed         uint64  `json:"seed"`
}

// chaos is a run. Its fields are made by setUp and belong to faults after that, but for those that may be used by all.
type chaos struct {
	o   options
	log *slog.Logger

	broker  *brokertest.Broker
	runner  *service
	pool    *service
	s3      *service
	ports   ports
	said    *lines // by tinyrunner
	reader  *reader
	prod    *producer
	rec     recovery
	rss     sampler
	failed  chan struct{} // the job is not running any more
	fails   atomic.Int64
	starts  int
	logs    []*os.File
	result  result
	rand    *rand.Rand
	brokers errgroup.Group // restarts under way, one at a time
}

type ports struct{ job, worker, http, s3, pool int }

func newRun(o options, log *slog.Logger) *chaos {
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	c := &chaos{o: o, log: log, failed: make(chan struct{}, 1), rand: rand.New(rand.NewPCG(o.seed, 1))}
	c.brokers.SetLimit(1)
	c.result = result{Mode: o.mode, Kafka: o.kafka, Seed: o.seed}
	return c
}

// run gives a result once everything was checked, with an error if it is not good.
func (c *chaos) run(ctx context.Context) (_ *result, err error) {
	began := time.Now()
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.setUp(ctx); err != nil {
		return nil, err
	}
	// Services live until all others have ended: their own context.
	services, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running errgroup.Group
	defer func() {
		stop()
		err = errors.Join(err, running.Wait())
	}()
	g, gctx := errgroup.WithContext(ctx)
	for _, s := range []*service{c.s3, c.pool, c.runner} {
		running.Go(func() error { return s.run(services) })
	}
	running.Go(func() error { return c.rss.run(services) })
	if err := c.submit(ctx); err != nil {
		return nil, err
	}
	reading, stopReading := context.WithCancel(gctx)
	defer stopReading()
	stopProducing := make(chan struct{})
	produced := make(chan struct{})
	g.Go(func() error { return c.reader.run(reading) })
	g.Go(func() error { return c.watch(reading) })
	g.Go(func() error { return c.revive(reading) })
	g.Go(func() error {
		defer close(produced)
		return c.prod.run(gctx, stopProducing, c.reader.done.Load)
	})
	g.Go(func() error {
		defer stopReading()
		if err := c.faults(gctx); err != nil {
			return err
		}
		close(stopProducing)
		<-produced
		return c.drain(gctx)
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	c.result.Seconds = measure.Round(time.Since(began).Seconds())
	return &c.result, c.judge()
}

// setUp makes everything but starts only the broker.
func (c *chaos) setUp(ctx context.Context) (err error) {
	if c.ports, err = freePorts(); err != nil {
		return err
	}
	dir := filepath.Join(c.o.dir, "broker")
	for _, d := range []string{dir, filepath.Join(c.storeDir(), "bucket")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	c.log.Info("starting a broker", "version", c.o.kafka, "dir", c.o.dir, "seed", c.o.seed)
	if c.broker, err = brokertest.Open(ctx, c.o.kafka, dir); err != nil {
		return err
	}
	if err := createTopics(ctx, c.broker.Addr); err != nil {
		return err
	}
	if c.reader, err = newReader(c.broker.Addr, c.o.mode == atLeastOnce, c.rec.output); err != nil {
		return err
	}
	if c.prod, err = newProducer(c.broker.Addr, c.o.keys, c.o.backlog); err != nil {
		return err
	}
	out, err := c.logFile(string(runner))
	if err != nil {
		return err
	}
	c.said = &lines{to: out, on: c.heard}
	c.runner = &service{name: string(runner), command: c.runnerCommand, out: c.said, log: c.log}
	c.rss.pid = c.runner.pid
	if out, err = c.logFile(string(harness)); err != nil {
		return err
	}
	c.pool = &service{name: string(harness), out: out, log: c.log, command: func() (*exec.Cmd, error) {
		return exec.Command(c.o.job, "--pool", strconv.Itoa(c.ports.pool)), nil
	}}
	if out, err = c.logFile(string(store)); err != nil {
		return err
	}
	c.s3 = &service{name: string(store), out: out, log: c.log, command: func() (*exec.Cmd, error) {
		cmd := exec.Command(c.o.versitygw, "--port", address(c.ports.s3), "--quiet", "posix", c.storeDir())
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=chaos", "ROOT_SECRET_KEY=chaoschaos")
		return cmd, nil
	}}
	return nil
}

func (c *chaos) storeDir() string { return filepath.Join(c.o.dir, "store") }

func (c *chaos) logFile(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(c.o.dir, "logs", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		c.logs = append(c.logs, f)
	}
	return f, err
}

// runnerCommand makes the next tinyrunner. Each tenth has an empty disk.
func (c *chaos) runnerCommand() (*exec.Cmd, error) {
	data := filepath.Join(c.o.dir, "data")
	if c.starts++; c.starts%10 == 0 {
		if err := os.RemoveAll(data); err != nil {
			return nil, err
		}
		c.result.EmptyDisks++
	}
	cmd := exec.Command(c.o.tinyrunner, "serve", "--data_dir", data, "--checkpoints", "s3://bucket/chaos",
		"--s3_endpoint", "http://"+address(c.ports.s3), "--s3_path_style", "--checkpoint_interval", c.o.interval.String(),
		"--job_port", strconv.Itoa(c.ports.job), "--worker_port", strconv.Itoa(c.ports.worker),
		"--http_port", strconv.Itoa(c.ports.http), "--log_format", "text")
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=chaos", "AWS_SECRET_ACCESS_KEY=chaoschaos", "AWS_REGION=us-east-1")
	return cmd, nil
}

// heard follows what tinyrunner says.
func (c *chaos) heard(line string) {
	switch {
	case strings.Contains(line, `msg="tinyrunner is ready"`):
		c.rec.started()
	case strings.Contains(line, `msg="job failed"`), strings.Contains(line, `msg="cannot resume a job`), strings.Contains(line, `msg="cannot look for jobs to resume"`):
		c.fails.Add(1)
		c.log.Error("the job does not run", "tinyrunner", line)
		select {
		case c.failed <- struct{}{}:
		default:
		}
	}
}

// revive starts tinyrunner again when its job has failed, as a supervisor would.
func (c *chaos) revive(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.failed:
			if pause(ctx, time.Second) == nil {
				c.runner.kill(0)
			}
		}
	}
}

func (c *chaos) submit(ctx context.Context) error {
	ready, cancel := c.said.expect(`msg="tinyrunner is ready"`)
	defer cancel()
	select {
	case <-ready:
	case <-time.After(c.o.patience):
		return errors.New("tinyrunner does not become ready")
	}
	cmd := exec.CommandContext(ctx, c.o.job, "--brokers", c.broker.Addr, "--in", inTopic, "--out", outTopic, "--guarantee", c.o.mode,
		"--endpoint", address(c.ports.job), "--environment_type", "EXTERNAL", "--environment_config", "localhost:"+strconv.Itoa(c.ports.pool),
		"--worker_binary", c.o.job, "--job_name", "chaos", "--async")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("submit job: %w: %s", err, out)
	}
	return nil
}

// watch fails when nothing new comes for too long.
func (c *chaos) watch(ctx context.Context) error {
	for pause(ctx, time.Second) == nil {
		if idle := c.reader.idle(); idle > c.o.patience {
			c.dump(ctx)
			return fmt.Errorf("no new output for %s, %d of %d records were through", idle.Round(time.Second), c.reader.done.Load(), c.prod.sent.Load())
		}
	}
	return nil
}

// dump has tinyrunner print its goroutines to its log.
func (c *chaos) dump(ctx context.Context) {
	c.runner.signal(syscall.SIGQUIT)
	_ = pause(ctx, 2*time.Second) // it does not matter why this ends
}

// drain waits until everything has come through, and then a while for what should not come.
func (c *chaos) drain(ctx context.Context) error {
	c.log.Info("no more faults, waiting for the rest", "records", c.prod.sent.Load(), "answered", c.reader.done.Load())
	if err := c.brokers.Wait(); err != nil {
		return err
	}
	for c.reader.newest.Store(time.Now().UnixNano()); !c.reader.complete(c.prod.made); {
		if c.reader.idle() > c.o.patience/2 {
			c.log.Error("the rest does not come")
			c.dump(ctx)
			return nil // the report says what is lost
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return pause(ctx, 3*c.o.interval)
}

// judge completes the result.
func (c *chaos) judge() error {
	report, findings := c.reader.finish(c.prod.made)
	for _, f := range findings {
		c.log.Error(f)
	}
	r := &c.result
	r.Records, r.Statements, r.Lost, r.Duplicated = report.Deposits, report.Statements, report.Lost, report.Duplicated
	r.Disordered, r.Wrong = report.Disordered, report.Wrong
	r.RecoveryP50, r.RecoveryP99, r.Recoveries = c.rec.quantile(0.5), c.rec.quantile(0.99), c.rec.count()
	r.RSSMax = measure.MB(c.rss.max.Load() << 10)
	r.JobFailures, r.Exits = c.fails.Load(), c.runner.unasked()
	var errs []error
	if r.Lost > 0 || r.Disordered > 0 || r.Wrong > 0 || r.Duplicated > 0 && c.o.mode == exactlyOnce {
		errs = append(errs, errors.New("the output is not right"))
	}
	if r.RSSMax > c.o.rssLimit {
		errs = append(errs, fmt.Errorf("tinyrunner took %v MiB, more than %v", r.RSSMax, c.o.rssLimit))
	}
	return errors.Join(errs...)
}

// close ends what setUp has started.
func (c *chaos) close() error {
	errs := []error{c.brokers.Wait()}
	if c.prod != nil {
		c.prod.close()
	}
	if c.reader != nil {
		c.reader.close()
	}
	if c.broker != nil {
		c.broker.Kill()
	}
	for _, f := range c.logs {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePorts finds ports that stay the same for the whole run.
func freePorts() (p ports, err error) {
	for _, n := range []*int{&p.job, &p.worker, &p.http, &p.s3, &p.pool} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return p, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() //nolint:errcheck // nothing was sent
		*n = l.Addr().(*net.TCPAddr).Port
	}
	return p, nil
}

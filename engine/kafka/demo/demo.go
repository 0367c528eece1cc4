package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"golang.org/x/sync/errgroup"

	"github.com/tinyrunner/tinyrunner/engine"
	"github.com/tinyrunner/tinyrunner/engine/plan"
	"github.com/tinyrunner/tinyrunner/engine/tiny"
)

// Config of a run.
type Config struct {
	// Duration ends the demo; 0: it runs until its context ends.
	Duration time.Duration
	// Cluster runs the job; nil: one of its own.
	Cluster *engine.Cluster
	// Out gets the figures, once a second, and the summary.
	Out io.Writer
	// Terminal redraws the figures in place, with the newest counts below them. Otherwise each is a line.
	Terminal bool
	// JSON makes the last line the summary as one JSON object.
	JSON   bool
	Logger *slog.Logger
}

const (
	// shownEvery is how often figures are shown.
	shownEvery = time.Second
	// endWait bounds each step of an orderly end: reading the rest, firing the last windows, reading the last counts.
	endWait = 20 * time.Second
)

// Run runs the demo until its duration is over or ctx ends, both of which are a good end. An error says that a part of it
// failed, or that the counts do not add up. It may only be called where beam.Init may.
func Run(ctx context.Context, c Config) (err error) {
	if !beam.Initialized() {
		beam.Init()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Cluster == nil {
		own, err := tiny.NewCluster(tiny.Options{Logger: c.Logger})
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		defer func() { err = errors.Join(err, own.Close()) }()
		c.Cluster = own.Cluster
	}
	d, err := start(ctx, c)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer d.close()
	s, err := d.run(ctx)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return s.print(c.Out, c.JSON)
}

// demo is a running demo.
type demo struct {
	Config
	job    *engine.Job
	gen    *generator
	counts *counts
	retain func()
	clean  []func()
}

func start(ctx context.Context, c Config) (d *demo, err error) {
	d = &demo{Config: c}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	dir, err := os.MkdirTemp("", "tinyrunner-demo-")
	if err != nil {
		return nil, fmt.Errorf("make directory for the broker: %w", err)
	}
	d.clean = append(d.clean, func() {
		if err := os.RemoveAll(dir); err != nil {
			c.Logger.Warn("remove the broker's directory", "error", err)
		}
	})
	broker, addrs, err := startBroker(dir)
	if err != nil {
		return nil, err
	}
	d.retain = broker.ApplyRetention
	d.clean = append(d.clean, broker.Close)
	if d.gen, err = newGenerator(addrs); err != nil {
		return nil, err
	}
	d.clean = append(d.clean, d.gen.close)
	if d.counts, err = newCounts(addrs); err != nil {
		return nil, err
	}
	d.clean = append(d.clean, d.counts.close)
	pipeline, err := tiny.Marshal(ctx, build(addrs))
	if err != nil {
		return nil, err
	}
	d.job, err = c.Cluster.Submit(engine.JobSpec{
		ID: fmt.Sprintf("demo-%d", time.Now().UnixMilli()), Name: "demo", Pipeline: pipeline, Open: tiny.Open(c.Logger),
	})
	if err != nil {
		return nil, err
	}
	d.clean = append(d.clean, func() { d.job.Cancel(); <-d.job.Done() })
	return d, nil
}

func (d *demo) close() {
	for i := len(d.clean) - 1; i >= 0; i-- {
		d.clean[i]()
	}
}

// run drives all parts and joins them. The generator ends first, the reader of counts last.
func (d *demo) run(ctx context.Context) (Summary, error) {
	generating := ctx
	if d.Duration > 0 {
		var cancel context.CancelFunc
		generating, cancel = context.WithTimeout(ctx, d.Duration)
		defer cancel()
	}
	// The end is orderly also when ctx has ended: its steps have a time limit of their own.
	g, running := errgroup.WithContext(context.WithoutCancel(ctx))
	counting, stopCounting := context.WithCancel(running)
	defer stopCounting()
	figures := &figures{out: d.Out, terminal: d.Terminal, counts: d.counts}
	var summary Summary
	g.Go(func() error { return d.counts.run(counting) })
	g.Go(func() error { return d.watchJob(counting) })
	g.Go(func() error {
		defer stopCounting()
		generated := make(chan error, 1)
		both, stop := context.WithCancel(generating)
		defer stop()
		context.AfterFunc(running, stop) // another part failed
		go func() { generated <- d.gen.run(both, &flow{read: d.read}, d.retain) }()
		err := d.display(figures, generated)
		if err != nil || running.Err() != nil {
			return err
		}
		summary = figures.summary()
		summary.expected = d.gen.failed.Load()
		summary.got, err = d.finish(running)
		return err
	})
	err := g.Wait()
	return summary, err
}

// display shows figures until the generator has ended, and returns its error.
func (d *demo) display(f *figures, generated <-chan error) error {
	t := time.NewTicker(shownEvery)
	defer t.Stop()
	for {
		select {
		case err := <-generated:
			return err
		case <-t.C:
			f.show(d.sample())
		}
	}
}

// watchJob fails when the job does.
func (d *demo) watchJob(ctx context.Context) error {
	st, err := d.job.Wait(ctx)
	if ctx.Err() != nil || st == jobpb.JobState_DONE || st == jobpb.JobState_DRAINED {
		return nil
	}
	if err == nil {
		err = errors.New("by another")
	}
	return fmt.Errorf("job is %v: %w", st, err)
}

// finish waits until all records are read, drains the job, and returns the failures that were counted.
func (d *demo) finish(ctx context.Context) (int64, error) {
	if err := until(ctx, "read all records", func() bool { return d.read() >= d.gen.sent.Load() }); err != nil {
		return 0, err
	}
	if err := d.job.Drain(); err != nil {
		return 0, fmt.Errorf("drain job: %w", err)
	}
	waiting, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	if _, err := d.job.Wait(waiting); err != nil {
		return 0, fmt.Errorf("drain job: %w", err)
	}
	want := d.gen.failed.Load()
	err := until(ctx, "count all failures", func() bool { return d.counts.sum() >= want })
	got := d.counts.sum()
	if err == nil && got == want {
		return got, nil
	}
	return got, fmt.Errorf("%d failed requests were sent, but %d were counted: %w", want, got, errors.Join(err))
}

// until waits for a condition, for at most endWait.
func until(ctx context.Context, what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// read returns how many records the pipeline has read and committed.
func (d *demo) read() int64 {
	for _, s := range d.job.Overview().Stages {
		if s.Kind == plan.Source.String() {
			return s.ElementsOut
		}
	}
	return 0
}

// sample looks at the job.
func (d *demo) sample() sample {
	s := sample{at: time.Now(), rss: rss(), checkpoints: d.job.Checkpoints().Counts.Completed}
	for _, st := range d.job.Overview().Stages {
		s.queued += st.QueuedBytes
		switch st.Kind {
		case plan.Source.String():
			s.records = st.ElementsOut
		case plan.Sink.String():
			s.lag = s.at.Sub(time.UnixMilli(max(st.InputWatermark, d.job.Created().UnixMilli())))
		}
	}
	if sent := d.gen.sent.Load(); sent > 0 {
		s.bytes = int64(float64(s.records) * float64(d.gen.sentBytes.Load()) / float64(sent))
	}
	return s
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/benchmarks/internal/measure"
	"github.com/tinyrunner/tinyrunner/engine/kafka"
	"github.com/tinyrunner/tinyrunner/engine/plan"
	"github.com/tinyrunner/tinyrunner/engine/tiny"
)

func init() { //nolint:gochecknoinits // Beam finds functions by name, in a registry that must be filled before beam.Init
	register.Function3x0(keep)
	register.Emitter2[[]byte, []byte]()
}

// kept is the filter, the same for both sides.
func kept(value []byte) bool { return len(value) > 0 && value[0] == '!' }

func keep(key, value []byte, emit func([]byte, []byte)) {
	if kept(value) {
		emit(key, value)
	}
}

// progress watches records reach the output topic.
type progress struct {
	total      int64 // to come
	from, till time.Time
}

// at takes note of the number of records that have arrived, and says whether that is all.
func (p *progress) at(n int64) bool {
	now := time.Now()
	if p.from.IsZero() && n*100 >= p.total*5 {
		p.from = now
	}
	if p.till.IsZero() && n*100 >= p.total*95 {
		p.till = now
	}
	return n >= p.total
}

// runSide measures one side and prints its line.
func runSide(ctx context.Context, s settings, name string) (err error) {
	side, ok := sides()[name]
	if !ok {
		return fmt.Errorf("%q is not a side: use tinyrunner, bare or broker", name)
	}
	if s.Profile != "" {
		stop, err := measure.Profile(s.Profile)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	// Both sides run with the settings of "tinyrunner serve --memory 250MiB".
	debug.SetGCPercent(100)
	debug.SetMemoryLimit(190 << 20)
	p := &progress{total: s.Records / keepEvery}
	if err := side(ctx, s, p); err != nil {
		return err
	}
	u, err := measure.Self()
	if err != nil {
		return err
	}
	mb := float64(s.Records) * float64(s.Value) / 1e6
	return measure.Print(os.Stdout, result{
		Benchmark: "kafkafilter", Side: name, Records: s.Records, Value: s.Value,
		MBPerS: measure.Round(mb * 0.9 / p.till.Sub(p.from).Seconds()),
		CPU:    measure.Round(u.CPU.Seconds()), CPUPerGB: float64(int(u.CPU.Seconds()/mb*1e5)) / 100, RSSMax: measure.MB(u.PeakRSS),
	})
}

// runTinyrunner runs the pipeline until the sink has committed all that is kept.
func runTinyrunner(ctx context.Context, s settings, done *progress) (err error) {
	beam.Init()
	cluster, err := tiny.NewCluster(tiny.Options{Slots: s.Slots, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	p, root := beam.NewPipelineWithRoot()
	lines := kafka.Read(root, s.Brokers, []string{inTopic})
	kafka.Write(root, s.Brokers, outTopic, beam.ParDo(root, keep, lines))
	job, err := cluster.Submit(ctx, p, "kafkafilter")
	if err != nil {
		return err
	}
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-job.Done():
			return fmt.Errorf("job ended %v: %w", job.State(), job.Err())
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		for _, st := range job.Overview().Stages {
			if st.Kind == plan.Sink.String() && done.at(st.ElementsIn) {
				return nil
			}
		}
	}
}

// runBare polls, filters and produces, with the settings that do best.
func runBare(ctx context.Context, s settings, done *progress) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(s.Brokers),
		kgo.ConsumeTopics(inTopic),
		kgo.FetchMaxBytes(8<<20),
		kgo.FetchMaxPartitionBytes(1<<20),
		kgo.DefaultProduceTopic(outTopic),
		kgo.ProducerLinger(5*time.Millisecond),
		kgo.DisableClientMetrics(),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	var acknowledged atomic.Int64
	failed := make(chan error, 1)
	promise := func(_ *kgo.Record, err error) {
		if err != nil {
			select {
			case failed <- err:
			default:
			}
		}
		acknowledged.Add(1)
	}
	for !done.at(acknowledged.Load()) {
		waiting, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		fetches := client.PollFetches(waiting)
		cancel()
		if err := fetches.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if kept(r.Value) {
				client.Produce(ctx, &kgo.Record{Key: r.Key, Value: r.Value}, promise)
			}
		})
		select {
		case err := <-failed:
			return err
		default:
		}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	topic      = "work"
	partitions = 4
	// backlog is how many records wait when the job begins. Each takes ten milliseconds of a slot: more than the run lasts.
	backlog = 60_000
	// recordBytes is large enough for the job's buffers, of pool bytes, to hold little of the backlog.
	recordBytes, pool = 1 << 10, 4 << 20
)

// driveAutoscaler gives a job with one slot more work than that can do. The library must find it out and ask for more slots.
func driveAutoscaler(ctx context.Context, r *run) error {
	brokers, stop, err := fillTopic(ctx)
	if err != nil {
		return err
	}
	defer stop()
	s, err := r.startServer(ctx, 1, fmt.Sprintf("--buffer_pool=%d", pool))
	if err != nil {
		return err
	}
	defer s.close()
	job, err := s.submit(ctx, "backlog", "backlog.py", brokers, topic, fmt.Sprintf("localhost:%d", s.ports["job_port"]))
	if err != nil {
		return err
	}
	if !r.table.step("the backlog is a metric of the source", func() (string, error) { return pending(ctx, s, job) }) {
		return nil
	}
	var asked int
	if r.table.step("flink-autoscaler asks for more slots", func() (detail string, err error) {
		detail, asked, err = autoscale(ctx, s)
		return detail, err
	}) {
		r.table.step("the job runs in them", func() (string, error) { return rescaled(ctx, s, job, asked) })
	}
	return nil
}

// fillTopic starts an embedded Kafka with records in it.
func fillTopic(ctx context.Context) (brokers string, stop func(), err error) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topic))
	if err != nil {
		return "", nil, fmt.Errorf("start embedded kafka: %w", err)
	}
	brokers = strings.Join(c.ListenAddrs(), ",")
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	if err != nil {
		c.Close()
		return "", nil, err
	}
	defer client.Close()
	failed := make(chan error, 1)
	for k := range backlog {
		client.Produce(ctx, &kgo.Record{Value: fmt.Appendf(nil, "%0*d", recordBytes, k)}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default: // one is enough
				}
			}
		})
	}
	err = client.Flush(ctx)
	select {
	case perr := <-failed:
		err = errors.Join(err, perr)
	default:
	}
	if err != nil {
		c.Close()
		return "", nil, fmt.Errorf("fill topic: %w", err)
	}
	return brokers, c.Close, nil
}

// pending waits until the source says how many records wait.
func pending(ctx context.Context, s *server, job string) (string, error) {
	var n float64
	err := within(ctx, time.Minute, func() (bool, error) {
		var d details
		if err := s.get(ctx, "/jobs/"+job, &d); err != nil {
			return false, err
		}
		for _, v := range d.Vertices {
			path := "/jobs/" + job + "/vertices/" + v.ID + "/subtasks/metrics"
			var names []struct{ ID string }
			if err := s.get(ctx, path, &names); err != nil {
				return false, err
			}
			for _, m := range names {
				if !strings.HasSuffix(m.ID, ".pendingRecords") {
					continue
				}
				var sums []struct{ Sum float64 }
				if err := s.get(ctx, path+"?agg=sum&get="+m.ID, &sums); err != nil {
					return false, err
				}
				if len(sums) == 1 && sums[0].Sum > 0 && sums[0].Sum <= backlog {
					n = sums[0].Sum
					return true, nil
				}
			}
		}
		return false, nil
	})
	return fmt.Sprintf("%.0f records wait", n), err
}

// autoscale runs the library until it has decided. Its windows are short: it decides after half a minute or so.
func autoscale(ctx context.Context, s *server) (detail string, slots int, err error) {
	r := s.run
	jars := []string{filepath.Join(r.tools.autoscaler, "classes"), filepath.Join(r.tools.autoscaler, "jars", "*"), filepath.Join(r.tools.flink, "lib", "*")}
	p, err := r.start(ctx, r.table.client+"-library", nil, "java", "-cp", strings.Join(jars, ":"),
		"-Dlog4j.configurationFile="+filepath.Join(r.tools.flink, "conf", "log4j-console.properties"),
		"Autoscale", "http://"+s.address(), "job.autoscaler.enabled=true", "job.autoscaler.stabilization.interval=5s",
		"job.autoscaler.metrics.window=20s", "job.autoscaler.restart.time=1s", "job.autoscaler.catch-up.duration=1m",
		"job.autoscaler.vertex.max-parallelism=4")
	if err != nil {
		return "", 0, err
	}
	defer p.stop()
	out, err := p.wait(ctx)
	if err != nil {
		return "", 0, fmt.Errorf("%w: %s", err, p.tail())
	}
	for _, m := range regexp.MustCompile(`(?:upperBound|max)=(\d+)`).FindAllStringSubmatch(regexp.MustCompile(`(?m)^rescaled: .*$`).FindString(out), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return "", 0, err
		}
		slots = max(slots, n)
	}
	if slots < 2 {
		return "", 0, fmt.Errorf("it asked for %d slots: %s", slots, p.tail())
	}
	return fmt.Sprintf("for %d", slots), slots, nil
}

// rescaled waits until all stages of the job have the slots.
func rescaled(ctx context.Context, s *server, job string, slots int) (string, error) {
	var d details
	err := within(ctx, 30*time.Second, func() (bool, error) {
		if err := s.get(ctx, "/jobs/"+job, &d); err != nil {
			return false, err
		}
		for _, v := range d.Vertices {
			if v.Parallelism != slots {
				return false, nil
			}
		}
		return d.State == "RUNNING" && len(d.Vertices) > 0, nil
	})
	if err != nil {
		return "", fmt.Errorf("%w: %+v", err, d)
	}
	return fmt.Sprintf("%d stages have %d subtasks", len(d.Vertices), slots), nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// driveSuite runs the conformance suite, with and without the prefix that Java clients use. It needs a job that has a checkpoint,
// one that it may rescale and stop, and one that is finished; and a server with one slot, as it rescales to two. That server makes
// no checkpoints by itself: one in progress has fewer fields than the samples, at Flink as well.
func driveSuite(ctx context.Context, r *run) error {
	script := filepath.Join(r.suites, "flink_rest", "rest_conformance.py")
	if _, err := os.Stat(script); err != nil || r.suites == "" {
		r.table.row("rest", "rest_conformance.py", "left out: there is no "+script)
		return nil
	}
	for _, prefix := range []string{"", "/v1"} {
		if err := suite(ctx, r, script, prefix); err != nil {
			return err
		}
	}
	return nil
}

func suite(ctx context.Context, r *run, script, prefix string) error {
	s, err := r.startServer(ctx, 1, "--checkpoint_interval=1h")
	if err != nil {
		return err
	}
	defer s.close()
	ids := make(map[string]string)
	for _, job := range []struct{ name, pipeline string }{{"live", "live.py"}, {"victim", "live.py"}, {"finished", "short.py"}} {
		if ids[job.name], err = s.submit(ctx, job.name, job.pipeline); err != nil {
			return err
		}
	}
	if err := s.state(ctx, ids["finished"], "FINISHED"); err != nil {
		return err
	}
	if err := s.checkpointed(ctx, ids["live"]); err != nil {
		return err
	}
	r.table.step(strings.TrimSpace("rest_conformance.py "+prefix), func() (string, error) {
		out, err := output(ctx, r.tmp, []string{"PYTHONDONTWRITEBYTECODE=1"}, r.python, script, "http://"+s.address(), ids["live"], "--victim", ids["victim"],
			"--finished", ids["finished"], "--savepoint-dir", s.savepoints(), "--prefix", prefix)
		sum := regexp.MustCompile(`(?m)^\d+ passed, \d+ failed$`).FindString(out)
		if failures := regexp.MustCompile(`(?m)^FAIL.*$`).FindAllString(out, -1); len(failures) > 0 {
			return "", fmt.Errorf("%s\n%s", sum, strings.Join(failures, "\n"))
		}
		if err == nil && sum == "" {
			err = errors.New("it printed no sum")
		}
		return sum, err
	})
	return nil
}

// checkpointed makes a checkpoint of a job and waits until there is a complete one and none in progress.
func (s *server) checkpointed(ctx context.Context, job string) error {
	if err := s.call(ctx, http.MethodPost, "/jobs/"+job+"/checkpoints", map[string]string{}, new(any)); err != nil {
		return err
	}
	err := within(ctx, 30*time.Second, func() (bool, error) {
		var c checkpoints
		err := s.get(ctx, "/jobs/"+job+"/checkpoints", &c)
		return c.Counts["completed"] > 0 && c.Counts["in_progress"] == 0, err
	})
	if err != nil {
		return fmt.Errorf("job %s makes no checkpoint: %w", job, err)
	}
	return nil
}

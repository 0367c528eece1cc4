package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// text is what is counted.
const text = "to be or not to be\nthat is the question\nwhether tis nobler in the mind to suffer\n"

// driveUberJar runs Beam's own example, as for a Flink cluster. The jar that Beam's client adds the pipeline to is Flink's own
// large one: Beam's job server is not in every mirror of Maven Central, nothing in it is used here, and this one has its size.
func driveUberJar(ctx context.Context, r *run) error {
	s, err := r.startServer(ctx, 2)
	if err != nil {
		return err
	}
	defer s.close()
	pool, endpoint, err := startPool(ctx, r)
	if err != nil {
		return err
	}
	defer pool.stop()
	r.table.step("wordcount --runner=FlinkRunner --flink_submit_uber_jar", func() (string, error) { return wordCount(ctx, s, endpoint) })
	r.table.step("the job as Flink's clients see it", func() (string, error) { return submitted(ctx, s) })
	return nil
}

// startPool starts Beam's pool of workers, which a cluster would have beside it.
func startPool(ctx context.Context, r *run) (*process, string, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, "", err
	}
	p, err := r.start(ctx, r.table.client+"-pool", []string{"PATH=" + filepath.Dir(r.python) + ":" + os.Getenv("PATH")},
		r.python, "-m", "apache_beam.runners.worker.worker_pool_main", "--service_port="+strconv.Itoa(port))
	if err != nil {
		return nil, "", err
	}
	address := fmt.Sprintf("localhost:%d", port)
	if err := within(ctx, 30*time.Second, func() (bool, error) { return dials(ctx, address), nil }); err != nil {
		p.stop()
		return nil, "", fmt.Errorf("start pool: %w: %s", err, p.tail())
	}
	return p, address, nil
}

// wordCount runs the example and looks at every count.
func wordCount(ctx context.Context, s *server, pool string) (string, error) {
	r := s.run
	in, out := filepath.Join(s.data, "text"), filepath.Join(s.data, "counts")
	if err := os.WriteFile(in, []byte(text), 0o644); err != nil {
		return "", err
	}
	p, err := r.start(ctx, r.table.client+"-wordcount", []string{"TMPDIR=" + s.data},
		r.python, "-m", "apache_beam.examples.wordcount", "--input="+in, "--output="+out, "--runner=FlinkRunner", "--flink_submit_uber_jar",
		"--flink_master="+s.address(), "--flink_job_server_jar="+filepath.Join(r.tools.flink, "lib", "flink-dist-"+flinkVersion+".jar"),
		"--environment_type=EXTERNAL", "--environment_config="+pool, "--job_name=wordcount")
	if err != nil {
		return "", err
	}
	defer p.stop()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if _, err := p.wait(ctx); err != nil {
		return "", fmt.Errorf("%w: %s", err, p.tail())
	}
	got, want := make(map[string]int), make(map[string]int)
	for _, word := range strings.Fields(text) {
		want[word]++
	}
	files, err := filepath.Glob(out + "*")
	if err != nil {
		return "", err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		for _, m := range regexp.MustCompile(`(?m)^(\S+): (\d+)$`).FindAllStringSubmatch(string(data), -1) {
			n, err := strconv.Atoi(m[2])
			if err != nil {
				return "", err
			}
			got[m[1]] += n
		}
	}
	if !maps.Equal(got, want) {
		return "", fmt.Errorf("the counts are %v and not %v", got, want)
	}
	return fmt.Sprintf("%d words have the right counts", len(want)), nil
}

// submitted: one job ran, and the client has removed its jar.
func submitted(ctx context.Context, s *server) (string, error) {
	var o overview
	var jars struct{ Files []any }
	if err := errors.Join(s.get(ctx, "/jobs/overview", &o), s.get(ctx, "/jars", &jars)); err != nil {
		return "", err
	}
	if len(o.Jobs) != 1 || o.Jobs[0].State != "FINISHED" || len(jars.Files) != 0 {
		return "", fmt.Errorf("jobs %+v, jars %v", o.Jobs, jars.Files)
	}
	return "FINISHED, and its jar is removed", nil
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// server is a tinyrunner of its own for one client. It makes checkpoints every two seconds.
type server struct {
	*process
	run   *run
	data  string // directory: data and checkpoints
	ports map[string]int
	jobs  []*process // that have submitted a job and serve its harness
}

// startServer starts a tinyrunner and waits until it is ready. close must be called.
func (r *run) startServer(ctx context.Context, slots int, flags ...string) (*server, error) {
	data, err := os.MkdirTemp(r.tmp, "data-")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	s := &server{run: r, data: data}
	args := append([]string{
		r.tinyrunner, "serve", "--job_port=0", "--worker_port=0", "--http_port=0", "--data_dir=" + filepath.Join(data, "data"),
		fmt.Sprintf("--slots=%d", slots), "--checkpoint_interval=2s", "--checkpoints=file://" + filepath.Join(data, "checkpoints"), "--stop_grace=5s",
	}, flags...)
	s.process, err = r.start(ctx, r.table.client+"-tinyrunner", nil, args...)
	if err != nil {
		return nil, err
	}
	err = within(ctx, 20*time.Second, func() (bool, error) {
		text, err := os.ReadFile(filepath.Join(data, "data", "ports.json"))
		if err != nil || json.Unmarshal(text, &s.ports) != nil {
			select {
			case <-s.ended:
				return false, fmt.Errorf("tinyrunner ended: %s", s.tail())
			default:
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("start tinyrunner: %w", err)
	}
	return s, nil
}

// close ends the server and all that has to do with it.
func (s *server) close() {
	s.stop()
	for _, j := range s.jobs {
		j.stop()
	}
}

// address is where the REST API is.
func (s *server) address() string { return fmt.Sprintf("localhost:%d", s.ports["http_port"]) }

// savepoints is a directory for savepoints, as a URL.
func (s *server) savepoints() string { return "file://" + filepath.Join(s.data, "savepoints") }

// submit runs a pipeline of the directory pipelines under a name and waits until the job of that name runs. Its process is the
// harness, too (LOOPBACK).
func (s *server) submit(ctx context.Context, name, pipeline string, args ...string) (job string, err error) {
	all := append([]string{s.run.python, filepath.Join(s.run.source, "pipelines", pipeline)}, args...)
	all = append(all, "--job_name="+name, "--runner=PortableRunner", "--environment_type=LOOPBACK",
		fmt.Sprintf("--job_endpoint=localhost:%d", s.ports["job_port"]))
	p, err := s.run.start(ctx, s.run.table.client+"-"+name, nil, all...)
	if err != nil {
		return "", err
	}
	s.jobs = append(s.jobs, p)
	err = within(ctx, time.Minute, func() (bool, error) {
		var state string
		if job, state, err = s.find(ctx, name); err != nil || job == "" {
			return false, err
		}
		return state != "INITIALIZING", nil
	})
	if err != nil {
		return "", fmt.Errorf("job %s did not start: %w: %s", name, err, p.tail())
	}
	return job, nil
}

type overview struct {
	Jobs []struct{ JID, Name, State string }
}

// find returns id and state of the job of a name; empty if there is none.
func (s *server) find(ctx context.Context, name string) (job, state string, err error) {
	var o overview
	if err := s.get(ctx, "/jobs/overview", &o); err != nil {
		return "", "", err
	}
	for _, j := range o.Jobs {
		if j.Name == name {
			return j.JID, j.State, nil
		}
	}
	return "", "", nil
}

// state waits until a job is in a state.
func (s *server) state(ctx context.Context, job, want string) error {
	var got struct{ Status string }
	err := within(ctx, 30*time.Second, func() (bool, error) {
		err := s.get(ctx, "/jobs/"+job+"/status", &got)
		return got.Status == want, err
	})
	if err != nil {
		return fmt.Errorf("job %s is %s and not %s: %w", job, got.Status, want, err)
	}
	return nil
}

// details is what is used of a job's description.
type details struct {
	Name     string
	State    string
	Vertices []struct {
		ID, Name    string
		Parallelism int
		Metrics     map[string]any
	}
}

// get reads a call's JSON.
func (s *server) get(ctx context.Context, path string, into any) error {
	return s.call(ctx, http.MethodGet, path, nil, into)
}

func (s *server) call(ctx context.Context, method, path string, body, into any) (err error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.address()+path, reader)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, strings.TrimSpace(string(text)))
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// within asks again and again until the answer is true, for so long at most.
func within(ctx context.Context, d time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %s", d)
		}
	}
}

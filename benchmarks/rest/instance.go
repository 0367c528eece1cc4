package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// instance is a tinyrunner with one job.
type instance struct {
	dir    string
	cmd    *exec.Cmd
	ended  chan struct{}
	client *http.Client
	base   string // URL
	job    string
}

// start starts tinyrunner with the arguments, in which DIR is a directory of its own, and waits until a job runs. close must be
// called.
func start(ctx context.Context, s settings, args ...string) (_ *instance, err error) {
	dir, err := os.MkdirTemp("", "tinyrunner-rest-")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	i := &instance{
		dir: dir, ended: make(chan struct{}),
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: s.clients}},
	}
	for k := range args {
		args[k] = strings.ReplaceAll(args[k], "DIR", dir)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	i.cmd = exec.Command(s.tinyrunner, args...)
	i.cmd.Stdout, i.cmd.Stderr = log, log
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := i.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start tinyrunner: %w", err), log.Close(), os.RemoveAll(dir))
	}
	go func() {
		_ = i.cmd.Wait() // it is ended by a signal
		_ = log.Close()
		close(i.ended)
	}()
	if err := i.waitForJob(ctx); err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, errors.Join(fmt.Errorf("%w: %s", err, text[max(0, len(text)-2000):]), i.close())
	}
	return i, nil
}

// close ends the process with all that it has started.
func (i *instance) close() error {
	_ = i.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-i.ended:
	case <-time.After(20 * time.Second):
	}
	_ = syscall.Kill(-i.cmd.Process.Pid, syscall.SIGKILL) // the harness, if it is left
	<-i.ended
	i.client.CloseIdleConnections()
	return os.RemoveAll(i.dir)
}

func (i *instance) waitForJob(ctx context.Context) error {
	for range 600 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-i.ended:
			return errors.New("tinyrunner ended")
		case <-time.After(200 * time.Millisecond):
		}
		if i.base == "" {
			var ports map[string]int
			text, err := os.ReadFile(filepath.Join(i.dir, "data", "ports.json"))
			if err != nil || json.Unmarshal(text, &ports) != nil {
				continue
			}
			i.base = fmt.Sprintf("http://localhost:%d", ports["http_port"])
		}
		var o struct{ Jobs []struct{ JID, State string } }
		if err := i.get(ctx, "/jobs/overview", &o); err != nil {
			return err
		}
		if len(o.Jobs) > 0 && o.Jobs[0].State == "RUNNING" {
			i.job = o.Jobs[0].JID
			return nil
		}
	}
	return errors.New("no job runs after two minutes")
}

// get reads a call's JSON.
func (i *instance) get(ctx context.Context, path string, into any) error {
	text, err := i.read(ctx, path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func (i *instance) read(ctx context.Context, path string) (text []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, i.base+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := i.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if text, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, resp.Status, text)
	}
	return text, err
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// driveWebUI opens the pages on a server with a live job, a finished and a failed one.
func driveWebUI(ctx context.Context, r *run) error {
	s, err := r.startServer(ctx, 2)
	if err != nil {
		return err
	}
	defer s.close()
	ids := make(map[string]string)
	for _, job := range [][]string{{"live", "live.py"}, {"finished", "short.py"}, {"failed", "short.py", "--fail"}} {
		if ids[job[0]], err = s.submit(ctx, job[0], job[1], job[2:]...); err != nil {
			return err
		}
	}
	if err := errors.Join(s.state(ctx, ids["finished"], "FINISHED"), s.state(ctx, ids["failed"], "FAILED"), s.checkpointed(ctx, ids["live"])); err != nil {
		return err
	}
	if err := s.makeSavepoint(ctx, ids["live"]); err != nil {
		return err
	}
	address, stop, err := serveUI(ctx, filepath.Join(r.tools.flink, "web"), s.address())
	if err != nil {
		return err
	}
	defer stop()
	return s.openPages(ctx, address, ids)
}

func (s *server) makeSavepoint(ctx context.Context, job string) error {
	var trigger struct {
		ID string `json:"request-id"`
	}
	body := map[string]string{"target-directory": s.savepoints()}
	if err := s.call(ctx, http.MethodPost, "/jobs/"+job+"/savepoints", body, &trigger); err != nil {
		return err
	}
	return within(ctx, 30*time.Second, func() (bool, error) {
		var status struct{ Status struct{ ID string } }
		err := s.get(ctx, "/jobs/"+job+"/savepoints/"+trigger.ID, &status)
		return status.Status.ID == "COMPLETED", err
	})
}

// serveUI serves the UI's files, and has everything else from the server.
func serveUI(ctx context.Context, files, server string) (address string, stop func(), err error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "localhost:0")
	if err != nil {
		return "", nil, fmt.Errorf("listen: %w", err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: server})
	static := http.FileServer(http.Dir(files))
	h := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, err := os.Stat(filepath.Join(files, filepath.FromSlash(req.URL.Path)))
		if req.URL.Path == "/" || err == nil && !info.IsDir() {
			static.ServeHTTP(w, req)
			return
		}
		proxy.ServeHTTP(w, req)
	})}
	ended := make(chan struct{})
	go func() {
		_ = h.Serve(l) // it returns when it is closed
		close(ended)
	}()
	return l.Addr().String(), func() {
		_ = h.Close()
		<-ended
	}, nil
}

// openPages makes each page a row of the table.
func (s *server) openPages(ctx context.Context, address string, ids map[string]string) error {
	r := s.run
	pictures := filepath.Join(filepath.Dir(r.dir), "screenshots", "flink-ui")
	if err := errors.Join(os.RemoveAll(pictures), os.MkdirAll(pictures, 0o755)); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	jobs, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	cmd := command(ctx, r.tools.webui, "node", "pages.mjs", r.tools.chromium, "http://"+address, pictures)
	cmd.Env = append(os.Environ(), "TMPDIR="+r.tmp)
	cmd.Stdin = strings.NewReader(string(jobs))
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start node: %w", err)
	}
	defer reap(cmd)
	for lines := json.NewDecoder(out); ; {
		var p struct{ Page, Error string }
		if err := lines.Decode(&p); err != nil {
			break // what is wrong says the exit code
		}
		if p.Error != "" {
			r.table.fail(p.Page, errors.New(p.Error))
		} else {
			r.table.ok(p.Page, "")
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("pages.mjs: %w: %s", err, problems.String())
	}
	return nil
}

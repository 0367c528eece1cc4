package fnapi

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

func processEnv(command string, env map[string]string) *pipepb.Environment {
	payload, _ := proto.Marshal(&pipepb.ProcessPayload{Command: command, Env: env})
	return &pipepb.Environment{Urn: urnProcess, Payload: payload}
}

// script writes a program in place of a boot program.
func script(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "boot")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestProcessIsStartedAndEnded: a child gets the arguments of a boot program and its environment; Close ends it and what it
// has started.
func TestProcessIsStartedAndEnded(t *testing.T) {
	dir := t.TempDir()
	boot := script(t, `echo "$@" > $DIR/args.tmp; sleep 100 & echo $! > $DIR/child; mv $DIR/args.tmp $DIR/args; wait`)
	s := NewServer(Config{Endpoint: "localhost:1"})
	env, err := s.Open(t.Context(), EnvironmentConfig{ID: "e1", Job: "j1", Proto: processEnv(boot, map[string]string{"DIR": dir})})
	if err != nil {
		t.Fatal(err)
	}
	var args []byte
	for deadline := time.Now().Add(time.Minute); len(args) == 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		args, _ = os.ReadFile(filepath.Join(dir, "args"))
	}
	const want = " --control_endpoint=localhost:1 --logging_endpoint=localhost:1 --artifact_endpoint=localhost:1 --provision_endpoint=localhost:1\n"
	if got := string(args); !strings.HasPrefix(got, "--id=j1-e1-") || !strings.HasSuffix(got, want) {
		t.Errorf("arguments %q, want --id=j1-e1-N%s", got, want)
	}
	data, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	if err := env.Close(); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(time.Minute); syscall.Kill(pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what the child has started lives on")
		}
	}
}

// TestProcessThatFails: the error says how the child ended and what it said, and neither it nor the log has the key that admits
// the child.
func TestProcessThatFails(t *testing.T) {
	var log bytes.Buffer
	s := NewServer(Config{Endpoint: "localhost:1", WorkerWait: time.Second, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	boot := script(t, `echo "no such interpreter ($1)"; exit 3`)
	env, err := s.Open(t.Context(), EnvironmentConfig{ID: "e1", Job: "j1", Proto: processEnv(boot, nil)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = env.Worker(t.Context(), 0)
	const last = "no such interpreter (--id=j1-e1-1)"
	if err == nil || !strings.Contains(err.Error(), "exit status 3, and said last: "+last) {
		t.Errorf("error %v, want one with the exit status and the last line", err)
	}
	if err := env.Close(); err != nil {
		t.Error(err)
	}
	if text := log.String(); !strings.Contains(text, `msg="`+last+`" job=j1 worker=j1-e1-1`) {
		t.Errorf("the log does not have the child's last line:\n%s", text)
	}
}

package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A schedule has as many faults of each kind as the number of kills asks for.
func TestSchedule(t *testing.T) {
	for _, n := range []int{1, 5, 50, 200} {
		kills, of := 0, map[target]int{}
		for _, f := range schedule(rand.New(rand.NewPCG(uint64(n), 1)), n) {
			kills += f.kills()
			of[f.target]++
		}
		if kills != n || of[harness] != max(1, n/10) || of[store] != max(1, n/10) || of[broker] != max(1, n/20) {
			t.Errorf("%d: %d kills of tinyrunner, %v", n, kills, of)
		}
	}
}

func TestRecovery(t *testing.T) {
	var r recovery
	at := func(ms int64) time.Time { return time.UnixMilli(ms) }
	r.output(at(0)) // nothing was killed
	r.kill(at(100))
	r.output(at(150)) // of the old process
	r.started()
	r.output(at(300))
	r.output(at(400))
	r.kill(at(1000)) // too early to count
	r.started()
	r.kill(at(1500))
	r.started()
	r.output(at(1600))
	if r.count() != 2 || r.quantile(0) != 100 || r.quantile(0.99) != 200 {
		t.Errorf("%v", r.times)
	}
}

// Lines are found however they are cut, once somebody waits for them.
func TestLines(t *testing.T) {
	var out bytes.Buffer
	var heard []string
	l := &lines{to: &out, on: func(s string) { heard = append(heard, s) }}
	io.WriteString(l, "early target\n")
	found, cancel := l.expect("target")
	defer cancel()
	other, forget := l.expect("other")
	forget()
	io.WriteString(l, "a tar")
	select {
	case <-found:
		t.Error("found what was not there")
	default:
	}
	io.WriteString(l, "get!\nother\n")
	<-found
	select {
	case <-other:
		t.Error("found what nobody waits for")
	default:
	}
	if got := strings.Join(heard, "|"); got != "early target|a target!|other" || out.Len() != 29 {
		t.Errorf("%q, %d bytes", got, out.Len())
	}
}

// A service comes back when it is killed and when it ends by itself, and is gone at the end.
func TestService(t *testing.T) {
	started := make(chan struct{}, 10)
	runs := 0
	s := &service{name: "sleep", out: io.Discard, log: slog.New(slog.DiscardHandler), started: func() { started <- struct{}{} }}
	s.command = func() (*exec.Cmd, error) {
		if runs++; runs == 2 {
			return exec.Command("false"), nil
		}
		return exec.Command("sleep", "60"), nil
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.run(ctx) }()
	<-started
	if !s.kill(0) {
		t.Error("it does not run")
	}
	<-started
	<-started
	pid := s.pid()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, ok := peak(pid); ok {
		t.Error("it still runs")
	}
	if s.unasked() != 1 {
		t.Errorf("%d ended by themselves", s.unasked())
	}
}

func TestPeak(t *testing.T) {
	if kib, ok := peak(os.Getpid()); !ok || kib < 1000 || kib > 10<<20 {
		t.Errorf("%d, %v", kib, ok)
	}
}

func TestNewObject(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("log/1")
	write("files/1")
	if newObject(t.Context(), dir, "/log/", 20*time.Millisecond) {
		t.Error("found what is not new")
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		os.WriteFile(filepath.Join(dir, "log", "2"), nil, 0o644)
	}()
	if !newObject(t.Context(), dir, "/log/", 5*time.Second) {
		t.Error("not found")
	}
}

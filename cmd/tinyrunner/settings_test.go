package main

import (
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// parse reads flags and an environment into settings.
func parse(t *testing.T, env map[string]string, args ...string) settings {
	t.Helper()
	var s settings
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	s.register(fs, nil)
	if err := fs.Parse(doubleDashes(args)); err != nil {
		t.Fatal(err)
	}
	if err := s.complete(fs, func(k string) (string, bool) { v, ok := env[k]; return v, ok }); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSettings(t *testing.T) {
	d := parse(t, nil)
	want := settings{
		host: "127.0.0.1", jobPort: 8099, workerPort: 8098, webPort: 8081, serveHTTP: true,
		memory: 250 << 20, bufferPool: 32 << 20, workerWait: 2 * time.Minute, logFormat: "auto", logLevel: "info",
		stopGrace: 30 * time.Second, checkpointInterval: 10 * time.Second, checkpointRetain: 3,
		tlsPorts: "rest,job", maxBody: 1 << 20, maxJar: 1 << 30,
	}
	if d != want {
		t.Errorf("defaults %+v", d)
	}
	s := parse(t, map[string]string{"TINYRUNNER_JOB_PORT": "1", "TINYRUNNER_SLOTS": "3", "TINYRUNNER_SERVE_HTTP": "false"},
		"-job_port", "2", "--web-port=3", "-idle_shutdown_timeout", "-1", "-log_kind=dev", "--memory", "1 GB")
	if s.jobPort != 2 || s.slots != 3 || s.serveHTTP || s.webPort != 3 || s.idleShutdown >= 0 || s.logFormat != "text" || s.memory != 1e9 {
		t.Errorf("%+v", s)
	}
}

func TestByteSize(t *testing.T) {
	for in, want := range map[string]string{
		"250MiB": "250MiB", "1gib": "1GiB", "1024": "1KiB", "2048KiB": "2MiB", "0": "0", "1000000": "1MB", "1.5MiB": "", "": "", "-1": "",
		"MiB": "", "9999999GiB": "", "10 MB": "10MB", "7B": "7B", "1025": "1025B",
	} {
		var b byteSize
		got := ""
		if b.Set(in) == nil {
			got = b.String()
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestDoubleDashes(t *testing.T) {
	got := doubleDashes([]string{"-job_port=1", "--x", "-h", "-1", "run", "--", "-n"})
	want := []string{"--job_port=1", "--x", "-h", "-1", "run", "--", "-n"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

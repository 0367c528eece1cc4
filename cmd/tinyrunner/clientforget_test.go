package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tinyrunner/tinyrunner/checkpoint"
	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
	"github.com/tinyrunner/tinyrunner/web"
)

// abandon puts into a directory what a server leaves of a job that it was running so long ago.
func abandon(t *testing.T, dir, name string, ago time.Duration) {
	t.Helper()
	loc, err := objstore.Parse("file://" + dir)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := loc.Open(t.Context(), objstore.S3Config{})
	if err != nil {
		t.Fatal(err)
	}
	cut := t.TempDir()
	if err := os.WriteFile(filepath.Join(cut, "MANIFEST"), []byte("state"), 0o600); err != nil {
		t.Fatal(err)
	}
	owner := checkpoint.NewOwner(time.Now())
	owner.PID++ // not this process
	s, err := checkpoint.Claim(t.Context(), checkpoint.Config{
		Bucket: bucket, Job: checkpoint.Identity(name), Owner: owner, Clock: func() time.Time { return time.Now().Add(-ago) },
	}, checkpoint.Record{JobID: name + "-1", JobName: name})
	if err != nil {
		t.Fatal(err)
	}
	s.StartOver()
	if _, _, err := s.Save(t.Context(), checkpoint.Cut{Dir: cut, ID: 3, Trigger: checkpoint.Periodic}, nil); err != nil {
		t.Fatal(err)
	}
	if err := objstore.Close(bucket); err != nil {
		t.Fatal(err)
	}
}

// TestForgetWithoutServer: --checkpoints is the store itself.
func TestForgetWithoutServer(t *testing.T) {
	dir := t.TempDir()
	abandon(t, dir, "old one", time.Hour)
	abandon(t, dir, "young", time.Second)
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"old one"}, exitUsage, "agree with --yes"},
		{[]string{"nobody", "--yes"}, exitUsage, "it holds old one, young"},
		{[]string{"young", "--yes"}, exitFailed, "may be running: process"},
		{[]string{"old one", "--yes"}, exitDone, "job old one is forgotten: "},
		{[]string{"old one", "--yes"}, exitDone, "holds nothing more of job old one"},
		{[]string{web.HexID("young-1")[:6], "--yes", "--force"}, exitDone, "job young is forgotten: "},
		{[]string{"young-1", "--json"}, exitDone, `{"name":"young","objects":0,"bytes":0}`},
		{[]string{"nobody", "--yes"}, exitUsage, "it holds none that could go on"},
	} {
		code, out, errs := command(t.Context(), append([]string{"forget", "--checkpoints", "file://" + dir}, tt.args...)...)
		if code != tt.code || !strings.Contains(out+errs, tt.want) {
			t.Errorf("forget %q: exit code %d, %s%s; want %d, %s", tt.args, code, out, errs, tt.code, tt.want)
		}
	}
}

func TestConfirmed(t *testing.T) {
	for answer, yes := range map[string]bool{"y\n": true, " YES \n": true, "y": true, "n\n": false, "\n": false, "": false, "yellow\n": false} {
		var out bytes.Buffer
		if err := confirmed(strings.NewReader(answer), &out, "Really?"); (err == nil) != yes || out.String() != "Really? [y/N] " {
			t.Errorf("%q: %v after %q", answer, err, out.String())
		}
	}
}

// TestForget: a server cannot go on with a job that it finds in its store, and keeps what it holds until it is told to forget it.
func TestForget(t *testing.T) {
	dir := t.TempDir()
	abandon(t, dir, "ghost", time.Second)
	p := startServer(t, "serve", "--checkpoints=file://"+dir)
	defer p.end(t, syscall.SIGTERM)
	waitForLog(t, p, "its checkpoints stay where they are")
	code, _, errs := command(t.Context(), "forget", "ghost", "--checkpoints", "file://"+dir, "--yes")
	if want := "may be running: process"; code != exitFailed || !strings.Contains(errs, want) {
		t.Errorf("beside its server: exit code %d, %s; want %s", code, errs, want)
	}
	for _, want := range []string{"job ghost is forgotten: ", "holds nothing more of job ghost"} {
		code, out, errs := command(t.Context(), "forget", "ghost", "--yes", p.address())
		if code != exitDone || !strings.Contains(out, want) {
			t.Errorf("exit code %d, %s%s; want %s", code, out, errs, want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "ghost", "*", "*")); err != nil || len(left) != 1 {
		t.Errorf("there is %v: %v", left, err)
	}
}

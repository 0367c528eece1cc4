package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestServeGoesOn: a job is submitted once; its server is killed, killed with its disk, and asked to stop; it is done all the
// same, and nothing is left of it.
func TestServeGoesOn(t *testing.T) {
	interpreter := python(t)
	pool := workerPool(t, interpreter)
	store, dir, output := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "sums")
	const n = 300
	start := func() *process {
		return startServerIn(t, dir, "serve", "--checkpoints=file://"+store, "--checkpoint_interval=200ms")
	}
	p := start()
	out, err := pipeline(t, interpreter, "testdata/slow_sums.py", output, fmt.Sprint(n), "--runner=PortableRunner",
		"--job_endpoint="+p.endpoint(), "--environment_type=EXTERNAL", "--environment_config="+pool, "--job_name=slow")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, how := range []string{"killed", "killed with its disk", "stopped"} {
		time.Sleep(2 * time.Second)
		if strings.Contains(p.log.String(), "DONE") {
			t.Fatalf("the job was done before its server was %s: it must take longer", how)
		}
		if how == "stopped" {
			p.end(t, syscall.SIGTERM)
			if code := p.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit code %d, want 0; log:\n%s", code, p.log)
			}
		} else {
			p.end(t, syscall.SIGKILL)
		}
		if how == "killed with its disk" {
			dir = t.TempDir()
		}
		p = start()
		if !strings.Contains(p.log.String(), "resumed a job") {
			t.Fatalf("after it was %s the server does not go on with the job; log:\n%s", how, p.log)
		}
	}
	waitForLog(t, p, `"state":"DONE"`)
	var got []string
	shards, err := filepath.Glob(output + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shards {
		data, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.Split(strings.TrimSpace(string(data)), "\n")...)
	}
	slices.Sort(got)
	sums := [3]int{}
	for i := range n {
		sums[i%3] += i
	}
	want := []string{fmt.Sprint("0 ", sums[0]), fmt.Sprint("1 ", sums[1]), fmt.Sprint("2 ", sums[2])}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	p.end(t, syscall.SIGTERM)
	if left, err := filepath.Glob(filepath.Join(store, "slow", "files", "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("files of the checkpoints are left: %v, %v", left, err)
	}
}

func waitForLog(t *testing.T, p *process, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if strings.Contains(p.log.String(), text) {
			return
		}
	}
	t.Fatalf("%s is not in the log:\n%s", text, p.log)
}

// TestPythonKafka: ReadFromKafka and WriteToKafka of the Python SDK run on the runner's own source and sink.
func TestPythonKafka(t *testing.T) {
	interpreter := python(t)
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "in", "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(broker.ListenAddrs()...), kgo.ConsumeTopics("out"), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const n = 100
	var want []string
	for i := range n {
		r := &kgo.Record{Topic: "in", Key: fmt.Append(nil, "k", i%7), Value: fmt.Append(nil, "v", i)}
		if err := client.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("k%d v%d!", i%7, i))
	}
	p := startServer(t, "serve")
	out, err := pipeline(t, interpreter, "../../engine/kafka/expand/testdata/python/pipeline.py", "--bootstrap="+broker.ListenAddrs()[0],
		"--in=in", "--out=out", "--expansion="+p.endpoint(), "--max="+fmt.Sprint(n), "--runner=PortableRunner",
		"--job_endpoint="+p.endpoint(), "--environment_type=LOOPBACK")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []string
	for len(got) < n && ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { got = append(got, fmt.Sprintf("%s %s", r.Key, r.Value)) })
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %d records %.300v, want %.300v", len(got), got, want)
	}
}

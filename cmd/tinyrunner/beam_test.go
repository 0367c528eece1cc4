package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// python returns an interpreter that has Beam: $PYTHON, or the one that make venv makes.
func python(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no Python SDK")
	}
	path := os.Getenv("PYTHON")
	if path == "" {
		path, _ = filepath.Abs("../../.build/venv/bin/python")
	}
	if err := exec.Command(path, "-c", "import apache_beam").Run(); err != nil {
		t.Skipf("no Python with apache_beam at %s (make venv, or set PYTHON): %v", path, err)
	}
	return path
}

// pipeline runs a Python program to its end and returns what it printed.
func pipeline(t *testing.T, interpreter string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, interpreter, args...)
	cmd.WaitDelay = time.Second // its own children may hold the pipe
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// corpus writes about 1 MB of words, the same ones every time.
func corpus(t *testing.T) string {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < 1<<20 {
		for range 10 {
			fmt.Fprintf(&b, "w%c%c ", 'a'+rune(r.ExpFloat64()*3)%26, 'a'+r.IntN(26))
		}
		b.WriteByte('\n')
	}
	name := filepath.Join(t.TempDir(), "words.txt")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// wordcount runs Beam's own example and returns its output, sorted: shards may differ.
func wordcount(t *testing.T, interpreter, input string, options ...string) []string {
	t.Helper()
	prefix := filepath.Join(t.TempDir(), "out")
	args := append([]string{"-m", "apache_beam.examples.wordcount", "--input", input, "--output", prefix}, options...)
	if out, err := pipeline(t, interpreter, args...); err != nil {
		t.Fatalf("%v: %v\n%s", options, err, out)
	}
	shards, err := filepath.Glob(prefix + "*")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, s := range shards {
		data, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.Fields(strings.ReplaceAll(string(data), ": ", ":"))...)
	}
	slices.Sort(lines)
	return lines
}

// TestPythonWordcount: Beam's own wordcount over 1 MB gives what the DirectRunner gives, in each way to run it.
func TestPythonWordcount(t *testing.T) {
	interpreter, input := python(t), corpus(t)
	want := wordcount(t, interpreter, input, "--runner=DirectRunner")
	if len(want) < 100 {
		t.Fatalf("only %d words", len(want))
	}
	p := startServer(t, "serve")
	portable := []string{"--runner=PortableRunner", "--job_endpoint=" + p.endpoint()}
	for name, options := range map[string]func(*testing.T) []string{
		"LOOPBACK": func(*testing.T) []string { return append(portable, "--environment_type=LOOPBACK") },
		"EXTERNAL": func(t *testing.T) []string {
			return append(portable, "--environment_type=EXTERNAL", "--environment_config="+workerPool(t, interpreter))
		},
		"PROCESS": func(t *testing.T) []string {
			config, err := json.Marshal(map[string]any{"command": pythonBoot(t), "env": map[string]string{
				"PATH": filepath.Dir(interpreter) + ":" + os.Getenv("PATH"), "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT": "1",
			}})
			if err != nil {
				t.Fatal(err)
			}
			return append(portable, "--environment_type=PROCESS", "--environment_config="+string(config))
		},
		"PrismRunner": func(*testing.T) []string { return []string{"--runner=PrismRunner", "--prism_location=" + binary()} },
	} {
		t.Run(name, func(t *testing.T) {
			if got := wordcount(t, interpreter, input, options(t)...); !slices.Equal(got, want) {
				t.Errorf("%d words, want %d; got %.300v\nwant %.300v", len(got), len(want), got, want)
			}
		})
	}
	if left, err := filepath.Glob(filepath.Join(p.dir, "artifacts", "*")); err != nil || len(left) != 0 {
		t.Errorf("artifacts are left: %v, %v", left, err)
	}
}

// pythonBoot builds the boot program of the Python SDK's containers.
func pythonBoot(t *testing.T) string {
	t.Helper()
	boot := filepath.Join(t.TempDir(), "boot")
	cmd := exec.Command("go", "build", "-o", boot, "github.com/apache/beam/sdks/v2/python/container")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build boot: %v\n%s", err, out)
	}
	return boot
}

// workerPool starts Beam's worker pool, whose harnesses are processes, and returns its address.
func workerPool(t *testing.T, interpreter string) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(interpreter, "-m", "apache_beam.runners.worker.worker_pool_main", "--service_port="+strconv.Itoa(port))
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(interpreter)+":"+os.Getenv("PATH")) // it starts plain python
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	return "localhost:" + strconv.Itoa(port)
}

const failing = `
import sys
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

def explode(word):
  raise ValueError('cannot digest ' + word)

with beam.Pipeline(options=PipelineOptions(sys.argv[1:])) as p:
  p | beam.Create(['iron']) | 'Digest' >> beam.Map(explode)
`

// TestPythonRaises: the job fails with the traceback, the submitter sees it, and the server goes on.
func TestPythonRaises(t *testing.T) {
	interpreter := python(t)
	p := startServer(t, "serve")
	for range 2 {
		out, err := pipeline(t, interpreter, "-c", failing, "--runner=PortableRunner", "--job_endpoint="+p.endpoint(), "--environment_type=LOOPBACK")
		if err == nil || !strings.Contains(out, "ValueError: cannot digest iron") || !strings.Contains(out, "in explode") {
			t.Errorf("%v\n%s", err, out)
		}
	}
	conn, err := grpc.NewClient(p.endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	list, err := jobpb.NewJobServiceClient(conn).GetJobs(t.Context(), new(jobpb.GetJobsRequest))
	if err != nil || len(list.GetJobInfo()) != 2 || list.GetJobInfo()[1].GetState() != jobpb.JobState_FAILED {
		t.Errorf("jobs: %v, %v", list, err)
	}
}

// TestRunPython: "run" exits with the job's result.
func TestRunPython(t *testing.T) {
	code, _, stderr := invoke(t, nil, "run", "--log_level=error", "--", python(t), "-c", failing,
		"--runner=PortableRunner", "--job_endpoint={job_endpoint}", "--environment_type=LOOPBACK")
	if code != exitFailed || !strings.Contains(stderr, "is FAILED: ") || !strings.Contains(stderr, "cannot digest iron") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}

// pardo is a pipeline of an impulse and a ParDo in the given environment, whose output has the given coder.
func pardo(coder string, env *pipepb.Environment) *pipepb.Pipeline {
	p, err := readPipeline("testdata/impulse.txtpb")
	if err != nil {
		panic(err)
	}
	payload, err := proto.Marshal(&pipepb.ParDoPayload{DoFn: &pipepb.FunctionSpec{Urn: "test:dofn:v1"}})
	if err != nil {
		panic(err)
	}
	c := p.GetComponents()
	c.Environments = map[string]*pipepb.Environment{"env": env}
	c.Coders["out"] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: coder}}
	c.Pcollections["out"] = proto.CloneOf(c.GetPcollections()["start"])
	c.Pcollections["out"].CoderId = "out"
	c.Transforms["work"] = &pipepb.PTransform{
		UniqueName: "Work", EnvironmentId: "env", Spec: &pipepb.FunctionSpec{Urn: "beam:transform:pardo:v1", Payload: payload},
		Inputs: map[string]string{"in": "start"}, Outputs: map[string]string{"out": "out"},
	}
	p.RootTransformIds = append(p.RootTransformIds, "work")
	return p
}

// nobody is an environment whose worker pool does not exist.
func nobody(t *testing.T) *pipepb.Environment {
	t.Helper()
	payload, err := proto.Marshal(&pipepb.ExternalPayload{Endpoint: &pipepb.ApiServiceDescriptor{Url: "localhost:1"}})
	if err != nil {
		t.Fatal(err)
	}
	return &pipepb.Environment{Urn: "beam:env:external:v1", Payload: payload}
}

// TestBadPipelines: what the planner refuses comes back from Prepare with the transform's name.
func TestBadPipelines(t *testing.T) {
	p := startServer(t, "serve")
	conn, err := grpc.NewClient(p.endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	external := nobody(t)
	malformed := pardo("beam:coder:bytes:v1", external)
	malformed.GetComponents().GetTransforms()["work"].GetSpec().Payload = []byte{0xff}
	dangling := pardo("beam:coder:bytes:v1", external)
	dangling.GetComponents().GetPcollections()["out"].CoderId = "lost"
	unknown := pardo("beam:coder:bytes:v1", external)
	unknown.GetComponents().GetTransforms()["work"].GetSpec().Urn = "beam:transform:teleport:v1"
	for _, c := range []struct {
		name     string
		pipeline *pipepb.Pipeline
		want     string
	}{
		{"malformed payload", malformed, `transform "work" ("Work"): read ParDoPayload: proto: cannot parse invalid wire-format data`},
		{"missing coder", dangling, `PCollection "out" refers to coder "lost", which is not in the pipeline`},
		{"unknown transform", unknown, `unsupported transform "Work" (beam:transform:teleport:v1): this runner does not know the URN`},
		{"nothing in it", new(pipepb.Pipeline), `the pipeline has no components`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := jobpb.NewJobServiceClient(conn).Prepare(t.Context(), &jobpb.PrepareJobRequest{JobName: "bad", Pipeline: c.pipeline})
			s := status.Convert(err)
			got := strings.ReplaceAll(s.Message(), "\u00a0", " ") // protobuf varies its spaces on purpose
			if want := `prepare job "bad": ` + c.want; s.Code() != codes.InvalidArgument || got != want {
				t.Errorf("got  %s: %s\nwant %s", s.Code(), got, want)
			}
		})
	}

	t.Run("harness never connects", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "lonely.pb")
		data, err := proto.Marshal(pardo("beam:coder:bytes:v1", external))
		if err == nil {
			err = os.WriteFile(file, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		code, _, stderr := invoke(t, nil, "run", "--log_level=error", "--worker_wait=300ms", file)
		pattern := `(?m)^tinyrunner: job lonely-\w{8} is FAILED: stage Work: no SDK harness of environment "env" \(EXTERNAL at localhost:1\) within 300ms, .*` +
			`; start a worker pool there \(python -m apache_beam.runners.worker.worker_pool_main --service_port=PORT\), ` +
			`or submit with --environment_type=LOOPBACK$`
		if code != exitFailed || !regexp.MustCompile(pattern).MatchString(stderr) {
			t.Errorf("exit code %d\n%s", code, stderr)
		}
	})
}

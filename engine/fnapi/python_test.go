package fnapi

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
)

// loopback serves a worker pool whose harnesses are threads of its own process, as LOOPBACK does.
const loopback = `
import sys
from apache_beam.runners.worker import worker_pool_main
address, server = worker_pool_main.BeamFnExternalWorkerPoolServicer.start(use_process=False, state_cache_size=1 << 20)
print(address, flush=True)
sys.stdin.read()
server.stop(0)
`

// python returns an interpreter that has Beam: $PYTHON, or the one in the checkout's .build/venv.
func python(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no Python")
	}
	path := os.Getenv("PYTHON")
	if path == "" {
		path, _ = filepath.Abs("../../.build/venv/bin/python")
	}
	if err := exec.Command(path, "-c", "import apache_beam").Run(); err != nil {
		t.Skipf("no Python with apache_beam at %s (set PYTHON): %v", path, err)
	}
	return path
}

// start runs a command until the test ends, with its children.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
}

// toString is a stage of Beam's to_string transform, which makes the value of a pair a string.
func toString(id string) *bundle.Program {
	port, _ := proto.Marshal(&fnpb.RemoteGrpcPort{CoderId: "in"})
	sink, _ := proto.Marshal(&fnpb.RemoteGrpcPort{CoderId: "out"})
	coder := func(urn string, components ...string) *pipepb.Coder {
		return &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: components}
	}
	transform := func(name, urn string, payload []byte, in, out string) *pipepb.PTransform {
		tr := &pipepb.PTransform{UniqueName: name, Spec: &pipepb.FunctionSpec{Urn: urn, Payload: payload}}
		if in != "" {
			tr.Inputs = map[string]string{"in": in}
		}
		if out != "" {
			tr.Outputs = map[string]string{"out": out}
		}
		return tr
	}
	return &bundle.Program{
		Source:  "src",
		Outputs: []string{"sink"},
		Descriptor: &fnpb.ProcessBundleDescriptor{
			Id: id,
			Transforms: map[string]*pipepb.PTransform{
				"src":  transform("Read", urnSource, port, "", "ints"),
				"str":  transform("ToString", "beam:transform:to_string:v1", nil, "ints", "texts"),
				"sink": transform("Write", urnSink, sink, "texts", ""),
			},
			Pcollections: map[string]*pipepb.PCollection{
				"ints":  {UniqueName: "ints", CoderId: "pair", WindowingStrategyId: "global"},
				"texts": {UniqueName: "texts", CoderId: "named", WindowingStrategyId: "global"},
			},
			Coders: map[string]*pipepb.Coder{
				"int":    coder("beam:coder:varint:v1"),
				"text":   coder("beam:coder:string_utf8:v1"),
				"pair":   coder("beam:coder:kv:v1", "int", "int"),
				"named":  coder("beam:coder:kv:v1", "int", "text"),
				"window": coder("beam:coder:global_window:v1"),
				"in":     coder("beam:coder:windowed_value:v1", "pair", "window"),
				"out":    coder("beam:coder:windowed_value:v1", "named", "window"),
			},
			WindowingStrategies: map[string]*pipepb.WindowingStrategy{"global": {
				WindowFn:      &pipepb.FunctionSpec{Urn: "beam:window_fn:global_windows:v1"},
				WindowCoderId: "window",
				Trigger:       &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}},
				OutputTime:    pipepb.OutputTime_END_OF_WINDOW,
			}},
		},
	}
}

// header is the front of a windowed value: timestamp 0, one global window, no pane.
var header = string([]byte{0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x0f})

// pairs are n windowed pairs (0, i).
func pairs(n int) string {
	var out []byte
	for i := range n {
		out = append(append(out, header...), 0)
		out = binary.AppendUvarint(out, uint64(i))
	}
	return string(out)
}

// texts decodes windowed pairs (0, string).
func texts(t *testing.T, data string) []string {
	t.Helper()
	var out []string
	for len(data) > 0 {
		rest, ok := strings.CutPrefix(data, header+"\x00")
		if !ok {
			t.Fatalf("no windowed value at %q", data[:min(len(data), 20)])
		}
		size, n := binary.Uvarint([]byte(rest))
		out = append(out, rest[n:n+int(size)])
		data = rest[n+int(size):]
	}
	return out
}

// byteSink joins output.
type byteSink struct{ sb strings.Builder }

func (s *byteSink) Data(_ int, data []byte) error           { s.sb.Write(data); return nil }
func (s *byteSink) Timers(bundle.TimerFamily, []byte) error { return errors.New("no timers here") }

// runToString runs a bundle of n integers, again whenever the worker is lost.
func runToString(t *testing.T, env *Environment, p *bundle.Program, id string, n int) *Worker {
	t.Helper()
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint(i))
	}
	input := blocks(t, pairs(n))
	for try := 0; ; try++ {
		w, err := env.Worker(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		sink := &byteSink{}
		b := &bundle.Bundle{ID: fmt.Sprintf("%s-%d", id, try), Program: p, Input: input, State: &recorder{}, Sink: sink}
		res, err := w.Run(t.Context(), b)
		t.Logf("%s on %s: %v", b.ID, w.ID(), err)
		if errors.Is(err, bundle.ErrWorkerLost) && try < 10 {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := texts(t, sink.sb.String()); !slices.Equal(got, want) {
			t.Fatalf("got %d strings, want %d", len(got), len(want))
		}
		if len(res.Metrics) == 0 {
			t.Error("no metrics")
		}
		if split, err := w.Split(t.Context(), b, 0.5); split != nil || err != nil {
			t.Errorf("split of a finished bundle: %v, %v", split, err)
		}
		return w
	}
}

func pythonRig(t *testing.T, pool string) (*rig, *Environment) {
	r := newRig(t)
	r.server.cfg.WorkerWait = time.Minute
	return r, r.open(func(c *EnvironmentConfig) { c.Proto = externalEnv(pool) })
}

func TestPythonLoopback(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(python(t), "-c", loopback)
	stdin := must[interface{ Close() error }](t)(cmd.StdinPipe())
	stdout := must[interface {
		Read([]byte) (int, error)
		Close() error
	}](t)(cmd.StdoutPipe())
	start(t, cmd)
	defer stdin.Close()
	addr := must[string](t)(bufio.NewReader(stdout).ReadString('\n'))
	_, env := pythonRig(t, strings.TrimSpace(addr))
	p := toString("python-loopback")
	runToString(t, env, p, "small", 10)
	w := runToString(t, env, p, "large", 100_000)

	// What the SDK cannot run comes back as its traceback, and the worker serves on.
	bad := toString("python-bad")
	bad.Descriptor.Transforms["str"].Spec.Urn = "beam:transform:unheard_of:v1"
	b := &bundle.Bundle{ID: "bad", Program: bad, Input: blocks(t, pairs(10)), State: &recorder{}, Sink: &byteSink{}}
	_, err := w.Run(t.Context(), b)
	var user *bundle.UserError
	if !errors.As(err, &user) || !strings.Contains(user.Message, "Traceback") {
		t.Fatalf("error %v, want a UserError with a traceback", err)
	}
	runToString(t, env, p, "after", 10)
	if err := env.Close(); err != nil {
		t.Error(err)
	}
}

// A harness that is killed is replaced by the pool, and the bundle runs again.
func TestPythonWorkerPool(t *testing.T) {
	t.Parallel()
	path := python(t)
	lis := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	port := lis.Addr().(*net.TCPAddr).Port
	lis.Close()
	cmd := exec.Command(path, "-m", "apache_beam.runners.worker.worker_pool_main", fmt.Sprintf("--service_port=%d", port))
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(path)+":"+os.Getenv("PATH")) // the pool starts plain "python"
	_, env := pythonRig(t, fmt.Sprintf("localhost:%d", port))                        // before there is a pool
	start(t, cmd)
	p := toString("python-pool")
	first := runToString(t, env, p, "first", 1000)
	killChildren(t, cmd.Process.Pid)
	second := runToString(t, env, p, "second", 1000)
	if first.ID() == second.ID() {
		t.Errorf("worker %s survived kill -9", first.ID())
	}
	if err := env.Close(); err != nil {
		t.Error(err)
	}
}

func killChildren(t *testing.T, parent int) {
	t.Helper()
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil || len(out) == 0 {
		// The pool's threads start children too.
		dirs, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
		for _, d := range dirs {
			more, _ := os.ReadFile(d)
			out = append(out, more...)
		}
	}
	pids := strings.Fields(string(out))
	if len(pids) == 0 {
		t.Fatal("the pool has no child process")
	}
	for _, s := range pids {
		var pid int
		fmt.Sscan(s, &pid)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}

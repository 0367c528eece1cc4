package fnapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// endGrace is how long a harness may take to end after SIGTERM.
const endGrace = 5 * time.Second

// process starts harnesses as children of this process: PROCESS environments by the command they name, DOCKER ones by the
// docker command. The arguments are those of Beam's boot programs (sdks/*/container/boot.go). A child dies with its parent, and
// with everything it has started.
type process struct {
	name     string // for people
	help     string // what to do when none comes
	command  []string
	env      []string
	endpoint string // of our worker port
	log      *slog.Logger

	mu       sync.Mutex // protects what follows
	children map[string]*child
	last     string // how the last child ended, and what it said at its end
}

// child is a process that runs.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

func newProcess(id string, env *pipepb.Environment, endpoint string, log *slog.Logger) (*process, error) {
	p := &pipepb.ProcessPayload{}
	if err := proto.Unmarshal(env.GetPayload(), p); err != nil {
		return nil, fmt.Errorf("read the payload of environment %q (%s): %w", id, urnProcess, err)
	}
	if p.GetCommand() == "" {
		return nil, fmt.Errorf(`environment %q is PROCESS but names no command: submit with --environment_config='{"command": "/path/to/boot"}'`, id)
	}
	path, err := exec.LookPath(p.GetCommand())
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, fmt.Errorf("environment %q is PROCESS: %w: install the SDK's boot program there, on the machine of the runner", id, err)
	}
	x := &process{
		name: "PROCESS " + path, help: "look at what it printed (the runner's log has it)", command: []string{path}, endpoint: endpoint, log: log,
		children: make(map[string]*child),
	}
	x.env = os.Environ()
	for k, v := range p.GetEnv() {
		x.env = append(x.env, k+"="+v)
	}
	return x, nil
}

func newDocker(id string, env *pipepb.Environment, endpoint string, log *slog.Logger) (*process, error) {
	p := &pipepb.DockerPayload{}
	if err := proto.Unmarshal(env.GetPayload(), p); err != nil {
		return nil, fmt.Errorf("read the payload of environment %q (%s): %w", id, urnDocker, err)
	}
	if p.GetContainerImage() == "" {
		return nil, fmt.Errorf("environment %q is DOCKER but names no image: submit with --environment_config=IMAGE", id)
	}
	path, err := exec.LookPath("docker")
	if err != nil {
		return nil, fmt.Errorf("environment %q is DOCKER (image %q), and this machine has no docker command: install it, or %s", id, p.GetContainerImage(), useOther)
	}
	return &process{
		name: "DOCKER " + p.GetContainerImage(), help: "try 'docker run " + p.GetContainerImage() + "' on the machine of the runner",
		// The host's network: the worker port listens on loopback unless told otherwise.
		command: []string{path, "run", "--rm", "--network=host", p.GetContainerImage()},
		env:     os.Environ(), endpoint: endpoint, log: log, children: make(map[string]*child),
	}, nil
}

func (x *process) start(_ context.Context, worker string) error {
	args := append(x.command[1:len(x.command):len(x.command)], "--id="+worker,
		"--control_endpoint="+x.endpoint, "--logging_endpoint="+x.endpoint, "--artifact_endpoint="+x.endpoint, "--provision_endpoint="+x.endpoint)
	cmd := exec.Command(x.command[0], args...)
	cmd.Env = x.env
	cmd.SysProcAttr = childAttributes()
	dir, err := os.MkdirTemp("", "tinyrunner-harness-") // boot programs write files where they are
	if err != nil {
		return fmt.Errorf("make a directory for the harness: %w", err)
	}
	cmd.Dir = dir
	out, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	c := &child{cmd: cmd, done: make(chan struct{})}
	tail := make(chan string, 1)
	go func() { tail <- x.relay(worker, out) }()
	started := make(chan error, 1)
	go func() {
		// A child dies with the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			err = cmd.Wait()
			killGroup(cmd.Process.Pid, syscall.SIGKILL) // what it has left behind
		}
		if err := os.RemoveAll(dir); err != nil {
			x.log.Warn("remove a harness's directory", "error", err)
		}
		x.ended(worker, err, w, tail)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", x.command[0], err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.children[worker] = c
	return nil
}

// relay hands what a child prints to the log, and returns the last line. The worker's key stays secret.
func (x *process) relay(key string, out *io.PipeReader) string {
	last, id := "", idOf(key)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		last = strings.ReplaceAll(lines.Text(), key, id)
		x.log.Info(last, "worker", id)
	}
	_, _ = io.Copy(io.Discard, out) // a line too long for the scanner must not block the child
	return last
}

func (x *process) ended(worker string, err error, w *io.PipeWriter, tail <-chan string) {
	_ = w.Close() // never fails
	last := <-tail
	how := "it ended with exit code 0"
	if err != nil {
		how = "it ended: " + err.Error()
	}
	if last != "" {
		how += ", and said last: " + last
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last = how
	delete(x.children, worker)
}

func (x *process) stop(ctx context.Context, worker string) error {
	x.mu.Lock()
	c := x.children[worker]
	x.mu.Unlock()
	if c == nil {
		return nil
	}
	killGroup(c.cmd.Process.Pid, syscall.SIGTERM)
	grace := time.NewTimer(endGrace)
	defer grace.Stop()
	select {
	case <-c.done:
		return nil
	case <-grace.C:
	case <-ctx.Done():
	}
	killGroup(c.cmd.Process.Pid, syscall.SIGKILL)
	<-c.done
	return nil
}

// killGroup signals a child and what it has started. That they have ended already is no error.
func killGroup(pid int, s syscall.Signal) { _ = syscall.Kill(-pid, s) }

func (x *process) String() string { return x.name }

func (x *process) remedy() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.last == "" {
		return x.help
	}
	return strings.TrimSuffix(x.last, ".") + "; " + x.help
}

func (x *process) close() error {
	x.mu.Lock()
	var left []string
	for w := range x.children {
		left = append(left, w)
	}
	x.mu.Unlock()
	var errs []error
	for _, w := range left {
		errs = append(errs, x.stop(context.Background(), w))
	}
	return errors.Join(errs...)
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// grace is how long a process may take to end.
const grace = 15 * time.Second

// process is a program that runs beside this one, with all that it has started itself.
type process struct {
	name  string
	log   string // file with its output
	cmd   *exec.Cmd
	ended chan struct{} // closed when err is there
	err   error
}

// command is a program with a process group of its own, which is ended with ctx: asked first, then killed.
func command(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = grace
	return cmd
}

// reap kills what a program that has ended left behind in its group.
func reap(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // most have left nothing
	}
}

// start starts a program whose output goes to LOGS/NAME.log. stop must be called.
func (r *run) start(ctx context.Context, name string, env []string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(r.logs, name+".log"), ended: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("make log: %w", err)
	}
	p.cmd = command(ctx, r.tmp, args[0], args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = out, out, append(os.Environ(), env...)
	started := make(chan error)
	go func() {
		// The signal on the parent's death comes when the thread that has started the child ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			reap(p.cmd)
		}
		p.err = errors.Join(p.err, out.Close())
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// stop ends the process and waits for it.
func (p *process) stop() {
	_ = p.cmd.Cancel() // it may have ended by itself
	select {
	case <-p.ended:
	case <-time.After(grace):
		reap(p.cmd)
		<-p.ended
	}
}

// wait waits until the process has ended by itself and returns what it printed.
func (p *process) wait(ctx context.Context) (string, error) {
	select {
	case <-p.ended:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	out, err := os.ReadFile(p.log)
	return string(out), errors.Join(p.err, err)
}

// tail is the end of what the process has printed.
func (p *process) tail() string {
	out, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

// output runs a program to its end and returns what it printed. Its error has the end of that.
func output(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := command(ctx, dir, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	reap(cmd)
	if err != nil {
		text := strings.TrimSpace(out.String())
		return out.String(), fmt.Errorf("%s: %w: %s", filepath.Base(args[0]), err, text[max(0, len(text)-2000):])
	}
	return out.String(), nil
}

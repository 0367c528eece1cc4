package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// again is how long a process that ended by itself stays down, so that one that cannot start does not take the CPU.
const again = 300 * time.Millisecond

// service is a program that is started again whenever it ends. run owns it; other methods may be called by any goroutine.
type service struct {
	name    string
	command func() (*exec.Cmd, error) // makes the next process
	out     io.Writer                 // gets what it prints
	log     *slog.Logger
	started func() // called after each start; may be nil

	mu      sync.Mutex
	process *os.Process // nil: not running
	ended   chan struct{}
	down    time.Duration // until the next start
	exits   int           // that nobody asked for
}

// run keeps the program running until ctx ends, and then kills it.
func (s *service) run(ctx context.Context) error {
	for {
		ended, err := s.start()
		if err != nil {
			return fmt.Errorf("start %s: %w", s.name, err)
		}
		select {
		case <-ended:
		case <-ctx.Done():
			s.kill(0)
			return nil
		}
		s.mu.Lock()
		down := s.down
		s.mu.Unlock()
		select {
		case <-time.After(down):
		case <-ctx.Done():
			return nil
		}
	}
}

// start starts a process. Its thread waits for it: the parent-death signal comes when that thread ends, not when this process
// does, and nothing may be left behind when this one is killed.
func (s *service) start() (ended chan struct{}, err error) {
	cmd, err := s.command()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = s.out, s.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = time.Second
	started := make(chan error)
	ended = make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			s.mu.Lock()
			s.process, s.ended, s.down = cmd.Process, ended, again
			s.mu.Unlock()
		}
		started <- err
		if err == nil {
			s.finish(cmd.Wait())
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	if s.started != nil {
		s.started()
	}
	return ended, nil
}

func (s *service) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil { // nobody killed it
		s.exits++
		s.log.Warn("a process ended by itself and is started again", "name", s.name, "error", err)
	}
	s.process = nil
}

// kill is kill -9. The next process starts after down. It reports false when nothing runs.
func (s *service) kill(down time.Duration) bool {
	s.mu.Lock()
	p, ended := s.process, s.ended
	s.process = nil
	if p != nil {
		s.down = down
		_ = p.Kill() // it may have ended by itself at this moment
	}
	s.mu.Unlock()
	if p == nil {
		return false
	}
	<-ended
	return true
}

// signal sends another signal.
func (s *service) signal(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		_ = s.process.Signal(sig)
	}
}

// pid is 0 when nothing runs.
func (s *service) pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return 0
	}
	return s.process.Pid
}

func (s *service) unasked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exits
}

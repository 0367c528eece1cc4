package fnapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// slot is one place for a harness in an environment, and the supervisor that keeps it filled.
type slot struct {
	env   *Environment
	index int

	mu        sync.Mutex
	worker    *Worker       // the connected one, nil if there is none; guarded by mu
	changed   chan struct{} // closed and replaced when worker or fruitless changes; guarded by mu
	tries     int           // harnesses asked for since one was connected; guarded by mu
	lastErr   error         // why the last try failed; guarded by mu
	fruitless int           // see maxFruitless; guarded by mu
	logged    time.Time     // when a waiter last said what it waits for; guarded by mu
	since     time.Time     // when the worker connected; guarded by mu
	losses    int           // harnesses that were lost after they had connected; guarded by mu
}

// wait returns the slot's worker as soon as there is one.
func (s *slot) wait(ctx context.Context) (*Worker, error) {
	cfg := s.env.server.cfg
	began := time.Now()
	deadline := time.NewTimer(cfg.WorkerWait)
	defer deadline.Stop()
	tick := time.NewTicker(cfg.WaitLog)
	defer tick.Stop()
	for {
		w, changed, err := s.current()
		if w != nil || err != nil {
			return w, err
		}
		select {
		case <-changed:
		case <-tick.C:
			s.logWait(time.Since(began))
		case <-deadline.C:
			return nil, s.timeout()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-s.env.closed:
			return nil, fmt.Errorf("environment %q is closed", s.env.cfg.ID)
		}
	}
}

// current returns the worker if there is one, or an error if there is no use in waiting.
func (s *slot) current() (*Worker, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fruitless >= maxFruitless {
		return nil, nil, fmt.Errorf("environment %q (%v): %d harnesses in a row were lost before they answered a bundle, the last one because %v: "+
			"look at what the harness printed; a crash in native code or too little memory ends it so",
			s.env.cfg.ID, s.env.launcher, s.fruitless, s.lastErr)
	}
	if s.worker != nil {
		select {
		case <-s.worker.gone: // the supervisor has not seen it yet
		default:
			return s.worker, nil, nil
		}
	}
	return nil, s.changed, nil
}

// logWait says what is being waited for, once for all waiters.
func (s *slot) logWait(waited time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.logged) < s.env.server.cfg.WaitLog/2 {
		return
	}
	s.logged = time.Now()
	s.env.log.Info("waiting for an SDK harness", "environment", s.env.cfg.ID, "from", s.env.launcher.String(),
		"harness", s.index, "waited", waited.Round(time.Second), "limit", s.env.server.cfg.WorkerWait, "tries", s.tries, "last_error", s.lastErr)
}

// timeout says that no harness came in time, and what to do.
func (s *slot) timeout() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := "it was asked for, but never connected to " + s.env.server.Endpoint() + ": look at what it printed, and whether it can reach this address"
	if s.lastErr != nil {
		last = s.lastErr.Error() // only its text: this is more than a lost worker, which makes bundles run again
	}
	return fmt.Errorf("no SDK harness of environment %q (%v) within %v, %d tries, last: %s; %s",
		s.env.cfg.ID, s.env.launcher, s.env.server.cfg.WorkerWait, s.tries, last, s.env.launcher.remedy())
}

// supervise keeps a harness in the slot until ctx ends.
func (s *slot) supervise(ctx context.Context) {
	cfg := s.env.server.cfg
	pause := cfg.RetryMin
	patience := max(cfg.WorkerWait/4, time.Second)
	for ctx.Err() == nil {
		w := newWorker(s.env.workerID(), s.env)
		s.env.server.addWorker(w)
		err := s.boot(ctx, w, patience)
		if err == nil {
			s.publish(w)
			since := time.Now()
			select {
			case <-w.gone:
			case <-ctx.Done():
			}
			s.retire(w, time.Since(since))
			if w.finished.Load() > 0 {
				pause = cfg.RetryMin
			}
		} else {
			s.note(err)
			if errors.Is(err, errNotConnected) {
				patience = min(2*patience, cfg.WorkerWait)
			}
		}
		s.release(ctx, w)
		sleep(ctx, pause)
		pause = min(2*pause, cfg.RetryMax)
	}
}

var errNotConnected = errors.New("harness did not connect")

// boot starts a harness and waits until it has connected. It is given up when it gave no sign of life for patience.
func (s *slot) boot(ctx context.Context, w *Worker, patience time.Duration) error {
	s.mu.Lock()
	s.tries++
	s.mu.Unlock()
	if err := s.env.launcher.start(ctx, w.key); err != nil {
		return fmt.Errorf("start a harness: %w", err)
	}
	w.touch()
	for {
		left := patience - time.Since(time.Unix(0, w.lastSign.Load()))
		if left <= 0 {
			return fmt.Errorf("%w: %s was started, but did not call %s for %v; look at what it printed, and whether it can reach this address",
				errNotConnected, w.id, s.env.server.Endpoint(), patience)
		}
		select {
		case <-w.connected:
			return nil
		case <-time.After(left):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *slot) publish(w *Worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worker = w
	s.tries, s.lastErr, s.since = 0, nil, time.Now()
	s.notify()
	s.env.log.Info("SDK harness connected", "worker", w.id, "environment", s.env.cfg.ID, "from", s.env.launcher.String())
}

// retire takes a worker that is lost, or no longer wanted, out of the slot after its life.
func (s *slot) retire(w *Worker, life time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worker = nil
	defer s.notify()
	select {
	case <-w.gone:
	default:
		return
	}
	s.lastErr = w.lost()
	s.losses++
	switch {
	case w.finished.Load() > 0:
		s.fruitless = 0
	case w.busy || life < briefLife:
		s.fruitless++
	}
	s.env.log.Warn("SDK harness lost, starting another", "worker", w.id, "environment", s.env.cfg.ID, "bundles", w.finished.Load(), "cause", w.cause)
}

// release winds a worker up: an orderly end if it is still there, then its launcher is told to stop it.
func (s *slot) release(ctx context.Context, w *Worker) {
	select {
	case <-w.gone:
	default:
		w.finish()
		grace := time.NewTimer(closeGrace)
		defer grace.Stop()
		select {
		case <-w.quiet:
		case <-grace.C:
		case <-w.gone:
		}
		w.lose(errClosed)
	}
	s.env.server.removeWorker(w)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := s.env.launcher.stop(ctx, w.key); err != nil {
		// It is likely gone already, and there is nobody to whom it matters.
		s.env.log.Debug("stopping an SDK harness failed", "worker", w.id, "error", err)
	}
}

func (s *slot) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
}

// notify wakes those who wait for a change. REQUIRES: s.mu is held.
func (s *slot) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// sleep pauses for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

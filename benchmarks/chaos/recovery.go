package main

import (
	"slices"
	"sync"
	"time"
)

// recovery measures the time from a kill to new output. Any goroutine may use it.
type recovery struct {
	mu     sync.Mutex
	killed time.Time // the newest kill that nothing followed yet; zero: none
	ready  bool      // the process that was started after it
	times  []time.Duration
}

func (r *recovery) kill(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.killed, r.ready = t, false
}

func (r *recovery) started() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = true
}

// output says that a new record came at t.
func (r *recovery) output(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ready && !r.killed.IsZero() {
		r.times = append(r.times, t.Sub(r.killed))
		r.killed = time.Time{}
	}
}

// quantile is in milliseconds; 0 without any times.
func (r *recovery) quantile(q float64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.times) == 0 {
		return 0
	}
	slices.Sort(r.times)
	return r.times[min(int(q*float64(len(r.times))), len(r.times)-1)].Milliseconds()
}

func (r *recovery) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.times)
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

// sampleEvery is short, because a process that is killed takes its peak with it.
const sampleEvery = 20 * time.Millisecond

// sampler keeps the greatest memory that the process with a changing id had, in KiB.
type sampler struct {
	pid func() int // 0: there is none
	max atomic.Int64
}

func (s *sampler) run(ctx context.Context) error {
	for {
		if pid := s.pid(); pid != 0 {
			if kib, ok := peak(pid); ok && kib > s.max.Load() {
				s.max.Store(kib)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sampleEvery):
		}
	}
}

// peak reads VmHWM from /proc. A process that is gone has none.
func peak(pid int) (kib int64, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	_, rest, _ := bytes.Cut(data, []byte("VmHWM:"))
	field, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte(" "))
	kib, err = strconv.ParseInt(string(field), 10, 64)
	return kib, err == nil
}

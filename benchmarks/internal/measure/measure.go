// Package measure reads what the kernel knows of this process, for benchmarks.
package measure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"syscall"
	"time"
)

// Usage of this process since its start.
type Usage struct {
	CPU     time.Duration // user and system
	PeakRSS int64         // bytes
}

// Self returns the usage of this process.
func Self() (Usage, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return Usage{}, fmt.Errorf("read resource usage: %w", err)
	}
	peak := r.Maxrss
	if runtime.GOOS != "darwin" { // there it is in bytes
		peak <<= 10
	}
	return Usage{CPU: time.Duration(r.Utime.Nano() + r.Stime.Nano()), PeakRSS: peak}, nil
}

// MB returns bytes in MiB, to one decimal, as peak memory is given.
func MB(bytes int64) float64 { return Round(float64(bytes) / (1 << 20)) }

// Round rounds to one decimal.
func Round(v float64) float64 { return float64(int64(v*10+0.5)) / 10 }

// Profile writes a CPU profile to a new file until stop is called.
func Profile(file string) (stop func() error, err error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("create profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, fmt.Errorf("profile: %w", errors.Join(err, f.Close()))
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// Print writes a result as one line of JSON.
func Print(w io.Writer, result any) error { return json.NewEncoder(w).Encode(result) }

package goexec

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/tinyrunner/tinyrunner/engine/bundle"
	"github.com/tinyrunner/tinyrunner/engine/bundle/bundletest"
)

// discard is a sink that only counts.
type discard struct{ n int64 }

func (d *discard) Data(_ int, b []byte) error {
	d.n += int64(len(b))
	return nil
}

func (d *discard) Timers(bundle.TimerFamily, []byte) error { return nil }

// cpuTime is what the process has used so far: unlike the clock it means something on a busy machine.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRun runs bundles of registered functions; one operation is one element.
func BenchmarkRun(b *testing.B) {
	value := []byte(strings.Repeat("v", 100))
	for _, c := range []struct {
		name  string
		like  any
		elem  any
		stage bundletest.Stage
	}{
		{"bytes", [][]byte{{}}, value, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, sameBytes, in) }},
		{"filter", [][]byte{{}}, value, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, dropMost, in) }},
		{"kv", from("", makeSI), bundletest.KV{K: "some key", V: int64(1e6)}, func(s beam.Scope, in beam.PCollection) { beam.ParDo(s, sameKV, in) }},
		{"three", [][]byte{{}}, value, func(s beam.Scope, in beam.PCollection) {
			beam.ParDo(s, sameBytes, beam.ParDo(s, sameBytes, beam.ParDo(s, sameBytes, in)))
		}},
	} {
		for _, n := range []int{1, 10, 1000} {
			for _, kind := range []string{"fast", "stock"} {
				b.Run(fmt.Sprintf("%s/bundle=%d/%s", c.name, n, kind), func(b *testing.B) {
					p := bundletest.Compile(b, c.like, c.stage)
					elems := make([]any, n)
					for i := range elems {
						elems[i] = c.elem
					}
					work := &bundle.Bundle{Program: p.Program, Input: p.Blocks(n, elems...), Sink: &discard{}}
					w := newWorker(b, Config{Stock: kind == "stock"})
					b.ReportAllocs()
					b.ResetTimer()
					start := cpuTime(b)
					for i := 0; i < b.N; i += n {
						work.ID = "b"
						if _, err := w.Run(context.Background(), work); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
				})
			}
		}
	}
}

// dropMost keeps one of a hundred.
func dropMost(v []byte, emit func([]byte)) {
	if len(v)%100 == 1 {
		emit(v)
	}
}

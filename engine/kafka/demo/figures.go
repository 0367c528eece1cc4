package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Summary is the demo's result, and its last line with Config.JSON.
type Summary struct {
	Records       int64   `json:"records"`
	MBPerS        float64 `json:"mb_per_s"` // of keys and values; 1 MB = 1,000,000 bytes
	RecordsPerS   float64 `json:"records_per_s"`
	RSSMax        float64 `json:"rss_mb_max"`       // of the whole process, broker and generator included; 1 MB = 1 MiB
	WatermarkLag  int64   `json:"watermark_lag_ms"` // median, at the sink
	Checkpoints   int64   `json:"checkpoints"`      // complete
	elapsed       time.Duration
	expected, got int64 // failures sent and counted
}

// sample is the state of things at one moment.
type sample struct {
	at             time.Time
	records, bytes int64 // read and committed
	queued         int64 // bytes between stages
	lag            time.Duration
	rss            int64
	checkpoints    int64 // complete
}

// figures turns samples into lines and a summary.
type figures struct {
	out      io.Writer
	terminal bool
	counts   *counts
	first    sample
	last     sample
	lags     []time.Duration
	rss      int64
	drawn    int // lines to go back on a terminal
}

// show adds a sample and prints what it says.
func (f *figures) show(s sample) {
	prev := f.last
	f.last = s
	f.rss = max(f.rss, s.rss)
	if f.first.at.IsZero() {
		f.first = s
		return
	}
	f.lags = append(f.lags, s.lag)
	seconds := s.at.Sub(prev.at).Seconds()
	line := fmt.Sprintf("%5.0fs  %9.0f records/s  %6.1f MB/s  RSS %4d MB  watermark lag %-8v queued %5.1f MB  checkpoints %d",
		s.at.Sub(f.first.at).Seconds(), float64(s.records-prev.records)/seconds, float64(s.bytes-prev.bytes)/1e6/seconds,
		s.rss>>20, s.lag.Round(10*time.Millisecond), float64(s.queued)/1e6, s.checkpoints)
	if !f.terminal {
		fmt.Fprintln(f.out, line)
		return
	}
	lines := append([]string{line, ""}, f.table()...)
	if f.drawn > 0 {
		fmt.Fprintf(f.out, "\x1b[%dA\x1b[J", f.drawn)
	}
	fmt.Fprintln(f.out, strings.Join(lines, "\n"))
	f.drawn = len(lines)
}

// table shows the newest counts, as they came back from Kafka.
func (f *figures) table() []string {
	end, rows := f.counts.top(5)
	if len(rows) == 0 {
		return []string{"no window is complete yet"}
	}
	out := []string{"failed requests by page, window " + end.Add(-windowSize).Format("15:04:05") + " - " + end.Format("15:04:05")}
	for _, r := range rows {
		out = append(out, fmt.Sprintf("  %-10s %6d", r.Page, r.Failed))
	}
	return out
}

func (f *figures) summary() Summary {
	s := Summary{Records: f.last.records, Checkpoints: f.last.checkpoints, elapsed: f.last.at.Sub(f.first.at)}
	if sec := s.elapsed.Seconds(); sec > 0 {
		s.RecordsPerS = round(float64(f.last.records-f.first.records) / sec)
		s.MBPerS = round(float64(f.last.bytes-f.first.bytes) / 1e6 / sec)
	}
	if len(f.lags) > 0 {
		slices.Sort(f.lags)
		s.WatermarkLag = f.lags[len(f.lags)/2].Milliseconds()
	}
	s.RSSMax = round(float64(max(f.rss, peakRSS())) / (1 << 20))
	return s
}

func round(v float64) float64 { return float64(int64(v*10+0.5)) / 10 }

// print writes the end of the demo.
func (s Summary) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(s)
	}
	_, err := fmt.Fprintf(out, "%d records in %.0f s: %.0f records/s, %.1f MB/s; peak RSS %.0f MB; watermark lag %d ms; %d checkpoints\n"+
		"%d failed requests were sent, %d were counted\n",
		s.Records, s.elapsed.Seconds(), s.RecordsPerS, s.MBPerS, s.RSSMax, s.WatermarkLag, s.Checkpoints, s.expected, s.got)
	return err
}

// rss returns the resident memory of this process in bytes; where there is no /proc, what the Go runtime has mapped.
func rss() int64 {
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(b)); len(fields) > 1 {
			if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				return n * int64(os.Getpagesize())
			}
		}
	}
	m := []metrics.Sample{{Name: "/memory/classes/total:bytes"}}
	metrics.Read(m)
	return int64(m[0].Value.Uint64())
}

// peakRSS returns the most that this process has ever had resident, in bytes; 0: not known.
func peakRSS() int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 10, 64)
			if err != nil {
				return 0
			}
			return n << 10
		}
	}
	return 0
}

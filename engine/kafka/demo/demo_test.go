package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	beam.Init()
	goleak.VerifyTestMain(m)
}

// Run checks the counts itself.
func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), Config{Duration: 2500 * time.Millisecond, Out: &out, JSON: true}); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var s map[string]float64
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil {
		t.Fatalf("%v: %s", err, lines[len(lines)-1])
	}
	for _, name := range []string{"records", "mb_per_s", "records_per_s", "rss_mb_max", "watermark_lag_ms", "checkpoints"} {
		if _, ok := s[name]; !ok {
			t.Errorf("the summary has no %s: %v", name, s)
		}
	}
	if len(s) != 6 || s["records"] < 1000 {
		t.Errorf("summary %v", s)
	}
}

// interrupted is a terminal whose user sees records pass and presses Ctrl-C.
type interrupted struct {
	bytes.Buffer
	press context.CancelFunc
}

func (i *interrupted) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(" records/s")) && !bytes.Contains(p, []byte(" 0 records/s")) {
		i.press()
	}
	return i.Buffer.Write(p)
}

// Ctrl-C ends the context: what was sent is still counted.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := interrupted{press: cancel}
	if err := Run(ctx, Config{Out: &out, Terminal: true}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	last := lines[len(lines)-1]
	var sent, counted int64
	if _, err := fmt.Sscanf(last, "%d failed requests were sent, %d were counted", &sent, &counted); err != nil || sent == 0 || sent != counted {
		t.Errorf("%q: %v", last, err)
	}
}

func TestFigures(t *testing.T) {
	var out bytes.Buffer
	at := time.Unix(1000, 0)
	c := &counts{}
	f := &figures{out: &out, counts: c, terminal: true}
	f.show(sample{at: at, records: 100, bytes: 50_000, rss: 50 << 20})
	f.show(sample{at: at.Add(time.Second), records: 1100, bytes: 2_050_000, lag: 300 * time.Millisecond, rss: 70 << 20, queued: 1e6, checkpoints: 3})
	c.add(Count{Window: at, Page: "/old", Failed: 9})
	c.add(Count{Window: at.Add(windowSize), Page: "/b", Failed: 2})
	c.add(Count{Window: at.Add(windowSize), Page: "/a", Failed: 3})
	c.add(Count{Window: at, Page: "/late", Failed: 1})
	f.show(sample{at: at.Add(2 * time.Second), records: 3100, bytes: 4_050_000, lag: 500 * time.Millisecond, rss: 60 << 20, checkpoints: 4})
	for _, want := range []string{
		"    1s       1000 records/s     2.0 MB/s  RSS   70 MB  watermark lag 300ms    queued   1.0 MB  checkpoints 3\n\nno window is complete yet\n\x1b[3A\x1b[J",
		"    2s       2000 records/s", "  /a              3\n  /b              2\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q", want, out.String())
		}
	}
	s := f.summary()
	if s.Records != 3100 || s.Checkpoints != 4 || s.RecordsPerS != 1500 || s.MBPerS != 2 || s.WatermarkLag != 500 || s.RSSMax < 1 || c.sum() != 15 {
		t.Errorf("%+v, sum %d", s, c.sum())
	}
}

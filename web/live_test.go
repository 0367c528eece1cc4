package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestLive plays testdata/live: the lines that a page is sent at first. Time stands still at 2000-01-01 00:00 UTC.
func TestLive(t *testing.T) {
	datadriven.RunTest(t, "testdata/live", func(t *testing.T, d *datadriven.TestData) string {
		var out string
		synctest.Test(t, func(t *testing.T) {
			c := example(time.Now())
			c.jobs[len(c.jobs)-1].harnesses = []Harness{
				{Environment: "py", From: "PROCESS /boot", Worker: "words-py-1", PID: 7, Resident: 1 << 20, Since: time.Now().Add(-time.Minute), LastCall: time.Now(), Running: 1, Bundles: 12},
				{Environment: "py", From: "PROCESS /boot", Index: 1, Resident: -1, Restarts: 2, Tries: 3, Error: "it ended: exit status 1"},
			}
			logs := NewLogs(0)
			fmt.Fprintf(logs, "time=2000-01-01T00:00:00.000Z level=WARN msg=\"two words\" job=words-abc worker=words-py-1\n")
			h := newTestHandler(t, c, func(cfg *Config) { cfg.Logs = logs })
			h.sampleAll(time.Now())
			time.Sleep(historyStep)
			code, _, body := call(t, h, http.MethodGet, names(strings.TrimSpace(d.Input)), "")
			if code != http.StatusOK {
				out = fmt.Sprintln(code)
			}
			for line := range bytes.Lines(body) {
				out += indent(t, line)
			}
		})
		return out
	})
}

var deep = regexp.MustCompile(`\n {4,}|\n  +([\]}])`)

// indent puts each field of an object on a line of its own.
func indent(t *testing.T, line []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(line), "", "  "); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	return deep.ReplaceAllString(b.String(), " $1") + "\n"
}

// countingView counts its updates.
type countingView struct {
	mu      sync.Mutex
	updates uint64
	err     error
}

func (v *countingView) update(time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.updates++
	return v.err
}

func (v *countingView) since(uint64) ([]byte, uint64) {
	return fmt.Append(nil, v.updates, "\n"), v.updates
}

// page is a page that somebody has open.
type page struct {
	w    *httptest.ResponseRecorder
	left context.CancelFunc
	done chan struct{}
}

func open(t *testing.T, h *Handler, v view) *page {
	ctx, cancel := context.WithCancel(t.Context())
	p := &page{w: httptest.NewRecorder(), left: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		h.stream(func(*http.Request) view { return v })(p.w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/x", nil))
	}()
	return p
}

// TestPagesShareAView: a view is computed once an interval for all pages, and not at all when the last one has gone.
func TestPagesShareAView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, v := newTestHandler(t, &fakeCluster{}, nil), &countingView{}
		a, b := open(t, h, v), open(t, h, v)
		synctest.Wait()
		time.Sleep(2*liveInterval + time.Millisecond)
		late := open(t, h, v) // does not wait for the next update
		synctest.Wait()
		for p, want := range map[*page]string{a: "1\n2\n3\n", b: "1\n2\n3\n", late: "3\n"} {
			p.left()
			<-p.done
			if got := p.w.Body.String(); got != want {
				t.Errorf("a page was sent %q, want %q", got, want)
			}
		}
		time.Sleep(time.Minute)
		if v.updates != 3 || len(h.live.topics) != 0 || h.live.pages != 0 {
			t.Errorf("%d updates, %d topics, %d pages after all have left", v.updates, len(h.live.topics), h.live.pages)
		}
	})
}

// TestServerEndsPages: streams end when the server does, and new ones are refused.
func TestServerEndsPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHandler(t, &fakeCluster{}, nil)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- h.Run(ctx) }()
		p := open(t, h, &countingView{})
		synctest.Wait()
		stop()
		<-p.done
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if code, _, body := call(t, h, http.MethodGet, "/ui/live/jobs", ""); code != http.StatusServiceUnavailable {
			t.Errorf("after the end: %d %s", code, body)
		}
	})
}

// TestGoneView: a page whose thing is gone is told so, at once or later.
func TestGoneView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHandler(t, &fakeCluster{}, nil)
		v := &countingView{}
		p := open(t, h, v)
		synctest.Wait()
		v.mu.Lock()
		v.err = errors.New("it is gone")
		v.mu.Unlock()
		<-p.done
		if got := p.w.Body.String(); got != "1\n"+`{"error":"it is gone","t":"gone"}`+"\n" {
			t.Errorf("%q", got)
		}
		if code, _, body := call(t, h, http.MethodGet, "/ui/live/jobs/none", ""); code != http.StatusNotFound || !bytes.Contains(body, []byte("Job none not found")) {
			t.Errorf("%d %s", code, body)
		}
	})
}

func TestTooManyPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, v := newTestHandler(t, &fakeCluster{}, nil), &countingView{}
		var pages []*page
		for range maxPages {
			pages = append(pages, open(t, h, v))
		}
		synctest.Wait()
		over := open(t, h, v)
		<-over.done
		if over.w.Code != http.StatusServiceUnavailable {
			t.Errorf("%d", over.w.Code)
		}
		for _, p := range pages {
			p.left()
			<-p.done
		}
	})
}

// stuck is a client that does not read.
type stuck struct {
	http.ResponseWriter
	deadline time.Time
}

func (s *stuck) SetWriteDeadline(at time.Time) error { s.deadline = at; return nil }

func (s *stuck) Write([]byte) (int, error) {
	time.Sleep(time.Until(s.deadline))
	return 0, errors.New("time-out")
}

// TestSlowPage: who does not read is dropped after a while and holds nobody up.
func TestSlowPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, v := newTestHandler(t, &fakeCluster{}, nil), &countingView{}
		quick := open(t, h, v)
		began := time.Now()
		h.stream(func(*http.Request) view { return v })(&stuck{ResponseWriter: httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/x", nil))
		if d := time.Since(began); d != livePatience {
			t.Errorf("it was dropped after %v", d)
		}
		synctest.Wait()
		quick.left()
		<-quick.done
		if got := strings.Count(quick.w.Body.String(), "\n"); got != int(livePatience/liveInterval)+1 {
			t.Errorf("the other page has got %d lines", got)
		}
	})
}

// TestParts: what has not changed is not sent again.
func TestParts(t *testing.T) {
	var p parts
	for k, want := range []string{"1\n\"a\"\n", "2\n", "3\n\"b\"\n"} {
		if err := p.set(k+1, []string{"a", "a", "b"}[k]); err != nil {
			t.Fatal(err)
		}
		if got, next := p.since(uint64(k)); string(got) != want || next != uint64(k+1) {
			t.Errorf("update %d: %q, cursor %d", k, got, next)
		}
	}
	if got, _ := p.since(0); string(got) != "3\n\"b\"\n" {
		t.Errorf("all: %q", got)
	}
}

func TestNumbers(t *testing.T) {
	got, err := json.Marshal(numRow{0, 1.0 / 3, 123456.789, 1e12, unknown(), -1, maxTime})
	if want := "[0,0.3333,1.235e+05,1000000000000,null,-1,8640000000000000]"; err != nil || string(got) != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}

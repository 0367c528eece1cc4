package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// drawn notes when all stages are there. It is run before the page's own code.
const drawn = `addEventListener("DOMContentLoaded", () => {
  const look = () => document.querySelectorAll(".node").length >= %d ? (window.drawnAt = performance.now()) : requestAnimationFrame(look);
  look();
});`

// moved moves the graph for two seconds, step by step, and resolves to the 95th percentile of the time between frames.
const moved = `new Promise((done) => {
  const svg = document.querySelector(".graph svg"), at = (type, x) => svg.dispatchEvent(new PointerEvent(type, { pointerId: 1, clientX: x, clientY: 300, bubbles: true }));
  svg.setPointerCapture = () => {};
  for (let k = 0; k < 6; k++) document.querySelector(".zoom button").click();
  at("pointerdown", 600);
  const times = [], began = performance.now();
  const step = (now) => {
    times.push(now);
    at("pointermove", 600 + 300 * Math.sin((now - began) / 200));
    if (now - began < 2000) return requestAnimationFrame(step);
    at("pointerup", 600);
    const gaps = times.slice(1).map((t, k) => t - times[k]).sort((a, b) => a - b);
    done(gaps[Math.floor(gaps.length * 0.95)]);
  };
  requestAnimationFrame(step);
})`

// traffic adds up what comes over the wire.
type traffic struct {
	mu      sync.Mutex
	streams map[network.RequestID]bool
	bytes   int64
	count   int
	stream  int64
}

func (t *traffic) listen(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if strings.Contains(e.Request.URL, "/ui/live/") {
			t.streams[e.RequestID] = true
		} else {
			t.count++
		}
	case *network.EventLoadingFinished:
		if !t.streams[e.RequestID] {
			t.bytes += int64(e.EncodedDataLength)
		}
	case *network.EventDataReceived:
		if t.streams[e.RequestID] {
			t.stream += e.DataLength
		}
	}
}

// first opens a page seven times and gives the medians of its first paint and its first contentful paint. Browsers paint by
// chance later than they could: the first time it is their own start that is measured.
func first(url string, medians *[]float64) chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		var all [2][]float64
		for range 7 {
			var one []float64
			err := chromedp.Run(ctx, chromedp.Navigate("about:blank"), chromedp.Navigate(url), chromedp.Sleep(time.Second),
				chromedp.Evaluate(`["first-paint", "first-contentful-paint"].map((n) => performance.getEntriesByName(n)[0]?.startTime || 0)`, &one))
			if err != nil {
				return err
			}
			for k := range all {
				all[k] = append(all[k], one[k])
			}
		}
		for k := range all {
			slices.Sort(all[k])
			*medians = append(*medians, all[k][len(all[k])/2])
		}
		return nil
	})
}

// browse opens a page in a fresh Chromium and measures it; loaded is called while it is open.
func browse(ctx context.Context, url string, stages int, f *figures, loaded func() error) error {
	profile, err := os.MkdirTemp("", "webui-profile-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(profile) //nolint:errcheck // Chromium may still be writing to it
	options := []chromedp.ExecAllocatorOption{chromedp.ExecPath("chromium"), chromedp.NoFirstRun, chromedp.UserDataDir(profile), chromedp.WindowSize(1280, 900)}
	for _, flag := range []string{"headless", "no-sandbox", "disable-gpu", "disable-quic", "disable-background-networking", "disable-component-update", "disable-sync"} {
		options = append(options, chromedp.Flag(flag, true))
	}
	ctx, cancel := chromedp.NewExecAllocator(ctx, options...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	t := &traffic{streams: make(map[network.RequestID]bool)}
	var paints []float64
	err = chromedp.Run(ctx, network.Enable(), network.SetCacheDisabled(true), chromedp.Navigate("about:blank"),
		chromedp.ActionFunc(func(ctx context.Context) error {
			_, err := page.AddScriptToEvaluateOnNewDocument(fmt.Sprintf(drawn, stages)).Do(ctx)
			return err
		}),
		first(strings.Split(url, "#")[0], &paints), chromedp.Navigate("about:blank"),
		chromedp.ActionFunc(func(context.Context) error { chromedp.ListenTarget(ctx, t.listen); return nil }),
		chromedp.Navigate(url), chromedp.Poll("window.drawnAt > 0", nil, chromedp.WithPollingTimeout(30*time.Second)),
		chromedp.Evaluate("window.drawnAt", &f.GraphDrawn),
		chromedp.Sleep(3*time.Second))
	if err != nil {
		return fmt.Errorf("open the page: %w", err)
	}
	f.FirstPaint, f.Contentful = paints[0], paints[1]
	t.mu.Lock()
	f.PageBytes, f.PageRequests = t.bytes, t.count
	before := t.stream
	t.mu.Unlock()
	began := time.Now()
	if err := loaded(); err != nil {
		return err
	}
	t.mu.Lock()
	f.StreamBytesPS = float64(t.stream-before) / time.Since(began).Seconds()
	t.mu.Unlock()
	return chromedp.Run(ctx, chromedp.Evaluate(moved, &f.FrameP95, func(p *runtime.EvaluateParams) *runtime.EvaluateParams {
		return p.WithAwaitPromise(true)
	}))
}

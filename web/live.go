package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	// liveInterval is the time between two looks at what an open page shows.
	liveInterval = 2 * time.Second
	// livePatience is how long a page may take to accept what it is sent.
	livePatience = 10 * time.Second
	// maxPages bounds the pages that are open at once.
	maxPages = 256
)

// view is what one kind of page shows of one thing. It is used by one goroutine at a time.
type view interface {
	// update takes a new look. An error ends all pages that show it: what they show is gone.
	update(now time.Time) error
	// since returns what to send to a page that has been sent everything up to a cursor, 0 at first: lines of JSON. It also
	// returns the new cursor.
	since(cursor uint64) ([]byte, uint64)
}

// live keeps the views that pages look at up to date: each is computed once per interval whatever the number of pages, and
// not at all when there are none. Goroutine safe.
type live struct {
	interval time.Duration

	mu     sync.Mutex
	topics map[string]*topic // by the path of the request; guarded by mu
	pages  int               // guarded by mu
	closed bool              // guarded by mu
	done   chan struct{}     // closed by close
	wg     sync.WaitGroup    // of topics
}

// topic is a view with its pages.
type topic struct {
	live *live
	name string
	left chan struct{} // closed when the last page has left

	mu   sync.Mutex // protects what follows
	view view
	err  error // why it has ended

	pages map[chan struct{}]bool // to be woken; guarded by live.mu
	ready bool                   // was updated; guarded by live.mu
}

func newLive(interval time.Duration) *live {
	return &live{interval: interval, topics: make(map[string]*topic), done: make(chan struct{})}
}

var errClosing = fail(http.StatusServiceUnavailable, "the server is shutting down")

// enter makes a page look at the view of a name, which is made if nobody looks at it yet. The channel is sent to after each
// update. leave must be called with both.
func (l *live) enter(name string, newView func() view) (*topic, chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, errClosing
	}
	if l.pages >= maxPages {
		return nil, nil, fail(http.StatusServiceUnavailable, "%d pages are open: close some", l.pages)
	}
	t := l.topics[name]
	if t == nil {
		t = &topic{live: l, name: name, left: make(chan struct{}), view: newView(), pages: make(map[chan struct{}]bool)}
		l.topics[name] = t
		l.wg.Go(t.run)
	}
	l.pages++
	wake := make(chan struct{}, 1)
	t.pages[wake] = true
	if t.ready {
		wake <- struct{}{}
	}
	return t, wake, nil
}

func (l *live) leave(t *topic, wake chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pages--
	delete(t.pages, wake)
	if len(t.pages) == 0 {
		l.remove(t)
		close(t.left)
	}
}

// remove REQUIRES: l.mu.
func (l *live) remove(t *topic) {
	if l.topics[t.name] == t {
		delete(l.topics, t.name)
	}
}

// close ends all pages, and waits for what computes them. New ones are refused.
func (l *live) close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.done)
	}
	l.mu.Unlock()
	l.wg.Wait()
}

// run updates the view until nobody looks at it.
func (t *topic) run() {
	tick := time.NewTicker(t.live.interval)
	defer tick.Stop()
	for now := time.Now(); t.update(now); {
		select {
		case now = <-tick.C:
		case <-t.left:
			return
		case <-t.live.done:
			return
		}
	}
}

// update reports whether to go on.
func (t *topic) update(now time.Time) bool {
	t.mu.Lock()
	err := t.view.update(now)
	t.err = err
	t.mu.Unlock()
	t.live.mu.Lock()
	defer t.live.mu.Unlock()
	t.ready = true
	if err != nil {
		t.live.remove(t) // whoever comes now tries again
	}
	for wake := range t.pages {
		select {
		case wake <- struct{}{}:
		default: // it has not seen the one before
		}
	}
	return err == nil
}

func (t *topic) since(cursor uint64) ([]byte, uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return nil, cursor, t.err
	}
	data, next := t.view.since(cursor)
	return data, next, nil
}

// stream serves a view as lines of JSON: at once all that there is, then every interval what has changed. With ?once it ends
// after the first. It ends with the request, and when the server shuts down.
func (h *Handler) stream(newView func(r *http.Request) view) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		t, wake, err := h.live.enter(r.URL.Path, func() view { return newView(r) })
		if err != nil {
			h.fail(w, err)
			return
		}
		defer h.live.leave(t, wake)
		if err := h.sendAll(w, r, t, wake); err != nil && r.Context().Err() == nil {
			h.log.Debug("a page was not sent to", "path", r.URL.Path, "error", err)
		}
	}
}

func (h *Handler) sendAll(w http.ResponseWriter, r *http.Request, t *topic, wake <-chan struct{}) error {
	control := http.NewResponseController(w)
	for cursor, begun := uint64(0), false; ; begun = true {
		if err := h.live.await(r.Context(), wake); err != nil {
			if !begun {
				h.fail(w, err)
			}
			return err
		}
		data, next, err := t.since(cursor)
		if err != nil && !begun {
			h.fail(w, err)
			return err
		}
		if err != nil {
			data = errorLine(err)
		}
		cursor = next
		if !begun {
			header := w.Header()
			header.Set("Content-Type", "application/x-ndjson")
			header.Set("Cache-Control", "no-store")
			header.Set("X-Content-Type-Options", "nosniff")
			header.Set("X-Accel-Buffering", "no") // nginx would collect them
		}
		// Servers have a bound for whole answers: each line has its own here. A writer without one is a test's.
		if err := control.SetWriteDeadline(time.Now().Add(livePatience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		if err := control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if err != nil || r.URL.Query().Has("once") {
			return err
		}
	}
}

// await waits for the next update.
func (l *live) await(ctx context.Context, wake <-chan struct{}) error {
	select {
	case <-wake:
		return nil
	case <-l.done:
		return errClosing
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errorLine tells a page why there is nothing more to show.
func errorLine(err error) []byte {
	data, merr := json.Marshal(map[string]string{"t": "gone", "error": err.Error()})
	if merr != nil {
		return nil
	}
	return append(data, '\n')
}

// parts is the base of views: JSON objects that are sent again only if they have changed.
type parts struct {
	tick uint64 // number of the update
	list []part
}

// part is one line.
type part struct {
	data    []byte
	changed uint64 // the update that has changed it last
}

// line is a part that is JSON already.
type line []byte

// set puts the parts of a new update in their order.
func (p *parts) set(values ...any) error {
	p.tick++
	for len(p.list) < len(values) {
		p.list = append(p.list, part{})
	}
	for k, v := range values {
		data, ok := v.(line)
		if !ok {
			var err error
			if data, err = json.Marshal(v); err != nil {
				return err
			}
		}
		if !bytes.Equal(data, p.list[k].data) {
			p.list[k] = part{data, p.tick}
		}
	}
	return nil
}

func (p *parts) since(cursor uint64) ([]byte, uint64) {
	size := 0
	for _, x := range p.list {
		if x.changed > cursor {
			size += len(x.data) + 1
		}
	}
	out := make([]byte, 0, size)
	for _, x := range p.list {
		if x.changed > cursor {
			out = append(append(out, x.data...), '\n')
		}
	}
	return out, p.tick
}

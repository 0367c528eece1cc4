package main

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// lines passes on what it is given and lets others wait for a line. Any goroutine may use it.
type lines struct {
	to io.Writer
	on func(line string) // called for each line, one at a time

	mu      sync.Mutex
	part    []byte
	waiters map[*waiter]struct{}
}

// waiter waits for a line with a text in it.
type waiter struct {
	text  string
	found chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, p...)
	for {
		line, rest, ok := bytes.Cut(l.part, []byte("\n"))
		if !ok {
			break
		}
		l.line(string(line))
		l.part = rest
	}
	return l.to.Write(p)
}

func (l *lines) line(s string) {
	if l.on != nil {
		l.on(s)
	}
	for w := range l.waiters {
		if strings.Contains(s, w.text) {
			close(w.found)
			delete(l.waiters, w)
		}
	}
}

// expect returns a channel that is closed with the next line that has text in it. cancel must be called when nobody waits any
// more.
func (l *lines) expect(text string) (found <-chan struct{}, cancel func()) {
	w := &waiter{text: text, found: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiters == nil {
		l.waiters = make(map[*waiter]struct{})
	}
	l.waiters[w] = struct{}{}
	return w.found, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waiters, w)
	}
}

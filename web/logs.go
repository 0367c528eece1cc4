package web

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Logs keep the newest lines of a log in memory, for the pages that show it. Goroutine safe.
type Logs struct {
	limit int

	mu      sync.Mutex
	lines   [][]byte // complete, oldest first; never changed
	dropped uint64   // lines that were there before the oldest one
	size    int
	changed time.Time
}

// NewLogs keeps at most so many bytes. Default 256 KiB.
func NewLogs(limit int) *Logs {
	if limit == 0 {
		limit = 256 << 10
	}
	return &Logs{limit: limit, changed: time.Now()}
}

// Handler passes records on to next, and keeps those that next accepts.
func (l *Logs) Handler(next slog.Handler) slog.Handler {
	return tee{next: next, keep: slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})}
}

// Write takes one line.
func (l *Logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := bytes.Clone(p)
	if len(line) > l.limit {
		line = line[:l.limit]
	}
	l.lines = append(l.lines, line)
	l.size += len(line)
	for l.size > l.limit {
		l.size -= len(l.lines[0])
		l.lines[0] = nil
		l.lines = l.lines[1:]
		l.dropped++
	}
	l.changed = time.Now()
	return len(p), nil
}

// Text returns what is kept.
func (l *Logs) Text() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Join(l.lines, nil)
}

// since returns the lines that are kept of those from a number on, the number of the first of them, and of the one to come.
// Lines are numbered from 0.
func (l *Logs) since(from uint64) (lines [][]byte, first, next uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next = l.dropped + uint64(len(l.lines))
	first = min(max(from, l.dropped), next)
	return l.lines[first-l.dropped:], first, next
}

// stat returns the size of what is kept, and when the newest line came.
func (l *Logs) stat() (size int, changed time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size, l.changed
}

// tee hands records to two handlers; the first one decides whether a record is wanted.
type tee struct{ next, keep slog.Handler }

var (
	_ slog.Handler = tee{}
	_ io.Writer    = (*Logs)(nil)
)

// Enabled asks the first handler.
func (t tee) Enabled(ctx context.Context, l slog.Level) bool { return t.next.Enabled(ctx, l) }

// Handle hands the record to both. Keeping it cannot fail.
func (t tee) Handle(ctx context.Context, r slog.Record) error {
	err := t.next.Handle(ctx, r.Clone())
	if kerr := t.keep.Handle(ctx, r); err == nil {
		err = kerr
	}
	return err
}

// WithAttrs adds attributes to both.
func (t tee) WithAttrs(as []slog.Attr) slog.Handler {
	return tee{t.next.WithAttrs(as), t.keep.WithAttrs(as)}
}

// WithGroup opens a group in both.
func (t tee) WithGroup(name string) slog.Handler {
	return tee{t.next.WithGroup(name), t.keep.WithGroup(name)}
}

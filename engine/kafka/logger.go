package kafka

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// logEvery is how often the same message is logged at most: a broker that is away for an hour is not worth thousands of lines.
const logEvery = 10 * time.Second

// logger hands franz-go's log to slog: its warnings and errors (retries, lost connections), not its chatter.
type logger struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	last map[string]logged // by message; franz-go's are constants
}

// logged is what became of a message.
type logged struct {
	at   time.Time
	left int // not logged since
}

var _ kgo.Logger = (*logger)(nil)

func newLogger(log *slog.Logger) *logger {
	return &logger{log: log, now: time.Now, last: make(map[string]logged)}
}

// Level implements kgo.Logger.
func (l *logger) Level() kgo.LogLevel {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelWarn
}

// Log implements kgo.Logger. What is fatal comes back as an error of the client, so that nothing here is more than a warning.
func (l *logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	to := slog.LevelDebug
	if level == kgo.LogLevelError || level == kgo.LogLevelWarn {
		to = slog.LevelWarn
	}
	l.mu.Lock()
	was, now := l.last[msg], l.now()
	if now.Sub(was.at) < logEvery {
		was.left++
		l.last[msg] = was
		l.mu.Unlock()
		return
	}
	l.last[msg] = logged{at: now}
	l.mu.Unlock()
	if was.left > 0 {
		keyvals = append(keyvals, "left_out", was.left)
	}
	l.log.Log(context.Background(), to, "kafka: "+msg, keyvals...)
}

package kafka

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestLoggerLeavesOutRepetitions(t *testing.T) {
	var out bytes.Buffer
	at := time.Unix(0, 0).Add(time.Hour)
	l := newLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})))
	l.now = func() time.Time { return at }
	for range 5 {
		l.Log(kgo.LogLevelError, "unable to dial", "broker", 1)
		l.Log(kgo.LogLevelWarn, "other")
		at = at.Add(4 * time.Second)
	}
	l.Log(kgo.LogLevelInfo, "chatter")
	const want = `level=WARN msg="kafka: unable to dial" broker=1
level=WARN msg="kafka: other"
level=WARN msg="kafka: unable to dial" broker=1 left_out=2
level=WARN msg="kafka: other" left_out=2
`
	if out.String() != want {
		t.Errorf("logged\n%s\nwant\n%s", out.String(), want)
	}
	if l.Level() != kgo.LogLevelWarn {
		t.Errorf("level %v", l.Level())
	}
}

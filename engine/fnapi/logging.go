package fnapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// maxMoreLines bounds the lines of one entry that are logged after its first.
const maxMoreLines = 100

// serveLogging owns a logging stream until the harness ends it or the worker is gone.
func (w *Worker) serveLogging(stream fnpb.BeamFnLogging_LoggingServer) error {
	defer w.enter()()
	received := make(chan error, 1)
	go func() {
		for {
			list, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			w.touch()
			for _, e := range list.GetLogEntries() {
				w.logEntry(stream.Context(), e)
			}
		}
	}()
	select {
	case err := <-received:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	case <-w.gone:
		return nil
	}
}

// logEntry logs an entry. Each further line of its message, and of its trace, is a record of its own, so that tracebacks
// are readable in any format.
func (w *Worker) logEntry(ctx context.Context, e *fnpb.LogEntry) {
	level := severity(e.GetSeverity())
	if !w.log.Enabled(ctx, level) {
		return
	}
	at := time.Now()
	if e.GetTimestamp() != nil {
		at = e.GetTimestamp().AsTime()
	}
	write := func(text string, attrs ...slog.Attr) {
		rec := slog.NewRecord(at, level, text, 0)
		rec.AddAttrs(attrs...)
		// A handler's error has nowhere to go.
		_ = w.log.Handler().Handle(ctx, rec)
	}
	text := strings.TrimRight(e.GetMessage(), "\n")
	if trace := strings.TrimRight(e.GetTrace(), "\n"); !strings.Contains(text, trace) {
		text += "\n" + trace
	}
	lines := strings.Split(text, "\n")
	write(lines[0], w.logAttrs(e)...)
	for i, line := range lines[1:] {
		if left := len(lines) - 1 - i; i == maxMoreLines && left > 1 {
			write("| ...", slog.Int("lines_left_out", left))
			return
		}
		write("| " + line)
	}
}

func (w *Worker) logAttrs(e *fnpb.LogEntry) []slog.Attr {
	var attrs []slog.Attr
	if id := e.GetInstructionId(); id != "" {
		attrs = append(attrs, slog.String("bundle", id))
	}
	if id := e.GetTransformId(); id != "" {
		attrs = append(attrs, slog.String("transform", w.env.name(id)))
	}
	if at := e.GetLogLocation(); at != "" {
		attrs = append(attrs, slog.String("at", at))
	}
	if fields := e.GetCustomData().GetFields(); len(fields) > 0 {
		attrs = append(attrs, customData(fields))
	}
	return attrs
}

func customData(fields map[string]*structpb.Value) slog.Attr {
	var group []any
	for name, v := range fields {
		group = append(group, slog.Any(name, v.AsInterface()))
	}
	return slog.Group("data", group...)
}

// severity maps a LogEntry's severity to slog's levels, which lie 4 apart: TRACE below DEBUG, NOTICE above INFO, CRITICAL
// above ERROR.
func severity(s fnpb.LogEntry_Severity_Enum) slog.Level {
	switch s {
	case fnpb.LogEntry_Severity_TRACE:
		return slog.LevelDebug - 4
	case fnpb.LogEntry_Severity_DEBUG:
		return slog.LevelDebug
	case fnpb.LogEntry_Severity_NOTICE:
		return slog.LevelInfo + 2
	case fnpb.LogEntry_Severity_WARN:
		return slog.LevelWarn
	case fnpb.LogEntry_Severity_ERROR:
		return slog.LevelError
	case fnpb.LogEntry_Severity_CRITICAL:
		return slog.LevelError + 4
	default:
		return slog.LevelInfo
	}
}

// names are the unique names of an environment's transforms, by transform id.
type names struct {
	mu   sync.Mutex
	byID map[string]string // guarded by mu
	seen []string          // ids of the descriptors they come from; guarded by mu
}

// addNames learns the names of a descriptor's transforms.
func (e *Environment) addNames(descriptor string, desc *fnpb.ProcessBundleDescriptor) {
	n := &e.names
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.byID == nil {
		n.byID = make(map[string]string)
	}
	n.seen = append(n.seen, descriptor)
	for id, t := range desc.GetTransforms() {
		n.byID[id] = t.GetUniqueName()
	}
}

// name returns a transform's unique name, or its id if it is unknown.
func (e *Environment) name(transform string) string {
	e.names.mu.Lock()
	defer e.names.mu.Unlock()
	if name := e.names.byID[transform]; name != "" {
		return name
	}
	return transform
}

// descriptors returns the ids of the descriptors that the environment has registered.
func (e *Environment) descriptors() []string {
	e.names.mu.Lock()
	defer e.names.mu.Unlock()
	return e.names.seen
}

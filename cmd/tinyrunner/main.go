package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Exit codes. Scripts of operators rely on them.
const (
	exitDone      = 0
	exitFailed    = 1
	exitUsage     = 2
	exitFenced    = 3
	exitCancelled = 130
)

func main() {
	ctx, stop := untilSignal(context.Background())
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// untilSignal returns a context that ends with the first SIGINT or SIGTERM. A second one ends the process at once.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(exitCancelled)
	}()
	return ctx, cancel
}

// run executes a command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := rootCommand(stdout, stderr)
	cmd.SetArgs(doubleDashes(args))
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	code := exitFailed
	var coded *exitError
	if errors.As(err, &coded) {
		code = coded.code
	}
	message := err.Error()
	if code == exitUsage { // one line; a failed job's traceback keeps its shape
		message = strings.Join(strings.Fields(message), " ")
	}
	fmt.Fprintf(stderr, "tinyrunner: %s\n", strings.TrimSpace(message))
	return code
}

// exitError is an error that decides the exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usage makes an error that the caller's user can mend: a flag, a port, a directory. The text says how.
func usage(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// doubleDashes turns flags in the style of Go's flag package (-job_port=1), as Prism takes them, into ours. What follows
// "--" belongs to somebody else's command.
func doubleDashes(args []string) []string {
	out := make([]string, len(args))
	copy(out, args)
	for i, a := range out {
		if a == "--" {
			break
		}
		if len(a) > 2 && a[0] == '-' && a[1] >= 'a' && a[1] <= 'z' {
			out[i] = "-" + a
		}
	}
	return out
}

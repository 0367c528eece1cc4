package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func logsCommand(stdout, stderr io.Writer) *cobra.Command {
	lines, follow := 0, false
	c := newClientCommand(stdout, stderr, &cobra.Command{
		Use:   "logs [ID]",
		Short: "print the newest part of a server's log",
		Long: `Prints what the server still has of its log in memory, all of it or what is about one job. With --json each line is an object:
time, level, msg and what else there is.` + jobHelp,
		Example: `  tinyrunner logs
  tinyrunner logs clicks --follow
  tinyrunner logs --lines 20
  tinyrunner logs --json | jq -r 'select(.level == "ERROR").msg'`,
		Args: arguments(0, "at most one job"),
	}, func(ctx context.Context, s *session, args []string) error {
		wanted := func(map[string]string) bool { return true }
		if len(args) > 0 {
			j, err := s.find(ctx, args[0])
			if err != nil {
				return err
			}
			wanted = func(fields map[string]string) bool { return ofJob(fields["job"], j) }
		}
		return s.logs(ctx, wanted, lines, follow)
	}).aboutJob(true)
	c.Flags().IntVarP(&lines, "lines", "n", 0, "print only so many of the newest lines; 0 is all")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is logged later, until Ctrl-C")
	return c.Command
}

// logs prints lines that are wanted, and goes on with new ones if it shall follow.
func (s *session) logs(ctx context.Context, wanted func(map[string]string) bool, last int, follow bool) error {
	old := ""
	for first := true; ; first = false {
		data, err := s.send(ctx, http.MethodGet, "/jobmanager/log", nil)
		if follow && ctx.Err() != nil {
			return nil // as asked
		}
		if err != nil {
			return err
		}
		text := string(data)
		var lines []string
		for line := range strings.Lines(added(old, text)) {
			if wanted(logFields(line)) {
				lines = append(lines, line)
			}
		}
		if first && last > 0 && len(lines) > last {
			lines = lines[len(lines)-last:]
		}
		if err := s.logLines(lines); err != nil || !follow {
			return err
		}
		old = text
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lastPoll):
		}
	}
}

func (s *session) logLines(lines []string) error {
	for _, line := range lines {
		line = strings.TrimRight(line, "\n")
		var err error
		if s.json {
			err = writeJSON(s.out, logFields(line))
		} else {
			_, err = fmt.Fprintln(s.out, printable(line))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// added is what came to a log since it was old: the server drops lines at the front.
func added(old, text string) string {
	first, _, _ := strings.Cut(text, "\n")
	for at := 0; at < len(old); {
		k := strings.Index(old[at:], first)
		if k < 0 {
			break
		}
		if at += k; strings.HasPrefix(text, old[at:]) {
			return text[len(old)-at:]
		}
		at++
	}
	return text
}

// logFields reads a line as package slog's TextHandler writes it. What is not like that is all in "line".
func logFields(line string) map[string]string {
	out := make(map[string]string)
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimLeft(rest, " ") {
		key, after, ok := logToken(rest, "=")
		if !ok || !strings.HasPrefix(after, "=") {
			return map[string]string{"line": strings.TrimSpace(line)}
		}
		value, after, ok := logToken(after[1:], " ")
		if !ok {
			return map[string]string{"line": strings.TrimSpace(line)}
		}
		out[key], rest = value, after
	}
	return out
}

// logToken reads a word up to a delimiter, or one in quotes.
func logToken(s, delimiter string) (token, rest string, ok bool) {
	if strings.HasPrefix(s, `"`) {
		quoted, err := strconv.QuotedPrefix(s)
		if err != nil {
			return "", "", false
		}
		token, err = strconv.Unquote(quoted)
		return token, s[len(quoted):], err == nil
	}
	k := strings.Index(s, delimiter)
	if k < 0 {
		k = len(s)
	}
	return s[:k], s[k:], true
}

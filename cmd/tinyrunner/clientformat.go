package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/term"
)

// table writes rows whose columns are aligned; the first row is the heading.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// writeJSON writes one line.
func writeJSON(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", data)
	return err
}

// printable replaces what would steer a terminal: names and errors are other people's.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\n' || c == '\t' || unicode.IsPrint(c) {
			return c
		}
		return '?'
	}, s)
}

// cell is printable text in one line, for a table.
func cell(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\n' || c == '\t' {
			return ' '
		}
		return c
	}, printable(s))
}

// unknown is shown for a value that there is not.
const unknown = "-"

// quantity is a number in at most four characters and a unit of thousands.
func quantity(f float64) string {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0) || f < 0:
		return unknown
	case f < 9.95 && f != math.Trunc(f):
		return fmt.Sprintf("%.1f", f)
	}
	return scaled(f, 1000, "", "k", "M", "G", "T")
}

// byteCount is a size with a unit of 1,024.
func byteCount(bytes float64) string {
	if math.IsNaN(bytes) || bytes < 0 {
		return unknown
	}
	return scaled(bytes, 1024, " B", " KiB", " MiB", " GiB", " TiB")
}

func scaled(f, step float64, units ...string) string {
	k := 0
	for ; f >= step-0.5 && k < len(units)-1; k++ {
		f /= step
	}
	if k > 0 && f < 99.95 {
		return fmt.Sprintf("%.1f%s", f, units[k])
	}
	return fmt.Sprintf("%.0f%s", f, units[k])
}

// span is a duration with its two greatest units.
func span(milliseconds int64) string {
	d := time.Duration(milliseconds) * time.Millisecond
	switch {
	case milliseconds < 0:
		return unknown
	case d < time.Second:
		return fmt.Sprintf("%dms", milliseconds)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// instant is a time that means the same everywhere.
func instant(milliseconds int64) string {
	return time.UnixMilli(milliseconds).UTC().Format(time.RFC3339)
}

// percent is a share of the time, given as milliseconds in a second.
func percent(perSecond float64) string {
	if math.IsNaN(perSecond) {
		return unknown
	}
	return fmt.Sprintf("%.0f%%", perSecond/10)
}

// lag is how far a watermark is behind the clock; "end" when nothing more comes.
func lag(now int64, watermark float64) string {
	const end = 9.2e18 // about the greatest watermark, which comes as a floating-point number
	switch behind := float64(now) - watermark; {
	case math.IsNaN(watermark) || watermark <= -end:
		return unknown
	case watermark >= end:
		return "end"
	case behind < 0:
		return "-" + span(int64(min(-behind, end/1e6)))
	default:
		return span(int64(min(behind, end/1e6)))
	}
}

// quietFor is how long something may take that nobody needs to be told of, unless he watches.
const quietFor = 2 * time.Second

// progress tells somebody who waits how it goes: on a terminal in one line that changes, else in a line for each state.
type progress struct {
	out      io.Writer
	terminal bool
	began    time.Time
	last     string
}

func newProgress(out io.Writer) *progress {
	return &progress{out: out, terminal: onTerminal(out), began: time.Now()}
}

func (p *progress) show(what, state string) {
	text := "waiting for " + cell(what)
	if state != "" {
		text += ": " + state
	}
	switch {
	case p.terminal:
		fmt.Fprintf(p.out, "\r%s, %s\x1b[K", text, span(time.Since(p.began).Milliseconds()))
	case text != p.last && time.Since(p.began) > quietFor:
		fmt.Fprintln(p.out, text)
	default:
		return
	}
	p.last = text
}

// end clears the line.
func (p *progress) end() {
	if p.terminal && p.last != "" {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	p.last = ""
}

// onTerminal reports whether somebody reads along. Unlike a file of devices, as isTerminal takes, it must have a screen.
func onTerminal(stream any) bool {
	f, ok := stream.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

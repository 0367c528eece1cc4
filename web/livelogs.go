package web

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// logLineJSON is a record of the log.
type logLineJSON struct {
	N     uint64   `json:"n"` // number of the line since the process began
	Time  string   `json:"time"`
	Level string   `json:"level"`
	Text  string   `json:"text"`
	Attrs []string `json:"attrs,omitempty"` // key, value, key, value
}

func (l logLineJSON) attr(key string) string {
	for k := 0; k+1 < len(l.Attrs); k += 2 {
		if l.Attrs[k] == key {
			return l.Attrs[k+1]
		}
	}
	return ""
}

// parseLine reads what slog's TextHandler has written. What it has not written so is all text.
func parseLine(raw []byte) logLineJSON {
	l := logLineJSON{}
	rest := strings.TrimRight(string(raw), "\n")
	for rest != "" {
		key, value, more, ok := cutAttr(rest)
		if !ok {
			l.Text += rest
			break
		}
		rest = more
		switch {
		case key == "time" && l.Time == "":
			l.Time = value
		case key == "level" && l.Level == "":
			l.Level = value
		case key == "msg" && l.Text == "":
			l.Text = value
		default:
			l.Attrs = append(l.Attrs, key, value)
		}
	}
	return l
}

// cutAttr cuts key=value off a line; keys and values may be quoted.
func cutAttr(s string) (key, value, rest string, ok bool) {
	if key, s, ok = cutWord(s, "="); !ok || !strings.HasPrefix(s, "=") {
		return "", "", "", false
	}
	if value, s, ok = cutWord(s[1:], " "); !ok {
		return "", "", "", false
	}
	return key, value, strings.TrimPrefix(s, " "), true
}

// cutWord cuts a quoted word, or everything before one of the ends.
func cutWord(s, ends string) (word, rest string, ok bool) {
	if strings.HasPrefix(s, `"`) {
		quoted, err := strconv.QuotedPrefix(s)
		if err != nil {
			return "", "", false
		}
		if word, err = strconv.Unquote(quoted); err != nil {
			return "", "", false
		}
		return word, s[len(quoted):], true
	}
	if k := strings.IndexAny(s, ends); k >= 0 {
		return s[:k], s[k:], true
	}
	return s, "", true
}

// logsView is the log of the process, its harnesses included. A cursor is the number of the line to come, plus one.
type logsView struct {
	h     *Handler
	clock []byte
	shown uint64 // cursor of all pages that are up to date
	data  []byte // what they are sent
	next  uint64
}

type logTailJSON struct {
	T     string        `json:"t"`
	Lost  uint64        `json:"lost"` // lines that are no longer kept, since the last that was sent
	Lines []logLineJSON `json:"lines"`
}

func (v *logsView) update(now time.Time) (err error) {
	v.clock, err = json.Marshal(clock(now))
	v.clock = append(v.clock, '\n')
	v.shown, v.data = v.next, nil
	return err
}

func (v *logsView) since(cursor uint64) ([]byte, uint64) {
	if cursor == v.shown && v.data != nil {
		return v.data, v.next
	}
	from := max(cursor, 1) - 1
	lines, first, next := v.h.Logs.since(from)
	out := logTailJSON{T: "logs", Lines: make([]logLineJSON, 0, len(lines))}
	if cursor > 0 {
		out.Lost = first - from
	}
	for k, raw := range lines {
		l := parseLine(raw)
		l.N = first + uint64(k)
		out.Lines = append(out.Lines, l)
	}
	data := v.clock
	if len(lines) > 0 || cursor == 0 {
		line, err := json.Marshal(out)
		if err != nil {
			return nil, cursor // strings can always be encoded
		}
		data = append(append(append([]byte(nil), v.clock...), line...), '\n')
	}
	if cursor == v.shown {
		v.data, v.next = data, next+1
	}
	return data, next + 1
}

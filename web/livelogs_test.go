package web

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseLine(t *testing.T) {
	for line, want := range map[string]logLineJSON{
		`time=2000-01-01T00:00:00Z level=INFO msg=hello` + "\n": {Time: "2000-01-01T00:00:00Z", Level: "INFO", Text: "hello"},
		`time=T level=WARN+2 msg="a \"b\" = c" job=j "odd key"="x y" empty=`: {
			Time: "T", Level: "WARN+2", Text: `a "b" = c`, Attrs: []string{"job", "j", "odd key", "x y", "empty", ""},
		},
		`plain text`:          {Text: "plain text"},
		`msg="not ended`:      {Text: `msg="not ended`},
		`msg=a rest of it`:    {Text: "arest of it"},
		``:                    {},
		`level=ERROR level=x`: {Level: "ERROR", Attrs: []string{"level", "x"}},
	} {
		if got := parseLine([]byte(line)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v", line, got, want)
		}
	}
}

// FuzzParseLine: what slog writes is read back as it was.
func FuzzParseLine(f *testing.F) {
	f.Add("hello", "key", "value")
	f.Add("two words\n| more", "k=", `"quoted"`)
	f.Fuzz(func(t *testing.T, text, key, value string) {
		if key == "" || key == "time" || key == "level" || key == "msg" || text == "" {
			return // slog leaves them out, or writes them twice
		}
		logs := NewLogs(0)
		slog.New(slog.NewTextHandler(logs, nil)).Info(text, key, value)
		lines, _, _ := logs.since(0)
		l := parseLine(lines[0])
		if l.Level != "INFO" || l.Text != strings.ToValidUTF8(l.Text, "") && l.Text != text {
			t.Errorf("%q is %+v", lines[0], l)
		}
		if got := l.attr(key); got != value {
			t.Errorf("%q of %q is %q, want %q", key, lines[0], got, value)
		}
	})
}

// TestLogsView: pages are sent each line once, wherever they are, and told what they have missed.
func TestLogsView(t *testing.T) {
	logs := NewLogs(400)
	h := newTestHandler(t, &fakeCluster{}, func(c *Config) { c.Logs = logs })
	v := &logsView{h: h}
	say := func(from, to int) {
		for k := from; k < to; k++ {
			fmt.Fprintf(logs, "level=INFO msg=line%d x=%s\n", k, strings.Repeat("x", 60))
		}
	}
	read := func(cursor uint64) (texts string, lost, next uint64) {
		data, next := v.since(cursor)
		var got logTailJSON
		for line := range strings.Lines(string(data)) {
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				t.Fatalf("%v in %q", err, line)
			}
		}
		for _, l := range got.Lines {
			texts += fmt.Sprintf("%d:%s ", l.N, l.Text)
		}
		return texts, got.Lost, next
	}
	tick := func() {
		if err := v.update(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	tick()
	texts, lost, a := read(0)
	if texts != "" || lost != 0 {
		t.Errorf("nothing yet: %q %d", texts, lost)
	}
	say(0, 2)
	tick()
	slow := a
	if texts, lost, a = read(a); texts != "0:line0 1:line1 " || lost != 0 {
		t.Errorf("first: %q %d", texts, lost)
	}
	tick()
	if texts, _, a = read(a); texts != "" {
		t.Errorf("again: %q", texts)
	}
	say(2, 12)
	tick()
	if texts, lost, _ = read(a); texts != "8:line8 9:line9 10:line10 11:line11 " || lost != 6 {
		t.Errorf("a flood: %q, lost %d", texts, lost)
	}
	if texts, lost, _ = read(slow); texts != "8:line8 9:line9 10:line10 11:line11 " || lost != 8 {
		t.Errorf("slow page: %q, lost %d", texts, lost)
	}
	if texts, lost, _ = read(0); texts != "8:line8 9:line9 10:line10 11:line11 " || lost != 0 {
		t.Errorf("new page: %q, lost %d", texts, lost)
	}
}

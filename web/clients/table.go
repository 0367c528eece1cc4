package main

import (
	"fmt"
	"io"
	"strings"
)

// table prints what was done with which result, as it happens.
type table struct {
	out            io.Writer
	client         string // that is being driven
	passed, failed int
}

func newTable(out io.Writer) *table {
	t := &table{out: out}
	t.row("client", "action", "result")
	return t
}

func (t *table) row(client, action, result string) {
	fmt.Fprintf(t.out, "%-10s | %-58s | %s\n", client, action, result)
}

// ok says that an action did what it must. The detail may be empty.
func (t *table) ok(action, detail string) {
	t.passed++
	t.row(t.client, action, strings.TrimSpace("ok "+detail))
}

func (t *table) fail(action string, err error) {
	t.failed++
	t.row(t.client, action, "FAILED: "+strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "\n\t"))
}

// step does an action and reports whether it succeeded.
func (t *table) step(action string, do func() (detail string, err error)) bool {
	detail, err := do()
	if err != nil {
		t.fail(action, err)
		return false
	}
	t.ok(action, detail)
	return true
}

// result is an error if an action failed.
func (t *table) result() error {
	fmt.Fprintf(t.out, "\n%d passed, %d failed\n", t.passed, t.failed)
	if t.failed > 0 {
		return fmt.Errorf("%d of %d actions failed", t.failed, t.passed+t.failed)
	}
	return nil
}

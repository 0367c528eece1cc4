package objstore

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestFaultyConforms(t *testing.T) {
	conform(t, func(t *testing.T) Bucket { return NewFaulty(openDir(t, tempRoot(t))) })
}

// What each call leaves when it fails at each point.
func TestFaulty(t *testing.T) {
	ops := map[string]func(ctx context.Context, b Bucket) (string, error){
		"Create": func(ctx context.Context, b Bucket) (string, error) { return "", create(ctx, b, "new", nil) },
		"Open":   func(ctx context.Context, b Bucket) (string, error) { return read(ctx, b, "a", 0, -1) },
		"Delete": func(ctx context.Context, b Bucket) (string, error) { return "", b.Delete(ctx, "a", "b") },
		"List": func(ctx context.Context, b Bucket) (string, error) {
			var got []string
			for o, err := range b.List(ctx, "") {
				if err != nil {
					return strings.Join(got, " "), err
				}
				got = append(got, o.Name)
			}
			return strings.Join(got, " "), nil
		},
	}
	for _, c := range []struct {
		op        string
		point     Point
		got, left string // what the call gave, what is in the bucket afterwards
	}{
		{"Create", Before, "", "a b"},
		{"Create", Midway, "", "a b"},
		{"Create", After, "", "a b new"},
		{"Open", Before, "", "a b"},
		{"Open", Midway, "01", "a b"},
		{"Open", After, "0123", "a b"},
		{"List", Before, "", "a b"},
		{"List", Midway, "a", "a b"},
		{"List", After, "a b other", "a b"},
		{"Delete", Before, "", "a b"},
		{"Delete", Midway, "", "b"},
		{"Delete", After, "", ""},
	} {
		f := NewFaulty(openDir(t, tempRoot(t)))
		put(t, f, "a", "0123")
		put(t, f, "b", "4567")
		f.Fail(2, 2, c.point)
		put(t, f, "other", "")
		got, err := ops[c.op](t.Context(), f)
		if !errors.Is(err, ErrInjected) || !strings.Contains(err.Error(), "call 2, "+c.op) || got != c.got {
			t.Errorf("%s %v: %q, %v", c.op, c.point, got, err)
		}
		if err := f.Delete(t.Context(), "other"); err != nil { // call 3
			t.Error(err)
		}
		if left := strings.Join(list(t, f, ""), " "); left != c.left {
			t.Errorf("%s %v: left %q, want %q", c.op, c.point, left, c.left)
		}
		calls := f.Calls()
		if len(calls) != 4 || calls[0].String() != "Create other" || calls[1].Op != c.op {
			t.Errorf("calls %v", calls)
		}
	}
}

func TestFaultyGone(t *testing.T) {
	f := NewFaulty(openDir(t, tempRoot(t)))
	f.Fail(2, math.MaxInt, Before)
	put(t, f, "a", "x")
	for range 3 {
		if err := create(t.Context(), f, "b", nil); !errors.Is(err, ErrInjected) {
			t.Error(err)
		}
	}
	f.Fail(0, 0, Before)
	put(t, f, "b", "x")
}

// Every single failure in a probe is reported, and a probe after it leaves a clean bucket.
func TestProbeFaults(t *testing.T) {
	dir := openDir(t, tempRoot(t))
	f := NewFaulty(dir)
	if err := Probe(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	n := len(f.Calls())
	for i := 1; i <= n; i++ {
		for _, p := range []Point{Before, Midway, After} {
			f.Fail(i, i, p)
			err := Probe(t.Context(), f)
			refused := err == nil && p == After && f.Calls()[i-1].Op == "Create" // its own error comes first
			if !errors.Is(err, ErrInjected) && !refused || errors.Is(err, ErrUnfenced) {
				t.Errorf("call %d of %d, %v: %v", i, n, p, err)
			}
			names := slices.Clone(list(t, dir, ""))
			last := f.Calls()
			cleaning := i > len(last)-2 // the listing and the deletion that clean up
			if len(names) > 0 && !cleaning {
				t.Errorf("call %d of %d, %v: left %v", i, n, p, names)
			}
			if err := dir.Delete(t.Context(), names...); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d calls, 3 points each", n)
}

package ledger

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSum(t *testing.T) {
	for _, key := range []string{"", "k1", "k2"} {
		var sum int64
		for n := int64(1); n < 100; n++ {
			if sum += Amount(key, n); sum != Sum(key, n) {
				t.Fatalf("key %q: Sum(%d) = %d, want %d", key, n, Sum(key, n), sum)
			}
		}
	}
}

func TestText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64()
		e := Entry{rapid.SampledFrom([]Kind{Deposit, Statement}).Draw(t, "kind"), n.Draw(t, "n"), n.Draw(t, "c"), n.Draw(t, "a"), n.Draw(t, "s")}
		if got, err := ParseEntry(string(e.Append(nil))); err != nil || got != e {
			t.Fatalf("%v: %v, %v", e, got, err)
		}
	})
	number, amount, err := ParseDeposit(string(AppendDeposit(nil, "k", 7)))
	if err != nil || number != 7 || amount != Amount("k", 7) {
		t.Errorf("%d, %d, %v", number, amount, err)
	}
	for _, bad := range []string{"", "D", "D 1 2 3", "X 1 2 3 4", "D 1 2 3 x", "D 1 2 3 4 5"} {
		if _, err := ParseEntry(bad); err == nil {
			t.Errorf("%q is an entry", bad)
		}
	}
}

// entry makes a right one: a deposit from "d3", a statement from "s1/3" (the first one, with three deposits). After "!" the sum
// is wrong, after "?" the count.
func entry(t *testing.T, word string) Entry {
	plain := strings.TrimRight(word, "!?")
	first, second, _ := strings.Cut(plain[1:], "/")
	n, err := numbers(first+" "+first, 2)
	if err != nil {
		t.Fatal(err)
	}
	e := Entry{Kind: Deposit, Number: n[0], Count: n[0], Amount: Amount("k", n[0])}
	if word[0] == 's' {
		if n, err = numbers(second, 1); err != nil {
			t.Fatal(err)
		}
		e = Entry{Kind: Statement, Number: e.Number, Count: n[0]}
	}
	if strings.HasSuffix(word, "?") {
		e.Count++
	}
	e.Sum = Sum("k", e.Count)
	if strings.HasSuffix(word, "!") {
		e.Sum++
	}
	return e
}

func TestChecker(t *testing.T) {
	for name, test := range map[string]struct {
		output  string
		repeats bool
		made    int64
		want    Report
	}{
		"right":                    {output: "d1 d2 s1/2 d3 s2/3", made: 3, want: Report{Deposits: 3, Statements: 2}},
		"nothing":                  {made: 0},
		"all lost":                 {made: 2, want: Report{Lost: 3}},
		"the last one lost":        {output: "d1 s1/1", made: 2, want: Report{Deposits: 1, Statements: 1, Lost: 2}},
		"one in the middle lost":   {output: "d1 d3 s1/3", made: 3, want: Report{Deposits: 2, Statements: 1, Lost: 1}},
		"timer lost":               {output: "d1 d2", made: 2, want: Report{Deposits: 2, Lost: 1}},
		"one timer lost":           {output: "d1 s1/1 d2 s3/2", made: 2, want: Report{Deposits: 2, Statements: 2, Lost: 1}},
		"twice":                    {output: "d1 d1 d2 s1/2", made: 2, want: Report{Deposits: 2, Statements: 1, Duplicated: 1}},
		"timer twice":              {output: "d1 s1/1 s1/1", made: 1, want: Report{Deposits: 1, Statements: 1, Duplicated: 1}},
		"order":                    {output: "d2 d1 d3 s1/3", made: 3, want: Report{Deposits: 3, Statements: 1, Disordered: 1}},
		"sum":                      {output: "d1! s1/1", made: 1, want: Report{Deposits: 1, Statements: 1, Wrong: 1}},
		"added twice":              {output: "d1? s1/1", made: 1, want: Report{Deposits: 1, Statements: 1, Wrong: 1}},
		"statement overtakes":      {output: "d1 s1/2 d2", made: 2, want: Report{Deposits: 2, Statements: 1, Wrong: 1}},
		"repeats":                  {output: "d1 d2 d1 d2 d3 s1/3 d3 s1/3", repeats: true, made: 3, want: Report{Deposits: 3, Statements: 1, Duplicated: 4}},
		"repeats with a gap":       {output: "d1 d2 d1 d4 s1/4", repeats: true, made: 4, want: Report{Deposits: 3, Statements: 1, Duplicated: 1, Lost: 1}},
		"repeats with a wrong sum": {output: "d1 d2 d1! d2 s1/2", repeats: true, made: 2, want: Report{Deposits: 2, Statements: 1, Duplicated: 2, Wrong: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			c := Checker{Repeats: test.repeats}
			for _, word := range strings.Fields(test.output) {
				c.Add("k", entry(t, word))
			}
			made := map[string]int64{"k": test.made}
			complete := c.Complete(made)
			got, findings := c.Finish(made)
			if got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
			bad := got.Lost > 0 || got.Wrong > 0 || got.Disordered > 0 || got.Duplicated > 0 && !test.repeats
			if bad != (len(findings) > 0) {
				t.Errorf("findings: %q", findings)
			}
			if complete != (got.Lost == 0) {
				t.Errorf("complete: %v", complete)
			}
		})
	}
}

// One thing that is left out, doubled or moved is found, wherever it is.
func TestCheckerFindsAny(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(2, 30).Draw(rt, "n")
		var right []Entry
		for i := range n {
			right = append(right, Entry{Deposit, int64(i + 1), int64(i + 1), Amount("k", int64(i+1)), Sum("k", int64(i+1))})
		}
		right = append(right, Entry{Statement, 1, int64(n), 0, Sum("k", int64(n))})
		i := rapid.IntRange(0, n-1).Draw(rt, "at")
		r := rand.New(rand.NewPCG(uint64(n), uint64(i)))
		out := slices.Clone(right)
		switch rapid.SampledFrom([]string{"leave out", "double", "swap"}).Draw(rt, "defect") {
		case "leave out":
			out = slices.Delete(out, i, i+1)
		case "double":
			out = slices.Insert(out, i+r.IntN(len(out)-i), out[i])
		case "swap":
			out[i], out[i+1] = out[i+1], out[i]
		}
		var c Checker
		for _, e := range out {
			c.Add("k", e)
		}
		if rep, findings := c.Finish(map[string]int64{"k": int64(n)}); len(findings) == 0 {
			rt.Fatalf("%v: %+v", out, rep)
		}
	})
}

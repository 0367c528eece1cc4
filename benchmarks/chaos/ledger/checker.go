package ledger

import "fmt"

// maxFindings is how many defects a Checker keeps in words.
const maxFindings = 20

// Checker judges entries in the order in which a reader of the output gets them. Its methods are for one goroutine.
type Checker struct {
	// Repeats allows a key to go back and give again what it gave before, as at-least-once does. It may not leave anything out.
	Repeats bool

	keys     map[string]*account
	report   Report
	findings []string
}

// Report is what a Checker found.
type Report struct {
	Deposits   int64 // different ones that were answered
	Statements int64 // different ones
	Lost       int64 // deposits and statements that are missing
	Duplicated int64 // entries whose like came before
	Disordered int64 // entries that came after a later one of their key
	Wrong      int64 // entries with a false amount, sum or count
}

// account is what a Checker knows of a key.
type account struct {
	deposits, statements series
	last                 int64 // deposit, as far as the newest statement knows
	at                   int64 // number of the newest deposit read, which with repeats may be less than the greatest
}

// series are numbers that should come as 1, 2, 3 and so on.
type series struct {
	max  int64
	gaps map[int64]bool // below max
}

// verdict on a number of a series.
type verdict int

const (
	fresh verdict = iota
	again
	late
)

func (s *series) add(n int64) verdict {
	if n <= s.max {
		if s.gaps[n] {
			delete(s.gaps, n)
			return late
		}
		return again
	}
	for ; s.max+1 < n; s.max++ {
		if s.gaps == nil {
			s.gaps = make(map[int64]bool)
		}
		s.gaps[s.max+1] = true
	}
	s.max = n
	return fresh
}

// Add judges the next entry of a key.
func (c *Checker) Add(key string, e Entry) {
	if c.keys == nil {
		c.keys = make(map[string]*account)
	}
	a := c.keys[key]
	if a == nil {
		a = &account{}
		c.keys[key] = a
	}
	s, of := &a.deposits, &c.report.Deposits
	if e.Kind == Statement {
		s, of = &a.statements, &c.report.Statements
	}
	if e.Number < 1 || e.Number > s.max+1<<20 {
		c.wrong(key, e, "its number cannot be")
		return
	}
	before := s.max
	switch s.add(e.Number) {
	case again:
		c.report.Duplicated++
		if !c.Repeats {
			c.find("duplicated: key %s: %s; %d was the newest", key, e.Append(nil), before)
		}
	case late:
		*of++
		c.report.Disordered++
		c.find("out of order: key %s: %s; %d was the newest", key, e.Append(nil), before)
	case fresh:
		*of++
		if e.Number > before+1 {
			c.find("left out: key %s: %s; %d was the newest", key, e.Append(nil), before)
		}
	}
	c.checkSums(key, a, e)
}

// checkSums looks at what an entry says besides its number.
func (c *Checker) checkSums(key string, a *account, e Entry) {
	switch {
	case e.Kind == Deposit && e.Count != e.Number:
		c.wrong(key, e, "the count is not the number: a deposit was added twice or not at all")
	case e.Kind == Deposit && e.Amount != Amount(key, e.Number):
		c.wrong(key, e, fmt.Sprintf("the amount is not %d", Amount(key, e.Number)))
	case e.Sum != Sum(key, e.Count):
		c.wrong(key, e, fmt.Sprintf("the sum is not %d", Sum(key, e.Count)))
	case e.Kind == Statement && !c.Repeats && e.Count != a.at:
		c.wrong(key, e, fmt.Sprintf("the newest deposit of the output before it is %d", a.at))
	}
	if e.Kind == Deposit {
		a.at = e.Number
	} else {
		a.last = e.Count
	}
}

func (c *Checker) wrong(key string, e Entry, why string) {
	c.report.Wrong++
	c.find("wrong: key %s: %s: %s", key, e.Append(nil), why)
}

func (c *Checker) find(format string, args ...any) {
	if len(c.findings) < maxFindings {
		c.findings = append(c.findings, fmt.Sprintf(format, args...))
	}
}

// Deposits returns how many different deposits have been answered.
func (c *Checker) Deposits() int64 { return c.report.Deposits }

// Complete reports whether each key has all its deposits, n by key, and a statement that knows of them: the last timer fired.
func (c *Checker) Complete(n map[string]int64) bool {
	for key, want := range n {
		a := c.keys[key]
		if want > 0 && (a == nil || a.deposits.max < want || len(a.deposits.gaps)+len(a.statements.gaps) > 0 || a.last < want) {
			return false
		}
	}
	return true
}

// Finish returns the report and the first defects in words, given the number of deposits made to each key.
func (c *Checker) Finish(n map[string]int64) (Report, []string) {
	r := c.report
	for key, want := range n {
		a := c.keys[key]
		if a == nil {
			a = &account{}
		}
		r.Lost += int64(len(a.deposits.gaps)+len(a.statements.gaps)) + max(0, want-a.deposits.max)
		if a.deposits.max < want {
			c.find("lost: key %s: deposits after %d of %d", key, a.deposits.max, want)
		}
		if want > 0 && a.last < want {
			r.Lost++
			c.find("lost: key %s: no statement with %d deposits, the last one has %d: a timer did not fire", key, want, a.last)
		}
	}
	for key := range c.keys {
		if _, ok := n[key]; !ok {
			r.Wrong++
			c.find("wrong: key %s was never paid to", key)
		}
	}
	return r, c.findings
}

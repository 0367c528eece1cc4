package ledger

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// Kind is what an Entry answers.
type Kind byte

// Kinds of entries.
const (
	Deposit   Kind = 'D' // Number is the deposit's
	Statement Kind = 'S' // Number counts the statements of the key, from 1
)

// Entry is an answer of the job about a key, as text: kind, number, count, amount, sum.
type Entry struct {
	Kind   Kind
	Number int64
	Count  int64 // deposits so far
	Amount int64 // of the deposit; 0 in statements
	Sum    int64 // of all amounts so far
}

// Amount is that of the n-th deposit to a key, n from 1.
func Amount(key string, n int64) int64 {
	a, b := factors(key)
	return a + b*n
}

// Sum is that of the first n amounts of a key.
func Sum(key string, n int64) int64 {
	a, b := factors(key)
	return n*a + b*n*(n+1)/2
}

// factors are different for most keys, so that records of two keys that change places are noticed.
func factors(key string) (a, b int64) {
	h := fnv.New64a()
	h.Write([]byte(key))
	v := h.Sum64()
	return int64(v % 100_003), int64(v>>32%97) + 1
}

// Append adds the text of the entry to b.
func (e Entry) Append(b []byte) []byte {
	b = append(b, byte(e.Kind))
	for _, n := range [...]int64{e.Number, e.Count, e.Amount, e.Sum} {
		b = strconv.AppendInt(append(b, ' '), n, 10)
	}
	return b
}

// ParseEntry reads what Append wrote.
func ParseEntry(text string) (Entry, error) {
	kind, rest, _ := strings.Cut(text, " ")
	if kind != string(Deposit) && kind != string(Statement) {
		return Entry{}, fmt.Errorf("entry %q is neither a deposit nor a statement", text)
	}
	n, err := numbers(rest, 4)
	if err != nil {
		return Entry{}, fmt.Errorf("entry %q: %w", text, err)
	}
	return Entry{Kind: Kind(kind[0]), Number: n[0], Count: n[1], Amount: n[2], Sum: n[3]}, nil
}

// AppendDeposit adds the text of an input record to b: number and amount.
func AppendDeposit(b []byte, key string, n int64) []byte {
	b = strconv.AppendInt(b, n, 10)
	return strconv.AppendInt(append(b, ' '), Amount(key, n), 10)
}

// ParseDeposit reads what AppendDeposit wrote.
func ParseDeposit(text string) (number, amount int64, err error) {
	n, err := numbers(text, 2)
	if err != nil {
		return 0, 0, fmt.Errorf("deposit %q: %w", text, err)
	}
	return n[0], n[1], nil
}

func numbers(text string, want int) ([]int64, error) {
	fields := strings.Fields(text)
	if len(fields) != want {
		return nil, fmt.Errorf("%d numbers, want %d", len(fields), want)
	}
	out := make([]int64, want)
	for i, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil, err
		}
		out[i] = n
	}
	return out, nil
}

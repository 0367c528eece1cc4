// Package ledger is what the job of benchmarks/chaos is about, and how its output is judged.
//
// Each key is an account. Deposits to it are numbered from 1, and the amount follows from the key and the number, so that the
// sum after any number of them is known without keeping them. The job answers each deposit with the sum, and now and then, by a
// timer, with a statement: its number and how many deposits there were. A Checker reads these answers and counts what is
// missing, what came twice, what is out of order and which sums are wrong.
package ledger

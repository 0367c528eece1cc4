// Package checkpoint is the home of durability: what outlives the process is written through it.
//
// So far there is package objstore below it: object stores (a directory, S3) in which the creation of a name is the
// fence between two processes.
package checkpoint

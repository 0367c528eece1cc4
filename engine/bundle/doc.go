// Package bundle holds what a worker is given and what it gives back: the contract between the engine, which decides and
// commits, and the workers (packages fnapi and goexec), which run user code.
//
// A bundle is a transaction. A worker reports everything that the bundle produced through its Sink and State while it
// runs; nothing of it counts until the engine commits it. When Run returns an error the engine drops all of it and runs
// the same input again, so a worker never has to undo anything.
package bundle

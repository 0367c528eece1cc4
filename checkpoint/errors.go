package checkpoint

import (
	"errors"
	"fmt"
	"time"
)

// Errors that callers decide on.
var (
	// ErrNoCheckpoint says that there is nothing to restore.
	ErrNoCheckpoint = errors.New("no checkpoint")
	// ErrEnded says that this Store has ended its job.
	ErrEnded = errors.New("job has ended")
	// ErrNotRestored refuses a Save that would abandon checkpoints that are there: call Restore or StartOver first.
	ErrNotRestored = errors.New("older checkpoints were neither restored nor given up")
)

// FencedError says that another process has taken the job over. Whoever gets it stops, and changes nothing outside any more:
// what he had prepared, the winner decides.
type FencedError struct {
	Job    string
	Winner Owner // its zero value if the winner's entry cannot be read
}

// Error names the winner.
func (e *FencedError) Error() string {
	if e.Winner.Attempt == "" {
		return fmt.Sprintf("job %s was taken over by another process, whose entry cannot be read", e.Job)
	}
	return fmt.Sprintf("job %s was taken over by process %d on host %s, which began at %s", e.Job, e.Winner.PID, e.Winner.Host,
		e.Winner.Began.UTC().Format(time.RFC3339))
}

// CorruptError says that an object is missing or is not what was written. A Restore that fails with it can be repeated with
// an older manifest.
type CorruptError struct {
	Checkpoint int64  // the id that the engine gave; 0 if the manifest itself is what is corrupt
	File       string // path in the cut directory; "" if it is the manifest
	Object     string // the object's whole name
	Err        error  // what is wrong with it
}

// Error names checkpoint, file and object.
func (e *CorruptError) Error() string {
	if e.File == "" {
		return fmt.Sprintf("%s is corrupt: %v", e.Object, e.Err)
	}
	return fmt.Sprintf("checkpoint %d: file %s, object %s is corrupt: %v", e.Checkpoint, e.File, e.Object, e.Err)
}

// Unwrap gives the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

// UncertainError says that an entry may or may not have been published, and that the store did not answer when asked. What
// was prepared for the checkpoint must be neither committed nor aborted until Store.Settle has told.
type UncertainError struct {
	Checkpoint int64 // 0 for an end
	Err        error
}

// Error gives the cause.
func (e *UncertainError) Error() string {
	return fmt.Sprintf("whether checkpoint %d was published is not known: %v", e.Checkpoint, e.Err)
}

// Unwrap gives the cause.
func (e *UncertainError) Unwrap() error { return e.Err }

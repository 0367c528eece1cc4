package native

import (
	"context"
	"errors"

	"github.com/tinyrunner/tinyrunner/engine/flow"
)

// Errors of transactional sinks. They are wrapped; test with errors.Is.
var (
	// ErrRestart: records that were handed to the open transaction are lost (the outside system refused one, or ended the
	// transaction). The engine goes back to its last complete checkpoint.
	ErrRestart = errors.New("the open transaction is lost")
	// ErrFenced: another process writes with this job's identity. This one must stop, and not restart.
	ErrFenced = errors.New("another process has taken over")
	// ErrLost: the transaction of a complete checkpoint was ended without its records, or nobody can tell any more whether
	// it was. Going on from that checkpoint would lose them, perhaps: a person has to choose. See TransactionConfig.Settled.
	ErrLost = errors.New("the transaction of a complete checkpoint is lost")
)

// TransactionConfig makes a sink transactional.
type TransactionConfig struct {
	// Job is the job's stable identity: the same after every restart, different for any two jobs that live at the same time.
	Job string
	// Prepared is the token, of this sink, in the checkpoint that the job is restored from; opening the sink commits it, again if
	// need be, before anything else. nil: no checkpoint, or one without this sink.
	Prepared []byte
	// Settled says that Prepared must not be committed: a newer checkpoint was complete once, so that it has been committed
	// already, or a person has decided to go on without its records. Whatever lingers is aborted.
	Settled bool
}

// Transactional is implemented by sinks that write exactly once with checkpoints. The engine calls Stage in place of Send.
//
// The records between two cuts make one transaction. The engine calls, and the sink may rely on it:
//   - Stage for one bundle after the other, in the order in which they came, each after the Staged of the one before was
//     committed or discarded;
//   - Cut when no Staged.Commit is under way;
//   - Prepared.Prepare, then Commit once the checkpoint is durable, or Abort if it never will be; after an Abort the sink is
//     only closed;
//   - the next Cut after Commit has returned nil.
//
// Close aborts the open transaction; one that was cut stays, for the next process to commit.
type Transactional interface {
	Sink
	// Stage reads the blocks and reserves what they need; it may wait until there is room. It does not keep the blocks. The
	// result is either committed or discarded, once. ErrRestart and ErrFenced tell of records that were committed earlier.
	Stage(ctx context.Context, blocks []*flow.Block) (Staged, error)
	// Cut ends the open transaction and begins the next one, in microseconds: what waits comes in Prepare.
	Cut(checkpoint int64) (Prepared, error)
}

// Staged are the records of one bundle.
type Staged interface {
	// Commit hands the records to the open transaction. It does not block or fail: if a record is refused later, Prepare and
	// the next Stage say so.
	Commit()
	// Discard gives them up.
	Discard()
}

// Prepared is a transaction that a checkpoint has cut.
type Prepared interface {
	// Prepare waits until the outside system has every record. From then on the token suffices to commit after a crash; the
	// engine stores it in the checkpoint, and gives it back in TransactionConfig.Prepared. Never empty.
	Prepare(ctx context.Context) (token []byte, err error)
	// Commit makes the records visible. REQUIRES: the checkpoint is durable. It waits for an outside system that is away until
	// ctx ends, and may be called again after an error.
	Commit(ctx context.Context) error
	// Abort drops the records.
	Abort(ctx context.Context) error
}

package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/engine/native"
)

// slot is a place in the rotation: a transactional id with its producer. One task or call at a time changes it: begin, then
// after ready its interval, until the transaction has ended.
type slot struct {
	number int
	id     string
	ready  chan struct{} // closed when a transaction can be written; made anew when it has ended

	client   *kgo.Client
	producer producer // of the transaction, valid when ready
	last     producer // as last heard of the coordinator
}

// producer is an instance of a transactional id.
type producer struct {
	id    int64
	epoch int16
	known bool
	v2    bool // transaction.version >= 2
}

// begun says that a transaction can be written.
func (sl *slot) begun() bool {
	select {
	case <-sl.ready:
		return true
	default:
		return false
	}
}

// ended is called when the slot's transaction is over.
func (sl *slot) ended() { sl.ready = make(chan struct{}) }

// begin makes a slot ready. It waits for brokers that are away. The first time it aborts what lingers on the transactional id.
func (s *transactional) begin(ctx context.Context, sl *slot) error {
	if sl.client != nil && !s.catchUp(ctx, sl) {
		sl.client.Close()
		sl.client = nil
	}
	if sl.client == nil {
		if err := s.renew(ctx, sl); err != nil {
			return err
		}
	}
	for {
		err := s.tryBegin(ctx, sl)
		if err == nil {
			close(sl.ready)
			return nil
		}
		if !passes(err) {
			return s.lost(err, 0)
		}
		if !sleep(ctx, retryPause) {
			return err
		}
	}
}

// catchUp lets the client end the transaction that was committed without it: the coordinator takes that for an EndTxn that is
// sent again, and answers with the epoch to go on with. false: the client is of no use any more.
func (s *transactional) catchUp(ctx context.Context, sl *slot) bool {
	err := sl.client.EndTransaction(ctx, kgo.TryCommit)
	if err != nil {
		s.log.Info("kafka: a producer is replaced", "transform", s.transform, "transactional_id", sl.id, "error", err)
		return false
	}
	if !sl.last.known {
		return true
	}
	id, epoch, err := sl.client.ProducerID(ctx)
	return err == nil && id == sl.last.id && epoch == sl.last.epoch
}

// renew gives a slot a client. A client that is new takes the transactional id over from whoever has it; so, when it
// replaces one of ours, look first whether that was still us.
func (s *transactional) renew(ctx context.Context, sl *slot) error {
	if sl.last.known {
		if err := s.end.confirm(ctx, sl.id, sl.last, s.config.transactionTimeout()); err != nil {
			return s.lost(err, 0)
		}
	}
	opts, err := s.config.produceOptions()
	if err != nil {
		return err
	}
	opts = append(opts, s.base...)
	client, err := kgo.NewClient(append(opts, kgo.TransactionalID(sl.id), kgo.TransactionTimeout(s.config.transactionTimeout()))...)
	if err != nil {
		return err
	}
	sl.client = client
	return nil
}

func (s *transactional) tryBegin(ctx context.Context, sl *slot) error {
	if _, _, err := sl.client.ProducerID(ctx); err != nil {
		return err
	}
	if err := sl.client.BeginTransaction(); err != nil {
		return err
	}
	id, epoch, err := sl.client.ProducerID(ctx)
	if err != nil {
		return err
	}
	v2, err := s.end.v2(ctx)
	if err != nil {
		return errors.Join(err, sl.client.EndTransaction(ctx, kgo.TryAbort)) // nothing was produced: no request
	}
	sl.producer = producer{id: id, epoch: epoch, known: true, v2: v2}
	return nil
}

// lost classifies an error of the transaction that has been open for age.
func (s *transactional) lost(err error, age time.Duration) error {
	timeout := s.config.transactionTimeout()
	switch {
	case errors.Is(err, native.ErrRestart), errors.Is(err, native.ErrFenced), errors.Is(err, native.ErrLost):
		return err
	case errors.Is(err, kerr.InvalidTransactionTimeout):
		return fmt.Errorf("transaction_timeout_ms=%d is more than the brokers allow (transaction.max.timeout.ms): lower the one or raise the other: %w",
			timeout.Milliseconds(), err)
	case age >= timeout:
		return fmt.Errorf("%w: the broker ends transactions after %v, this one was open for %v: make checkpoints more often, or raise transaction_timeout_ms (transaction.timeout.ms) and, with it, transaction.max.timeout.ms of the brokers: %w",
			native.ErrRestart, timeout, age.Round(time.Second), err)
	case isFenced(err):
		return fmt.Errorf("%w with the transactional ids of this job: is the job running twice?: %w", native.ErrFenced, err)
	default:
		return fmt.Errorf("%w: %w", native.ErrRestart, err)
	}
}

// isFenced says that the coordinator has given the transactional id a newer epoch than ours.
func isFenced(err error) bool {
	return errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch)
}

// retryPause is between attempts of what a broker could not do now.
const retryPause = 100 * time.Millisecond

// retryBackoff is the client's wait after a number of failures. Its own is up to 5 s, and every checkpoint waits for it.
func retryBackoff(failures int) time.Duration {
	return min(50*time.Millisecond<<min(failures, 5), time.Second)
}

// passes says that an error may go away by itself.
func passes(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		return false
	}
	if ke, ok := errors.AsType[*kerr.Error](err); ok {
		return ke.Retriable || errors.Is(ke, kerr.ConcurrentTransactions) || errors.Is(ke, kerr.UnknownServerError)
	}
	return kgo.IsRetryableBrokerErr(err) || isDial(err)
}

// sleep waits; false: ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

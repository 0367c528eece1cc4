package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/tinyrunner/tinyrunner/engine/native"
)

// ender ends transactions by their tokens, as a process that did not write them must: KIP-939 would give this a name, but
// brokers do not have it. A coordinator accepts EndTxn of anybody who knows transactional id, producer id and epoch.
type ender struct {
	admin *kgo.Client
	base  []kgo.Opt
	log   *logger

	mu  sync.Mutex
	old *kgo.Client // speaks EndTxn no newer than version 4; made when needed
}

// commit commits a prepared transaction, again if need be, and returns what its producer is then. It waits for brokers
// that are away, and for a commit under way, until ctx ends. native.ErrLost: it was aborted, or nobody knows.
func (e *ender) commit(ctx context.Context, t *token) (producer, error) {
	for {
		last, err := e.try(ctx, t.ID, producer{id: t.Producer, epoch: t.Epoch, v2: t.V2}, true)
		if err == nil {
			return last, nil
		}
		if !passes(err) {
			return producer{}, e.explain(ctx, t, err)
		}
		e.log.Log(kgo.LogLevelWarn, "commit transaction: trying again", "transactional_id", t.ID, "error", err)
		if !sleep(ctx, retryPause) {
			return producer{}, fmt.Errorf("commit transaction %s: %w", t.ID, err)
		}
	}
}

// abort ends a transaction without its records, if there is one.
func (e *ender) abort(ctx context.Context, id string, p producer) error {
	for {
		_, err := e.try(ctx, id, p, false)
		if err == nil || errors.Is(err, kerr.InvalidTxnState) { // none of its records arrived
			return nil
		}
		if !passes(err) || !sleep(ctx, retryPause) {
			return err
		}
	}
}

// try sends EndTxn once and returns what the producer is afterwards.
func (e *ender) try(ctx context.Context, id string, p producer, commit bool) (producer, error) {
	client, err := e.client(p.v2)
	if err != nil {
		return producer{}, err
	}
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = id, p.id, p.epoch, commit
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return producer{}, err
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return producer{}, err
	}
	last := producer{id: p.id, epoch: p.epoch, known: true, v2: p.v2}
	if resp.Version >= 5 && resp.ProducerID >= 0 {
		last.id, last.epoch = resp.ProducerID, resp.ProducerEpoch
	}
	return last, nil
}

// client returns the client for a transaction: the version of EndTxn tells the broker which kind it is.
func (e *ender) client(v2 bool) (*kgo.Client, error) {
	if v2 {
		return e.admin, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.old != nil {
		return e.old, nil
	}
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(int16(kmsg.EndTxn), 4)
	client, err := kgo.NewClient(append(append([]kgo.Opt(nil), e.base...), kgo.MaxVersions(versions))...)
	if err != nil {
		return nil, err
	}
	e.old = client
	return client, nil
}

func (e *ender) close() {
	if e.old != nil {
		e.old.Close()
	}
	e.admin.Close()
}

// v2 says whether the cluster's transaction.version is 2 at least (KIP-890).
func (e *ender) v2(ctx context.Context) (bool, error) {
	resp, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, e.admin)
	if err != nil {
		return false, fmt.Errorf("ask for features: %w", err)
	}
	for _, f := range resp.FinalizedFeatures {
		if f.Name == "transaction.version" {
			return f.MaxVersionLevel >= 2, nil
		}
	}
	return false, nil
}

// confirm looks whether a transactional id is still as we left it (KIP-360): the coordinator answers PRODUCER_FENCED if not.
func (e *ender) confirm(ctx context.Context, id string, p producer, timeout time.Duration) error {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = &id
	req.TransactionTimeoutMillis = int32(timeout.Milliseconds())
	req.ProducerID, req.ProducerEpoch = p.id, p.epoch
	for {
		resp, err := req.RequestWith(ctx, e.admin)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if err == nil || errors.Is(err, kerr.InvalidProducerIDMapping) { // forgotten after a week: nobody's
			return nil
		}
		if !passes(err) || !sleep(ctx, retryPause) {
			return err
		}
	}
}

// fate of a transaction.
type fate int

const (
	unknown fate = iota
	committed
	aborted
)

// explain tells a refused commit apart: the transaction may have been committed long ago, and the coordinator does not know
// it any more; then the records do.
func (e *ender) explain(ctx context.Context, t *token, refused error) error {
	if !errors.Is(refused, kerr.InvalidTxnState) && !errors.Is(refused, kerr.InvalidProducerIDMapping) &&
		!errors.Is(refused, kerr.TransactionalIDNotFound) && !isFenced(refused) {
		return fmt.Errorf("commit transaction %s: %w", t.ID, refused)
	}
	f, err := e.fate(ctx, t)
	if err != nil {
		return fmt.Errorf("commit transaction %s: %w: look for its records: %w", t.ID, refused, err)
	}
	switch f {
	case committed:
		return nil
	case aborted:
		return fmt.Errorf("%w: the broker has aborted transaction %s, prepared %v ago: it does so after transaction.timeout.ms, %v here: an outage must be shorter (raise transaction_timeout_ms and, with it, transaction.max.timeout.ms of the brokers). Start from an older checkpoint to write its records again, or go on without them: %w",
			native.ErrLost, t.ID, t.since(), t.timeout(), refused)
	default:
		return fmt.Errorf("%w, perhaps: the broker does not know transaction %s, prepared %v ago, any more, nor are its records there to tell whether it was committed. Look into the output, then start from an older checkpoint to write them again, or go on without: %w",
			native.ErrLost, t.ID, t.since(), refused)
	}
}

func (t *token) since() time.Duration {
	return time.Since(time.UnixMilli(t.Prepared)).Round(time.Second)
}

func (t *token) timeout() time.Duration { return time.Duration(t.Timeout) * time.Millisecond }

// fateTimeout bounds the look for a witness.
const fateTimeout = 10 * time.Second

// fate finds out what became of a transaction by one of its records: readers of committed records get it, or only others do.
func (e *ender) fate(ctx context.Context, t *token) (fate, error) {
	if t.Witness == nil {
		return unknown, nil
	}
	ctx, cancel := context.WithTimeout(ctx, fateTimeout)
	defer cancel()
	for _, look := range []struct {
		isolation kgo.IsolationLevel
		found     fate
	}{{kgo.ReadCommitted(), committed}, {kgo.ReadUncommitted(), aborted}} {
		found, err := e.sees(ctx, t, look.isolation)
		if err != nil || found {
			return look.found, err
		}
	}
	return unknown, nil // compacted or deleted
}

// sees reads the witness.
func (e *ender) sees(ctx context.Context, t *token, isolation kgo.IsolationLevel) (bool, error) {
	w := t.Witness
	client, err := kgo.NewClient(append(append([]kgo.Opt(nil), e.base...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{w.Topic: {w.Partition: kgo.NoResetOffset().At(w.Offset)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchIsolationLevel(isolation), kgo.KeepControlRecords(),
		kgo.FetchMaxBytes(1<<20), kgo.FetchMaxPartitionBytes(1<<20))...)
	if err != nil {
		return false, err
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		var failed error
		fetches.EachError(func(_ string, _ int32, err error) { failed = err })
		switch {
		case errors.Is(failed, kerr.OffsetOutOfRange), errors.Is(failed, kerr.UnknownTopicOrPartition), errors.Is(failed, kerr.UnknownTopicID):
			return false, nil
		case failed != nil:
			return false, failed
		}
		for r := range fetches.RecordsAll() {
			if r.Offset == w.Offset && !r.Attrs.IsControl() && r.ProducerID == t.Producer && r.ProducerEpoch == t.Epoch {
				return true, nil
			}
			if r.Offset >= w.Offset {
				return false, nil
			}
		}
	}
}

package kafka

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

// sink produces to Kafka with one idempotent producer: at least once. Brokers that are away are waited for, for as long as it
// takes: the job stands still with its records safe in its queues, and goes on by itself.
type sink struct {
	*writer
	client *kgo.Client
}

var _ native.Sink = (*sink)(nil)

// OpenSink opens the sink of a WriteURN transform. It is native.Transactional when cfg has a Transaction and the payload does
// not ask for at_least_once. Opening commits the transaction of the restored checkpoint, and fences other processes of the
// same job.
func OpenSink(ctx context.Context, cfg native.SinkConfig) (native.Sink, error) {
	s, err := openSink(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open kafka sink %s: %w", cfg.Transform, err)
	}
	return s, nil
}

func openSink(ctx context.Context, cfg native.SinkConfig) (native.Sink, error) {
	wc, err := DecodeWriteConfig(cfg.Payload)
	if err != nil {
		return nil, err
	}
	if err := wc.checkInput(cfg.Coder); err != nil {
		return nil, err
	}
	base, err := wc.options(cfg.Logger)
	if err != nil {
		return nil, err
	}
	w := newWriter(cfg, wc)
	if cfg.Transaction == nil || wc.Guarantee == AtLeastOnce {
		if wc.Guarantee == ExactlyOnce {
			return nil, errNoCheckpoints
		}
		return openPlain(ctx, w, base, cfg.Logger)
	}
	return openTransactional(ctx, w, *cfg.Transaction, base, cfg.Logger)
}

func openPlain(ctx context.Context, w *writer, base []kgo.Opt, log *slog.Logger) (native.Sink, error) {
	opts, err := w.config.produceOptions()
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(base, opts...)...)
	if err != nil {
		return nil, err
	}
	if err := w.check(ctx, client, log); err != nil {
		client.Close()
		return nil, w.config.explain(err)
	}
	return &sink{writer: w, client: client}, nil
}

// check waits for a broker and looks whether the topic is there.
func (w *writer) check(ctx context.Context, client *kgo.Client, log *slog.Logger) error {
	if err := w.config.reach(ctx, client, log); err != nil {
		return err
	}
	if w.config.Topic == "" {
		return nil
	}
	topics, err := kadm.NewClient(client).ListTopics(ctx, w.config.Topic)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	if !topics.Has(w.config.Topic) {
		err = kerr.UnknownTopicOrPartition
		if t, ok := topics[w.config.Topic]; ok && t.Err != nil {
			err = t.Err
		}
		return fmt.Errorf("topic %q: %w", w.config.Topic, err)
	}
	return nil
}

// Send implements native.Sink.
//
// Keys and values are copied: after an error the caller may release the blocks at once, while a request that still names
// them is on its way. What has been handed to the client before an error is not taken back.
func (s *sink) Send(ctx context.Context, blocks []*flow.Block) (native.Sent, error) {
	f := newFlight(s.writer)
	if err := s.launch(ctx, f, blocks); err != nil {
		return nil, fmt.Errorf("write to kafka %s: %w", s.transform, err)
	}
	return f, nil
}

// launch hands the blocks to the client; it waits while there is no room, and stops at the first error, also of a record
// on its way: that one is left to Wait.
func (s *sink) launch(ctx context.Context, f *flight, blocks []*flow.Block) error {
	defer f.add(-1)
	var scratch flow.Data
	for _, b := range blocks {
		select {
		case <-f.failed:
			return nil
		default:
		}
		if b.Len() == 0 {
			continue
		}
		data, err := b.ReadInto(&scratch)
		if err != nil {
			return err
		}
		c, err := s.chunk(ctx, data.Len(), b.Size())
		if err != nil {
			return err
		}
		if err := s.fill(c, data); err != nil {
			s.free(c)
			return err
		}
		s.produce(f, c)
	}
	return nil
}

// produce hands a chunk's records to the client. The context is not the Send's: the client fails records that wait in a
// partition together with a cancelled one, and those may be another Send's.
func (s *sink) produce(f *flight, c *chunk) {
	f.add(1)
	c.produce(s.client, f)
}

// Close implements native.Sink.
func (s *sink) Close() error {
	s.client.Close()
	return nil
}

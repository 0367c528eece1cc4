package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// content returns the i-th record's key and value.
func content(i, size int) (key, value []byte) {
	key = fmt.Appendf(nil, "k%07d", i)
	value = fmt.Appendf(nil, ` {"id":%d,"text":"`, i)
	if i%keepEvery == 0 {
		value[0] = '!'
	}
	for len(value) < size {
		value = append(value, byte('a'+(len(value)*7+i)%26))
	}
	return key, value[:size]
}

// serveBroker is the fake broker's process: it answers every fetch with the same batch and drops what is produced, so that
// it costs the machine as little as can be. It ends when standard input does.
func serveBroker(s settings) error {
	c, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.SeedTopics(partitions, inTopic, outTopic),
		kfake.BlackholeProduce(),
		kfake.SyntheticFetch(kfake.SyntheticBatch{Batch: batch(s.Value)}),
	)
	if err != nil {
		return fmt.Errorf("start broker: %w", err)
	}
	defer c.Close()
	if _, err := fmt.Fprintln(os.Stdout, strings.Join(c.ListenAddrs(), ",")); err != nil {
		return fmt.Errorf("tell the broker's addresses: %w", err)
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// batch encodes a record batch of a little under 256 KB, with one record in keepEvery kept.
func batch(size int) []byte {
	n := max(1, (250<<10)/(size+30)/keepEvery) * keepEvery
	now := time.Now().UnixMilli()
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(n - 1), FirstTimestamp: now, MaxTimestamp: now,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(n),
	}
	for i := range n {
		key, value := content(i, size)
		r := kmsg.Record{OffsetDelta: int32(i), Key: key, Value: value}
		r.Length = int32(len(r.AppendTo(nil)) - 1) // of what follows the length, which takes one byte as long as it is 0
		b.Records = r.AppendTo(b.Records)
	}
	raw := b.AppendTo(nil)
	// The length counts what follows it; the CRC (Castagnoli) what follows the CRC. See Kafka's record batch format.
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// fill makes the topics on a real broker, and the input.
func fill(ctx context.Context, s settings) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Brokers), kgo.DefaultProduceTopic(inTopic),
		kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err := admin.DeleteTopics(ctx, inTopic, outTopic); err != nil {
		return fmt.Errorf("delete topics: %w", err)
	}
	for _, topic := range []string{inTopic, outTopic} {
		// A deletion takes its time on the brokers.
		for {
			_, err := admin.CreateTopic(ctx, partitions, 1, nil, topic)
			if err == nil {
				break
			}
			if !errors.Is(err, kerr.TopicAlreadyExists) || ctx.Err() != nil {
				return fmt.Errorf("create topic %s: %w", topic, err)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	failed := make(chan error, 1)
	for i := range int(s.Records) {
		key, value := content(i, s.Value)
		client.Produce(ctx, &kgo.Record{Key: key, Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return fmt.Errorf("fill %s: %w", inTopic, err)
	}
	select {
	case err := <-failed:
		return fmt.Errorf("fill %s: %w", inTopic, err)
	default:
		return nil
	}
}

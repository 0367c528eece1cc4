package kafka

import (
	"encoding/json"
	"fmt"
)

// position is the form of native.Fetched.Position: JSON, so that it can be read in a checkpoint.
type position struct {
	Version    int                 `json:"v"`
	Partitions []partitionPosition `json:"partitions"`
}

// partitionPosition is where a partition stands.
type partitionPosition struct {
	Topic     string `json:"t"`
	Partition int32  `json:"p"`
	// Next is the offset of the next record to read.
	Next int64 `json:"next"`
	// ID of the topic, in hexadecimal; a topic that was made anew has another one. Empty: the broker is older than 2.8.
	ID string `json:"id,omitempty"`
	// End is where a bounded read stops (exclusive); nil: it does not.
	End *int64 `json:"end,omitempty"`
	// Time is the greatest timestamp read, in ms; nil: nothing was read. The watermark goes on from it.
	Time *int64 `json:"time,omitempty"`
}

// topicPartition names a partition.
type topicPartition struct {
	topic     string
	partition int32
}

func (tp topicPartition) String() string { return fmt.Sprintf("%s/%d", tp.topic, tp.partition) }

func encodePosition(parts []*partition) ([]byte, error) {
	p := position{Version: configVersion, Partitions: make([]partitionPosition, len(parts))}
	for i, part := range parts {
		at := partitionPosition{Topic: part.topic, Partition: part.partition, Next: part.next, ID: part.topicID}
		if part.bounded {
			at.End = &part.end
		}
		if part.seen {
			at.Time = &part.latest
		}
		p.Partitions[i] = at
	}
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode kafka position: %w", err)
	}
	return b, nil
}

// decodePositions merges the positions of all shards, however many there were. nil: a first start.
//
// After the job was rescaled, a shard that is no more may have left its last position behind: of those that name a partition
// the one that is farthest counts. (A partition goes back only when its topic is made anew, see OutOfRange; then the
// position of the old topic is found to be out of range once more.)
func decodePositions(shards [][]byte) (map[topicPartition]partitionPosition, error) {
	var all map[topicPartition]partitionPosition
	for i, b := range shards {
		if len(b) == 0 {
			continue
		}
		var p position
		if err := json.Unmarshal(b, &p); err != nil {
			return nil, fmt.Errorf("decode kafka position of shard %d: %w", i, err)
		}
		if p.Version != configVersion {
			return nil, fmt.Errorf("decode kafka position of shard %d: version %d is not %d", i, p.Version, configVersion)
		}
		if all == nil {
			all = make(map[topicPartition]partitionPosition)
		}
		for _, at := range p.Partitions {
			if at.Next < 0 {
				return nil, fmt.Errorf("decode kafka position of shard %d: offset %d of %s/%d is negative", i, at.Next, at.Topic, at.Partition)
			}
			tp := topicPartition{at.Topic, at.Partition}
			if before, ok := all[tp]; !ok || at.farther(before) {
				all[tp] = at
			}
		}
	}
	return all, nil
}

// farther says that a position was taken after b.
func (a partitionPosition) farther(b partitionPosition) bool {
	if a.Next != b.Next || a.Time == nil || b.Time == nil {
		return a.Next > b.Next || a.Next == b.Next && a.Time != nil
	}
	return *a.Time > *b.Time
}

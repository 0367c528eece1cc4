package kafka

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
)

// A group to start from, whose offsets stay as they are, and where partitions begin for which it has none.
func TestStartGroup(t *testing.T) {
	b := newBroker(t)
	if _, err := b.admin().CreateTopic(t.Context(), 2, 1, nil, "in"); err != nil {
		t.Fatal(err)
	}
	b.produce(t, numbered("in", 2, 0, 10, 1000)...)
	var at kadm.Offsets
	at.Add(kadm.Offset{Topic: "in", Partition: 0, At: 2, LeaderEpoch: -1})
	if err := b.admin().CommitAllOffsets(t.Context(), "g", at); err != nil {
		t.Fatal(err)
	}
	for begin, want := range map[StartAt][]int64{"": {2, 0}, Earliest: {2, 0}, Latest: {2, 5}} {
		c := readConfig(b, KV, []string{"in"})
		c.Start = Start{At: Committed, Group: "g", Else: begin}
		s := open(t, sourceConfig(c, 1))
		if s.committer != nil {
			t.Error("offsets are committed without a group to show them to")
		}
		var got []int64
		for _, p := range s.shards[0].parts {
			got = append(got, p.next)
		}
		if !slices.Equal(got, want) {
			t.Errorf("else=%q begins at %d, want %d", begin, got, want)
		}
	}
	c := readConfig(b, KV, []string{"in"})
	c.Start = Start{At: Committed, Group: "g", Else: "middle"}
	checkError(t, c.Validate(), `start.else="middle" is unknown`)
}

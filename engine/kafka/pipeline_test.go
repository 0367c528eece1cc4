package kafka_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tinyrunner/tinyrunner/engine/enginetest"
	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

func init() {
	register.Function3x0(keepTens)
	register.Function1x1(double)
	register.Emitter2[[]byte, []byte]()
}

func keepTens(key, value []byte, emit func([]byte, []byte)) {
	if n, err := strconv.Atoi(string(value)); err == nil && n%10 == 0 {
		emit(key, value)
	}
}

func double(r kafka.Record) kafka.Record {
	r.Value = append(r.Value, r.Value...)
	r.Headers = append(r.Headers, kafka.Header{Key: "from", Value: strconv.AppendInt(nil, r.Offset, 10)})
	return r
}

// A pipeline from topic to topic, in both formats, planned and run by the engine.
func TestPipeline(t *testing.T) {
	const n = 10_000
	broker, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(5, "in"), kfake.SeedTopics(2, "pairs", "records"))
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	addrs := broker.ListenAddrs()
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.ConsumeTopics("pairs", "records"), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var in []*kgo.Record
	for i := range n {
		in = append(in, &kgo.Record{Topic: "in", Key: fmt.Appendf(nil, "k%d", i), Value: strconv.AppendInt(nil, int64(i), 10)})
	}
	if err := client.ProduceSync(t.Context(), in...).FirstErr(); err != nil {
		t.Fatal(err)
	}

	p, s := beam.NewPipelineWithRoot()
	pairs := kafka.Read(s, addrs[0], []string{"in"}, kafka.StopAtEnd())
	kafka.Write(s, addrs[0], "pairs", beam.ParDo(s, keepTens, pairs))
	records := kafka.ReadRecords(s, addrs[0], []string{"in"}, kafka.StopAtEnd())
	kafka.WriteRecords(s, addrs[0], "records", beam.ParDo(s, double, records))
	enginetest.Run(t, p)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := map[string]int{}
	for len(seen) < n+n/10 && ctx.Err() == nil {
		for _, r := range client.PollFetches(ctx).Records() {
			seen[r.Topic+" "+string(r.Key)+" "+string(r.Value)]++
			if r.Topic == "records" && (len(r.Headers) != 1 || r.Headers[0].Key != "from") {
				t.Fatalf("headers %v", r.Headers)
			}
		}
	}
	for i := range n {
		if i%10 == 0 && seen[fmt.Sprintf("pairs k%d %d", i, i)] != 1 || seen[fmt.Sprintf("records k%d %d%d", i, i, i)] != 1 {
			t.Fatalf("record %d is missing or there twice; %d results", i, len(seen))
		}
	}
}

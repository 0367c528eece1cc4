package expand_test

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/xlang/kafkaio"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/tinyrunner/tinyrunner/engine/enginetest"
	"github.com/tinyrunner/tinyrunner/engine/jobapi"
	"github.com/tinyrunner/tinyrunner/engine/kafka/expand"
)

func init() {
	register.Function2x2(shout)
}

func shout(key, value []byte) ([]byte, []byte) { return key, append(slices.Clone(value), '!') }

func TestMain(m *testing.M) {
	beam.Init()
	goleak.VerifyTestMain(m)
}

// serve serves the expanders as the job port does and returns the address.
func serve(t *testing.T) string {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	expanders := map[string]jobapi.Expander{}
	for name, e := range expand.Expanders(log) {
		expanders[name] = e
	}
	server := grpc.NewServer(jobapi.ServerOptions(log)...)
	jobapi.NewExpansionService(expanders).Register(server)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return lis.Addr().String()
}

// Go's kafkaio, which asks an expansion service over gRPC as Python does, from topic to topic. Two reads in one pipeline must not get
// into each other's way.
func TestKafkaIO(t *testing.T) {
	const n = 50
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "in"), kfake.SeedTopics(1, "numbers"), kfake.SeedTopics(2, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	addr := broker.ListenAddrs()[0]
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("out"), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var in []*kgo.Record
	for i := range n {
		in = append(in, &kgo.Record{Topic: "in", Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "v%d", i)})
	}
	in = append(in, &kgo.Record{Topic: "numbers", Key: []byte("number"), Value: binary.BigEndian.AppendUint64(nil, 7)})
	if err := client.ProduceSync(t.Context(), in...).FirstErr(); err != nil {
		t.Fatal(err)
	}

	service := serve(t)
	earliest := kafkaio.ConsumerConfigs(map[string]string{"auto.offset.reset": "earliest"})
	p, s := beam.NewPipelineWithRoot()
	read := kafkaio.Read(s, service, addr, []string{"in"}, earliest, kafkaio.MaxNumRecords(n))
	numbers := kafkaio.Read(s, service, addr, []string{"numbers"}, earliest, kafkaio.MaxNumRecords(1), kafkaio.TimestampPolicy(kafkaio.CreateTime))
	kafkaio.Write(s, service, addr, "out", beam.ParDo(s, shout, beam.Flatten(s, read, numbers)))
	enginetest.Run(t, p)

	var got []string
	for deadline := time.Now().Add(time.Minute); len(got) < n+1 && time.Now().Before(deadline); {
		for _, r := range client.PollFetches(t.Context()).Records() {
			got = append(got, fmt.Sprintf("%s=%q", r.Key, r.Value))
		}
	}
	want := []string{`number="\x00\x00\x00\x00\x00\x00\x00\a!"`}
	for i := range n {
		want = append(want, fmt.Sprintf(`k%d="v%d!"`, i, i))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %d records\n%s", len(got), strings.Join(got, "\n"))
	}
}

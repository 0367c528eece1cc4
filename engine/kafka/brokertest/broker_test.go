package brokertest

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A broker keeps its address and its data, stopped or killed.
func TestBroker(t *testing.T) {
	if !wanted() {
		t.Skip("real brokers take minutes: TINYRUNNER_REAL_KAFKA=1 runs them")
	}
	for _, v := range Versions() {
		t.Run(v, func(t *testing.T) {
			b := Start(t, v)
			client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.DefaultProduceTopic("t"))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			admin := kadm.NewClient(client)
			if _, err := admin.CreateTopic(t.Context(), 1, 1, nil, "t"); err != nil {
				t.Fatal(err)
			}
			for i, end := range []func(){b.Stop, b.Kill} {
				if err := client.ProduceSync(t.Context(), kgo.StringRecord("r")).FirstErr(); err != nil {
					t.Fatal(err)
				}
				end()
				b.Start(t)
				ends, err := admin.ListEndOffsets(t.Context(), "t")
				if err != nil {
					t.Fatal(err)
				}
				if o, _ := ends.Lookup("t", 0); o.Offset != int64(i+1) {
					t.Errorf("end is %d", o.Offset)
				}
			}
		})
	}
}

func TestUnknownVersion(t *testing.T) {
	if _, err := Dir(t.Context(), "0.8", false); err == nil {
		t.Error("no error")
	}
}

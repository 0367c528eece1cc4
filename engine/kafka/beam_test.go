package kafka

import (
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/coder"
)

// marshal translates a pipeline as the Go SDK does when it submits one.
func marshal(t *testing.T, build func(s beam.Scope)) *pipepb.Pipeline {
	t.Helper()
	p, s := beam.NewPipelineWithRoot()
	build(s)
	edges, _, err := p.Build()
	if err != nil {
		t.Fatal(err)
	}
	env := &pipepb.Environment{Urn: "beam:env:embedded:v1"}
	out, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// find returns the one transform with a URN.
func find(t *testing.T, p *pipepb.Pipeline, urn string) *pipepb.PTransform {
	t.Helper()
	var found *pipepb.PTransform
	for _, tr := range p.GetComponents().GetTransforms() {
		if tr.GetSpec().GetUrn() == urn {
			if found != nil {
				t.Fatalf("two transforms are %s", urn)
			}
			found = tr
		}
	}
	if found == nil {
		t.Fatalf("no transform is %s", urn)
	}
	return found
}

// elementCoder compiles the coder that the Go SDK gives the elements of a format.
func elementCoder(t *testing.T, f Format) *coder.Coder {
	t.Helper()
	p := marshal(t, func(s beam.Scope) {
		if f == KV {
			Read(s, "b:1", []string{"t"})
		} else {
			ReadRecords(s, "b:1", []string{"t"})
		}
	})
	for _, id := range find(t, p, ReadURN).GetOutputs() {
		c, err := coder.Compile(p.GetComponents(), p.GetComponents().GetPcollections()[id].GetCoderId())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	t.Fatal("no output")
	return nil
}

func TestReadIsMarshalled(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	p := marshal(t, func(s beam.Scope) {
		Read(s, "a:1, b:2", []string{"t"}, FromTime(at), StopAtEnd(), OnlyCommitted(), WithCreateTime(3*time.Second),
			WithIdleTimeout(-1), WithSASLFromEnv(Plain, "u", "V"), WithTLS(TLS{Insecure: true}), ShowAs("g"))
	})
	tr := find(t, p, ReadURN)
	c, err := DecodeReadConfig(tr.GetSpec().GetPayload())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"version":1,"brokers":["a:1","b:2"],"tls":{"insecure":true},"sasl":{"mechanism":"PLAIN","user":"u","password_env":"V"},` +
		`"topics":["t"],"format":"kv","start":{"at":"timestamp","timestamp_ms":1700000000000},"stop_at_end":true,"read_committed":true,` +
		`"group":"g","timestamps":{"policy":"create_time","max_out_of_orderness_ms":3000,"idle_timeout_ms":-1}}`
	if got := normal(t, c); got != want {
		t.Errorf("payload %s\nwant    %s", got, want)
	}
	for _, id := range tr.GetOutputs() {
		if got := p.GetComponents().GetPcollections()[id].GetIsBounded(); got != pipepb.IsBounded_BOUNDED {
			t.Errorf("output is %v", got)
		}
	}
	if tr.GetUniqueName() != "kafka.Read/External" {
		t.Errorf("unique name %q", tr.GetUniqueName())
	}
}

func TestElementCoders(t *testing.T) {
	if err := checkElements(coder.NewWindowedValue(elementCoder(t, KV), coder.GlobalWindow()), KV); err != nil {
		t.Error(err)
	}
	if err := checkElements(coder.NewWindowedValue(elementCoder(t, Records), coder.GlobalWindow()), Records); err != nil {
		t.Error(err)
	}
	err := checkElements(coder.NewWindowedValue(elementCoder(t, Records), coder.GlobalWindow()), KV)
	checkError(t, err, "input elements are coded as beam:coder:length_prefix:v1, not as KV<bytes, bytes>")
	err = checkElements(coder.NewWindowedValue(elementCoder(t, KV), coder.GlobalWindow()), Records)
	checkError(t, err, "input elements are coded as beam:coder:kv:v1, not as kafka.Record")
}

func TestWrongArgumentsPanic(t *testing.T) {
	tests := []struct {
		name, want string
		build      func(s beam.Scope)
	}{
		{"broker", `"nowhere" is not host:port`, func(s beam.Scope) { Read(s, "nowhere", []string{"t"}) }},
		{"topics", "topics is empty", func(s beam.Scope) { Read(s, "b:1", nil) }},
		{"type", "not of KV<[]byte, []byte>", func(s beam.Scope) { Write(s, "b:1", "t", beam.Create(s, "x")) }},
		{"record type", "not of kafka.Record", func(s beam.Scope) { WriteRecords(s, "b:1", "t", beam.Create(s, "x")) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				err, _ := recover().(error)
				checkError(t, err, tt.want)
			}()
			_, s := beam.NewPipelineWithRoot()
			tt.build(s)
		})
	}
}

package jobapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
)

// fakeExpander answers with the transform as it was asked for, or fails.
type fakeExpander struct {
	config *jobpb.SchemaTransformConfig
	err    error
}

func (e fakeExpander) SchemaTransform() *jobpb.SchemaTransformConfig { return e.config }

func (e fakeExpander) Expand(_ context.Context, req *jobpb.ExpansionRequest) (*jobpb.ExpansionResponse, error) {
	return &jobpb.ExpansionResponse{Transform: req.GetTransform()}, e.err
}

// expansion serves expanders and returns a client of them.
func expansion(t *testing.T, expanders map[string]Expander) jobpb.ExpansionServiceClient {
	t.Helper()
	server := grpc.NewServer(ServerOptions(slog.New(slog.DiscardHandler))...)
	NewExpansionService(expanders).Register(server)
	lis := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:test",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return jobpb.NewExpansionServiceClient(conn)
}

func TestExpand(t *testing.T) {
	marshal := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	expanders := map[string]Expander{
		"example:read:v1":    fakeExpander{},
		"example:rows:v1":    fakeExpander{config: &jobpb.SchemaTransformConfig{}},
		"example:refuses:v1": fakeExpander{err: errors.New("topic is required")},
	}
	const knowAll = "it has example:read:v1, example:refuses:v1, example:rows:v1; give the SDK the address of an expansion service that has it"
	tests := []struct {
		name      string
		expanders map[string]Expander
		spec      *pipepb.FunctionSpec
		err       string
	}{
		{"by URN", expanders, &pipepb.FunctionSpec{Urn: "example:read:v1"}, ""},
		{"by identifier", expanders, &pipepb.FunctionSpec{
			Urn: "beam:expansion:payload:schematransform:v1", Payload: marshal(&pipepb.SchemaTransformPayload{Identifier: "example:rows:v1"}),
		}, ""},
		{"unknown URN", expanders, &pipepb.FunctionSpec{Urn: "example:other:v1"},
			`expand transform "my transform": this runner has no transform "example:other:v1", ` + knowAll},
		{"unknown identifier", expanders, &pipepb.FunctionSpec{
			Urn: "beam:expansion:payload:schematransform:v1", Payload: marshal(&pipepb.SchemaTransformPayload{Identifier: "example:other:v1"}),
		}, `expand transform "my transform": this runner has no transform "example:other:v1", ` + knowAll},
		{"Java class", expanders, &pipepb.FunctionSpec{
			Urn: "beam:expansion:payload:java_class_lookup:v1", Payload: marshal(&pipepb.JavaClassLookupPayload{ClassName: "org.example.Read"}),
		}, `expand transform "my transform": this runner has no transform "org.example.Read", ` + knowAll},
		{"no expanders", nil, &pipepb.FunctionSpec{Urn: "example:read:v1"},
			`expand transform "my transform": this runner has no transform "example:read:v1", it has none; give the SDK the address of an expansion service that has it`},
		{"expander refuses", expanders, &pipepb.FunctionSpec{Urn: "example:refuses:v1"}, `expand transform "my transform": topic is required`},
		{"no URN", expanders, nil, `expand transform "my transform": the request has no transform with a URN`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			transform := &pipepb.PTransform{UniqueName: "my transform", Spec: test.spec}
			resp, err := expansion(t, test.expanders).Expand(t.Context(), &jobpb.ExpansionRequest{Transform: transform})
			if err != nil {
				t.Fatal(err)
			}
			if resp.GetError() != test.err {
				t.Errorf("got the error\n%q, want\n%q", resp.GetError(), test.err)
			}
			if test.err == "" && !proto.Equal(resp.GetTransform(), transform) {
				t.Errorf("got the transform %v, want %v", resp.GetTransform(), transform)
			}
		})
	}
}

func TestExpandMalformedPayload(t *testing.T) {
	for _, urn := range []string{urnSchemaTransform, urnJavaClass} {
		req := &jobpb.ExpansionRequest{Transform: &pipepb.PTransform{Spec: &pipepb.FunctionSpec{Urn: urn, Payload: []byte{0xff}}}}
		resp, err := expansion(t, nil).Expand(t.Context(), req)
		if err != nil || resp.GetError() == "" {
			t.Errorf("%s: got the error %v and in the response %q, want one in the response", urn, err, resp.GetError())
		}
	}
}

func TestDiscoverSchemaTransform(t *testing.T) {
	config := &jobpb.SchemaTransformConfig{OutputPcollectionNames: []string{"output"}}
	tests := []struct {
		name      string
		expanders map[string]Expander
		want      *jobpb.DiscoverSchemaTransformResponse
	}{
		{"nothing", nil, &jobpb.DiscoverSchemaTransformResponse{}},
		{"only SchemaTransforms", map[string]Expander{"example:read:v1": fakeExpander{}, "example:rows:v1": fakeExpander{config: config}},
			&jobpb.DiscoverSchemaTransformResponse{SchemaTransformConfigs: map[string]*jobpb.SchemaTransformConfig{"example:rows:v1": config}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := expansion(t, test.expanders).DiscoverSchemaTransform(t.Context(), &jobpb.DiscoverSchemaTransformRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

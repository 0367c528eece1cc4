package expand

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/jobapi"
	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

var _ jobapi.Expander = (*Expander)(nil)

// What Python's SDK asks for (testdata/python/make.py) and what becomes of it: testdata/requests, which -rewrite writes.
func TestRequests(t *testing.T) {
	var asked []string
	datadriven.RunTest(t, "testdata/requests", func(t *testing.T, d *datadriven.TestData) string {
		asked = append(asked, d.Cmd)
		req := readRequest(t, filepath.Join("testdata/python", d.Cmd+".pb"))
		var log bytes.Buffer
		resp, err := expand(t, req, &log)
		if err != nil {
			return log.String() + "error: " + err.Error() + "\n"
		}
		checkResponse(t, req, resp)
		return log.String() + format(t, resp)
	})
	files, err := filepath.Glob("testdata/python/*.pb")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".pb"); !slices.Contains(asked, name) {
			t.Errorf("testdata/requests does not have %s", name)
		}
	}
}

func readRequest(t testing.TB, file string) *jobpb.ExpansionRequest {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	req := new(jobpb.ExpansionRequest)
	if err := proto.Unmarshal(b, req); err != nil {
		t.Fatal(err)
	}
	return req
}

// expand finds the expander as package jobapi does.
func expand(t testing.TB, req *jobpb.ExpansionRequest, log *bytes.Buffer) (*jobpb.ExpansionResponse, error) {
	t.Helper()
	name := req.GetTransform().GetSpec().GetUrn()
	if name == "beam:expansion:payload:schematransform:v1" {
		p := new(pipepb.SchemaTransformPayload)
		if err := proto.Unmarshal(req.GetTransform().GetSpec().GetPayload(), p); err != nil {
			t.Fatal(err)
		}
		name = p.GetIdentifier()
	}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	e := Expanders(logger)[name]
	if e == nil {
		t.Fatalf("no expander for %q", name)
	}
	return e.Expand(t.Context(), req)
}

// checkResponse checks what must be so of every expansion.
func checkResponse(t testing.TB, req *jobpb.ExpansionRequest, resp *jobpb.ExpansionResponse) {
	t.Helper()
	comps := resp.GetComponents()
	checkIDs(t, req, req.GetComponents().GetCoders(), comps.GetCoders())
	checkIDs(t, req, req.GetComponents().GetPcollections(), comps.GetPcollections())
	checkIDs(t, req, req.GetComponents().GetWindowingStrategies(), comps.GetWindowingStrategies())
	checkIDs(t, req, req.GetComponents().GetTransforms(), comps.GetTransforms())
	if !maps.Equal(resp.GetTransform().GetInputs(), req.GetTransform().GetInputs()) {
		t.Errorf("inputs %v have become %v", req.GetTransform().GetInputs(), resp.GetTransform().GetInputs())
	}
	for _, id := range resp.GetTransform().GetSubtransforms() {
		part := comps.GetTransforms()[id]
		if part == nil {
			t.Fatalf("part %s is not there", id)
		}
		if len(part.GetOutputs()) == 0 {
			t.Errorf("part %s has no output: Python's SDK drops such transforms", id)
		}
		var err error
		switch part.GetSpec().GetUrn() {
		case kafka.ReadURN:
			_, err = kafka.DecodeReadConfig(part.GetSpec().GetPayload())
		case kafka.WriteURN:
			_, err = kafka.DecodeWriteConfig(part.GetSpec().GetPayload())
		}
		if err != nil {
			t.Error(err)
		}
	}
	for id, pc := range comps.GetPcollections() {
		if comps.GetCoders()[pc.GetCoderId()] == nil || comps.GetWindowingStrategies()[pc.GetWindowingStrategyId()] == nil {
			t.Errorf("PCollection %s lacks its coder or windowing strategy", id)
		}
	}
	for id, c := range comps.GetCoders() {
		for _, sub := range c.GetComponentCoderIds() {
			if comps.GetCoders()[sub] == nil {
				t.Errorf("coder %s lacks its component %s", id, sub)
			}
		}
	}
}

// checkIDs: what came is there unchanged, and what is new is in the namespace.
func checkIDs[T proto.Message](t testing.TB, req *jobpb.ExpansionRequest, before, after map[string]T) {
	t.Helper()
	for id, v := range before {
		if !proto.Equal(v, after[id]) {
			t.Errorf("%s was changed or left out", id)
		}
	}
	for id := range after {
		if _, old := before[id]; !old && !strings.HasPrefix(id, req.GetNamespace()) {
			t.Errorf("%s is new and not in the namespace %q", id, req.GetNamespace())
		}
	}
}

// format writes an expansion for people.
func format(t testing.TB, resp *jobpb.ExpansionResponse) string {
	t.Helper()
	var b strings.Builder
	comps := resp.GetComponents()
	fmt.Fprintf(&b, "%s: %s\n", resp.GetTransform().GetUniqueName(), resp.GetTransform().GetSpec().GetUrn())
	for _, id := range resp.GetTransform().GetSubtransforms() {
		part := comps.GetTransforms()[id]
		fmt.Fprintf(&b, "  %s: %s\n", part.GetUniqueName(), part.GetSpec().GetUrn())
		if payload := part.GetSpec().GetPayload(); len(payload) > 0 {
			var text bytes.Buffer
			if err := json.Indent(&text, payload, "    ", "  "); err != nil {
				t.Error(err)
			}
			fmt.Fprintf(&b, "    %s\n", &text)
		}
	}
	for _, tag := range slices.Sorted(maps.Keys(resp.GetTransform().GetOutputs())) {
		pc := comps.GetPcollections()[resp.GetTransform().GetOutputs()[tag]]
		fmt.Fprintf(&b, "  %s: %s %s\n", tag, strings.ToLower(pc.GetIsBounded().String()), formatCoder(t, comps, pc.GetCoderId()))
	}
	return b.String()
}

func formatCoder(t testing.TB, comps *pipepb.Components, id string) string {
	t.Helper()
	c := comps.GetCoders()[id]
	name := strings.TrimSuffix(strings.TrimPrefix(c.GetSpec().GetUrn(), "beam:coder:"), ":v1")
	if c.GetSpec().GetUrn() == urnRow {
		s := new(pipepb.Schema)
		if err := proto.Unmarshal(c.GetSpec().GetPayload(), s); err != nil {
			t.Fatal(err)
		}
		return formatSchema(s)
	}
	var subs []string
	for _, sub := range c.GetComponentCoderIds() {
		subs = append(subs, formatCoder(t, comps, sub))
	}
	if len(subs) == 0 {
		return name
	}
	return name + "<" + strings.Join(subs, ", ") + ">"
}

func formatSchema(s *pipepb.Schema) string {
	var fs []string
	for _, f := range s.GetFields() {
		fs = append(fs, f.GetName()+" "+formatType(f.GetType()))
	}
	return "row<" + strings.Join(fs, ", ") + ">"
}

func formatType(t *pipepb.FieldType) string {
	s := ""
	switch info := t.GetTypeInfo().(type) {
	case *pipepb.FieldType_AtomicType:
		s = info.AtomicType.String()
	case *pipepb.FieldType_ArrayType:
		s = "array<" + formatType(info.ArrayType.GetElementType()) + ">"
	case *pipepb.FieldType_MapType:
		s = "map<" + formatType(info.MapType.GetKeyType()) + ", " + formatType(info.MapType.GetValueType()) + ">"
	case *pipepb.FieldType_RowType:
		s = formatSchema(info.RowType.GetSchema())
	}
	if t.GetNullable() {
		s += "?"
	}
	return s
}

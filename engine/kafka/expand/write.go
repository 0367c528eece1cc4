package expand

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

// writeExternal makes a write of the configuration of Java's KafkaIO.Write.External. headers: elements are rows.
func writeExternal(f *fields, headers bool, log *slog.Logger, req *jobpb.ExpansionRequest) (*kafka.WriteConfig, error) {
	c := newWrite(kafka.Pairs)
	c.Elements, c.Topic = types(f, "Serializer"), f.required("topic")
	p := newProperties("producer_config", f.mapping("producer_config"))
	if err := f.err(); err != nil {
		return nil, err
	}
	p.producer(c)
	if err := p.done(log, req.GetTransform().GetUniqueName()); err != nil {
		return nil, err
	}
	in, err := inputCoder(req)
	if err != nil {
		return nil, err
	}
	if !headers {
		if err := checkPairs(req.GetComponents(), in, c.Elements); err != nil {
			return nil, err
		}
		return c, c.Validate()
	}
	if c.Key != kafka.Bytes || c.Value != kafka.Bytes {
		return nil, fmt.Errorf("key_serializer: rows with headers have keys and values as bytes: leave key_serializer and value_serializer out")
	}
	c.Format = kafka.Rows
	if c.Elements, err = headerRow(in); err != nil {
		return nil, err
	}
	return c, c.Validate()
}

// newWrite makes a configuration with the defaults of package kafka.
func newWrite(format kafka.Format) *kafka.WriteConfig {
	return &kafka.WriteConfig{Version: kafka.ConfigVersion, Format: format, Linger: 5}
}

// producer takes the properties of a producer.
func (p *properties) producer(c *kafka.WriteConfig) {
	c.Connection = p.connection()
	c.Compression = p.choice("compression.type", "", "none", "gzip", "snappy", "lz4", "zstd")
	p.millis("linger.ms", &c.Linger)
	p.millis("transaction.timeout.ms", &c.TransactionTimeout)
}

// millis takes a time in milliseconds, if it is set.
func (p *properties) millis(name string, into *int64) {
	v := p.take(name)
	if v == "" {
		return
	}
	ms, err := strconv.ParseInt(v, 10, 32)
	if err != nil || ms < 0 {
		p.fail(name, "%q is not a number of milliseconds", v)
	}
	*into = ms
}

// inputCoder returns the coder of the one input.
func inputCoder(req *jobpb.ExpansionRequest) (*pipepb.Coder, error) {
	inputs, comps := req.GetTransform().GetInputs(), req.GetComponents()
	if len(inputs) != 1 {
		return nil, fmt.Errorf("it has %d inputs: apply it to one PCollection", len(inputs))
	}
	for _, id := range inputs {
		pc := comps.GetPcollections()[id]
		if c := comps.GetCoders()[pc.GetCoderId()]; c != nil {
			return c, nil
		}
		return nil, fmt.Errorf("the coder of its input %q is not in the request", id)
	}
	return nil, nil // not reached
}

// checkPairs tells users what the elements must be while they still see their pipeline. The sink checks again what it gets.
func checkPairs(comps *pipepb.Components, in *pipepb.Coder, e kafka.Elements) error {
	ids := in.GetComponentCoderIds()
	if in.GetSpec().GetUrn() != coder.URNKV || len(ids) != 2 {
		return fmt.Errorf("its input is coded as %s, not as key and value: give it pairs, in Python with .with_output_types(tuple[%s, %s])",
			in.GetSpec().GetUrn(), pythonType(e.Key), pythonType(e.Value))
	}
	for i, t := range []kafka.Type{e.Key, e.Value} {
		c := comps.GetCoders()[ids[i]]
		if sub := c.GetComponentCoderIds(); c.GetSpec().GetUrn() == coder.URNNullable && len(sub) == 1 {
			c = comps.GetCoders()[sub[0]]
		}
		if urn := c.GetSpec().GetUrn(); urn != t.Coder() {
			return fmt.Errorf("the %s of its input is coded as %s, the serializer wants %s: convert it, in Python with .with_output_types(tuple[%s, %s])",
				[]string{"key", "value"}[i], urn, t.Coder(), pythonType(e.Key), pythonType(e.Value))
		}
	}
	return nil
}

func pythonType(t kafka.Type) string {
	switch t {
	case kafka.String:
		return "str"
	case kafka.Int32, kafka.Int64:
		return "int"
	case kafka.Float64:
		return "float"
	}
	return "bytes"
}

// urnRow is the coder of rows.
const urnRow = "beam:coder:row:v1"

// rowSchema returns the schema of a coder of rows.
func rowSchema(c *pipepb.Coder) (*pipepb.Schema, error) {
	if urn := c.GetSpec().GetUrn(); urn != urnRow {
		return nil, fmt.Errorf("its input is coded as %s, not as rows: give it rows, in Python beam.Row(...)", urn)
	}
	s := new(pipepb.Schema)
	if err := proto.Unmarshal(c.GetSpec().GetPayload(), s); err != nil {
		return nil, fmt.Errorf("read schema of its input: %w", err)
	}
	order, err := encodingOrder(s)
	if err != nil {
		return nil, fmt.Errorf("read schema of its input: %w", err)
	}
	for i, at := range order {
		if i != at {
			return nil, fmt.Errorf("the rows of its input are encoded in another order than that of their fields: make them anew with beam.Row(...) before it")
		}
	}
	return s, nil
}

// headerRow returns the fields of rows as Python's WriteToKafka(with_headers=True) wants them.
func headerRow(in *pipepb.Coder) (kafka.Elements, error) {
	var e kafka.Elements
	s, err := rowSchema(in)
	if err != nil {
		return e, err
	}
	there := map[string]bool{}
	for _, f := range s.GetFields() {
		name, t := f.GetName(), f.GetType()
		if err := checkHeaderField(name, t); err != nil {
			return e, fmt.Errorf("field %s of its input: %w", name, err)
		}
		there[name] = true
		e.Fields = append(e.Fields, kafka.Field{Name: kafka.FieldName(name), Nullable: t.GetNullable()})
	}
	if !there["key"] || !there["value"] {
		return e, fmt.Errorf("its input has no field key or no field value: both are required")
	}
	return e, nil
}

// checkHeaderField checks a field of rows for WriteToKafka(with_headers=True).
func checkHeaderField(name string, t *pipepb.FieldType) error {
	var ok bool
	switch name {
	case "key", "value":
		ok = t.GetAtomicType() == pipepb.AtomicType_BYTES
	case "topic":
		ok = t.GetAtomicType() == pipepb.AtomicType_STRING
	case "timestamp":
		ok = t.GetAtomicType() == pipepb.AtomicType_INT64
	case "headers":
		ok = isHeaders(t)
	case "partition":
		return errors.New("this runner puts records where their keys belong: leave it out")
	default:
		return errors.New("it is unknown: use key, value, headers, topic and timestamp")
	}
	if !ok {
		return fmt.Errorf("it is of the wrong type %s: use key and value bytes, topic str, timestamp int (ms), headers a list of rows with key str and value bytes", typeName(t))
	}
	return nil
}

// typeName is the type of a field for messages.
func typeName(t *pipepb.FieldType) string {
	if a := t.GetAtomicType(); a != pipepb.AtomicType_UNSPECIFIED {
		return a.String()
	}
	return strings.ReplaceAll(t.String(), "  ", " ") // protobuf puts in spaces at random
}

// isHeaders says whether a type is that of headers as the sink reads them.
func isHeaders(t *pipepb.FieldType) bool {
	elem := t.GetArrayType().GetElementType()
	if elem == nil {
		elem = t.GetIterableType().GetElementType()
	}
	fs := elem.GetRowType().GetSchema().GetFields()
	return !elem.GetNullable() && len(fs) == 2 &&
		fs[0].GetName() == "key" && fs[0].GetType().GetAtomicType() == pipepb.AtomicType_STRING && !fs[0].GetType().GetNullable() &&
		fs[1].GetName() == "value" && fs[1].GetType().GetAtomicType() == pipepb.AtomicType_BYTES
}

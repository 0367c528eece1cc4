package expand

import (
	"fmt"
	"log/slog"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

// readTransform describes the SchemaTransform that reads. SDKs show the fields in this order; Java's has them sorted by name.
func readTransform() *jobpb.SchemaTransformConfig {
	return &jobpb.SchemaTransformConfig{
		Description: "Reads the values of Kafka records as rows with one field, payload, on the runner's own source.",
		ConfigSchema: newSchema(idReadOptions,
			nullable(text("auto_offset_reset_config", "Where to begin: earliest or latest (the default).")),
			text("bootstrap_servers", "Brokers to begin with, as host1:port1,host2:port2."),
			nullable(textMap("consumer_config_updates", "Properties of a Kafka consumer, for the connection and its security.")),
			nullable(text("format", "RAW. Other formats need Java's expansion service.")),
			nullable(atom("max_read_time_seconds", pipepb.AtomicType_INT32)),
			text("topic", "The topic to read."),
		),
		OutputPcollectionNames: []string{output},
	}
}

// writeTransform describes the SchemaTransform that writes.
func writeTransform() *jobpb.SchemaTransformConfig {
	return &jobpb.SchemaTransformConfig{
		Description: "Writes rows with one field of bytes as the values of Kafka records, without keys, on the runner's own sink.",
		ConfigSchema: newSchema(idWriteOptions,
			text("bootstrap_servers", "Brokers to begin with, as host1:port1,host2:port2."),
			text("format", "RAW. Other formats need Java's expansion service."),
			nullable(textMap("producer_config_updates", "Properties of a Kafka producer, for the connection and its security.")),
			text("topic", "The topic to write to."),
		),
		InputPcollectionNames: []string{"input"},
	}
}

// schemaRow reads the payload of a SchemaTransform.
func schemaRow(req *jobpb.ExpansionRequest) (*fields, error) {
	p := new(pipepb.SchemaTransformPayload)
	if err := proto.Unmarshal(req.GetTransform().GetSpec().GetPayload(), p); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	row, err := decodeRow(p.GetConfigurationSchema(), p.GetConfigurationRow())
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return newFields(row), nil
}

// raw takes what the two SchemaTransforms have in common, and refuses all formats but RAW.
func raw(f *fields, updates string) (topic string, p *properties) {
	topic = f.required("topic")
	props := f.mapping(updates)
	props["bootstrap.servers"] = f.required("bootstrap_servers")
	const remedy = "use format RAW and decode the bytes in the pipeline, or give the SDK the address of Java's expansion service"
	if format := f.text("format"); format != "RAW" {
		f.fail("format", "this runner does not have %q: %s", format, remedy)
	}
	for _, name := range []string{"schema", "file_descriptor_path", "message_name", "confluent_schema_registry_url", "confluent_schema_registry_subject"} {
		f.refuse(name, remedy)
	}
	f.refuse("error_handling", "bytes always are what they are, so there are no errors to put out: leave it out")
	return topic, newProperties(updates, props)
}

// readSchema makes a read of the configuration of Java's KafkaReadSchemaTransformProvider.
func readSchema(f *fields, log *slog.Logger, transform string) (*reading, error) {
	topic, p := raw(f, "consumer_config_updates")
	policy, err := timestamps("")
	if err != nil {
		return nil, err
	}
	c := kafka.ReadConfig{
		Version: kafka.ConfigVersion, Format: kafka.Rows, Topics: []string{topic},
		Elements: kafka.Elements{Fields: []kafka.Field{{Name: kafka.FieldValue}}}, Timestamps: policy,
	}
	c.MaxReadTime = f.positive("max_read_time_seconds") * 1000
	reset := f.text("auto_offset_reset_config")
	r := &reading{redistribute: f.flag("redistributed")}
	f.none("allow_duplicates", "redistribute_num_keys", "offset_deduplication", "redistribute_by_record_key") // of redistributing
	if err := f.err(); err != nil {
		return nil, err
	}
	// Java's sets both itself, too: the group of a SchemaTransform is made up.
	p.left["auto.offset.reset"] = reset
	delete(p.left, "group.id")
	p.consumer(&c, false)
	if err := p.done(log, transform); err != nil {
		return nil, err
	}
	r.config = c
	return r, c.Validate()
}

// writeSchema makes a write of the configuration of Java's KafkaWriteSchemaTransformProvider. Java's gives all records the
// same key, one zero byte, and so all of them to one partition; here they have none.
func writeSchema(f *fields, log *slog.Logger, req *jobpb.ExpansionRequest) (*kafka.WriteConfig, error) {
	topic, p := raw(f, "producer_config_updates")
	if err := f.err(); err != nil {
		return nil, err
	}
	c := newWrite(kafka.Rows)
	c.Topic = topic
	p.producer(c)
	if err := p.done(log, req.GetTransform().GetUniqueName()); err != nil {
		return nil, err
	}
	in, err := inputCoder(req)
	if err != nil {
		return nil, err
	}
	s, err := rowSchema(in)
	if err != nil {
		return nil, err
	}
	fs := s.GetFields()
	if len(fs) != 1 || fs[0].GetType().GetAtomicType() != pipepb.AtomicType_BYTES || fs[0].GetType().GetNullable() {
		return nil, fmt.Errorf("its input has rows of %d fields: format RAW needs one field, of bytes that cannot be null", len(fs))
	}
	c.Elements = kafka.Elements{Fields: []kafka.Field{{Name: kafka.FieldValue}}}
	return c, c.Validate()
}

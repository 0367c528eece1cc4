package expand

import (
	"fmt"
	"log/slog"
	"strings"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

// reading is what an expansion of a read needs to know.
type reading struct {
	config       kafka.ReadConfig
	redistribute bool
}

// externalRow reads the payload of an external transform: a row with its schema.
func externalRow(req *jobpb.ExpansionRequest) (*fields, error) {
	p := new(pipepb.ExternalConfigurationPayload)
	if err := proto.Unmarshal(req.GetTransform().GetSpec().GetPayload(), p); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	row, err := decodeRow(p.GetSchema(), p.GetPayload())
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return newFields(row), nil
}

// readExternal makes a read of the configuration of Java's KafkaIO.Read.External.
func readExternal(f *fields, metadata bool, log *slog.Logger, transform string) (*reading, error) {
	e := types(f, "Deserializer")
	c := kafka.ReadConfig{Version: kafka.ConfigVersion, Format: kafka.Pairs, Elements: e, Topics: f.texts("topics")}
	if metadata {
		if f.first == nil && (e.Key != kafka.Bytes || e.Value != kafka.Bytes) {
			f.fail("key_deserializer", "rows with metadata have keys and values as they are in Kafka: leave key_deserializer and value_deserializer out")
		}
		c.Format, c.Elements = kafka.Rows, kafka.Elements{Fields: metadataFields()}
	}
	var err error
	if c.Timestamps, err = timestamps(f.text("timestamp_policy")); err != nil {
		f.fail("timestamp_policy", "%w", err)
	}
	c.MaxRecords = f.positive("max_num_records")
	c.MaxReadTime = f.positive("max_read_time") * 1000
	start, hasStart := f.number("start_read_time")
	finalize := f.flag("commit_offset_in_finalize")
	r := &reading{redistribute: f.flag("redistribute")}
	f.positive("consumer_polling_timeout")                                // how long Java's client waits for a poll: no record is missed by it, here or there
	c.Discovery = f.positive("dynamic_read_poll_interval_seconds") * 1000 // unset: package kafka's, as it always looks
	f.none(
		"redistribute_num_keys", // elements are dealt out to the slots, without keys
		"allow_duplicates",      // lets a runner be careless; this one is not
	)
	f.refuse("stop_read_time", "filter by the elements' timestamps, or use max_num_records or max_read_time")
	f.refuse("consumer_factory_fn_class", "it makes Java's client: configure the connection in consumer_config")
	f.refuse("consumer_factory_fn_params", "they are for consumer_factory_fn_class: leave them out")
	p := newProperties("consumer_config", f.mapping("consumer_config"))
	if err := f.err(); err != nil {
		return nil, err
	}
	p.consumer(&c, finalize)
	if hasStart { // takes precedence over offsets of a group and auto.offset.reset, as in Java
		c.Start = kafka.Start{At: kafka.Timestamp, Timestamp: start}
	}
	if err := p.done(log, transform); err != nil {
		return nil, err
	}
	r.config = c
	return r, c.Validate()
}

// timestamps returns the timestamp policy with the names of Java's TimestampPolicyFactory; "" is the default.
func timestamps(policy string) (kafka.Timestamps, error) {
	t := kafka.Timestamps{IdleTimeout: 1000} // ms, package kafka's default
	switch policy {
	case "", "ProcessingTime":
		t.Policy = kafka.ProcessingTime
	case "CreateTime": // Java's external read has no delay: a record older than one before it in its partition may be late
		t.Policy = kafka.CreateTime
	case "LogAppendTime":
		t.Policy = kafka.LogAppendTime
	default:
		return t, fmt.Errorf("%q is unknown: use ProcessingTime, CreateTime or LogAppendTime", policy)
	}
	return t, nil
}

// consumer takes the properties of a consumer. finalize: the pipeline asks for offsets to be committed.
func (p *properties) consumer(c *kafka.ReadConfig, finalize bool) {
	c.Connection = p.connection()
	c.ReadCommitted = p.choice("isolation.level", "read_uncommitted", "read_committed") == "read_committed"
	group := p.take("group.id")
	commit := p.flag("enable.auto.commit", true) || finalize
	if finalize && group == "" {
		p.fail("group.id", "commit_offset_in_finalize needs it: name the consumer group whose offsets to commit")
	}
	begin := kafka.Latest // Kafka's default
	// For Kafka's clients the property also says what to do about records that are gone. Here that is an error, unless the
	// pipeline asks for it.
	switch reset := p.take("auto.offset.reset"); {
	case reset == "":
	case strings.EqualFold(reset, "latest"):
		c.OutOfRange = kafka.LatestOutOfRange
	case strings.EqualFold(reset, "earliest"):
		begin, c.OutOfRange = kafka.Earliest, kafka.EarliestOutOfRange
	default:
		p.fail("auto.offset.reset", "this runner does not have %q: use earliest or latest", reset)
	}
	switch {
	case group == "":
		c.Start = kafka.Start{At: begin}
	case commit:
		c.Start, c.Group = kafka.Start{At: kafka.Committed, Else: begin}, group
	default:
		c.Start = kafka.Start{At: kafka.Committed, Else: begin, Group: group}
	}
}

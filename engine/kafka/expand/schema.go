package expand

import (
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

// Ids of schemas: they must differ from those of other schemas, and Java wants UUIDs. They change when the schema does.
const (
	idMetadata     = "0b0c6e0e-6c43-4e0f-9a52-7d1e7b1f5a01"
	idHeader       = "0b0c6e0e-6c43-4e0f-9a52-7d1e7b1f5a02"
	idPayload      = "0b0c6e0e-6c43-4e0f-9a52-7d1e7b1f5a03"
	idReadOptions  = "0b0c6e0e-6c43-4e0f-9a52-7d1e7b1f5a04"
	idWriteOptions = "0b0c6e0e-6c43-4e0f-9a52-7d1e7b1f5a05"
)

// newSchema makes a schema of fields in this order.
func newSchema(id string, fs ...*pipepb.Field) *pipepb.Schema {
	for i, f := range fs {
		f.Id, f.EncodingPosition = int32(i), int32(i)
	}
	return &pipepb.Schema{Id: id, Fields: fs}
}

func atom(name string, t pipepb.AtomicType) *pipepb.Field {
	return &pipepb.Field{Name: name, Type: &pipepb.FieldType{TypeInfo: &pipepb.FieldType_AtomicType{AtomicType: t}}}
}

func text(name, description string) *pipepb.Field {
	f := atom(name, pipepb.AtomicType_STRING)
	f.Description = description
	return f
}

func textMap(name, description string) *pipepb.Field {
	str := &pipepb.FieldType{TypeInfo: &pipepb.FieldType_AtomicType{AtomicType: pipepb.AtomicType_STRING}}
	return &pipepb.Field{Name: name, Description: description, Type: &pipepb.FieldType{
		TypeInfo: &pipepb.FieldType_MapType{MapType: &pipepb.MapType{KeyType: str, ValueType: str}},
	}}
}

func nullable(f *pipepb.Field) *pipepb.Field {
	f.Type.Nullable = true
	return f
}

// metadataSchema is that of Java's KafkaIO.ByteArrayKafkaRecord.
func metadataSchema() *pipepb.Schema {
	header := newSchema(idHeader, atom("key", pipepb.AtomicType_STRING), nullable(atom("value", pipepb.AtomicType_BYTES)))
	headers := &pipepb.Field{Name: "headers", Type: &pipepb.FieldType{TypeInfo: &pipepb.FieldType_ArrayType{ArrayType: &pipepb.ArrayType{
		ElementType: &pipepb.FieldType{TypeInfo: &pipepb.FieldType_RowType{RowType: &pipepb.RowType{Schema: header}}},
	}}}}
	return newSchema(idMetadata,
		atom("topic", pipepb.AtomicType_STRING),
		atom("partition", pipepb.AtomicType_INT32),
		atom("offset", pipepb.AtomicType_INT64),
		atom("timestamp", pipepb.AtomicType_INT64),
		nullable(atom("key", pipepb.AtomicType_BYTES)),
		nullable(atom("value", pipepb.AtomicType_BYTES)),
		nullable(headers),
		atom("timestampTypeId", pipepb.AtomicType_INT32),
		atom("timestampTypeName", pipepb.AtomicType_STRING),
	)
}

// metadataFields is what package kafka puts into metadataSchema.
func metadataFields() []kafka.Field {
	return []kafka.Field{
		{Name: kafka.FieldTopic}, {Name: kafka.FieldPartition}, {Name: kafka.FieldOffset}, {Name: kafka.FieldTimestamp},
		{Name: kafka.FieldKey, Nullable: true}, {Name: kafka.FieldValue, Nullable: true}, {Name: kafka.FieldHeaders, Nullable: true},
		{Name: kafka.FieldTimestampType}, {Name: kafka.FieldTimestampTypeName},
	}
}

// payloadSchema is that of the SchemaTransform's rows in format RAW.
func payloadSchema() *pipepb.Schema {
	return newSchema(idPayload, atom("payload", pipepb.AtomicType_BYTES))
}

// Package expand answers expansion requests for Kafka: the transforms that Beam's SDKs ask Java's expansion service for become
// the native source and sink of package kafka, so that no JVM is needed.
//
//	ReadFromKafka(consumer_config={...}, topics=[...], expansion_service='localhost:8099')
//
// It knows the external transforms of Java's KafkaIO (Python's ReadFromKafka and WriteToKafka, Go's kafkaio) and its two
// SchemaTransforms (Beam YAML, generated wrappers) in the format RAW. Their configuration is a Beam row whose schema comes
// with it; fields are found by name, so that SDKs may have them in any order and leave some out.
//
// The rule for everything that can be configured: it is honoured, or it has no meaning here (fields.none and the property
// tables say why), or it is refused with the field's name and what to do instead. Nothing that would change results is dropped in
// silence. Client properties that are unknown are logged, as a Kafka client does.
//
// Elements are what Java's have: KV<nullable<K>, nullable<V>> by the deserializers, or rows with the record's metadata.
//
// File map: expand.go the transforms; read.go, write.go and schematransform.go their configurations; properties.go, security.go
// what Kafka clients call theirs; serde.go classes that convert keys and values; components.go what goes into the pipeline;
// row.go and fields.go reading of configurations.
//
// Source of the behaviour: org.apache.beam.sdk.io.kafka.KafkaIO (Read.External, Write.External, RowsWithMetadata),
// KafkaReadSchemaTransformProvider and KafkaWriteSchemaTransformProvider in Beam's Java SDK.
package expand

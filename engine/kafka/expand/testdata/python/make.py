"""Writes the requests that Python's SDK sends to an expansion service, one file a case: make.py [directory]

The real SDK makes them: transforms are applied to a pipeline whose expansion service records the request and then refuses it.
What depends on the machine is left out; ids of schemas differ each time. Run with the Python that the other tests use (make venv).
"""

import os
import sys
from typing import Optional

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.io.kafka import WriteToKafka
from apache_beam.portability.api import beam_expansion_api_pb2
from apache_beam.portability.api import schema_pb2
from apache_beam.transforms.external import ExplicitSchemaTransformPayloadBuilder
from apache_beam.transforms.external import ExternalTransform
from apache_beam.transforms.external import SchemaTransformPayloadBuilder
from apache_beam.typehints.row_type import RowTypeConstraint

DIRECTORY = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
SERIALIZATION = 'org.apache.kafka.common.serialization.'
SCHEMATRANSFORM = 'beam:expansion:payload:schematransform:v1'
READ = 'beam:schematransform:org.apache.beam:kafka_read:v1'
WRITE = 'beam:schematransform:org.apache.beam:kafka_write:v1'
BROKERS = {'bootstrap.servers': 'broker1:9092,broker2:9092'}
SECURE = {
    'bootstrap.servers': 'SASL_SSL://broker1:9093',
    'security.protocol': 'SASL_SSL',
    'sasl.mechanism': 'SCRAM-SHA-256',
    'sasl.jaas.config': 'org.apache.kafka.common.security.scram.ScramLoginModule required username="me" password="${env:KAFKA_PASSWORD}";',
    'ssl.truststore.type': 'PEM',
    'ssl.truststore.location': '/etc/kafka/ca.pem',
}
PAIRS = tuple[bytes, bytes]


class Recorder:
  """An expansion service that keeps what it is asked for."""
  def Expand(self, request):
    self.request = request
    return beam_expansion_api_pb2.ExpansionResponse(error='recorded')


def record(name, transform, element_type=None, root=None):
  """transform makes a transform for an expansion service; element_type is that of its input (None: it has none)."""
  recorder = Recorder()
  p = beam.Pipeline()
  begin = p
  if element_type is not None:
    begin = p | beam.Create([]) | beam.Map(lambda x: x).with_output_types(element_type)
  try:
    begin | name >> transform(recorder)
  except RuntimeError as e:
    if 'recorded' not in str(e):
      raise
  request = recorder.request
  request.ClearField('pipeline_options')
  request.components.ClearField('environments')
  request.components.ClearField('transforms')
  request.namespace = 'ns'
  with open(os.path.join(DIRECTORY, name + '.pb'), 'wb') as f:
    f.write(request.SerializeToString(deterministic=True))


def read(name, config=BROKERS, topics=('events', ), **kwargs):
  record(name, lambda service: ReadFromKafka(dict(config), list(topics), expansion_service=service, **kwargs))


def write(name, element_type, config=BROKERS, topic='events', **kwargs):
  record(name, lambda service: WriteToKafka(dict(config), topic, expansion_service=service, **kwargs), element_type)


def schema_transform(name, identifier, element_type=None, **kwargs):
  record(
      name,
      lambda service: ExternalTransform(SCHEMATRANSFORM, SchemaTransformPayloadBuilder(identifier, **kwargs), service),
      element_type)


def text(name, nullable=False):
  return schema_pb2.Field(name=name, type=schema_pb2.FieldType(atomic_type=schema_pb2.STRING, nullable=nullable))


def discovered(name, identifier, schema, **kwargs):
  record(
      name,
      lambda service: ExternalTransform(
          SCHEMATRANSFORM, ExplicitSchemaTransformPayloadBuilder(identifier, schema, **kwargs), service))


def reads():
  read('read_default')
  read(
      'read_everything',
      config=dict(BROKERS, **{
          'group.id': 'me', 'auto.offset.reset': 'earliest', 'isolation.level': 'read_committed', 'fetch.min.bytes': '1', 'my.own': '1'
      }),
      topics=['a', 'b'],
      key_deserializer=SERIALIZATION + 'StringDeserializer',
      value_deserializer=SERIALIZATION + 'LongDeserializer',
      max_num_records=1000,
      max_read_time=60,
      commit_offset_in_finalize=True,
      timestamp_policy=ReadFromKafka.create_time_policy,
      consumer_polling_timeout=10,
      redistribute=True,
      allow_duplicates=True,
      dynamic_read_poll_interval_seconds=30)
  read('read_from_time', start_read_time=1700000000000, timestamp_policy=ReadFromKafka.log_append_time)
  read('read_group_only', config=dict(BROKERS, **{'group.id': 'me', 'enable.auto.commit': 'false'}))
  read('read_metadata', with_metadata=True)
  read('read_metadata_typed', with_metadata=True, key_deserializer=SERIALIZATION + 'StringDeserializer')
  read(
      'read_numbers',
      key_deserializer=SERIALIZATION + 'IntegerDeserializer',
      value_deserializer=SERIALIZATION + 'DoubleDeserializer')
  read('read_secure', config=SECURE)
  read('read_own_deserializer', value_deserializer='org.example.MyDeserializer')
  read('read_consumer_factory', consumer_factory_fn_class='org.example.Factory', consumer_factory_fn_params={'a': 'b'})
  read('read_no_broker', config={'auto.offset.reset': 'latest'})
  read('read_no_topic', topics=[])
  read('read_commit_without_group', commit_offset_in_finalize=True)
  read('read_polling_timeout_zero', consumer_polling_timeout=0)
  read('read_max_negative', max_num_records=-5)


def writes():
  header = RowTypeConstraint.from_fields([('key', str), ('value', bytes)])
  write('write_default', PAIRS)
  write('write_nullable', tuple[Optional[bytes], Optional[bytes]], config=dict(BROKERS, **{'compression.type': 'zstd', 'linger.ms': '20', 'acks': '1'}))
  write(
      'write_typed',
      tuple[str, int],
      key_serializer=SERIALIZATION + 'StringSerializer',
      value_serializer=SERIALIZATION + 'LongSerializer')
  write('write_secure', PAIRS, config=SECURE)
  write('write_wrong_type', tuple[bytes, str])
  write('write_any_type', tuple[bytes, object])
  write('write_no_pairs', bytes)
  write('write_transactional', PAIRS, config=dict(BROKERS, **{'transactional.id': 'mine'}))
  write('write_bad_topic', PAIRS, topic='a topic')
  write(
      'write_headers',
      RowTypeConstraint.from_fields([('key', Optional[bytes]), ('value', bytes), ('headers', list[header]), ('timestamp', int)]),
      with_headers=True)
  write(
      'write_headers_to_topics',
      RowTypeConstraint.from_fields([('topic', str), ('key', bytes), ('value', bytes)]),
      with_headers=True)
  write(
      'write_headers_partition',
      RowTypeConstraint.from_fields([('key', bytes), ('value', bytes), ('partition', int)]),
      with_headers=True)
  write('write_headers_pairs', PAIRS, with_headers=True)
  write('write_headers_wrong_type', RowTypeConstraint.from_fields([('key', str), ('value', bytes)]), with_headers=True)


def schema_transforms():
  row = RowTypeConstraint.from_fields([('payload', bytes)])
  brokers = BROKERS['bootstrap.servers']
  schema_transform('schema_read', READ, bootstrap_servers=brokers, topic='events', format='RAW', auto_offset_reset_config='earliest')
  discovered(
      'schema_read_discovered',
      READ,
      schema_pb2.Schema(
          id='6d3fa1a4-9f1c-4f2b-8f57-2a3f7f6f0a11',
          fields=[text('bootstrap_servers'), text('format', True), text('schema', True), text('topic')]),
      bootstrap_servers=brokers,
      topic='events',
      format='RAW')
  schema_transform(
      'schema_read_avro', READ, bootstrap_servers=brokers, topic='events', format='AVRO', schema='{"type": "string"}')
  schema_transform('schema_write', WRITE, row, bootstrap_servers=brokers, topic='events', format='RAW')
  schema_transform(
      'schema_write_updates',
      WRITE,
      row,
      bootstrap_servers=brokers,
      topic='events',
      format='RAW',
      producer_config_updates={'linger.ms': '0'})
  schema_transform('schema_write_json', WRITE, row, bootstrap_servers=brokers, topic='events', format='JSON')
  schema_transform('schema_write_pairs', WRITE, PAIRS, bootstrap_servers=brokers, topic='events', format='RAW')
  schema_transform(
      'schema_write_two_fields',
      WRITE,
      RowTypeConstraint.from_fields([('a', bytes), ('b', bytes)]),
      bootstrap_servers=brokers,
      topic='events',
      format='RAW')


if __name__ == '__main__':
  reads()
  writes()
  schema_transforms()

"""A pipeline from topic to topic on the runner's own Kafka source and sink, without a JVM.

  pipeline.py --bootstrap HOST:PORT --in TOPIC --out TOPIC --expansion HOST:PORT [--variant VARIANT] [--max N] [Beam's options]

It reads N records (0: until it is cancelled), changes them, and writes them to the other topic. Variants:
  bytes      keys and values as bytes or None; the value gets "!" behind it
  typed      keys as strings, values as longs; the value is doubled
  metadata   rows with metadata; the value becomes topic/offset/timestamp type/headers=value, the key stays
  headers    as metadata, but the input's headers are written too, with one more
  raw        the SchemaTransforms in format RAW, found by discovery; the value gets "!" behind it (reads for 5 s, not N)
"""

import argparse

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.io.kafka import WriteToKafka
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.external import SchemaAwareExternalTransform
from apache_beam.typehints.row_type import RowTypeConstraint

SERIALIZATION = 'org.apache.kafka.common.serialization.'


def shout(kv):
  key, value = kv
  return key, (value or b'') + b'!'


def double(kv):
  key, value = kv
  return key, 2 * value


def describe(row):
  headers = ','.join('%s=%r' % (h.key, h.value) for h in row.headers)
  return b'%s/%d/%s/%s=%s' % (
      row.topic.encode(), row.offset, row.timestampTypeName.encode(), headers.encode(), row.value)


def with_key(row):
  return row.key, describe(row)


Header = RowTypeConstraint.from_fields([('key', str), ('value', bytes)])


def with_headers(row):
  return beam.Row(
      key=row.key or b'',
      value=describe(row),
      headers=[beam.Row(key=h.key, value=h.value or b'') for h in row.headers] +
      [beam.Row(key='from', value=b'python')])


def raw(row):
  return beam.Row(payload=row.payload + b'!')


def build(p, args):
  expansion = args.expansion
  config = {'bootstrap.servers': args.bootstrap, 'auto.offset.reset': 'earliest'}
  reading = dict(consumer_config=config, topics=[getattr(args, 'in')], expansion_service=expansion, max_num_records=args.max or None)
  writing = dict(producer_config={'bootstrap.servers': args.bootstrap}, topic=args.out, expansion_service=expansion)
  if args.variant == 'bytes':
    (p | ReadFromKafka(**reading) | beam.Map(shout).with_output_types(tuple[bytes | None, bytes]) | WriteToKafka(**writing))
  elif args.variant == 'typed':
    (
        p
        | ReadFromKafka(
            key_deserializer=SERIALIZATION + 'StringDeserializer',
            value_deserializer=SERIALIZATION + 'LongDeserializer',
            timestamp_policy=ReadFromKafka.create_time_policy,
            redistribute=True,
            **reading)
        | beam.Map(double).with_output_types(tuple[str, int])
        | WriteToKafka(
            key_serializer=SERIALIZATION + 'StringSerializer',
            value_serializer=SERIALIZATION + 'LongSerializer',
            **writing))
  elif args.variant == 'metadata':
    (
        p | ReadFromKafka(with_metadata=True, **reading)
        | beam.Map(with_key).with_output_types(tuple[bytes | None, bytes])
        | WriteToKafka(**writing))
  elif args.variant == 'headers':
    row = RowTypeConstraint.from_fields([('key', bytes), ('value', bytes), ('headers', list[Header])])
    (
        p | ReadFromKafka(with_metadata=True, **reading)
        | beam.Map(with_headers).with_output_types(row)
        | WriteToKafka(with_headers=True, **writing))
  elif args.variant == 'raw':
    (
        p
        | 'Read' >> SchemaAwareExternalTransform(
            'beam:schematransform:org.apache.beam:kafka_read:v1',
            expansion,
            bootstrap_servers=args.bootstrap,
            topic=getattr(args, 'in'),
            format='RAW',
            auto_offset_reset_config='earliest',
            max_read_time_seconds=5)
        | beam.Map(raw).with_output_types(RowTypeConstraint.from_fields([('payload', bytes)]))
        | 'Write' >> SchemaAwareExternalTransform(
            'beam:schematransform:org.apache.beam:kafka_write:v1',
            expansion,
            bootstrap_servers=args.bootstrap,
            topic=args.out,
            format='RAW'))
  else:
    raise ValueError('variant %r is unknown' % args.variant)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--bootstrap', required=True)
  parser.add_argument('--in', required=True)
  parser.add_argument('--out', required=True)
  parser.add_argument('--expansion', required=True)
  parser.add_argument('--variant', default='bytes')
  parser.add_argument('--max', type=int, default=0)
  args, rest = parser.parse_known_args()
  with beam.Pipeline(options=PipelineOptions(rest)) as p:
    build(p, args)


if __name__ == '__main__':
  main()

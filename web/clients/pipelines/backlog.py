"""Reads a topic more slowly than it fills: each record takes ten milliseconds of one slot.

    backlog.py BROKERS TOPIC EXPANSION_SERVICE --runner=PortableRunner ...
"""
import sys
import time

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.options.pipeline_options import PipelineOptions


def work(record):
  time.sleep(.01)
  return record


def main():
  brokers, topic, expansion = sys.argv[1:4]
  with beam.Pipeline(options=PipelineOptions(sys.argv[4:], streaming=True)) as p:
    _ = (
        p
        | ReadFromKafka(
            consumer_config={'bootstrap.servers': brokers, 'auto.offset.reset': 'earliest'}, topics=[topic], expansion_service=expansion)
        | beam.Reshuffle()
        | 'Work' >> beam.Map(work))


if __name__ == '__main__':
  main()

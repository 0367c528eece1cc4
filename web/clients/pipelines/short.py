"""A job that ends by itself; with --fail by an error of its user's code."""
import argparse

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions


def check(n, fail):
  if fail and n == 3:
    raise ValueError('three is not allowed')
  return n


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--fail', action='store_true')
  known, rest = parser.parse_known_args()
  with beam.Pipeline(options=PipelineOptions(rest)) as p:
    _ = p | beam.Create(range(5)) | 'Check' >> beam.Map(check, known.fail)


if __name__ == '__main__':
  main()

"""A job that fails in the user's code."""
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions


def price(order):
  return order['total'] / order['pieces']


p = beam.Pipeline(options=PipelineOptions(sys.argv[1:]))
p | beam.Create([{'total': 12, 'pieces': 3}, {'total': 5, 'pieces': 0}]) | 'Price of a piece' >> beam.Map(price)
p.run()

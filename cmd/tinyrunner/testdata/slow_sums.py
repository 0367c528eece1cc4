"""Sums 0 to N-1 by x % 3, slowly, and writes the sums to a file: a job that takes some seconds."""
import sys
import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

output, n, rest = sys.argv[1], int(sys.argv[2]), sys.argv[3:]


def spend(x):
  import time
  time.sleep(0.02)
  return x % 3, x


p = beam.Pipeline(options=PipelineOptions(rest))
(
    p | beam.Create(range(n)) | beam.Reshuffle() | beam.Map(spend) | beam.GroupByKey()
    | beam.MapTuple(lambda k, vs: '%d %d' % (k, sum(vs))) | beam.io.WriteToText(output))
p.run()  # and does not wait: the server outlives this program, or another one takes its place

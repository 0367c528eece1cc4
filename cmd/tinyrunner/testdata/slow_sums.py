"""Sums 0 to N-1 by x % 3, slowly, and writes the sums to a file: a job that takes some seconds, or as long as there is a file "hold"
beside its output."""
import os
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

output, n, rest = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
hold = os.path.join(os.path.dirname(output), 'hold')


def spend(x, hold):
  import os  # main's names are not known to the workers
  import time
  time.sleep(0.02)
  while os.path.exists(hold):
    time.sleep(0.02)
  return x % 3, x


p = beam.Pipeline(options=PipelineOptions(rest))
(
    p | beam.Create(range(n)) | beam.Reshuffle() | beam.Map(spend, hold) | beam.GroupByKey()
    | beam.MapTuple(lambda k, vs: '%d %d' % (k, sum(vs))) | beam.io.WriteToText(output))
p.run()  # and does not wait: the server outlives this program, or another one takes its place

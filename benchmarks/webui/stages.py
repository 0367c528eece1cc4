"""A stream of many stages in which little happens: one element a second goes through all of them."""
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse

n = int(sys.argv[1])
p = beam.Pipeline(options=PipelineOptions(sys.argv[2:]))
heads = [p | 'Tick' >> PeriodicImpulse(fire_interval=1)] * 4
for k in range(n // 4):
  heads = [
      h | 'Spread %d of line %d' % (k, line) >> beam.Reshuffle() | 'Step %d of line %d' % (k, line) >> beam.Map(lambda x: x)
      for line, h in enumerate(heads)
  ]
p.run()  # and does not wait for it

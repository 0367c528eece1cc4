"""A streaming job that runs until it is ended: ticks, a running sum of each key in user state, and sums of windows of five seconds.

    live.py --runner=PortableRunner --job_endpoint=localhost:8099 --environment_type=LOOPBACK
"""
import sys

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import FixedWindows, GlobalWindows

KEYS = 8


class RunningSum(beam.DoFn):
  """Adds up the numbers of a key, and counts what it saw in the metric clients:ticks."""
  SUM = ReadModifyWriteStateSpec('sum', VarIntCoder())

  def __init__(self):
    self._ticks = Metrics.counter('clients', 'ticks')

  def process(self, element, total=beam.DoFn.StateParam(SUM)):
    self._ticks.inc()
    key, n = element
    total.write((total.read() or 0) + n)
    yield key, total.read()


def main():
  options = PipelineOptions(sys.argv[1:], streaming=True)
  with beam.Pipeline(options=options) as p:
    ticks = (
        p
        | 'Ticks' >> PeriodicImpulse(fire_interval=.05)
        | 'Key' >> beam.Map(lambda at: (str(int(at * 20) % KEYS), 1)))
    _ = ticks | 'All' >> beam.WindowInto(GlobalWindows()) | 'RunningSum' >> beam.ParDo(RunningSum())
    _ = ticks | 'Windows' >> beam.WindowInto(FixedWindows(5)) | 'Sum' >> beam.CombinePerKey(sum)


if __name__ == '__main__':
  main()

"""A stream that never ends, for people to look at: clicks, counted by page in windows, with state and a metric."""
import logging
import sys

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.userstate import CombiningValueStateSpec
from apache_beam.transforms.window import FixedWindows


def clicks(second):
  for k in range(40):
    yield '/page/%d' % (k * k % 23), 'visitor %d of %s' % (k, second)


class Number(beam.DoFn):
  """Numbers the clicks of a page."""
  SEEN = CombiningValueStateSpec('seen', sum)

  def __init__(self):
    self.clicks = Metrics.counter('shop', 'clicks')

  def process(self, click, seen=beam.DoFn.StateParam(SEEN)):
    page, _ = click
    seen.add(1)
    self.clicks.inc()
    if page == '/page/0' and seen.read() % 1000 == 1:
      logging.warning('page %s has %d clicks', page, seen.read())
    yield page, 1


with_options = PipelineOptions(sys.argv[1:])
p = beam.Pipeline(options=with_options)
(
    p | 'Clicks' >> PeriodicImpulse(fire_interval=0.05) | 'Read' >> beam.FlatMap(clicks) | 'Number' >> beam.ParDo(Number())
    | 'Windows' >> beam.WindowInto(FixedWindows(5)) | 'Count' >> beam.CombinePerKey(sum) | 'Write' >> beam.Map(lambda _: None))
p.run()  # and does not wait for it

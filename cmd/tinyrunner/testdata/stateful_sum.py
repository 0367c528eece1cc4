"""200,000 elements over 1,000 keys meet in user state; a timer emits one line a key when the input has ended.

The lines are "key sum count distinct": a bundle that is applied twice, or not at all, shows in them.
"""
import argparse
import os
import time
from typing import Iterator

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer

KEYS, SHARDS, PER_SHARD = 1000, 200, 1000


class Sum(beam.DoFn):
  """Sums and keeps the values of a key.

  In the file progress it says what it has done, whether or not that will be committed: a line with its process's id and
  "elements" for each 100 elements, or "timer".
  """
  SUM = ReadModifyWriteStateSpec('sum', VarIntCoder())
  SEEN = BagStateSpec('seen', VarIntCoder())
  END = TimerSpec('end', TimeDomain.WATERMARK)

  def __init__(self, progress):
    self._path = progress

  def setup(self):
    self._progress = open(self._path, 'ab', buffering=0)
    self._elements = 0

  def teardown(self):
    self._progress.close()

  def process(
      self,
      element,
      window=beam.DoFn.WindowParam,
      total=beam.DoFn.StateParam(SUM),
      seen=beam.DoFn.StateParam(SEEN),
      end=beam.DoFn.TimerParam(END)):
    total.write((total.read() or 0) + element[1])
    seen.add(element[1])
    end.set(window.end)
    self._elements += 1
    if self._elements % 100 == 0:
      self._progress.write(b'%d elements\n' % os.getpid())

  @on_timer(END)
  def finish(self, key=beam.DoFn.KeyParam, total=beam.DoFn.StateParam(SUM), seen=beam.DoFn.StateParam(SEEN)):
    self._progress.write(b'%d timer\n' % os.getpid())
    time.sleep(.002)  # long enough to be killed in between
    values = list(seen.read())
    yield '%s %d %d %d' % (key, total.read(), len(values), len(set(values)))


def emit(shard: int) -> Iterator[tuple[str, int]]:
  for i in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
    yield 'key%03d' % (i % KEYS), i


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--output', required=True, help='file for the result')
  parser.add_argument('--progress', required=True, help='file for the progress')
  known, rest = parser.parse_known_args()
  with beam.Pipeline(options=PipelineOptions(rest)) as p:
    _ = (
        p
        | beam.Create(range(SHARDS))
        | beam.Reshuffle()
        | 'Emit' >> beam.FlatMap(emit)
        | 'Sum' >> beam.ParDo(Sum(known.progress))
        | beam.io.WriteToText(known.output, num_shards=1, shard_name_template=''))


if __name__ == '__main__':
  main()

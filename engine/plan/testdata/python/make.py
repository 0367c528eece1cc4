"""Writes the pipelines of TestPython: NAME.pb beside this file, as Beam Python submits them to a job server.

Run it with a Python that has apache_beam:  python make.py
"""
import os

import apache_beam as beam
from apache_beam import coders
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms import environments
from apache_beam.transforms import trigger
from apache_beam.transforms import userstate
from apache_beam.transforms import window
from apache_beam.utils.timestamp import MAX_TIMESTAMP


class Point:
  """Has no coder but pickling."""


class Stateful(beam.DoFn):
  BAG = userstate.BagStateSpec('bag', coders.VarIntCoder())
  SET = userstate.SetStateSpec('set', coders.StrUtf8Coder())
  SUM = userstate.CombiningValueStateSpec('sum', sum)
  END = userstate.TimerSpec('end', userstate.TimeDomain.WATERMARK)
  POLL = userstate.TimerSpec('poll', userstate.TimeDomain.REAL_TIME)

  def process(
      self,
      kv,
      bag=beam.DoFn.StateParam(BAG),
      seen=beam.DoFn.StateParam(SET),
      total=beam.DoFn.StateParam(SUM),
      end=beam.DoFn.TimerParam(END),
      poll=beam.DoFn.TimerParam(POLL)):
    yield kv

  @userstate.on_timer(END)
  def on_end(self):
    return []

  @userstate.on_timer(POLL)
  def on_poll(self):
    return []


class WindowCoder(coders.Coder):
  def encode(self, w):
    return b''

  def is_deterministic(self):
    return True


class Weeks(window.NonMergingWindowFn):
  """A WindowFn of the user's, with a window coder of the user's."""
  def assign(self, context):
    return [window.IntervalWindow(0, 604800)]

  def get_window_coder(self):
    return WindowCoder()


class Merging(window.WindowFn):
  def assign(self, context):
    return [window.IntervalWindow(context.timestamp, context.timestamp + 10)]

  def merge(self, merge_context):
    pass

  def get_window_coder(self):
    return coders.coders.IntervalWindowCoder()


def wordcount(p):
  (
      p | beam.io.ReadFromText('/in.txt', validate=False) | beam.FlatMap(str.split)
      | beam.combiners.Count.PerElement() | beam.MapTuple('{}: {}'.format)
      | beam.io.WriteToText('/out.txt'))


def streaming_combine(p):
  """Not optimized by the SDK: the runner lifts the combine."""
  words = p | beam.Create(['a', 'b']) | beam.WindowInto(window.FixedWindows(60))
  words | beam.combiners.Count.PerElement()
  words | beam.CombineGlobally(max).without_defaults()


def side_inputs(p):
  main = p | 'main' >> beam.Create([1, 2])
  table = p | 'table' >> beam.Create([('a', 1)])
  total = main | beam.CombineGlobally(sum)
  main | 'look up' >> beam.Map(
      lambda x, t, d: x,
      beam.pvalue.AsSingleton(total),
      beam.pvalue.AsDict(table)) | beam.Map(str)


def stateful(p):
  (
      p | beam.Create([('a', 1), ('b', 2)]) | beam.ParDo(Stateful())
      | 'key' >> beam.Map(lambda kv: kv[0]))


def flatten(p):
  a = p | 'a' >> beam.Create(['a'])
  b = p | 'b' >> beam.Create([1])
  both = (a, b) | beam.Flatten()
  both | beam.Map(str)
  grouped = p | 'kv' >> beam.Create([('a', 1)]) | beam.GroupByKey()
  (grouped, grouped) | 'native' >> beam.Flatten() | 'str' >> beam.Map(str)
  () | 'empty' >> beam.Flatten(pipeline=p) | 'nothing' >> beam.Map(str)


def reshuffle(p):
  a = p | beam.Impulse() | 'point' >> beam.Map(lambda _: Point())
  a | beam.Reshuffle() | beam.Map(str)
  a | 'pair' >> beam.Map(lambda x: (x, x)) | beam.GroupByKey() | 'x' >> beam.Map(str)


def windows(p):
  kvs = p | beam.Create([('a', 1)])
  kvs | beam.WindowInto(Weeks()) | beam.GroupByKey()
  kvs | 'merge' >> beam.WindowInto(Merging()) | 'g' >> beam.GroupByKey()
  (
      kvs | 'early' >> beam.WindowInto(
          window.Sessions(10),
          trigger=trigger.AfterWatermark(
              early=trigger.AfterCount(1), late=trigger.AfterCount(1)),
          accumulation_mode=trigger.AccumulationMode.ACCUMULATING,
          allowed_lateness=60)
      | beam.CombinePerKey(sum))


def test_stream(p):
  (
      p | TestStream().add_elements(['a']).advance_watermark_to(MAX_TIMESTAMP)
      | beam.Map(str))


STREAMING = [streaming_combine, windows, test_stream]
PIPELINES = [wordcount, side_inputs, stateful, flatten, reshuffle] + STREAMING


def forget(spec):
  """Drops a pickled function: it names files of the machine it was made on, and the runner does not read it."""
  if 'pickled' in spec.urn or spec.urn.startswith('beam:dofn'):
    spec.payload = b''


def forget_functions(proto):
  for t in proto.components.transforms.values():
    t.ClearField('display_data')
    forget(t.spec)
    if t.spec.urn == common_urns.primitives.PAR_DO.urn:
      p = beam_runner_api_pb2.ParDoPayload.FromString(t.spec.payload)
      forget(p.do_fn)
      for s in p.side_inputs.values():
        forget(s.view_fn)
        forget(s.window_mapping_fn)
      for s in p.state_specs.values():
        if s.HasField('combining_spec'):
          forget(s.combining_spec.combine_fn)
    elif 'combine' in t.spec.urn:
      p = beam_runner_api_pb2.CombinePayload.FromString(t.spec.payload)
      forget(p.combine_fn)
    elif t.spec.urn == common_urns.primitives.ASSIGN_WINDOWS.urn:
      p = beam_runner_api_pb2.WindowIntoPayload.FromString(t.spec.payload)
      forget(p.window_fn)
    elif t.spec.urn == common_urns.deprecated_primitives.READ.urn:
      p = beam_runner_api_pb2.ReadPayload.FromString(t.spec.payload)
      forget(p.source)
    else:
      continue
    t.spec.payload = p.SerializeToString(deterministic=True)
  for w in proto.components.windowing_strategies.values():
    forget(w.window_fn)
  for c in proto.components.coders.values():
    forget(c.spec)


def main():
  for build in PIPELINES:
    options = PipelineOptions(streaming=build in STREAMING)
    p = beam.Pipeline(PortableRunner(), options)
    build(p)
    env = environments.ExternalEnvironment('localhost:1')
    proto = p.to_runner_api(default_environment=env)
    proto = PortableRunner()._optimize_pipeline(proto, options)
    for e in proto.components.environments.values():
      del e.dependencies[:]
      del e.capabilities[:]
    forget_functions(proto)
    name = os.path.join(os.path.dirname(os.path.abspath(__file__)), build.__name__ + '.pb')
    with open(name, 'wb') as f:
      f.write(proto.SerializeToString(deterministic=True))


if __name__ == '__main__':
  main()

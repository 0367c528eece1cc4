"""A streaming job of so many stages (stages.py STAGES --runner=...), through which an element passes each second."""
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse


def main():
  with beam.Pipeline(options=PipelineOptions(sys.argv[2:], streaming=True)) as p:
    # Impulse, the sequence's two stages, then one a Reshuffle, which divides stages.
    at = p | PeriodicImpulse(fire_interval=1)
    for k in range(int(sys.argv[1]) - 3):
      at = at | f'Divide{k}' >> beam.Reshuffle() | f'Stage{k}' >> beam.Map(lambda x: x)


if __name__ == '__main__':
  main()

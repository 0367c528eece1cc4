"""Counts words as if a Flink cluster were there: uber_jar.py JAR FLINK_MASTER WORKER_POOL OUTPUT. Beam's own client uploads JAR."""
import sys
import zipfile

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

jar, master, pool, output = sys.argv[1:]
with zipfile.ZipFile(jar, 'w') as z:  # stands for Beam's job server, which no JVM runs here
    z.writestr('META-INF/MANIFEST.MF', 'Main-Class: x.Y\n')
options = PipelineOptions([
    '--runner=FlinkRunner', '--flink_master=' + master, '--flink_submit_uber_jar', '--flink_job_server_jar=' + jar,
    '--environment_type=EXTERNAL', '--environment_config=' + pool, '--save_main_session',  # which is an artifact
])


def write(word):
    with open(output, 'w') as f:
        f.write(str(word))


with beam.Pipeline(options=options) as p:
    (p | beam.Create(['a b', 'b c']) | beam.FlatMap(str.split) | beam.combiners.Count.PerElement()
     | beam.Filter(lambda w: w[0] == 'b') | beam.Map(write))

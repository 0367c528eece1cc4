#!/bin/sh
# What Beam's boot program does for the Python SDK, less what takes it half a minute: it installs nothing.
for argument in "$@"; do
  value=${argument#*=}
  case $argument in
    --id=*) export WORKER_ID="$value" ;;
    --control_endpoint=*) export CONTROL_API_SERVICE_DESCRIPTOR="url: \"$value\"" ;;
    --logging_endpoint=*) export LOGGING_API_SERVICE_DESCRIPTOR="url: \"$value\"" ;;
  esac
done
export PIPELINE_OPTIONS='{}'
exec "$PYTHON" -m apache_beam.runners.worker.sdk_worker_main

#!/usr/bin/env bash
# A TPU pod slice: makes it where it is not there, brings this commit to every host, and
# starts the same command on all of them; they find each other. Arguments are run.py's:
#
#   TPU=f1 ZONE=us-central2-b TYPE=v4-32 experiments/launch/tpu_pod.sh \
#     --config=nfnet_f1 --workdir=gs://BUCKET/runs/f1 \
#     --config.data.data_dir=gs://BUCKET/tensorflow_datasets
#
# The same command again, also after a preemption that took the slice away, goes on from
# the last checkpoint. IMAGE is the runtime (default tpu-ubuntu2204-base), SPOT=1 asks
# for a preemptible slice.
set -euo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?its zone}" "${TYPE:?its type, as v4-32}"
tpu() { gcloud compute tpus tpu-vm "$1" "$TPU" --zone="$ZONE" "${@:2}"; }
on_all() { tpu ssh --worker=all --command="$1"; }

state="$(tpu describe --format='value(state)' 2>/dev/null || true)"
if [ -n "$state" ] && [ "$state" != READY ]; then
  echo "the slice is $state, so it is made anew" >&2
  tpu delete --quiet
  state=""
fi
if [ -z "$state" ]; then
  tpu create --accelerator-type="$TYPE" --version="${IMAGE:-tpu-ubuntu2204-base}" \
    ${SPOT:+--spot}
fi

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
archive="$(mktemp -d)/nfnets.tar.gz"
git archive --prefix=nfnets/ --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$TPU:nfnets.tar.gz" --zone="$ZONE" --worker=all
on_all "rm -rf nfnets && tar xzf nfnets.tar.gz && python3 -m venv venv &&
  venv/bin/pip install -q './nfnets[train,tpu,gcs]'"
printf -v arguments ' %q' "$@"
on_all "nfnets/experiments/launch/restart.sh venv/bin/python nfnets/experiments/run.py$arguments"

#!/usr/bin/env bash
# One GPU of this machine, started again after a crash. Arguments are run.py's:
#
#   GPU=0 experiments/launch/one_gpu.sh --config=nfnet_f0 --workdir=runs/f0
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export CUDA_VISIBLE_DEVICES="${GPU:-0}"
exec "$here/restart.sh" "${PYTHON:-python}" "$here/../run.py" "$@"

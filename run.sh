#!/usr/bin/env bash
# Trains: without arguments an NFNet on real handwritten digits, in about two minutes.
# Arguments are those of experiments/run.py, e.g. ./run.sh --config=nfnet_f1 --dry_run
set -euo pipefail
cd "$(dirname "$0")"
source ./environment.sh train
if [ $# -eq 0 ]; then set -- --config=digits; fi
exec .venv/bin/python experiments/run.py "$@"

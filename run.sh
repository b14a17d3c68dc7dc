#!/usr/bin/env bash
# Trains: without arguments an NFNet on real handwritten digits, in about a minute.
# Arguments are those of experiments/run.py, e.g. ./run.sh --config=nfnet_f1 --dry_run
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$root/environment.sh" train
if [ $# -eq 0 ]; then set -- --config=digits; fi
exec "$root/.venv/bin/python" "$root/experiments/run.py" "$@"

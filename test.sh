#!/usr/bin/env bash
# Checks style and types, then runs the tests. Arguments are pytest's.
set -euo pipefail
cd "$(dirname "$0")"
source ./environment.sh train,dev
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy
exec .venv/bin/python -m pytest "$@"

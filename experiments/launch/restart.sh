#!/usr/bin/env bash
# Runs a training command and runs it again when it fails, from its last checkpoint:
#
#   experiments/launch/restart.sh python experiments/run.py --config=nfnet_f1
#
# It ends with the command's status when that is complete (0), when starting again cannot
# help (2, a mistake; 3, non-finite numbers), and when it was interrupted (75): whoever
# stopped it decides when to go on. Everything else, a crash, a kill, the watchdog (76),
# is tried again after WAIT seconds (default 10), RETRIES times in all (default 20).
set -uo pipefail
retries="${RETRIES:-20}"
child=""
stopped=""
forwarded=""
forward() {
  stopped=yes
  # Once: the second signal ends a run before it has saved.
  if [ -n "$child" ] && [ -z "$forwarded" ]; then
    forwarded=yes
    kill -TERM "$child" 2>/dev/null
  fi
}
trap forward TERM INT
for ((attempt = 0; ; attempt++)); do
  "$@" &
  child=$!
  if [ -n "$stopped" ]; then forward; fi # a signal that came before its number
  wait "$child"
  status=$?
  # A signal to this script ends its wait, not the run, which saves.
  while [ -n "$stopped" ] && [ "$status" -gt 128 ]; do
    wait "$child"
    again=$?
    if [ "$again" -eq 127 ]; then break; fi
    status=$again
  done
  case "$status" in
    0 | 2 | 3 | 75) exit "$status" ;;
  esac
  if [ -n "$stopped" ] || [ "$attempt" -ge "$retries" ]; then exit "$status"; fi
  echo "restart: status $status, attempt $((attempt + 1)) of $retries" >&2
  sleep "${WAIT:-10}"
  if [ -n "$stopped" ]; then exit 75; fi
done

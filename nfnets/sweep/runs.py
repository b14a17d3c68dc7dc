"""Trains the runs of a sweep one after the other, each in a process of its own.

Every run is ``experiments/run.py`` with a work directory, so its checkpoints, resuming
and exit status are those of any run; and a compiler that gathers memory maps in a long
process starts anew with each.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from etils import epath

from nfnets.errors import EXIT_NON_FINITE, EXIT_USER_ERROR, UserError
from nfnets.sweep.directory import (
    FINISHED,
    OUTPUT,
    Outcome,
    is_in_use,
    read_outcome,
    run_directory,
    write_outcome,
)
from nfnets.sweep.plan import PlannedRun
from nfnets.training.processes import EXIT_INTERRUPTED
from nfnets.training.typed_config import differences
from nfnets.training.workdir import CONFIG, EXECUTION_FIELDS, read_config, read_rows

# Trains a run in a work directory and gives the exit status of experiments/run.py.
Train = Callable[[PlannedRun, epath.Path], int]
Log = Callable[[str], None]

_TRIES = 2
# Set by the opened data set rather than by the config (Recipe.for_source).
_OF_THE_DATA = {"data.num_train", "data.num_classes"}


def train_runs(
    directory: Path,
    runs: Sequence[PlannedRun],
    *,
    train: Train,
    stop_requested: Callable[[], bool],
    log: Log,
) -> bool:
    """Trains what is not finished, in order; each outcome is written as it comes.

    A finished run (``ok`` or ``diverged``) stays as it is; a failed one is tried again.

    Args:
      directory: of the sweep.
      runs: of this command.
      train: trains one run; given by the caller, so that tests need no training.
      stop_requested: whether a signal came.
      log: is told what begins and ends.

    Returns:
      False when it was interrupted.

    Raises:
      UserError: a run ended with one, or was finished under another recipe.
    """
    left = [run for run in runs if not is_finished(directory, run)]
    if len(left) < len(runs):
        log(f"finished {len(runs) - len(left)} of {len(runs)} runs are there already")
    for i, run in enumerate(left, start=len(runs) - len(left) + 1):
        if stop_requested():
            return False
        log(f"run      {i}/{len(runs)} {run.name}, {run.recipe.total_steps} steps")
        outcome = train_run(directory, run, train, stop_requested, log)
        reason = f": {outcome.reason}" if outcome.reason else ""
        log(f"         {outcome.status} after {outcome.seconds:.0f} s{reason}")
        if outcome.status == "interrupted":
            return False
    return True


def is_finished(directory: Path, run: PlannedRun) -> bool:
    """Whether there is nothing left to do.

    Raises:
      UserError: it was finished under another recipe.
    """
    folder = run_directory(directory, run.name)
    outcome = read_outcome(folder)
    if outcome is None or outcome.status not in FINISHED:
        return False
    changed = differences(read_config(folder / CONFIG), run.recipe.to_dict())
    harmless = EXECUTION_FIELDS | _OF_THE_DATA
    changed = {k: v for k, v in changed.items() if k not in harmless}
    if changed:
        shown = "; ".join(f"{key}: {value}" for key, value in changed.items())
        raise UserError(
            f"{run.name} was finished with another recipe ({shown}): its config was "
            f"edited since; use another --sweepdir"
        )
    return True


def train_run(
    directory: Path,
    run: PlannedRun,
    train: Train,
    stop_requested: Callable[[], bool],
    log: Log,
) -> Outcome:
    """Trains one run to its end, with a second try where it fails; writes how it ended.

    Raises:
      UserError: the run ended with one.
    """
    folder = run_directory(directory, run.name)
    folder.mkdir(parents=True, exist_ok=True)
    before = read_outcome(folder)
    seconds = before.seconds if before and before.status == "interrupted" else 0.0
    for attempt in range(1, _TRIES + 1):
        started = time.monotonic()
        exit_status = train(run, folder)
        seconds += time.monotonic() - started
        reason = last_line(folder / OUTPUT).removeprefix("error: ")
        if exit_status == EXIT_USER_ERROR:
            raise UserError(f"{run.name}: {reason}")
        status = status_of(exit_status, stop_requested())
        if status == "ok" and not is_finite(folder):
            status, reason = "diverged", "the loss of the last evaluation is not finite"
        if status != "failed" or attempt == _TRIES:
            break
        log(f"         exit status {exit_status} ({reason}); trying once more")
    explained = reason if status in ("failed", "diverged") else ""
    outcome = Outcome(status, exit_status, seconds, explained)
    write_outcome(folder, outcome)
    return outcome


def status_of(exit_status: int, stopping: bool) -> str:
    """What an exit status of ``experiments/run.py`` means to a sweep."""
    if exit_status == 0:
        return "ok"
    if exit_status == EXIT_NON_FINITE:
        return "diverged"
    # A signal may come before the run can save, or twice: it resumes in any case.
    if stopping or exit_status == EXIT_INTERRUPTED:
        return "interrupted"
    return "failed"


def is_finite(folder: epath.Path) -> bool:
    """Whether the losses of a run's last evaluation are; true where it has none."""
    rows = [row for row in read_rows(folder) if "eval/top1" in row]
    losses = ("eval/loss", "eval_ema/loss")
    return not rows or None not in [rows[-1].get(key, 0.0) for key in losses]


def last_line(path: epath.Path) -> str:
    """The last line with anything on it; empty when there is none."""
    if not path.exists():
        return ""
    text = path.read_bytes().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def failed_runs(directory: Path, runs: Iterable[PlannedRun]) -> list[str]:
    """Names of those that failed."""
    outcomes = {r.name: read_outcome(run_directory(directory, r.name)) for r in runs}
    return [name for name, o in outcomes.items() if o and o.status == "failed"]


def train_in_process(
    program: Path, stop_requested: Callable[[], bool], log: Log
) -> Train:
    """Training by ``experiments/run.py``, which is told to save when a signal comes.

    What it prints is appended to the run's ``output.txt``.
    """

    def train(run: PlannedRun, folder: epath.Path) -> int:
        waiting = False
        while is_in_use(folder):
            if stop_requested():
                return EXIT_INTERRUPTED
            if not waiting:
                log(f"         another process trains in {folder}; waiting for it")
            waiting = True
            time.sleep(0.5)
        workdir = f"--workdir={folder}"
        command = [sys.executable, os.fspath(program), *run.arguments, workdir]
        with open(os.fspath(folder / OUTPUT), "ab") as output:
            # Not in our process group: Ctrl-C would reach it twice, and the second
            # signal ends a run without saving.
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            return _wait(child, stop_requested)

    return train


def _wait(child: subprocess.Popen[bytes], stop_requested: Callable[[], bool]) -> int:
    """Waits for the end of a run, and passes a request to stop on to it once."""
    asked = False
    while True:
        try:
            return child.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            if stop_requested() and not asked:
                child.send_signal(signal.SIGTERM)
                asked = True

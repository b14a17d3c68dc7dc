"""What a sweep keeps: whose the directory is, and how each of its runs ended.

``sweep.json`` states the grid, ``runs/NAME`` is the work directory of each run, with
``outcome.json`` and what the run printed (``output.txt``) beside its own files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from nfnets.errors import UserError
from nfnets.sweep.axes import Cell, cell_name, number
from nfnets.training import workdir
from nfnets.training.storage import write_atomically
from nfnets.training.typed_config import differences, from_mapping

SWEEP, RUNS, OUTCOME, OUTPUT = "sweep.json", "runs", "outcome.json", "output.txt"
FINISHED = ("ok", "diverged")
_LOCK_SECONDS = 60.0  # another shard writes the report for so long at most


@dataclasses.dataclass(frozen=True)
class Contents:
    """The grid that a directory holds, the union of what its commands asked for.

    Attributes:
      command: the last one, as it was typed.
      grid: the name of its named grid, or None.
      config: the recipe of all runs; None where an axis says it.
      fixed: settings of all runs, by field.
      axes: the fields of each axis.
      runs: the settings of each run.
    """

    command: str
    grid: str | None
    config: str | None
    fixed: Mapping[str, str]
    axes: tuple[tuple[str, ...], ...]
    runs: tuple[tuple[tuple[str, str], ...], ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of all axes."""
        return tuple(field for axis in self.axes for field in axis)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended, or was left.

    Attributes:
      status: ``ok``, ``diverged`` (its numbers went non-finite), ``failed`` (for
        another reason, twice) or ``interrupted``.
      exit_status: of its last process.
      seconds: of all its processes that the sweep saw end, with the wait for one that
        an earlier sweep had left behind.
      reason: the last line of a run that failed or diverged; else empty.
    """

    status: str
    exit_status: int
    seconds: float
    reason: str


def folder_name(name: str) -> str:
    """A run's name as a file system takes it; with a digest where it had to change."""
    safe = re.sub(r"[^\w.,=+()-]", "_", name)[:150]
    if safe == name:
        return safe
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def run_directory(directory: Path, name: str) -> epath.Path:
    """The work directory of a run."""
    return epath.Path(directory / RUNS / folder_name(name))


def make(directory: Path) -> None:
    """Makes the directory of a sweep.

    Raises:
      UserError: it cannot be made.
    """
    try:
        (directory / RUNS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the sweep directory {directory}: {error.strerror}; give "
            f"another --sweepdir"
        ) from error


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keeps other commands on the same sweep waiting.

    Raises:
      UserError: another command held it for too long.
    """
    with contextlib.ExitStack() as stack:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                stack.enter_context(workdir.locked(epath.Path(directory)))
                break
            except workdir.InUse:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        yield


def is_in_use(run: epath.Path) -> bool:
    """Whether another process of this machine trains in a run's directory."""
    try:
        with workdir.locked(run):
            return False
    except workdir.InUse:
        return True


def claim(directory: Path, new: Contents) -> Contents:
    """Writes the grid, or adds its runs to those that are there.

    Args:
      directory: of the sweep.
      new: what a command asks for.

    Returns:
      What the directory holds now.

    Raises:
      UserError: it holds another recipe, other fixed settings or other axes (the
        message shows the difference), and a run of it has begun.
    """
    with alone(directory):
        path = directory / SWEEP
        if path.exists():
            old = read_contents(directory)
            if any(_has_begun(directory, cell) for cell in old.runs):
                _check_same(directory, old, new)
                new = dataclasses.replace(new, runs=_union(old, new))
        write_atomically(epath.Path(path), _json(dataclasses.asdict(new)))
    return new


def _has_begun(directory: Path, cell: Cell) -> bool:
    run = run_directory(directory, cell_name(cell))
    return workdir.has_begun(epath.Path(run)) or (run / OUTCOME).exists()


def _check_same(directory: Path, old: Contents, new: Contents) -> None:
    changed = differences(_identity(old), _identity(new))
    if changed:
        shown = "; ".join(f"{key}: {value}" for key, value in changed.items())
        raise UserError(
            f"{directory} holds another sweep ({shown}); runs can be added, but only "
            f"along the same axes: use another --sweepdir"
        )


def _identity(contents: Contents) -> dict[str, Any]:
    fixed = {
        key: value
        for key, value in contents.fixed.items()
        if key not in workdir.EXECUTION_FIELDS
    }
    axes = [" with ".join(fields) for fields in contents.axes]
    return {"config": contents.config, "fixed": fixed, "axes": axes}


def _union(old: Contents, new: Contents) -> tuple[Cell, ...]:
    """All runs of both; one run must not come in twice, as 0.01 and as 1e-2."""
    known = {_by_value(cell): cell for cell in old.runs}
    for cell in new.runs:
        same = known.setdefault(_by_value(cell), cell)
        if same != cell:
            raise UserError(
                f"{cell_name(cell)} is in the sweep as {cell_name(same)}; write its "
                f"values alike"
            )
    return tuple(dict.fromkeys([*old.runs, *new.runs]))


def _by_value(cell: Cell) -> tuple[tuple[str, str | float], ...]:
    values = ((field, text, number(text)) for field, text in cell)
    return tuple((f, text if value is None else value) for f, text, value in values)


def read_contents(directory: Path) -> Contents:
    """The grid that a directory holds.

    Raises:
      UserError: it holds none, or a damaged one.
    """
    path = directory / SWEEP
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{directory} holds no sweep: there is no {path}; check --sweepdir"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); restore it") from error
    return from_mapping(Contents, values, "sweep")


def read_outcome(run: epath.Path) -> Outcome | None:
    """How a run ended; None when it has not begun, is going on, or was killed.

    Raises:
      UserError: the file is damaged.
    """
    path = run / OUTCOME
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); remove it") from error
    return from_mapping(Outcome, values, "outcome")


def write_outcome(run: epath.Path, outcome: Outcome) -> None:
    """Says how a run ended."""
    write_atomically(run / OUTCOME, _json(dataclasses.asdict(outcome)))


def _json(values: Any) -> str:
    return json.dumps(values, indent=2) + "\n"

"""The work directory: whose run it holds, whether it can be written, its rows."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from nfnets.errors import UserError
from nfnets.training.added_fields import with_added_fields
from nfnets.training.metrics import Row
from nfnets.training.recipe import Recipe
from nfnets.training.storage import is_remote, refusals_of, write_atomically
from nfnets.training.typed_config import differences

CONFIG = "config.json"
CLASSES = "classes.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"

# Fields that decide how fast a run is, so a resumed run may differ. Another input
# backend also rounds some pixels differently, and says so when the run goes on.
EXECUTION_FIELDS = frozenset({"data.threads", "data.backend", "eval.batch_size"})


class InUse(UserError):
    """Another process trains in a directory."""


def make_writable(workdir: epath.Path) -> None:
    """Makes the directory if absent, and writes a probe.

    Raises:
      UserError: it cannot be written.
    """
    with refusals_of(
        "write to the work directory", workdir, "; give another --workdir"
    ):
        if is_remote(workdir):
            _probe(workdir)
            return
        (workdir / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        for folder in (workdir, workdir / CHECKPOINTS):
            _probe(folder)


def _probe(folder: epath.Path) -> None:
    probe = folder / ".write_probe"
    probe.write_bytes(b"x")
    probe.unlink()


def claim(workdir: epath.Path, recipe: Recipe) -> None:
    """Makes a writable directory this recipe's, or checks that it already is.

    A directory whose run has left neither a row nor a checkpoint may be taken over.

    Raises:
      UserError: it holds a run of another recipe (the message shows the difference).
        Nothing in it is changed then.
    """
    config = workdir / CONFIG
    mine = json.loads(json.dumps(recipe.to_dict()))
    if has_begun(workdir):
        changed = differences(read_config(config), mine)
        changed = {k: v for k, v in changed.items() if k not in EXECUTION_FIELDS}
        if changed:
            shown = "; ".join(f"{key}: {value}" for key, value in changed.items())
            raise UserError(
                f"{workdir} holds a run of another config ({shown}); use another "
                f"--workdir, or that run's settings"
            )
    else:
        write_atomically(config, json.dumps(mine, indent=2) + "\n")


def has_begun(workdir: epath.Path) -> bool:
    """Whether a run has left a row or a checkpoint in the directory."""
    saved = (workdir / CHECKPOINTS).glob("*")
    return (workdir / METRICS).exists() or any(s.name.isdecimal() for s in saved)


def keep_class_names(workdir: epath.Path, names: Sequence[str]) -> None:
    """Stores the names of a claimed directory's classes, by label, in ``classes.json``.

    Raises:
      UserError: the run that goes on was trained with others.
    """
    names = tuple(names)
    stored = read_class_names(workdir) if has_begun(workdir) else None
    if stored is None:
        text = json.dumps(names, indent=0, ensure_ascii=False) + "\n"
        write_atomically(workdir / CLASSES, text)
    elif stored != names:
        pairs = zip((*stored, None), (*names, None), strict=False)
        label, (then, now) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
        raise UserError(
            f"the classes of the data are not those that the run in {workdir} was "
            f"trained with: label {label} was {then!r} and is {now!r}; restore the "
            f"data, or use another --workdir (if they were only renamed, remove "
            f"{CLASSES})"
        )


def read_class_names(workdir: epath.Path) -> tuple[str, ...] | None:
    """The names by label; None of a run that was begun before they were stored.

    Raises:
      UserError: the file is damaged.
    """
    path = workdir / CLASSES
    if not path.exists():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path} ({error}); restore or remove it"
        ) from error
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise UserError(f"{path} is no list of names; restore or remove it")
    return tuple(names)


def check_shared(workdir: epath.Path) -> None:
    """Checks that this process sees the directory that process 0 claimed.

    Raises:
      UserError: it does not, as when every host has a disk of its own.
    """
    if not (workdir / CONFIG).exists():
        raise UserError(
            f"this process does not see {workdir / CONFIG}, which process 0 wrote; "
            f"give a --workdir on storage that all hosts share"
        )


def read_config(path: epath.Path) -> dict[str, Any]:
    """The recipe, as nested plain values, that a work directory's run was given."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot read {path} ({reason}); it says whose run this directory holds: "
            f"restore it, or use another --workdir"
        ) from error
    return with_added_fields(config)


@contextlib.contextmanager
def locked(workdir: epath.Path) -> Iterator[None]:
    """Keeps other processes of this machine out of a local directory.

    Raises:
      InUse: another process is in it.
      UserError: its file of the lock cannot be opened.
    """
    if is_remote(workdir):
        yield
        return
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    with refusals_of("lock", workdir, "; check its permissions"):
        file = (workdir / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(
                f"another process is training in {workdir}; wait for it, or use "
                f"another --workdir"
            ) from error
        yield


def check_space(workdir: epath.Path, state_bytes: int) -> None:
    """Checks that two more checkpoints fit on a local disk.

    Raises:
      UserError: they do not; says how much is free and needed.
    """
    if is_remote(workdir):
        return
    needed = int(2.2 * state_bytes)
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise UserError(
            f"{workdir} has {free / 1e9:.2f} GB free, checkpoints need "
            f"{needed / 1e9:.2f} GB; free some space or give another --workdir"
        )


def append_row(workdir: epath.Path, row: Row, name: str = METRICS) -> None:
    """Appends one line to ``metrics.jsonl``, or file ``name``, whole or not at all.

    Floats are printed so that they read back to the same bits.

    Raises:
      UserError: the disk is full or read-only.
    """
    line = json.dumps(row, allow_nan=False) + "\n"
    path = workdir / name
    if is_remote(path):  # objects cannot grow
        with refusals_of("read", path):
            old = path.read_text() if path.exists() else ""
        write_atomically(path, old + line)
        return
    try:
        with open(path, "ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line.encode()) != len(line):
                    raise OSError(28, "No space left on device")
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(path, size)
                raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def read_rows(
    workdir: epath.Path, name: str = METRICS, *, growing: bool = False
) -> list[Row]:
    """All rows of ``metrics.jsonl`` or ``name``; none when there is no such file.

    Where the file may be ``growing``, a last line without its end is left out.
    """
    path = workdir / name
    if not path.exists():
        return []
    data = path.read_bytes()
    lines = (data[: data.rfind(b"\n") + 1] if growing else data).splitlines()
    return [_parse_row(line, number, path) for number, line in enumerate(lines, 1)]


def _parse_row(line: bytes, number: int, path: epath.Path) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        reason = str(error)
    else:
        if isinstance(row, dict):
            return row
        reason = "it is no JSON object"
    raise UserError(f"line {number} of {path} is damaged; mend or remove it: {reason}")


def drop_torn_row(workdir: epath.Path, name: str = METRICS) -> bool:
    """Removes a last line that a crash cut short; its step is done again anyway.

    Returns:
      Whether there was one.
    """
    path = workdir / name
    if is_remote(path) or not path.exists():
        return False
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == len(data):
        return False
    os.truncate(path, whole)
    return True

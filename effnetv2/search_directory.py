"""What a search keeps: whose the directory is, a line per finished candidate.

``search.json`` holds the settings, ``candidates.jsonl`` the history, and
``candidates/NNNN`` the run of each; ``retrained.jsonl`` and ``retrained/seed_N/NNNN``
are the same for what was trained again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator

from etils import epath

from effnetv2.backbones import Backbone
from effnetv2.search_algorithms import Algorithm
from nfnets.errors import UserError
from nfnets.training import parallel, processes, workdir
from nfnets.training.metrics import Row
from nfnets.training.recipe import Recipe
from nfnets.training.storage import write_atomically
from nfnets.training.typed_config import differences, from_mapping

SETTINGS = "search.json"
CANDIDATES = "candidates.jsonl"
RETRAINED = "retrained.jsonl"


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides a search's numbers, but for the device's speed.

    Attributes:
      recipe: as the user gave it; candidates train by ``search_recipe`` of it.
      steps: train steps per candidate; None takes the recipe's own length.
      backbone: where the search starts.
      algorithm: what proposes, with its seed.
      device: on which steps are timed.
    """

    recipe: Recipe
    steps: int | None
    backbone: Backbone
    algorithm: Algorithm
    device: str


def device_name() -> str:
    """The devices, as "8 x TPU v3"."""
    return f"{parallel.num_devices()} x {parallel.devices()[0].device_kind}"


@contextlib.contextmanager
def opened(
    directory: epath.Path, settings: Settings, log: Callable[[str], None]
) -> Iterator[None]:
    """Makes the directory this search's, and keeps other processes out of it.

    Raises:
      UserError: it is another search's, in use, or cannot be written.
    """
    with contextlib.ExitStack() as stack:

        def take_over() -> None:
            _make(directory)
            stack.enter_context(workdir.locked(directory))
            claim(directory, settings)
            for name in (CANDIDATES, RETRAINED):
                if workdir.drop_torn_row(directory, name):
                    log(f"the last line of {name} was cut short by a crash; removed")

        processes.on_main(take_over)
        yield


def _make(directory: epath.Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the search directory {directory}: {error.strerror}; give "
            f"another --searchdir"
        ) from error


def claim(directory: epath.Path, settings: Settings) -> None:
    """Writes the settings into a directory without candidates, or compares them.

    Raises:
      UserError: they differ (the message shows where) and a candidate was finished, or
        begun: its step time would be taken for the other search's.
    """
    path = directory / SETTINGS
    mine = json.loads(json.dumps(dataclasses.asdict(settings)))
    if (directory / CANDIDATES).exists() or _has_begun(directory):
        changed = differences(_read(path), mine)
        execution = {f"recipe.{field}" for field in workdir.EXECUTION_FIELDS}
        changed = {k: v for k, v in changed.items() if k not in execution}
        if changed:
            shown = "; ".join(f"{key}: {value}" for key, value in changed.items())
            raise UserError(
                f"{directory} holds another search ({shown}); use another "
                f"--searchdir, or that search's settings"
            )
        return
    write_atomically(path, json.dumps(mine, indent=2) + "\n")


def _has_begun(directory: epath.Path) -> bool:
    """Whether a candidate was measured, or began to train."""
    return any((directory / "candidates").glob("*/*.json"))


def read_settings(directory: epath.Path) -> Settings:
    """The settings of the search that a directory holds.

    Raises:
      UserError: it holds none.
    """
    path = directory / SETTINGS
    if not path.exists():
        raise UserError(
            f"{directory} holds no search: there is no {path}; check --searchdir"
        )
    return from_mapping(Settings, _read(path), "search")


def _read(path: epath.Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path} ({error}); it says whose search this directory holds: "
            f"restore it, or use another --searchdir"
        ) from error


def read_rows(directory: epath.Path, name: str = CANDIDATES) -> list[Row]:
    """The finished candidates, in order, or what was retrained.

    Raises:
      UserError: a line is damaged, or one is missing.
    """
    rows = workdir.read_rows(directory, name)
    indices = [row["index"] for row in rows]
    if name == CANDIDATES and indices != list(range(len(rows))):
        raise UserError(
            f"{directory / name} should have candidates 0, 1, 2, ... in order, not "
            f"{indices}; restore it"
        )
    return rows


def run_directory(directory: epath.Path, name: str, row: Row) -> epath.Path:
    """Where the run of a row is; ``row`` may be what is known before it is finished."""
    number = f"{row['index']:04d}"
    if name == CANDIDATES:
        return directory / "candidates" / number
    return directory / "retrained" / f"seed_{row['seed']}" / number


def finish(directory: epath.Path, name: str, row: Row) -> Row:
    """Appends a finished candidate's line; its checkpoints have served then."""

    def write() -> None:
        workdir.append_row(directory, row, name)
        checkpoints = run_directory(directory, name, row) / workdir.CHECKPOINTS
        if checkpoints.exists():
            checkpoints.rmtree()

    processes.on_main(write)
    return row

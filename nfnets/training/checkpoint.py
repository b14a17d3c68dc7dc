"""Checkpoints: orbax underneath, a digest of every array, and a way back from damage.

A checkpoint is the state as a flat dictionary of NumPy arrays, so that it does not
depend on devices or processes, and a JSON record with what else a resumed run needs.
A step is visible only when complete; its arrays' sha256 are verified on reading.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    LatestN,
)

from nfnets.errors import UserError
from nfnets.training import parallel, processes
from nfnets.training.checkpoint_scores import (
    NOT_EVALUATED,
    best_step,
    digest_json,
    mend_scores,
)
from nfnets.training.parameter_paths import path_str
from nfnets.training.state import TrainState
from nfnets.training.storage import is_remote


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint that was read and verified.

    Attributes:
      state: NumPy arrays in the structure of the target.
      record: the JSON record saved with it.
    """

    state: Any
    record: dict[str, Any]


@contextlib.contextmanager
def open_manager(
    directory: epath.Path, log: Callable[[str], None]
) -> Iterator[ocp.CheckpointManager]:
    """Opens or creates a checkpoint folder; removes what interrupted saves left in it.

    Keeps the two latest steps and the best one by the ``score`` they were saved with;
    ``log`` is told where that was damaged, and mended.
    """
    best = BestN(get_metric_fn=_score, n=1)
    options = ocp.CheckpointManagerOptions(
        create=True,
        cleanup_tmp_directories=True,
        preservation_policy=AnyPreservationPolicy([LatestN(2), best]),
        best_fn=_score,  # without it, scores are not read when a folder is reopened
    )
    # orbax wants absolute paths, which all remote ones are.
    path = directory if is_remote(directory) else epath.Path(directory).resolve()
    processes.on_main(lambda: mend_scores(path, log))
    manager = ocp.CheckpointManager(path, options=options)
    try:
        yield manager
    except BaseException:
        if jax.process_count() == 1:  # of several, none waits here for the others
            _close(manager)
        raise
    _close(manager)


def _score(metrics: Any) -> float:
    return metrics["score"]


def _close(manager: ocp.CheckpointManager) -> None:
    with contextlib.suppress(Exception):  # said by save and finish already
        manager.close()
    _remove_leftovers(manager)


def flat_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """The state's arrays by path ("params/head/kernel"), copied to the host."""
    leaves = jax.tree_util.tree_leaves_with_path(parallel.fetch(state))
    return {path_str(path): np.asarray(leaf) for path, leaf in leaves}


def digest(array: np.ndarray) -> str:
    """Sha256 over an array's shape, dtype and bytes."""
    found = hashlib.sha256(f"{array.shape} {array.dtype.name} ".encode())
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    record: dict[str, Any],
    score: float | None,
) -> None:
    """Starts saving a state; returns when its arrays are copied.

    Args:
      manager: from ``open_manager``.
      state: may be donated as soon as this returns.
      record: JSON values.
      score: higher is better, for keeping the best; None when not evaluated here.

    Raises:
      OSError: this save, or an earlier one that was still under way, failed; what it
        left on the disk is removed, older checkpoints are untouched.
    """
    arrays = flat_arrays(state)
    # A copy: orbax writes the record in its own time.
    record = copy.deepcopy(record)
    digests = {path: digest(array) for path, array in arrays.items()}
    score = NOT_EVALUATED if score is None else score
    saved = {
        "record": record,
        "sha256": digests,
        "record_sha256": digest_json(record),
        "score": score,
        "score_sha256": digest_json(score),
    }

    def start() -> None:
        manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays), record=ocp.args.JsonSave(saved)
            ),
            metrics={"score": score},
            force=True,
        )

    _removing_leftovers(manager, start)


def finish(manager: ocp.CheckpointManager) -> None:
    """Waits until the last save is on the disk.

    Raises:
      OSError: it failed; what it left on the disk is removed.
    """
    _removing_leftovers(manager, manager.wait_until_finished)


def _removing_leftovers(
    manager: ocp.CheckpointManager, action: Callable[[], None]
) -> None:
    try:
        action()
    except Exception as error:
        _remove_leftovers(manager)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise OSError(
            f"could not save a checkpoint in {manager.directory}: "
            f"{type(error).__name__}: {reason[:300]}"
        ) from error


def _remove_leftovers(manager: ocp.CheckpointManager) -> None:
    if not processes.is_main():
        return
    for leftover in epath.Path(manager.directory).glob("*.orbax-checkpoint-tmp*"):
        with contextlib.suppress(Exception):
            leftover.rmtree()


def restore_latest(
    manager: ocp.CheckpointManager, target: Any, log: Callable[[str], None]
) -> Restored | None:
    """Reads the newest checkpoint whose every array has the digest it was saved with.

    Args:
      manager: from ``open_manager``.
      target: a state of the wanted structure, shapes and dtypes (may be abstract), or
        a dictionary of some of its fields.
      log: is told which steps were damaged, and why.

    Returns:
      The checkpoint, or None when the folder holds none at all. Newer damaged ones
      are kept under another name, so that their steps can be saved again.

    Raises:
      UserError: there are checkpoints but none is whole. Nothing is changed.
    """
    damaged: list[int] = []
    for step in sorted(manager.all_steps(), reverse=True):
        found, reason = _try_to_read(manager, step, target)
        if found is not None:
            processes.on_main(lambda: _move_aside(manager, damaged, log))
            if damaged:
                manager.reload()
            return Restored(*found)
        log(f"checkpoint {step} is damaged: {reason}")
        damaged.append(step)
    if damaged:
        names = ", ".join(map(str, damaged))
        raise UserError(
            f"every checkpoint in {manager.directory} is damaged (steps {names}); "
            f"restore a copy, or use another --workdir"
        )
    return None


def read_one(
    folder: epath.Path, step: int | Literal["best"] | None, target: Any
) -> Restored:
    """Reads a checkpoint of another run, verified; changes nothing in the folder.

    Args:
      folder: a run's checkpoints.
      step: None takes the newest, "best" the one with the highest ``score``.
      target: as for ``restore_latest``.

    Raises:
      UserError: there is none, or none was evaluated, or it is damaged.
    """
    path = folder if is_remote(folder) else epath.Path(folder).resolve()
    if not path.is_dir():
        raise UserError(f"there is no checkpoint in {folder.parent} yet; train first")
    # Without orbax's own reading of the scores, one of which may be damaged.
    options = ocp.CheckpointManagerOptions(read_only=True, lightweight_initialize=True)
    with ocp.CheckpointManager(path, options=options) as manager:
        steps = sorted(manager.all_steps())
        wanted = best_step(path, steps) if step == "best" else step
        wanted = max(steps, default=None) if step is None else wanted
        known = wanted if wanted is not None and wanted in steps else -1
        # Processes may have seen other steps of a run that is going on.
        chosen = processes.of_main(known)
        there = ", ".join(map(str, steps)) or "none"
        if chosen < 0:
            which = {"None": "yet", "best": "that was evaluated"}.get(str(step), step)
            raise UserError(f"{folder} has no checkpoint {which}; there are: {there}")
        found, reason = _try_to_read(manager, chosen, target)
        if found is None:
            raise UserError(
                f"checkpoint {chosen} in {folder} is damaged ({reason}); take another "
                f"step; there are: {there}"
            )
    return Restored(*found)


def _move_aside(
    manager: ocp.CheckpointManager, steps: list[int], log: Callable[[str], None]
) -> None:
    for step in steps:
        folder = epath.Path(manager.directory) / str(step)
        aside = folder.with_name(f"damaged_{step}_{time.time_ns()}")
        folder.rename(aside)
        log(f"checkpoint {step} is kept as {aside.name}")


def _try_to_read(
    manager: ocp.CheckpointManager, step: int, target: Any
) -> tuple[tuple[Any, dict[str, Any]] | None, str]:
    """What `_read` gives when it does so on every process, else None; and why not."""
    found, reason = None, "another process cannot read it"
    try:
        found = _read(manager, step, target)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return (found if processes.all_agree(found is not None) else None), reason


def _read(
    manager: ocp.CheckpointManager, step: int, target: Any
) -> tuple[Any, dict[str, Any]]:
    """Reads and verifies one step; raises ValueError (or orbax's errors) on damage."""
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(), record=ocp.args.JsonRestore()
        ),
    )
    arrays, saved = restored["state"], restored["record"]
    record, digests = saved["record"], saved["sha256"]
    if digest_json(record) != saved["record_sha256"]:
        raise ValueError("its record is not what was saved (sha256 differs)")
    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(target)
    leaves = []
    for path, leaf in paths_and_leaves:
        name = path_str(path)
        array = arrays.get(name)
        if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError(f"array {name} is missing or of another shape")
        if digest(array) != digests[name]:
            raise ValueError(f"array {name} is not what was saved (sha256 differs)")
        leaves.append(array)
    return jax.tree.unflatten(treedef, leaves), record

"""When a save counts as done, and what happens when it fails."""

from __future__ import annotations

from typing import Any

import jax
from etils import epath

from nfnets.errors import UserError
from nfnets.training import checkpoint, processes
from nfnets.training.checkpoint_scores import write_score
from nfnets.training.progress import Progress
from nfnets.training.session import Position
from nfnets.training.state import TrainState

# Saves that may fail in a row before the run gives up.
MAX_FAILED_SAVES = 3


def save(
    manager: Any,
    state: TrainState,
    score: float | None,
    position: Position,
    progress: Progress,
) -> None:
    """Starts saving unless this step is saved already; bears a failure, but not many.

    A step that was saved when its evaluation was interrupted gets its score later.

    Raises:
      UserError: ``MAX_FAILED_SAVES`` saves in a row failed, or a score cannot be
        written.
    """
    settle(manager, position, progress)
    if position.saved_step == position.step:
        if score is not None:
            folder = epath.Path(manager.directory) / str(position.step)
            processes.on_main(lambda: write_score(folder, score))
            manager.reload()
        return
    position.fetch_window()
    try:
        checkpoint.save(manager, state, position.record(), score)
        position.saving_step = position.step
    except OSError as error:
        count_failure(position, error, progress)


def settle(manager: Any, position: Position, progress: Progress) -> None:
    """Waits for the save under way and takes note of how it ended."""
    if position.saving_step < 0:
        return
    try:
        checkpoint.finish(manager)
    except OSError as error:
        count_failure(position, error, progress)
    else:
        position.saved_step, position.failed_saves = position.saving_step, 0
    position.saving_step = -1


def count_failure(position: Position, error: OSError, progress: Progress) -> None:
    """Says that a save failed; raises a UserError when it is one too many.

    Of several processes none goes on: the others may be waiting for this save.
    """
    position.failed_saves += 1
    progress.say(f"{error} ({position.failed_saves} in a row)")
    if position.failed_saves >= MAX_FAILED_SAVES or jax.process_count() > 1:
        raise UserError(
            f"{error}; that was {position.failed_saves} times in a row; free some "
            f"space and run the same command again"
        ) from error


def must_be_saved(manager: Any, position: Position, progress: Progress) -> None:
    """Makes sure that the present step is on the disk before the program ends.

    Raises:
      UserError: it is not; names the last step that is.
    """
    settle(manager, position, progress)
    if position.saved_step != position.step:
        last = position.saved_step
        raise UserError(
            f"step {position.step} could not be saved; the last checkpoint is "
            f"{f'step {last}' if last >= 0 else 'none'}; free some space and run the "
            f"same command again"
        )

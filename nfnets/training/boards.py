"""Where a run's rows go beside ``metrics.jsonl``: TensorBoard and Weights & Biases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from etils import epath

from nfnets.training.tensorboard import TensorBoard
from nfnets.training.wandb_run import WandbRun


class Board(Protocol):
    """A place for numbers by step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers of this step."""

    def close(self) -> None:
        """Ends it; harmless where nothing was written."""


class Boards:
    """Several boards; one that fails is left out from then on, with one line.

    Args:
      boards: by the names that a message calls them.
      log: is told that one has failed.
    """

    def __init__(self, boards: Mapping[str, Board], log: Callable[[str], None]) -> None:
        self._boards = dict(boards)
        self._log = log

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds the numbers among ``values`` at this step."""
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self._each(lambda board: board.write(step, numbers))

    def close(self) -> None:
        """Closes them all."""
        self._each(lambda board: board.close())

    def _each(self, action: Callable[[Board], None]) -> None:
        for name, board in list(self._boards.items()):
            try:
                action(board)
            except Exception as error:  # of many types, and no reason to stop a run
                del self._boards[name]
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                self._log(f"no {name} from here on: {reason}")


def open_boards(
    directory: epath.Path,
    config: Mapping[str, Any],
    wandb_project: str | None,
    log: Callable[[str], None],
) -> Boards:
    """TensorBoard's events in the work directory, and where asked for W&B.

    Args:
      directory: the work directory, which need not exist yet.
      config: of the run, for W&B.
      wandb_project: None leaves W&B out.
      log: is told what fails.

    Raises:
      UserError: W&B is asked for, but its package is missing.
    """
    boards: dict[str, Board] = {"TensorBoard events": TensorBoard(directory)}
    if wandb_project is not None:
        boards["W&B"] = WandbRun(wandb_project, directory, config, log)
    return Boards(boards, log)

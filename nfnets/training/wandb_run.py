"""A run on Weights & Biases, for who asks for it: ``--wandb_project=NAME``."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from nfnets.errors import UserError
from nfnets.training.storage import is_remote, write_atomically

# In the work directory, so that a restart goes on with the same run.
RUN_ID = "wandb_run_id.txt"

# A finished run waits so long for what is not yet sent.
FINISH_TIMEOUT_S = 60.0


class WandbRun:
    """Sends numbers to W&B, or without a key or by ``WANDB_MODE`` keeps them offline.

    Nobody is ever asked for a key. The run is opened with the first numbers, and only
    process 0 has any.

    Args:
      project: of W&B.
      directory: the work directory; the run has its name.
      config: shown beside the curves.
      log: is told where the run is.

    Raises:
      UserError: the package is missing.
    """

    def __init__(
        self,
        project: str,
        directory: epath.Path,
        config: Mapping[str, Any],
        log: Callable[[str], None],
    ) -> None:
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise UserError(
                f"--wandb_project={project} needs a package that is missing ({error}); "
                "run: pip install 'nfnets-flax[wandb]'"
            ) from error
        self._project, self._directory = project, directory
        self._config, self._log = config, log
        self._run: Any = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers of this step; a step that is done again counts again."""
        if self._run is None:
            self._run = self._open()
        self._run.log({"step": step, **values})

    def close(self) -> None:
        """Sends the rest, but does not wait long for it."""
        if self._run is not None:
            self._run.finish()

    def _open(self) -> Any:
        mode = self._mode()
        settings = self._wandb.Settings(
            silent=True, console="off", finish_timeout=FINISH_TIMEOUT_S
        )
        run = self._wandb.init(
            project=self._project,
            id=run_id(self._directory),
            name=self._directory.name,
            config=dict(self._config),
            dir=None if is_remote(self._directory) else str(self._directory),
            resume="allow",
            mode=mode,
            settings=settings,
        )
        # W&B's own step cannot go back to a checkpoint.
        run.define_metric("*", step_metric="step")
        self._log(
            f"wandb    {run.url if mode == 'online' else f'{mode}, run {run.id}'}"
        )
        return run

    def _mode(self) -> str:
        """What ``WANDB_MODE`` says, except that online needs a key that is known."""
        mode = os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not self._wandb.login(prompt=False):
            return "offline"
        return mode


def run_id(directory: epath.Path) -> str:
    """The id that the work directory's run has on W&B; a new one the first time."""
    path = directory / RUN_ID
    if path.exists():
        return path.read_text().strip()
    fresh = uuid.uuid4().hex[:8]
    write_atomically(path, fresh + "\n")
    return fresh

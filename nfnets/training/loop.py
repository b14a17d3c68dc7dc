"""One train loop for all recipes: resume, train, log, evaluate, save, report.

What a step does is in ``steps``; what decides it is in ``Recipe``. The loop adds only
the order of things, and keeps nothing that is not in the checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nfnets.errors import UserError
from nfnets.training import checkpoint, parallel, workdir
from nfnets.training.evaluation import evaluate
from nfnets.training.metrics import Row, window_row
from nfnets.training.progress import Progress
from nfnets.training.recipe import Recipe, Stage
from nfnets.training.report import write_reports
from nfnets.training.session import (
    Log,
    Position,
    Run,
    compile_step,
    log_row,
    make_batches,
    prepare,
    restore_or_init,
)
from nfnets.training.state import TrainState
from nfnets.training.steps import make_eval_step

# Saves that may fail in a row before the run gives up.
MAX_FAILED_SAVES = 3
# Steps the host may be ahead of the device: bounds the batches that wait there.
STEPS_AHEAD = 2


class NonFiniteError(RuntimeError):
    """Too many updates in a row had a loss or gradient that is not finite."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
      complete: False when it was interrupted and saved.
      step: the last step done.
      row: the last evaluation; None when there was none.
      files: what was written for a reader.
    """

    complete: bool
    step: int
    row: Row | None
    files: tuple[Path, ...]


def train_and_evaluate(
    recipe: Recipe,
    directory: Path,
    *,
    log: Log = print,
    stop_requested: Callable[[], bool] = lambda: False,
    command: str = "",
    changes: dict[str, str] | None = None,
) -> Result:
    """Trains to the recipe's last step, going on from what the directory holds.

    Args:
      recipe: as the config states it; the data set's own sizes replace its numbers.
      directory: the work directory, made if absent.
      log: is told what happens before the first and after the last step.
      stop_requested: asked after every step; when it says True the state is saved
        and the run returns.
      command: for the report, as it was typed.
      changes: for the report, what differs from the named config.

    Raises:
      UserError: the data, the directory or a setting cannot be used.
      NonFiniteError: ``max_nonfinite_steps`` updates in a row were skipped.
    """
    run = prepare(recipe, directory, log, stop_requested, command, changes or {})
    recipe = run.recipe
    folder = directory / workdir.CHECKPOINTS
    with contextlib.closing(run.board), checkpoint.open_manager(folder) as manager:
        state, position = restore_or_init(run, manager, log)
        with Progress(
            recipe.total_steps, position.step, recipe.steps_per_epoch
        ) as progress:
            for stage, last_step in stage_ends(recipe):
                if position.step <= last_step and not stop_requested():
                    state = train_stage(
                        run, stage, last_step, state, position, manager, progress
                    )
        checkpoint.finish(manager)
    rows = [row for row in workdir.read_rows(directory) if "eval/top1" in row]
    files = write_reports(directory, recipe, run.facts)
    complete = position.evaluated_step == recipe.total_steps
    return Result(complete, position.step, rows[-1] if rows else None, tuple(files))


def stage_ends(recipe: Recipe) -> Iterator[tuple[Stage, int]]:
    """Each stage with the step at which it ends, counted over the whole run."""
    ends = itertools.accumulate(stage.steps for stage in recipe.stages)
    return zip(recipe.stages, ends, strict=True)


def train_stage(
    run: Run,
    stage: Stage,
    last_step: int,
    state: TrainState,
    position: Position,
    manager: Any,
    progress: Progress,
) -> TrainState:
    """Trains to the end of one stage, or until asked to stop (and saves then)."""
    recipe = run.recipe
    eval_step = parallel.pmap_eval_step(make_eval_step(run.model))

    def evaluate_and_save(state: TrainState) -> bool:
        """Does what is due after ``position.step``; says whether anything was."""
        score = None
        evaluation_due = is_due(position.step, recipe.eval_every_steps, recipe)
        if evaluation_due and position.evaluated_step != position.step:
            score = log_evaluation(run, eval_step, state, position, progress)
        save_due = evaluation_due or is_due(
            position.step, recipe.checkpoint_every_steps, recipe
        )
        if save_due:
            save(manager, state, position, score, progress)
        return save_due

    evaluate_and_save(state)  # a run that was stopped while evaluating does it now
    if position.step < last_step and not run.stop_requested():
        train_step = compile_step(recipe, stage, run.model, run.tx, state, progress.say)
        speed = Speed(position.step, recipe.batch_size)
        with make_batches(
            run, stage, position.step, last_step, progress.say
        ) as batches:
            for host_batch in batches:
                state, metrics = train_step(state, parallel.place_batch(host_batch))
                add_to_window(position, metrics)
                progress.advance()
                if is_due(position.step, recipe.log_every_steps, recipe):
                    log_window(run, position, speed, batches.damaged, progress)
                if evaluate_and_save(state):
                    speed.restart(position.step)
                if run.stop_requested():
                    break
    if run.stop_requested():
        save(manager, state, position, None, progress)
    return state


def is_due(step: int, every: float, recipe: Recipe) -> bool:
    """Whether something done every so many steps is due after ``step`` steps."""
    crossed = step // every > (step - 1) // every
    return step > 0 and (crossed or step == recipe.total_steps)


class Speed:
    """Images per second since the last look, in wall-clock time."""

    def __init__(self, step: int, batch_size: int) -> None:
        self._batch_size = batch_size
        self.restart(step)

    def restart(self, step: int) -> None:
        """Starts measuring at this step."""
        self._step, self._time = step, time.monotonic()

    def read(self, step: int) -> float:
        """Images per second since the last read or restart."""
        steps, seconds = step - self._step, time.monotonic() - self._time
        self.restart(step)
        return steps * self._batch_size / max(seconds, 1e-9)


def add_to_window(position: Position, metrics: dict[str, Any]) -> None:
    """Counts a step; its metrics stay on the device, at most a few steps behind."""
    position.step += 1
    position.window.append(metrics)
    if len(position.window) > STEPS_AHEAD:
        jax.block_until_ready(position.window[-1 - STEPS_AHEAD])


def fetch_window(position: Position) -> None:
    """Brings the window's metrics to the host as Python numbers (exact)."""
    position.window = [
        {name: np.asarray(value).item() for name, value in metrics.items()}
        for metrics in jax.device_get(position.window)
    ]


def log_window(
    run: Run, position: Position, speed: Speed, damaged: int, progress: Progress
) -> None:
    """Writes the row of the steps since the last one.

    Raises:
      NonFiniteError: too many updates in a row were skipped.
    """
    fetch_window(position)
    recipe, window = run.recipe, position.window
    values = window_row(window)
    values["train/damaged_images"] = damaged
    values["train/images_per_second"] = speed.read(position.step)
    position.window = []
    progress.show(log_row(run, position, values))
    in_a_row = max(metrics["skipped_in_a_row"] for metrics in window)
    if in_a_row >= recipe.max_nonfinite_steps:
        raise NonFiniteError(
            f"{in_a_row} updates in a row were not finite, up to step {position.step}; "
            f"the last checkpoint is step {position.saved_step}; lower "
            f"--config.optim.lr_per_256 or --config.optim.agc_clipping"
        )


def log_evaluation(
    run: Run, eval_step: Any, state: TrainState, position: Position, progress: Progress
) -> float | None:
    """Evaluates the weights and their average, writes the row, renews the reports.

    Returns:
      The top-1 accuracy that decides which checkpoint is best; None when stopped.
    """
    variables = {"eval": {"params": state.params, "batch_stats": state.batch_stats}}
    if run.recipe.ema_decay is not None:
        variables["eval_ema"] = {
            "params": state.ema_params,
            "batch_stats": state.ema_batch_stats,
        }
    values = evaluate(
        eval_step, variables, run.test_source, run.recipe, run.stop_requested
    )
    if values is None:
        return None
    log_row(run, position, values)
    position.evaluated_step = position.step
    shown = "  ".join(
        f"{prefix} top1 {values[f'{prefix}/top1']:.2%}" for prefix in variables
    )
    progress.say(f"eval     step {position.step}  {shown}")
    write_reports(run.directory, run.recipe, run.facts)
    return values[f"{list(variables)[-1]}/top1"]


def save(
    manager: Any,
    state: TrainState,
    position: Position,
    score: float | None,
    progress: Progress,
) -> None:
    """Saves unless this step is saved already; bears a failure, but not many.

    Raises:
      UserError: ``MAX_FAILED_SAVES`` saves in a row failed.
    """
    if position.saved_step == position.step:
        return
    fetch_window(position)
    record = {
        "step": position.step,
        "window": position.window,
        "evaluated_step": position.evaluated_step,
    }
    try:
        checkpoint.save(manager, state, record, score)
    except OSError as error:
        position.failed_saves += 1
        progress.say(f"{error}; training goes on")
        if position.failed_saves >= MAX_FAILED_SAVES:
            raise UserError(
                f"{error}; that was {MAX_FAILED_SAVES} times in a row; free some space "
                f"and run the same command again"
            ) from error
    else:
        position.saved_step, position.failed_saves = position.step, 0

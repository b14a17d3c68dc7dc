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
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from nfnets.data.train_iterator import TrainIterator
from nfnets.errors import UserError
from nfnets.training import checkpoint, parallel, processes, workdir
from nfnets.training.evaluation import evaluate
from nfnets.training.metrics import Row, window_row
from nfnets.training.progress import Progress
from nfnets.training.recipe import Recipe, Stage
from nfnets.training.report import write_reports
from nfnets.training.saving import must_be_saved, save, settle
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
from nfnets.training.watchdog import Watchdog

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
    files: tuple[epath.Path, ...]


def train_and_evaluate(
    recipe: Recipe,
    directory: epath.Path,
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
    directory = epath.Path(directory)
    log = log if processes.is_main() else ignore
    run = prepare(recipe, directory, log, stop_requested, command, changes or {})
    processes.on_main(lambda: workdir.make_writable(directory))
    with contextlib.ExitStack() as stack:

        def take_over() -> None:
            stack.enter_context(workdir.locked(directory))
            workdir.claim(directory, run.recipe)

        processes.on_main(take_over)
        workdir.check_shared(directory)
        stack.callback(run.board.close)
        watchdog = stack.enter_context(Watchdog(recipe.watchdog_minutes))
        manager = stack.enter_context(
            checkpoint.open_manager(directory / workdir.CHECKPOINTS)
        )
        state, position = restore_or_init(run, manager, log)
        progress = stack.enter_context(Progress(run.recipe, position.step))
        batches = stack.enter_context(make_batches(run, position, progress.warn))
        for stage, last_step in stage_ends(run.recipe):
            if position.step <= last_step:
                trainer = Trainer(run, manager, progress, watchdog, position, batches)
                state = train_stage(trainer, stage, last_step, state)
        must_be_saved(manager, position, progress)
    return result_of(run, position)


def ignore(message: str) -> None:
    """What all but process 0 do with a message."""


def result_of(run: Run, position: Position) -> Result:
    """Writes the reports a last time and says how the run ended."""
    files: list[epath.Path] = []
    if processes.is_main():
        files = write_reports(run.directory, run.recipe, run.facts)
    rows = [row for row in workdir.read_rows(run.directory) if "eval/top1" in row]
    complete = position.evaluated_step == run.recipe.total_steps
    return Result(complete, position.step, rows[-1] if rows else None, tuple(files))


def stage_ends(recipe: Recipe) -> Iterator[tuple[Stage, int]]:
    """Each stage with the step at which it ends, counted over the whole run."""
    ends = itertools.accumulate(stage.steps for stage in recipe.stages)
    return zip(recipe.stages, ends, strict=True)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What training needs at hand: the run, and where its doings go."""

    run: Run
    manager: Any
    progress: Progress
    watchdog: Watchdog
    position: Position
    batches: TrainIterator


def train_stage(
    trainer: Trainer, stage: Stage, last_step: int, state: TrainState
) -> TrainState:
    """Trains to the end of one stage, or until asked to stop (and saves then)."""
    run, position, progress = trainer.run, trainer.position, trainer.progress
    recipe = run.recipe
    # Evaluation is in float32 whatever the training dtype, as in the official code.
    eval_step = parallel.pmap_eval_step(
        make_eval_step(
            run.model.clone(dtype=jnp.float32),
            normalization=recipe.data.normalization,
            label_sets=run.label_sets,
        )
    )
    evaluate_and_save(trainer, eval_step, state)  # if it was stopped while evaluating
    if position.step < last_step and not run.stop_requested():
        train_step = compile_step(
            recipe,
            stage,
            run.model,
            run.tx,
            state,
            progress.say,
            label_sets=run.label_sets,
        )
        trainer.watchdog.touch()
        speed = Speed(position.step, recipe.batch_size)
        # Not one more: the next batch is the next stage's.
        for host_batch in itertools.islice(trainer.batches, last_step - position.step):
            if run.stop_requested():
                break
            state, metrics = train_step(state, parallel.place_batch(host_batch))
            add_to_window(position, metrics)
            position.damaged = trainer.batches.damaged
            progress.advance()
            trainer.watchdog.touch()
            if is_due(position.step, recipe.log_every_steps, recipe):
                log_window(trainer, speed)
            if evaluate_and_save(trainer, eval_step, state):
                speed.restart(position.step)
    if run.stop_requested():
        save(trainer.manager, state, None, position, progress)
    return state


def evaluate_and_save(trainer: Trainer, eval_step: Any, state: TrainState) -> bool:
    """Does what is due after ``position.step`` steps; says whether anything was."""
    position, recipe = trainer.position, trainer.run.recipe
    score = None
    evaluation_due = is_due(position.step, recipe.eval_every_steps, recipe)
    evaluated = evaluation_due and position.evaluated_step != position.step
    if evaluated:
        try:
            score = log_evaluation(trainer, eval_step, state)
        except BaseException:
            # What was trained is kept, whatever happened. (Several processes save
            # together, and the others may not be here.)
            if jax.process_count() == 1:
                save(trainer.manager, state, None, position, trainer.progress)
                must_be_saved(trainer.manager, position, trainer.progress)
            raise
    save_due = evaluation_due or is_due(
        position.step, recipe.checkpoint_every_steps, recipe
    )
    if save_due:
        save(trainer.manager, state, score, position, trainer.progress)
    if evaluated:
        renew_reports(trainer)
    return save_due


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


def log_window(trainer: Trainer, speed: Speed) -> None:
    """Writes the row of the steps since the last one.

    Raises:
      NonFiniteError: too many updates in a row were skipped.
    """
    run, position = trainer.run, trainer.position
    position.fetch_window()
    window, position.window = position.window, []
    values = window_row(window)
    values["train/damaged_images"] = processes.total(position.damaged)
    values["train/images_per_second"] = speed.read(position.step)
    trainer.progress.show(log_row(run, position, values))
    in_a_row = max(metrics["skipped_in_a_row"] for metrics in window)
    if in_a_row >= run.recipe.max_nonfinite_steps:
        renew_reports(trainer)
        settle(trainer.manager, position, trainer.progress)
        last = position.saved_step
        raise NonFiniteError(
            f"{in_a_row} updates in a row were not finite, up to step {position.step}; "
            f"the last checkpoint is {f'step {last}' if last >= 0 else 'none yet'}; "
            f"lower --config.optim.lr_per_256 or --config.optim.agc_clipping"
        )


def log_evaluation(trainer: Trainer, eval_step: Any, state: TrainState) -> float | None:
    """Evaluates the weights and their average, and writes the row.

    Returns:
      The top-1 accuracy that decides which checkpoint is best; None when stopped.
    """
    run, position = trainer.run, trainer.position
    variables = {"eval": {"params": state.params, "batch_stats": state.batch_stats}}
    if run.recipe.ema_decay is not None:
        variables["eval_ema"] = {
            "params": state.ema_params,
            "batch_stats": state.ema_batch_stats,
        }

    def stop_requested() -> bool:
        trainer.watchdog.touch()
        return run.stop_requested()

    values = evaluate(eval_step, variables, run.test_source, run.recipe, stop_requested)
    if values is None:
        return None
    log_row(run, position, values)
    position.evaluated_step = position.step
    shown = "  ".join(f"{p} top1 {values[f'{p}/top1']:.2%}" for p in variables)
    trainer.progress.say(f"eval     step {position.step}  {shown}")
    return values[f"{list(variables)[-1]}/top1"]


def renew_reports(trainer: Trainer) -> None:
    """Writes the reports; what keeps them from being written does not end training."""
    run = trainer.run
    if not processes.is_main():
        return
    try:
        write_reports(run.directory, run.recipe, run.facts)
    except (UserError, ImportError) as error:
        trainer.progress.say(f"no report: {error}")

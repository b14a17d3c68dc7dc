"""What the train loop does between steps: rows, evaluation, checkpoints, reports."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from nfnets.data.train_iterator import Batch, TrainIterator
from nfnets.errors import UserError
from nfnets.training import parallel, processes
from nfnets.training.compiled_steps import CompiledSteps
from nfnets.training.eval_step import make_eval_step
from nfnets.training.evaluation import evaluate
from nfnets.training.metrics import window_row
from nfnets.training.progress import Progress
from nfnets.training.recipe import Recipe
from nfnets.training.report import write_reports
from nfnets.training.saving import must_be_saved, save, settle
from nfnets.training.session import Position, Run, log_row
from nfnets.training.stages import Stage
from nfnets.training.state import TrainState
from nfnets.training.watchdog import Watchdog

# Steps the host may be ahead of the device: bounds the batches that wait there.
STEPS_AHEAD = 2


class NonFiniteError(RuntimeError):
    """Too many updates in a row had a loss or gradient that is not finite."""


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What training needs at hand: the run, and where its doings go."""

    run: Run
    manager: Any
    progress: Progress
    watchdog: Watchdog
    position: Position
    batches: TrainIterator
    steps: CompiledSteps
    eval_step: Any


def eval_step_of(run: Run) -> Any:
    """The evaluation step, float32 whatever the training dtype, as officially."""
    return parallel.pmap_eval_step(
        make_eval_step(
            run.learner.model.clone(dtype=jnp.float32),
            normalization=run.recipe.data.normalization,
            label_sets=run.label_sets,
        )
    )


def evaluate_and_save(trainer: Trainer, state: TrainState) -> bool:
    """Does what is due after ``position.step`` steps; says whether anything was."""
    position, recipe = trainer.position, trainer.run.recipe
    score = None
    evaluation_due = is_due(position.step, recipe.eval_every_steps, recipe)
    evaluated = evaluation_due and position.evaluated_step != position.step
    if evaluated:
        try:
            score = log_evaluation(trainer, state)
        except BaseException:
            save_alone(trainer, state)
            raise
    save_due = evaluation_due or is_due(
        position.step, recipe.checkpoint_every_steps, recipe
    )
    if save_due:
        save(trainer.manager, state, score, position, trainer.progress)
    if evaluated:
        renew_reports(trainer)
    return save_due


def save_alone(trainer: Trainer, state: TrainState) -> None:
    """Keeps what was trained when something else went wrong.

    Several processes save together, and the others may not be here: not then.
    """
    position = trainer.position
    if jax.process_count() == 1 and position.step > 0:
        save(trainer.manager, state, None, position, trainer.progress)
        must_be_saved(trainer.manager, position, trainer.progress)


def is_due(step: int, every: float, recipe: Recipe) -> bool:
    """Whether something done every so many steps is due after ``step`` steps."""
    crossed = step // every > (step - 1) // every
    return step > 0 and (crossed or step == recipe.total_steps)


class Speed:
    """Images per second, and the share of waiting for input, since the last look."""

    def __init__(self, step: int, batch_size: int) -> None:
        self._batch_size = batch_size
        self.restart(step)

    def restart(self, step: int) -> None:
        """Starts measuring at this step."""
        self._step, self._time, self._waited = step, time.monotonic(), 0.0

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; how long each was waited for is counted."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def read(self, step: int) -> tuple[float, float]:
        """Images per second of wall-clock time, and the share that waited for input."""
        steps, seconds = step - self._step, max(time.monotonic() - self._time, 1e-9)
        found = steps * self._batch_size / seconds, self._waited / seconds
        self.restart(step)
        return found


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
    images_per_second, input_wait = speed.read(position.step)
    values["train/images_per_second"] = images_per_second
    values["train/input_wait"] = input_wait
    trainer.progress.show(log_row(run, position, values))
    in_a_row = max(metrics["skipped_in_a_row"] for metrics in window)
    if in_a_row >= run.recipe.max_nonfinite_steps:
        renew_reports(trainer)
        settle(trainer.manager, position, trainer.progress)
        last = position.saved_step
        clips = run.recipe.optim.agc_clipping is not None
        or_clip = " or --config.optim.agc_clipping" if clips else ""
        scales = run.recipe.optim.lr_peak is None
        rate = "lr_per_256" if scales else "lr_peak"
        raise NonFiniteError(
            f"{in_a_row} updates in a row were not finite, up to step {position.step}; "
            f"the last checkpoint is {f'step {last}' if last >= 0 else 'none yet'}; "
            f"lower --config.optim.{rate}{or_clip}"
        )


def log_evaluation(trainer: Trainer, state: TrainState) -> float | None:
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

    values = evaluate(
        trainer.eval_step, variables, run.test_source, run.recipe, stop_requested
    )
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
        write_reports(run.directory, run.recipe, run.facts, trainer.position.elapsed)
    except (UserError, ImportError) as error:
        trainer.progress.say(f"no report: {error}")


def show_samples(trainer: Trainer, stage: Stage, host_batch: Any) -> None:
    """Draws the run's first batch, or this one if that was not drawn.

    What keeps the picture from being made does not end training.
    """
    run, step = trainer.run, trainer.position.step
    path = run.directory / "samples.png"
    if not processes.is_main() or (step > 0 and path.exists()):
        return
    try:
        from nfnets.training.samples import draw_samples

        draw_samples(
            path,
            host_batch,
            recipe=run.recipe,
            stage=stage,
            step=step,
            class_names=run.train_source.class_names,
        )
    except (UserError, ImportError, OSError) as error:
        trainer.progress.say(f"no samples.png: {error}")

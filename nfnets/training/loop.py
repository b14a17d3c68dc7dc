"""One train loop for all recipes: resume, train, log, evaluate, save, report.

What a step does is in ``steps``; what decides it is in ``Recipe``. The loop adds only
the order of things, and keeps nothing that is not in the checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

from etils import epath

from nfnets.training import checkpoint, parallel, processes, workdir
from nfnets.training.between_steps import (
    Speed,
    Trainer,
    add_to_window,
    eval_step_of,
    evaluate_and_save,
    is_due,
    log_window,
    save_alone,
    show_samples,
)
from nfnets.training.compiled_steps import CompiledSteps, compile_step
from nfnets.training.metrics import Row
from nfnets.training.progress import Progress
from nfnets.training.recipe import Recipe
from nfnets.training.report import write_reports
from nfnets.training.saving import must_be_saved, save
from nfnets.training.session import (
    Log,
    Position,
    Run,
    make_batches,
    prepare,
    restore_or_init,
)
from nfnets.training.stages import Stage, stages_after
from nfnets.training.state import TrainState
from nfnets.training.watchdog import Watchdog


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
    wandb_project: str | None = None,
) -> Result:
    """Trains to the recipe's last step, going on from what the directory holds.

    The first step is compiled in a thread of its own. Where the state cannot be made or
    read, that thread ends when the compiler does, later than this function.

    Args:
      recipe: as the config states it; the data set's own sizes replace its numbers.
      directory: the work directory, made if absent.
      log: is told what happens before the first and after the last step.
      stop_requested: asked after every step; when it says True the state is saved
        and the run returns.
      command: for the report, as it was typed.
      changes: for the report, what differs from the named config.
      wandb_project: where the rows go on Weights & Biases too; None: nowhere.

    Raises:
      UserError: the data, the directory or a setting cannot be used.
      NonFiniteError: ``max_nonfinite_steps`` updates in a row were skipped.
    """
    directory = epath.Path(directory)
    log = log if processes.is_main() else ignore
    run = prepare(
        recipe, directory, log, stop_requested, command, changes or {}, wandb_project
    )
    processes.on_main(lambda: workdir.make_writable(directory))
    with contextlib.ExitStack() as stack:
        trainer, state = open_trainer(run, stack, log)
        # If it was stopped while evaluating.
        evaluate_and_save(trainer, state)
        state = train_stages(trainer, state)
        must_be_saved(trainer.manager, trainer.position, trainer.progress)
    return result_of(run, trainer.position)


def ignore(message: str) -> None:
    """What all but process 0 do with a message."""


def open_trainer(
    run: Run, stack: contextlib.ExitStack, log: Log
) -> tuple[Trainer, TrainState]:
    """Takes the work directory, and the state to go on from; the stack closes all."""
    recipe, directory = run.recipe, run.directory

    def take_over() -> None:
        stack.enter_context(workdir.locked(directory))
        workdir.claim(directory, recipe)
        workdir.keep_class_names(directory, run.train_source.class_names)

    processes.on_main(take_over)
    workdir.check_shared(directory)
    stack.callback(run.boards.close)
    watchdog = stack.enter_context(Watchdog(recipe.watchdog_minutes))
    manager = stack.enter_context(
        checkpoint.open_manager(directory / workdir.CHECKPOINTS, log)
    )
    # After the manager has removed what interrupted saves left.
    processes.on_main(lambda: workdir.check_space(directory, run.learner.state_bytes))
    steps = begin_compiling(run, manager.latest_step() or 0, log)
    state, position = restore_or_init(run, manager, log)
    progress = stack.enter_context(Progress(recipe, position.step))
    batches = make_batches(
        recipe,
        run.train_source,
        progress.warn,
        start_step=position.step,
        damaged=position.damaged,
    )
    trainer = Trainer(
        run=run,
        manager=manager,
        progress=progress,
        watchdog=watchdog,
        position=position,
        batches=stack.enter_context(batches),
        steps=steps,
        eval_step=eval_step_of(run),
    )
    return trainer, state


def result_of(run: Run, position: Position) -> Result:
    """Writes the reports a last time and says how the run ended."""
    files: list[epath.Path] = []
    if processes.is_main():
        files = write_reports(run.directory, run.recipe, run.facts, position.elapsed)
    rows = [row for row in workdir.read_rows(run.directory) if "eval/top1" in row]
    complete = position.evaluated_step == run.recipe.total_steps
    return Result(complete, position.step, rows[-1] if rows else None, tuple(files))


def begin_compiling(run: Run, step: int, log: Log) -> CompiledSteps:
    """The run's steps; that of the stage after ``step`` steps is begun.

    Where the newest checkpoint turns out to be damaged the run may go on in another
    stage, whose step is compiled when it is needed.
    """
    steps = CompiledSteps(
        functools.partial(
            compile_step,
            recipe=run.recipe,
            learner=run.learner,
            label_sets=run.label_sets,
        )
    )
    for stage, _ in stages_after(run.recipe.stages, step)[:1]:
        steps.start(stage, log)
    return steps


def train_stages(trainer: Trainer, state: TrainState) -> TrainState:
    """Trains to the end of the last stage, or until asked to stop (and saves then)."""
    run, position = trainer.run, trainer.position
    ahead = stages_after(run.recipe.stages, position.step)
    for i, (stage, end) in enumerate(ahead):
        if run.stop_requested():
            break
        train_step = compiled_step(trainer, stage, state)
        if train_step is None:
            break
        trainer.watchdog.touch()
        for next_stage, _ in ahead[i + 1 : i + 2]:
            trainer.steps.start(next_stage, trainer.progress.say)
        state = train_stage(trainer, stage, train_step, end, state)
    if run.stop_requested():
        save(trainer.manager, state, None, position, trainer.progress)
    return state


def compiled_step(trainer: Trainer, stage: Stage, state: TrainState) -> Any:
    """The stage's step; None when asked to stop. What was trained outlives an error."""
    try:
        return trainer.steps.get(
            stage, trainer.run.stop_requested, trainer.progress.say
        )
    except BaseException:
        save_alone(trainer, state)
        raise


def train_stage(
    trainer: Trainer, stage: Stage, train_step: Any, last_step: int, state: TrainState
) -> TrainState:
    """Trains to the end of one stage, or until asked to stop."""
    run, position, recipe = trainer.run, trainer.position, trainer.run.recipe
    first_step, speed = position.step, Speed(position.step, recipe.batch_size)
    # Not one more: the next batch is the next stage's.
    batches = itertools.islice(trainer.batches, last_step - position.step)
    for host_batch in speed.watch(batches):
        if run.stop_requested():
            break
        state, metrics = train_step(state, parallel.place_batch(host_batch))
        if position.step == first_step:  # while the device is at work
            show_samples(trainer, stage, host_batch)
        add_to_window(position, metrics)
        position.damaged = trainer.batches.damaged
        trainer.progress.advance()
        trainer.watchdog.touch()
        if is_due(position.step, recipe.log_every_steps, recipe):
            log_window(trainer, speed)
        if evaluate_and_save(trainer, state):
            speed.restart(position.step)
    return state

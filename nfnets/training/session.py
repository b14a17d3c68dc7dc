"""What a run is made of: settings, data, network, compiled step, first state."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from nfnets.data.backends import choose_backend, describe_backend
from nfnets.data.label_sets import open_label_sets
from nfnets.data.mixing import check_mixing
from nfnets.data.pipeline import TrainIterator, make_train_iter
from nfnets.data.sources import Source
from nfnets.training import checkpoint, parallel, processes, workdir
from nfnets.training.boards import Boards, open_boards
from nfnets.training.checkpoint_scores import NOT_EVALUATED, read_score
from nfnets.training.initial_weights import initial_variables
from nfnets.training.learner import Learner, make_learner
from nfnets.training.metrics import Row
from nfnets.training.optimizer import count_trained
from nfnets.training.recipe import Recipe
from nfnets.training.report import RunFacts
from nfnets.training.run_data import (
    check_label_sets,
    check_same_everywhere,
    describe_data,
    digest_of,
    open_split,
)
from nfnets.training.stages import describe_stages
from nfnets.training.state import TrainState

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same from the first step to the last."""

    recipe: Recipe
    directory: epath.Path
    learner: Learner
    train_source: Source
    test_source: Source
    label_sets: np.ndarray | None  # int32 [K, L]; None where an image has one label
    facts: RunFacts
    boards: Boards
    stop_requested: Callable[[], bool]  # the same answer on every process


@dataclasses.dataclass
class Position:
    """Where the host is.

    Attributes:
      step: steps done.
      window: metrics of the steps since the last row, as float values.
      damaged: damaged images met since the start of the run, by this process.
      evaluated_step: the last step that was evaluated, -1 before the first.
      saved_step: the last step known to be on the disk, -1 before the first.
      saving_step: the step whose save is under way, -1 when none is.
      failed_saves: in a row.
      label_sets: sha256 of the sets that the steps were made with; None without.
      backend: of the input, ``native`` or ``python``.
      seconds: wall-clock time that the run had taken when this process went on with it.
      started: when that was, by ``time.monotonic``.
    """

    step: int = 0
    window: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    damaged: int = 0
    evaluated_step: int = -1
    saved_step: int = -1
    saving_step: int = -1
    failed_saves: int = 0
    label_sets: str | None = None
    backend: str | None = None
    seconds: float = 0.0
    started: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds of the run until now, without what was lost."""
        return self.seconds + time.monotonic() - self.started

    def fetch_window(self) -> None:
        """Brings the window's metrics to the host as Python numbers (exact)."""
        self.window = [
            {name: np.asarray(value).item() for name, value in metrics.items()}
            for metrics in parallel.fetch(self.window)
        ]

    def record(self) -> dict[str, Any]:
        """What is saved with a checkpoint, so that the next rows resume exactly."""
        return {
            "step": self.step,
            "window": list(self.window),
            "damaged": processes.total(self.damaged),
            "num_devices": parallel.num_devices(),
            "label_sets": self.label_sets,
            "backend": self.backend,
            "seconds": self.elapsed,
        }


def prepare(
    recipe: Recipe,
    directory: epath.Path,
    log: Log,
    stop_requested: Callable[[], bool],
    command: str,
    changes: dict[str, str],
    wandb_project: str | None = None,
) -> Run:
    """Checks everything that can be wrong before anything is compiled."""
    train_source = open_split(recipe, "train")
    test_source = open_split(recipe, recipe.eval.split)
    recipe = recipe.for_source(
        num_train=len(train_source), num_classes=train_source.num_classes
    )
    label_sets = open_label_sets(recipe.data.label_sets, train_source.class_names)
    num_devices = parallel.num_devices()
    parallel.check_divisible(recipe.batch_size, recipe.accumulation_steps)
    for stage in recipe.stages:
        check_mixing(stage.augment, recipe.batch_size // num_devices)
    learner = make_learner(recipe)
    check_same_everywhere(recipe, label_sets, train_source, test_source)
    facts = RunFacts(
        command=command,
        changes=changes,
        num_params=learner.num_params,
        num_trained=count_trained(learner.shapes.params, recipe.optim),
        devices=parallel.describe(),
        data=describe_data(recipe, label_sets, train_source, test_source),
    )
    log_start(recipe, facts, directory, log)
    return Run(
        recipe=recipe,
        directory=directory,
        learner=learner,
        train_source=train_source,
        test_source=test_source,
        label_sets=label_sets,
        facts=facts,
        boards=open_boards(directory, recipe.to_dict(), wandb_project, log),
        stop_requested=processes.StopVote(stop_requested),
    )


def log_start(recipe: Recipe, facts: RunFacts, directory: epath.Path, log: Log) -> None:
    """Says what is trained, on what and where."""
    some = ""
    if facts.num_trained < facts.num_params:
        some = f", {facts.num_trained:,} of them trained"
    log(f"model    {recipe.model}: {facts.num_params:,} parameters{some}")
    log(f"data     {facts.data}")
    log(f"input    {describe_backend(recipe.data.backend)}")
    log(f"devices  {facts.devices}, batch {recipe.batch_size}")
    log(f"run      {recipe.total_steps} steps in {directory}")
    for line in describe_stages(recipe.stages):
        log(f"stage    {line}")
    if recipe.model.startswith("nfnet") and recipe.optim.agc_clipping is None:
        log(
            "note     NFNets may diverge without adaptive gradient clipping; the "
            "paper's is --config.optim.agc_clipping=0.01"
        )


def restore_or_init(run: Run, manager: Any, log: Log) -> tuple[TrainState, Position]:
    """The newest whole checkpoint, or the state before the first step."""
    recipe, backend = run.recipe, choose_backend(run.recipe.data.backend)
    restored = checkpoint.restore_latest(manager, run.learner.shapes, log)
    processes.on_main(lambda: drop_torn_row(run.directory, log))
    rows = workdir.read_rows(run.directory)
    if restored is None:
        variables = initial_variables(recipe, run.learner.model, log)
        state = run.learner.init(variables)
        position = Position(label_sets=digest_of(run.label_sets), backend=backend)
    else:
        state, record = restored.state, dict(restored.record)
        saved_on, made_by = record.pop("num_devices"), record.pop("backend", None)
        log_differences(saved_on, made_by, backend, log)
        position = Position(**record, saved_step=record["step"], backend=backend)
        check_label_sets(recipe, run.label_sets, position.label_sets, position.step)
        position.damaged = processes.share_of(position.damaged)
        evaluated = {row["step"] for row in rows if "eval/top1" in row}
        folder = epath.Path(manager.directory) / str(position.step)
        # Else it was stopped before the score was with the checkpoint.
        is_scored = position.step in evaluated and read_score(folder) > NOT_EVALUATED
        if processes.all_agree(is_scored):
            position.evaluated_step = position.step
    if rows or restored is not None:
        log(f"resume   from step {position.step}")
        log_row(run, position, {"event": "resumed"})
    return parallel.place_state(state), position


def log_differences(saved_on: int, made_by: str | None, backend: str, log: Log) -> None:
    """Says what is no longer as it was when a checkpoint was saved.

    Args:
      saved_on: devices.
      made_by: input backend; None of a checkpoint from before it was recorded.
      backend: of now.
      log: is told.
    """
    if saved_on != parallel.num_devices():
        log(f"note     saved on {saved_on} devices: other random draws from here on")
    if made_by not in (None, backend):
        log(
            f"note     trained with the {made_by} input backend: from here on some "
            f"pixels differ by a grey level, and damage in images may be noticed or not"
        )


def drop_torn_row(directory: epath.Path, log: Log) -> None:
    """Mends a metrics.jsonl whose last line a crash cut short, and says so."""
    if workdir.drop_torn_row(directory):
        log("the last line of metrics.jsonl was cut short by a crash; removed")


def log_row(run: Run, position: Position, values: Row) -> Row:
    """Gives a row of this step; process 0 writes it (metrics.jsonl, boards)."""
    row = {
        "step": position.step,
        "epoch": position.step / run.recipe.steps_per_epoch,
        **values,
    }
    if processes.is_main():
        workdir.append_row(run.directory, row)
        run.boards.write(position.step, values)
    return row


def make_batches(
    recipe: Recipe, source: Source, log: Log, *, start_step: int = 0, damaged: int = 0
) -> TrainIterator:
    """The batches of all steps from ``start_step`` on, through all stages.

    Each process makes its own devices' share.

    Args:
      recipe: with ``for_source`` applied.
      source: the training split.
      log: is told of each damaged image once.
      start_step: steps done before.
      damaged: images that were damaged in them, in this process's share.
    """
    return make_train_iter(
        source,
        stages=recipe.stages,
        batch_size=recipe.batch_size,
        num_devices=len(parallel.devices()),
        seed=recipe.seed,
        start_step=start_step,
        max_damaged=recipe.data.max_damaged,
        threads=recipe.data.threads,
        backend=recipe.data.backend,
        drop_last=recipe.data.drop_last,
        log=log,
        damaged=damaged,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )

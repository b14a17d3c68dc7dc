"""Input and train step alone and together: which of them a run would wait for.

The loader, the step and the loop of training (``loop.train_stage``), in turns. Where
host and accelerator share no cores, the loop is as fast as the slower of the two if
one hides behind the other.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from nfnets.step_benchmark import trace
from nfnets.training import parallel
from nfnets.training.between_steps import STEPS_AHEAD
from nfnets.training.recipe import Recipe
from nfnets.training.run_data import open_split
from nfnets.training.session import make_batches
from nfnets.training.step_time import PreparedStep, prepare_step

ROUNDS = 5
# The data of a run, however long it is measured.
ENDLESS_EPOCHS = 1e6


@dataclasses.dataclass(frozen=True)
class LoopSpeed:
    """Images per second over all devices of this process, medians of the rounds.

    Attributes:
      input: of the loader alone, which nobody waits for.
      step: of the train step alone, on a batch that is on the device.
      both: of the loop: a batch is made, sent and trained on.
      waiting: share of the loop's time that it waited for the loader.
    """

    input: float
    step: float
    both: float
    waiting: float

    @property
    def bottleneck(self) -> str:
        """The slower of the two, by which the loop is bound."""
        return "input" if self.input < self.step else "step"


def measure_loop(
    recipe: Recipe,
    seconds: float,
    log: Callable[[str], None],
    profile: str | None = None,
) -> LoopSpeed:
    """Measures a recipe's input, step and loop in turns.

    Args:
      recipe: trained at its first stage's size, on the data that it names.
      seconds: of each of the three in each of ``ROUNDS`` rounds, more than 0.
      log: is told what is compiled, and of damaged images.
      profile: directory for a trace of the last round's loop; None traces nothing.

    Raises:
      UserError: the data cannot be read, or do not fit the recipe.
    """
    source = open_split(recipe, "train")
    recipe = dataclasses.replace(recipe, num_epochs=ENDLESS_EPOCHS).for_source(
        num_train=len(source), num_classes=source.num_classes
    )
    parallel.check_divisible(recipe.batch_size, recipe.accumulation_steps)
    prepared = prepare_step(recipe, log)
    rounds = []
    with make_batches(recipe, source, log) as batches:
        next(batches)
        for number in range(ROUNDS):
            traced = profile if number == ROUNDS - 1 else None
            rounds.append(_measure_round(prepared, batches, seconds, traced))
    for line in trace.describe_device_time(profile) if profile else []:
        log(line)
    images = recipe.batch_size // jax.process_count()
    loader, step, both, waiting = map(statistics.median, zip(*rounds, strict=True))
    return LoopSpeed(images * loader, images * step, images * both, waiting)


def format_loop(name: str, speed: LoopSpeed) -> str:
    """The speeds as a Markdown table, and what they say."""
    slower = min(speed.input, speed.step)
    return (
        f"Devices: {parallel.describe()}.\n\n"
        "| recipe: model | input alone, images/s | step alone | both | both, of the "
        "slower | waiting for input | bottleneck |\n|---|---|---|---|---|---|---|\n"
        f"| {name} | {speed.input:.1f} | {speed.step:.1f} | {speed.both:.1f} | "
        f"{speed.both / slower:.0%} | {speed.waiting:.1%} | {speed.bottleneck} |"
    )


def _measure_round(
    prepared: PreparedStep, batches: Iterator[Any], seconds: float, profile: str | None
) -> tuple[float, float, float, float]:
    """Batches per second of loader, step and loop, and the loop's share of waiting."""
    on_device = itertools.repeat(parallel.place_batch(prepared.batch))
    train = _make_train(prepared)
    loader, _ = _run(batches, lambda batch: None, seconds)
    step, _ = _run(on_device, train, seconds)
    with contextlib.nullcontext() if profile is None else trace.record(profile):
        both, waiting = _run(batches, lambda b: train(parallel.place_batch(b)), seconds)
    return loader, step, both, waiting


def _make_train(prepared: PreparedStep) -> Callable[[Any], Any]:
    """Trains on a batch that is on the devices; gives the step's metrics."""
    state = prepared.placed_state()

    def train(batch: Any) -> Any:
        nonlocal state
        state, metrics = prepared.step(state, batch)
        return metrics

    return train


def _run(
    batches: Iterator[Any], use: Callable[[Any], Any], seconds: float
) -> tuple[float, float]:
    """Batches per second, and the share of the time that was spent on getting them.

    Args:
      batches: endless.
      use: what is done with a batch; gives what there is to wait for.
      seconds: how long.
    """
    pending: collections.deque[Any] = collections.deque()
    count, waited, started = 0, 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        pending.append(use(batch))
        if len(pending) > STEPS_AHEAD:
            jax.block_until_ready(pending.popleft())
        count += 1
    jax.block_until_ready(list(pending))
    elapsed = time.perf_counter() - started
    return count / elapsed, waited / elapsed

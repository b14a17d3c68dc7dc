"""How long a train step takes on the device at hand, beside another one.

Machines slow down and speed up while one measures, so two steps are timed in turns, and
the ratio is taken of neighbours in time. What is timed is the step that training
compiles (``compiled_steps.compile_step``), with its batch on the device.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nfnets.training import parallel, processes
from nfnets.training.dry_run import compile_and_draw, random_batch
from nfnets.training.learner import make_learner
from nfnets.training.recipe import Recipe

BLOCKS = 11
WARM_UP_STEPS = 1
# A block is timed as a whole, and long enough for the clock and the dispatch to vanish.
SECONDS_PER_BLOCK = 0.2


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of a train step, and of another one at the same time.

    Attributes:
      seconds: median over blocks.
      reference_seconds: of the other one, likewise.
      ratio: median over pairs of neighbouring blocks.
      spread: standard deviation of these pairs' ratios over their median.
    """

    seconds: float
    reference_seconds: float
    ratio: float
    spread: float


# Seconds per step of a block of so many steps.
Timer = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class PreparedStep:
    """A compiled train step, and what to call it with.

    Attributes:
      step: (state, batch) -> (state, metrics), on all devices of this process.
      state: the one before the first step, on the host.
      batch: random pixels and labels, on the host; device axis first.
      compile_seconds: tracing included; 0 with several processes, where the first call
        compiles.
      image_size: pixels.
      flops_per_mac: floating-point operations per multiply-add of a forward pass: 2 for
        that pass, and twice as many for gradients.
    """

    step: Any
    state: Any
    batch: dict[str, np.ndarray]
    compile_seconds: float
    image_size: int
    flops_per_mac: float

    def placed_state(self) -> Any:
        """A copy of the state on the devices, for the step to take over."""
        return parallel.place_state(jax.tree.map(np.copy, self.state))


def prepare_step(recipe: Recipe, log: Callable[[str], None]) -> PreparedStep:
    """Compiles the first stage's step of a recipe.

    Args:
      recipe: with ``for_source`` applied.
      log: is told how long compiling took.
    """
    stage, learner = recipe.stages[0], make_learner(recipe)
    compiled, variables = compile_and_draw(stage, recipe, learner, log)
    log(f"compile  {compiled.seconds:.1f} s at {stage.image_size} px")
    ascent = recipe.sam.batch_fraction if recipe.sam.rho else 0.0
    return PreparedStep(
        compiled.step,
        jax.device_get(learner.init(variables)),
        random_batch(recipe, stage),
        compiled.seconds,
        image_size=stage.image_size,
        flops_per_mac=6 * (1 + ascent),
    )


def make_timer(prepared: PreparedStep) -> Timer:
    """Runs and times a step.

    The state lies on the device only while a block runs, so that a timer kept for
    long takes no memory there.
    """

    def time_block(steps: int) -> float:
        state = prepared.placed_state()
        batch = parallel.place_batch(prepared.batch)
        for _ in range(WARM_UP_STEPS):
            state, _ = prepared.step(state, batch)
        jax.block_until_ready(state)
        started = time.perf_counter()
        for _ in range(steps):
            state, _ = prepared.step(state, batch)
        jax.block_until_ready(state)
        return (time.perf_counter() - started) / steps

    return time_block


def compare(timer: Timer, reference: Timer) -> StepTime:
    """Times two steps in turns, the order of each pair reversed after the last's."""
    num_steps = [_steps_per_block(each) for each in (timer, reference)]
    pairs = []
    for block in range(BLOCKS):
        timed = {}
        for which in (0, 1) if block % 2 == 0 else (1, 0):
            timed[which] = (timer, reference)[which](num_steps[which])
        pairs.append((timed[0], timed[1]))
    return summarize(pairs)


def summarize(pairs: list[tuple[float, float]]) -> StepTime:
    """From (its, the reference's) seconds of neighbouring blocks."""
    ratios = [ours / theirs for ours, theirs in pairs]
    ratio = statistics.median(ratios)
    return StepTime(
        seconds=statistics.median(ours for ours, _ in pairs),
        reference_seconds=statistics.median(theirs for _, theirs in pairs),
        ratio=ratio,
        spread=statistics.pstdev(ratios) / ratio,
    )


def _steps_per_block(timer: Timer) -> int:
    timer(1)  # what the first call does beside computing is not timed
    steps = max(1, math.ceil(SECONDS_PER_BLOCK / timer(1)))
    # All processes must run the same number.
    return processes.total(steps) // jax.process_count()

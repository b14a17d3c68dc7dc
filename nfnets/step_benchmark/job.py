"""What a process that times one train step is told, and what it answers."""

from __future__ import annotations

import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP_STEPS = 3
TRACED_STEPS = 3
BLOCKS = 5


@dataclasses.dataclass(frozen=True)
class StepJob:
    """One train step; strings and numbers only, since it travels as JSON.

    Attributes:
      recipe: ``Recipe.to_dict``.
      form: how the step is built (`forms`).
      seconds: for how long it is timed, about.
      profile: folder for a profile of ``TRACED_STEPS`` steps; None makes none.
    """

    recipe: dict[str, Any]
    form: str
    seconds: float
    profile: str | None = None


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What a train step took.

    Attributes:
      seconds: per step by the clock, median over blocks of steps.
      spread: standard deviation over the blocks, over the median.
      cpu_seconds: of the process, per step.
      first_seconds: from the network's making to the end of the first step, compiling
        included.
      memory_bytes: the most that was in use: of the device, on our side since the start
        and on timm's while it was timed; or on a CPU of the process.
      loss: of the last step, to see that it trained.
      params: number of parameters.
      note: what was chosen where the form leaves a choice.
    """

    seconds: float
    spread: float
    cpu_seconds: float
    first_seconds: float
    memory_bytes: int
    loss: float
    params: int
    note: str = ""


def time_steps(
    run: Callable[[], None], wait: Callable[[], None], seconds: float
) -> tuple[float, float, float]:
    """Median seconds of a step, their spread, and CPU seconds of a step.

    Args:
      run: starts one step.
      wait: until all that were started are done.
      seconds: for how long, about.
    """
    for _ in range(WARM_UP_STEPS):
        run()
    wait()
    started = time.perf_counter()
    run()
    wait()
    one = time.perf_counter() - started
    steps = max(1, round(seconds / BLOCKS / one))
    blocks, cpu = [], time.process_time()
    for _ in range(BLOCKS):
        started = time.perf_counter()
        for _ in range(steps):
            run()
        wait()
        blocks.append((time.perf_counter() - started) / steps)
    cpu = (time.process_time() - cpu) / (BLOCKS * steps)
    median = statistics.median(blocks)
    return median, statistics.pstdev(blocks) / median, cpu


def process_memory() -> int:
    """The most bytes that this process had in memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

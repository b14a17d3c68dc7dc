"""Our train step in a process of its own: ``python -m nfnets.step_benchmark.ours``.

Its arguments are a file with a `StepJob` and the file that the `StepResult` goes to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax

from nfnets.layers import ConvForm, force_conv_form
from nfnets.step_benchmark.job import StepJob, StepResult, process_memory, time_steps
from nfnets.training import parallel
from nfnets.training.recipe import Recipe
from nfnets.training.step_time import prepare_step

# What the backend's default is compared with; `layers.ConvForm`.
CONV_FORMS: tuple[ConvForm, ...] = ("native", "split", "dense")


def measure(job: StepJob) -> StepResult:
    """Times the step of ``compile_step``, on a batch that stays on the device."""
    recipe = Recipe.from_config(job.recipe)
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        for form in CONV_FORMS:
            if job.form == f"ours {form}":
                stack.enter_context(force_conv_form(form))
        prepared = prepare_step(recipe, lambda line: None)
    state, batch = prepared.placed_state(), parallel.place_batch(prepared.batch)
    metrics: Any = None

    def run() -> None:
        nonlocal state, metrics
        state, metrics = prepared.step(state, batch)

    def wait() -> None:
        jax.block_until_ready((state, metrics))

    run()
    wait()
    first = time.perf_counter() - started
    seconds, spread, cpu = time_steps(run, wait, job.seconds)
    return StepResult(
        seconds=seconds,
        spread=spread,
        cpu_seconds=cpu,
        first_seconds=first,
        memory_bytes=_memory(),
        loss=float(metrics["loss"]),
        params=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        note=f"compile {prepared.compile_seconds:.1f} s",
    )


def _memory() -> int:
    """Of the device; a CPU has none of its own."""
    stats = parallel.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or process_memory()


def main(argv: list[str]) -> None:
    """Reads the job, writes the result."""
    job = StepJob(**json.loads(Path(argv[1]).read_text(encoding="utf-8")))
    result = json.dumps(dataclasses.asdict(measure(job)))
    Path(argv[2]).write_text(result, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv)

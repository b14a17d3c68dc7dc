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

import jax

from nfnets.conv import force_conv_forms
from nfnets.step_benchmark import trace, turns
from nfnets.step_benchmark.forms import parse_our_form
from nfnets.step_benchmark.job import (
    TRACED_STEPS,
    StepJob,
    StepResult,
    process_memory,
    time_steps,
)
from nfnets.training import parallel
from nfnets.training.recipe import Recipe
from nfnets.training.step_time import prepare_step


def measure(job: StepJob) -> StepResult:
    """Times the step of ``compile_step``, on a batch that stays on the device."""
    recipe = Recipe.from_config(job.recipe)
    forms = parse_our_form(job.form).conv
    with turns.compiling():
        started = time.perf_counter()
        with force_conv_forms(forms) if forms else contextlib.nullcontext():
            prepared = prepare_step(recipe, lambda line: None)
        state, batch = prepared.placed_state(), parallel.place_batch(prepared.batch)
        state, metrics = prepared.step(state, batch)
        jax.block_until_ready(metrics)
        first = time.perf_counter() - started

    def run() -> None:
        nonlocal state, metrics
        state, metrics = prepared.step(state, batch)

    def wait() -> None:
        jax.block_until_ready((state, metrics))

    notes = [f"compile {prepared.compile_seconds:.1f} s"]
    with turns.timing():
        seconds, spread, cpu = time_steps(run, wait, job.seconds)
        if job.profile is not None:
            with trace.record(job.profile):
                for _ in range(TRACED_STEPS):
                    run()
                wait()
            trace.write_program(job.profile, prepared.step)
            notes += trace.describe_device_time(job.profile)[:1]
    return StepResult(
        seconds=seconds,
        spread=spread,
        cpu_seconds=cpu,
        first_seconds=first,
        memory_bytes=_memory(),
        loss=float(metrics["loss"]),
        params=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        note=", ".join(notes),
    )


def _memory() -> int:
    """Of the device, compiling included; a CPU has none of its own."""
    stats = parallel.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or process_memory()


def main(argv: list[str]) -> None:
    """Reads the job, writes the result."""
    job = StepJob(**json.loads(Path(argv[1]).read_text(encoding="utf-8")))
    result = json.dumps(dataclasses.asdict(measure(job)))
    Path(argv[2]).write_text(result, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv)

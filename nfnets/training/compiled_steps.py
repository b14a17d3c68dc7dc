"""Compiled train steps, one per setting; each while something else is done."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import jax
import numpy as np

from nfnets.data.pipeline import train_batch_shapes
from nfnets.training import parallel, processes
from nfnets.training.learner import Learner
from nfnets.training.recipe import Recipe
from nfnets.training.stages import Stage
from nfnets.training.steps import make_train_step

Log = Callable[[str], None]

# What XLA is told beside its defaults, by backend, where XLA_FLAGS say nothing else
# (docs/benchmarks.md). With several processes the flags alone count (docs/launch.md).
COMPILER_OPTIONS: dict[str, dict[str, Any]] = {
    "gpu": {
        # Else what is cast to bfloat16 may be kept in float32 too: the step of NFNet-F0
        # would write a third more, each gradient of an activation twice.
        "xla_allow_excess_precision": False,
        # No search for tilings of Triton's matrix products: these networks' few
        # products are cuBLAS's then, and ResNet-50's step takes as long.
        "xla_gpu_enable_triton_gemm": False,
    }
}

# While waiting for the compiler, whether the run is to stop.
SECONDS_BETWEEN_LOOKS = 0.5


def abstract_batch(recipe: Recipe, stage: Stage) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of this process's share of a batch, device axis first."""
    shapes = train_batch_shapes(
        stage.augment,
        stage.image_size,
        recipe.batch_size // parallel.num_devices(),
        len(parallel.devices()),
    )
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A train step and what its compilation took; 0 where it comes with its first call.

    Attributes:
      step: (state, batch) -> (state, metrics), on all devices of this process.
      seconds: of compilation, tracing included.
    """

    step: Any
    seconds: float


def compile_step(
    stage: Stage, recipe: Recipe, learner: Learner, label_sets: np.ndarray | None
) -> Compiled:
    """The train step of a stage.

    Args:
      stage: what it is for.
      recipe: with ``for_source`` applied.
      learner: of ``make_learner``; its shapes are all that is needed of a state.
      label_sets: of ``open_label_sets``.
    """
    model = learner.model.clone(drop_rate=stage.drop_rate)
    step = parallel.pmap_train_step(
        make_train_step(
            model, learner.tx, recipe, parallel.AXIS, stage=stage, label_sets=label_sets
        )
    )
    if jax.process_count() > 1:  # pmap cannot be compiled ahead of its call there
        return Compiled(step, 0.0)
    started = time.monotonic()
    lowered = step.lower(learner.shapes, abstract_batch(recipe, stage))
    compiled = lowered.compile(compiler_options(jax.default_backend()))
    return Compiled(compiled, time.monotonic() - started)


def compiler_options(backend: str) -> dict[str, Any]:
    """Those of `COMPILER_OPTIONS` that the environment's XLA_FLAGS leave open."""
    flags = os.environ.get("XLA_FLAGS", "")
    options = COMPILER_OPTIONS.get(backend, {})
    return {name: v for name, v in options.items() if f"--{name}" not in flags}


def memory_of(step: Any) -> int | None:
    """Bytes that a compiled step needs on a device; None where that is not known.

    Its state counts once: the new one takes the old one's place.
    """
    # With several processes a step is not compiled yet, and some backends do not tell.
    analysis = getattr(step, "memory_analysis", lambda: None)()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def traffic_of(step: Any) -> float | None:
    """Bytes that a compiled step reads and writes; None where that is not known."""
    costs = getattr(step, "cost_analysis", lambda: None)()
    return None if not costs else costs.get("bytes accessed")


class CompiledSteps:
    """The steps of a run's stages, each setting compiled once, in threads of their own.

    With several processes nothing is compiled ahead, and there are no threads.

    Args:
      compile_stage: ``compile_step`` of a run.
    """

    def __init__(self, compile_stage: Callable[[Stage], Compiled]) -> None:
        self._compile_stage = compile_stage
        self._found: dict[Stage, Future[Compiled]] = {}
        self._told: set[Stage] = set()

    def start(self, stage: Stage, log: Log) -> None:
        """Begins to compile a stage's step, unless that was begun before.

        ``log`` is told at once when it fails.
        """
        setting = dataclasses.replace(stage, steps=0)
        if setting in self._found:
            return
        future: Future[Compiled] = Future()
        self._found[setting] = future

        def run() -> None:
            try:
                future.set_result(self._compile_stage(stage))
            except BaseException as error:
                text = " ".join(str(error).split())[:300]
                log(f"compile  failed at {stage.image_size} px: {text}")
                future.set_exception(error)

        if jax.process_count() > 1:
            run()
        else:
            threading.Thread(target=run, name=processes.COMPILING).start()

    def get(self, stage: Stage, stop_requested: Callable[[], bool], log: Log) -> Any:
        """The stage's step, when it is compiled; None when asked to stop before that.

        ``log`` is told the first time what that took.

        Raises:
          Exception: what compiling it raised.
        """
        started = time.monotonic()
        setting = dataclasses.replace(stage, steps=0)
        ahead = setting in self._found
        self.start(stage, log)
        future = self._found[setting]
        while not future.done():
            if stop_requested():
                return None
            wait([future], timeout=SECONDS_BETWEEN_LOOKS)
        compiled = future.result()
        if setting not in self._told:
            self._told.add(setting)
            waited = f" in the background, waited {time.monotonic() - started:.1f} s"
            when = f"{compiled.seconds:.1f} s{waited if ahead else ''}"
            when = when if compiled.seconds else "with the first step"
            log(f"compile  {when} at {stage.image_size} px")
        return compiled.step

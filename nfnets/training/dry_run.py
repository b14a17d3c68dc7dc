"""What a recipe costs, without its data: counts, memory, one synthetic step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from nfnets import flops
from nfnets.data.label_sets import stand_in_label_sets
from nfnets.data.mixing import check_mixing
from nfnets.errors import UserError
from nfnets.training import parallel
from nfnets.training.compiled_steps import (
    Compiled,
    abstract_batch,
    compile_step,
    memory_of,
)
from nfnets.training.initial_weights import initial_variables
from nfnets.training.learner import Learner, make_learner
from nfnets.training.recipe import Recipe
from nfnets.training.stages import Stage, describe_stages


def dry_run(recipe: Recipe, log: Callable[[str], None] = print) -> dict[str, float]:
    """Compiles the step of the largest images and runs it once on random ones.

    Args:
      recipe: its ``data.num_train`` is taken as it is, and so is ``data.num_classes``,
        or else ``data.reference_classes``: no data set is opened.
      log: is told parameters, MACs (multiply-adds, the papers' "FLOPs"), memory, times.

    Returns:
      The step's metrics.

    Raises:
      UserError: the batch does not divide, or a device has less memory than the step
        needs (said after compiling, before running).
    """
    stage = max(recipe.stages, key=lambda stage: stage.image_size)
    num_devices = len(parallel.devices())
    parallel.check_divisible(recipe.batch_size, recipe.accumulation_steps)
    check_mixing(stage.augment, recipe.batch_size // num_devices)
    learner = make_learner(recipe)
    model = learner.model
    log(
        f"model    {recipe.model}: "
        f"{learner.num_params / 1e6:.2f} M parameters, "
        f"{_gmacs(model, recipe.eval_image_size)} (test), "
        f"{_gmacs(model, stage.image_size)} (training)"
    )
    log(
        f"recipe   {recipe.name}: {recipe.total_steps} steps of {recipe.batch_size} "
        f"images, peak learning rate {recipe.peak_lr:g}, {recipe.dtype}"
    )
    for line in describe_stages(recipe.stages):
        log(f"stage    {line}")
    if recipe.data.num_classes is None:
        log(f"classes  {recipe.num_classes}, the recipe's own; training asks the data")
    compiled, variables = compile_and_draw(stage, recipe, learner, log)
    log(f"compile  {compiled.seconds:.1f} s at {stage.image_size} px")
    check_memory(compiled.step, log)
    state = parallel.place_state(learner.init(variables))
    batch = parallel.place_batch(random_batch(recipe, stage))
    started = time.monotonic()
    _, metrics = compiled.step(state, batch)
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    log(
        f"step     {time.monotonic() - started:.2f} s on synthetic data, "
        f"loss {values['loss']:.4f}, gradient norm {values['grad_norm']:.4f}"
    )
    return values


def compile_and_draw(
    stage: Stage, recipe: Recipe, learner: Learner, log: Callable[[str], None]
) -> tuple[Compiled, Any]:
    """The stage's step, and the first variables, made while it is compiled.

    Label sets, where the recipe has them, are `stand_in_label_sets`.
    """
    label_sets = stand_in_label_sets(recipe.data.label_sets, recipe.num_classes)
    with ThreadPoolExecutor(max_workers=1) as drawing:
        variables = drawing.submit(initial_variables, recipe, learner.model, log)
        if recipe.init_from is not None:
            variables.result()  # a mistake there is said before anything is compiled
        compiled = compile_step(stage, recipe, learner, label_sets)
        return compiled, variables.result()


def check_memory(step: Any, log: Callable[[str], None]) -> None:
    """Logs what a compiled step needs per device, and compares it with what there is.

    Raises:
      UserError: it needs more.
    """
    needed = memory_of(step)
    if needed is None:
        log("memory   this backend does not say what the step needs")
        return
    available = _device_memory()
    log(f"memory   {needed / 1e9:.2f} GB a device of {available / 1e9:.2f} GB")
    if needed > available:
        raise UserError(
            f"the step needs {needed / 1e9:.2f} GB a device, which has "
            f"{available / 1e9:.2f} GB: lower --config.batch_size, raise "
            f"--config.accumulation_steps, or set --config.remat=true"
        )


def _device_memory() -> int:
    """Bytes one device can use; on CPU the machine's memory, shared by its devices."""
    device = parallel.devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // len(parallel.devices())


def _gmacs(model: Any, image_size: int) -> str:
    macs = flops.count_macs_of(model, image_size)
    return f"{macs / 1e9:.2f} GMACs at {image_size} px"


def random_batch(recipe: Recipe, stage: Stage) -> dict[str, np.ndarray]:
    """A batch of random pixels and labels; device axis first."""
    rng = np.random.default_rng(recipe.seed)
    largest = {"image": 256, "label": recipe.num_classes}
    largest["mix_label"] = largest["label"]

    def draw(name: str, like: Any) -> np.ndarray:
        if name == "ratio":
            return rng.random(like.shape, like.dtype)
        return rng.integers(0, largest[name], like.shape, like.dtype)

    shapes = abstract_batch(recipe, stage)
    return {name: draw(name, like) for name, like in shapes.items()}

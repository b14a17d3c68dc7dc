"""A network's forward pass at its test size, prepared like a train step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets.data.normalization import normalize
from nfnets.initialize import init_variables
from nfnets.training import parallel
from nfnets.training.recipe import Recipe
from nfnets.training.step_time import PreparedStep


def prepare_inference(recipe: Recipe, log: Callable[[str], None]) -> PreparedStep:
    """Compiles the forward pass, in the recipe's dtype, for its batch of test images.

    Args:
      recipe: names network, size, batch and dtype.
      log: is told how long compiling took.
    """
    model, size = recipe.create_model(), recipe.eval_image_size

    def infer(variables: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any]:
        images = normalize(batch["image"], recipe.data.normalization)
        logits = model.apply(variables, images, train=False)
        return variables, jax.lax.pmean(jnp.mean(logits), parallel.AXIS)

    num_devices = len(parallel.devices())
    shape = (num_devices, recipe.batch_size // parallel.num_devices(), size, size, 3)
    pixels = np.random.default_rng(recipe.seed).integers(0, 256, shape, np.uint8)
    variables = jax.device_get(init_variables(model, jax.random.key(recipe.seed), size))
    step, batch = parallel.pmap_train_step(infer), {"image": pixels}
    started = time.monotonic()
    if jax.process_count() == 1:  # pmap cannot be compiled ahead of its call otherwise
        step = step.lower(variables, batch).compile()
    seconds = time.monotonic() - started
    log(f"compile  {seconds:.1f} s at {size} px")
    return PreparedStep(
        step, variables, batch, seconds, image_size=size, flops_per_mac=2
    )

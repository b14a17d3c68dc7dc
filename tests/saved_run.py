"""A run that was not trained: checkpoints of networks by seed, for what reads runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from helpers import tiny_recipe

from nfnets.data.normalization import normalize
from nfnets.initialize import init_variables
from nfnets.training import checkpoint, workdir
from nfnets.training.recipe import Recipe
from nfnets.training.state import TrainState

CLASSES = 12
RECIPE = tiny_recipe(data__num_classes=CLASSES)
PIXELS = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8)


@functools.cache
def network(seed: int) -> Any:
    """Variables whose guesses differ between images."""
    model = RECIPE.create_model()
    variables = init_variables(model, jax.random.key(seed), 8)
    head = variables["params"]["head"]
    head["kernel"] = 100 * head["kernel"]
    apply = jax.jit(lambda v, x: model.apply(v, normalize(x), train=False))
    head["bias"] = -apply(variables, PIXELS).mean(axis=0)
    return variables


def save_run(
    run: Path, scores: dict[int, float | None], recipe: Recipe = RECIPE
) -> None:
    """A run whose checkpoint at step s has ``network(s)``.

    Its average is that of seed s + 1.
    """
    run.mkdir()
    workdir.claim(epath.Path(run), recipe)
    with checkpoint.open_manager(epath.Path(run) / workdir.CHECKPOINTS, str) as manager:
        for step, score in scores.items():
            state = TrainState(
                step=jnp.asarray(step, jnp.int32),
                params=network(step)["params"],
                batch_stats={},
                opt_state=(),
                ema_params=network(step + 1)["params"],
                ema_batch_stats={},
                skipped=jnp.zeros(2, jnp.int32),
            )
            checkpoint.save(manager, state, {"step": step}, score)
            checkpoint.finish(manager)

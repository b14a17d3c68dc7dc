"""The weights a run starts from: random ones, or those of a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import traverse_util

from nfnets.errors import UserError
from nfnets.initialize import init_variables
from nfnets.training.recipe import Recipe
from nfnets.weights import load_weights


def initial_variables(recipe: Recipe, model: Any, log: Callable[[str], None]) -> Any:
    """Variables before the first step, drawn from ``recipe.seed`` or read from a file.

    A file may have another number of classes: its classifier is left out then, and the
    fresh one is kept, as in fine-tuning.

    Args:
      recipe: names the model and, in ``init_from``, the file.
      model: the network, as ``recipe.create_model`` gives.
      log: is told what was read.

    Raises:
      UserError: the file cannot be read, or holds another network.
    """
    size = recipe.train_image_size
    fresh = init_variables(model, jax.random.key(recipe.seed), size)
    if recipe.init_from is None:
        return fresh
    loaded = read_weights(recipe)
    flat = traverse_util.flatten_dict(loaded)
    wanted = traverse_util.flatten_dict(fresh)
    other = {path for path, leaf in wanted.items() if flat[path].shape != leaf.shape}
    if {path[1] for path in other} - {"head"}:
        names = ", ".join(sorted("/".join(path) for path in other)[:4])
        raise UserError(
            f"{recipe.init_from} does not fit {recipe.model} as the config has it: "
            f"other shapes of {names}"
        )
    log(f"weights  from {recipe.init_from}")
    if other:
        log(f"note     its classifier has not {recipe.num_classes} classes: fresh")
    chosen = {p: wanted[p] if p[1] == "head" and other else flat[p] for p in wanted}
    return traverse_util.unflatten_dict(chosen)


def read_weights(recipe: Recipe) -> Any:
    """The variables in ``recipe.init_from``, for the network as the recipe has it."""
    assert recipe.init_from is not None
    return load_weights(recipe.model, recipe.init_from, overrides=recipe.overrides)

"""The weights a run starts from: random ones, those of a file, or those of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import traverse_util

from nfnets.errors import UserError
from nfnets.initialize import init_variables
from nfnets.training import workdir
from nfnets.training.recipe import Recipe
from nfnets.training.run_weights import read_run
from nfnets.training.storage import as_path
from nfnets.weights import load_weights


def initial_variables(recipe: Recipe, model: Any, log: Callable[[str], None]) -> Any:
    """Variables before the first step, drawn from ``recipe.seed`` or read.

    What is read may have another number of classes: its classifier is left out then,
    and the fresh one is kept, as in fine-tuning.

    Args:
      recipe: names the model and, in ``init_from``, the file or run.
      model: the network, as ``recipe.create_model`` gives.
      log: is told where they are from.

    Raises:
      UserError: it cannot be read, or holds another network.
    """
    size = recipe.train_image_size
    fresh = init_variables(model, jax.random.key(recipe.seed), size)
    if recipe.init_from is None:
        log(f"weights  random, by seed {recipe.seed}")
        return fresh
    loaded, origin = read_weights(recipe)
    flat = traverse_util.flatten_dict(loaded)
    wanted = traverse_util.flatten_dict(fresh)
    other = {path for path, leaf in wanted.items() if flat[path].shape != leaf.shape}
    if {path[1] for path in other} - {"head"}:
        names = ", ".join(sorted("/".join(path) for path in other)[:4])
        raise UserError(
            f"{recipe.init_from} does not fit {recipe.model} as the config has it: "
            f"other shapes of {names}"
        )
    log(f"weights  from {origin}")
    if other:
        log(f"note     its classifier has not {recipe.num_classes} classes: fresh")
    chosen = {p: wanted[p] if p[1] == "head" and other else flat[p] for p in wanted}
    return traverse_util.unflatten_dict(chosen)


def read_weights(recipe: Recipe) -> tuple[Any, str]:
    """The variables in ``recipe.init_from``, for the network as the recipe has it.

    Returns:
      The variables, and what they are, for logs.
    """
    assert recipe.init_from is not None
    path = as_path(recipe.init_from)
    if path.is_dir() or path.parent.name == workdir.CHECKPOINTS:
        return read_run(recipe, path)
    variables = load_weights(
        recipe.model, path, overrides=recipe.overrides, in_channels=3
    )
    return variables, recipe.init_from

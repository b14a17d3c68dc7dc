"""The weights that are tested or predict with: of a run's checkpoint, or of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from etils import epath

from nfnets.errors import UserError
from nfnets.training.initial_weights import read_weights
from nfnets.training.recipe import Recipe
from nfnets.training.run_weights import check_network, read_all_weights

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Tested:
    """What is tested.

    Attributes:
      recipe: says how images are cropped; with the number of classes in place.
      by_prefix: variables, {"eval": ...} and perhaps {"eval_ema": ...}.
      facts: for the results: "model", "weights" (in words), "checkpoint" ("last",
        "best", "step", or "file") and "step" (None of a file).
      run: its work directory; None of a file.
    """

    recipe: Recipe
    by_prefix: dict[str, Any]
    facts: dict[str, Any]
    run: epath.Path | None = None

    @property
    def num_classes(self) -> int:
        """Width of the classifier."""
        return self.by_prefix["eval"]["params"]["head"]["bias"].shape[0]


def read_run_weights(
    run: epath.Path,
    recipe: Recipe | None,
    which: int | Literal["best"] | None,
    log: Log,
) -> Tested:
    """Weights, and moving average where there is one, of a run's checkpoint.

    Args:
      run: the work directory; nothing in it is changed.
      recipe: says how images are cropped and where val is; None takes the run's own.
      which: a step; None takes the last checkpoint, "best" the best by its evaluation.
      log: is told which checkpoint it is.

    Raises:
      UserError: there is none, or it is of another network than the recipe's.
    """
    found = read_all_weights(run, which)
    theirs, recipe = found.recipe, recipe or found.recipe
    if recipe.model != theirs.model:
        raise UserError(
            f"the run in {run} has the model {theirs.model}, the config "
            f"{recipe.model}; leave out --config, or set --config.model={theirs.model}"
        )
    check_network(recipe, theirs, run, found.by_prefix["eval"])
    checkpoint = {None: "last", "best": "best"}.get(which, "step")  # type: ignore[arg-type]
    text = f"{run} step {found.step} of {theirs.total_steps}"
    log(f"weights  {theirs.model} from {text} ({checkpoint} checkpoint)")
    if which == "best":
        log("note     the best was chosen by its score on the evaluation split")
    facts = {
        "model": theirs.model,
        "weights": text,
        "checkpoint": checkpoint,
        "step": found.step,
    }
    return Tested(recipe, found.by_prefix, facts, run)


def read_file_weights(recipe: Recipe, log: Log) -> Tested:
    """The weights that ``recipe.init_from`` names.

    Raises:
      UserError: they cannot be read.
    """
    variables, origin = read_weights(recipe)
    log(f"weights  {recipe.model} from {origin}")
    facts = {"weights": origin, "checkpoint": "file", "step": None}
    return Tested(recipe, {"eval": variables}, {"model": recipe.model} | facts)


def check_size(model: Any, variables: Any, size: int) -> None:
    """Refuses a size that the network cannot take, before the first is computed."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    try:
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{type(model).__name__} cannot take images of {size} px: {reason}"
        ) from error

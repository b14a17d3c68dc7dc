"""The weights of a run of ours, out of its work directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from etils import epath
from flax import traverse_util

from nfnets import registry
from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.training import checkpoint, workdir
from nfnets.training.recipe import Recipe
from nfnets.weights.matching import check_names


def weight_shapes(recipe: Recipe) -> dict[str, Any]:
    """Shapes of the fields of a ``TrainState`` that hold weights, averages included."""
    shapes = abstract_variables(recipe.create_model(), recipe.train_image_size)
    params, stats = shapes["params"], shapes.get("batch_stats", {})
    fields = {"params": params, "batch_stats": stats}
    if recipe.ema_decay is not None:
        fields |= {"ema_params": params, "ema_batch_stats": stats}
    return fields


def read_run(recipe: Recipe, path: epath.Path) -> tuple[dict[str, Any], str]:
    """The weights that a run has reached: their moving average where it keeps one.

    Nothing is changed there, and the run may be going on.

    Args:
      recipe: of the network that is to have them; its number of classes may be another.
      path: a work directory, whose newest checkpoint is taken, or its ``checkpoints``,
        or one of these: ``checkpoints/STEP``.

    Returns:
      ``{"params": ..., "batch_stats": ...}`` as NumPy arrays, and what they are.

    Raises:
      UserError: no run, no checkpoint, a damaged one, or another network.
    """
    run, step = run_and_step(path)
    theirs = read_recipe(run)
    if theirs.model != recipe.model:
        raise UserError(
            f"the run in {run} has the model {theirs.model}, this one {recipe.model}; "
            f"set --config.model={theirs.model}, or another --config.init_from"
        )
    fields = weight_shapes(theirs)
    restored = checkpoint.read_one(run / workdir.CHECKPOINTS, step, fields)
    average = theirs.ema_decay is not None
    prefix = "ema_" if average else ""
    variables = {n: restored.state[prefix + n] for n in ("params", "batch_stats")}
    check_network(recipe, theirs, run, variables)
    kind = "moving average" if average else "weights, no average was kept"
    return variables, f"{run} step {restored.record['step']} ({kind})"


def run_and_step(path: epath.Path) -> tuple[epath.Path, int | None]:
    """The work directory that a path is or is inside, and the step that it names.

    The step is None where it names none; raises a UserError where there is no run.
    """
    places: list[tuple[epath.Path, int | None]] = [(path, None)]
    if path.name == workdir.CHECKPOINTS:
        places = [(path.parent, None)]
    elif path.name.isdecimal() and path.parent.name == workdir.CHECKPOINTS:
        places.append((path.parent.parent, int(path.name)))
    for run, step in places:
        if (run / workdir.CONFIG).exists():
            return run, step
    raise UserError(
        f"{path} is a directory, but not of a run: it has no {workdir.CONFIG}; give a "
        f"work directory, its {workdir.CHECKPOINTS}/STEP, or a file of weights"
    )


@dataclasses.dataclass(frozen=True)
class RunWeights:
    """What a run had reached at one checkpoint.

    Attributes:
      recipe: the run's own.
      by_prefix: variables, {"eval": the weights, "eval_ema": their moving average, if
        the run keeps one}, as NumPy arrays.
      step: of the checkpoint.
    """

    recipe: Recipe
    by_prefix: dict[str, Any]
    step: int


def read_all_weights(
    run: epath.Path, which: int | Literal["best"] | None
) -> RunWeights:
    """Weights and average of a run; nothing is changed there.

    Args:
      run: a work directory.
      which: a step; None takes the newest checkpoint, "best" the one whose evaluation
        during training was best.

    Raises:
      UserError: no run, no such checkpoint, or a damaged one.
    """
    recipe = read_recipe(run)
    folder = run / workdir.CHECKPOINTS
    restored = checkpoint.read_one(folder, which, weight_shapes(recipe))
    return RunWeights(
        recipe=recipe,
        by_prefix=by_prefix(recipe, restored.state),
        step=restored.record["step"],
    )


def by_prefix(recipe: Recipe, state: Mapping[str, Any]) -> dict[str, Any]:
    """Variables under "eval" and, of an average, "eval_ema", out of a state's fields.

    Args:
      recipe: says whether there is an average.
      state: of the fields that ``weight_shapes`` has.
    """
    names = ("params", "batch_stats")
    weights = {"eval": {name: state[name] for name in names}}
    if recipe.ema_decay is not None:
        weights["eval_ema"] = {name: state[f"ema_{name}"] for name in names}
    return weights


def read_recipe(run: epath.Path) -> Recipe:
    """The recipe of the run in a work directory; its number of classes is stated.

    Raises:
      UserError: there is no run, or its config cannot be read.
    """
    if not run.is_dir():
        raise UserError(f"there is no run in {run}: no such directory")
    config = workdir.read_config(run / workdir.CONFIG)
    try:
        return Recipe.from_config(config)
    except UserError as error:
        raise UserError(f"{run / workdir.CONFIG}: {error}") from error


def check_network(
    recipe: Recipe, theirs: Recipe, run: epath.Path, variables: Any
) -> None:
    """Raises a UserError unless all but the number of classes is the same network."""
    model = registry.create_model(
        recipe.model, num_classes=theirs.num_classes, **recipe.overrides
    )
    abstract = abstract_variables(model, recipe.train_image_size)
    wanted = {
        name: leaf.shape
        for name, leaf in traverse_util.flatten_dict(abstract, sep="/").items()
    }
    try:
        found = traverse_util.flatten_dict(variables, sep="/")
        check_names(recipe.model, wanted, found)
    except UserError as error:
        raise UserError(
            f"{run}: {error}, as this config has it (model_overrides, small_images)"
        ) from error

"""Evaluates without training: weights of a file, or of a run's checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from etils import epath

from nfnets.data.label_sets import open_label_sets
from nfnets.errors import UserError
from nfnets.training import checkpoint, parallel, processes, workdir
from nfnets.training.eval_step import make_eval_step
from nfnets.training.evaluation import evaluate
from nfnets.training.initial_weights import read_weights
from nfnets.training.metrics import Row
from nfnets.training.recipe import Recipe
from nfnets.training.run_data import open_split
from nfnets.training.run_weights import by_prefix, weight_shapes
from nfnets.training.storage import check_writable, write_atomically

RESULT = "evaluation.json"


def evaluate_only(
    recipe: Recipe,
    directory: epath.Path,
    *,
    log: Callable[[str], None] = print,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Row | None:
    """Evaluates on ``recipe.eval.split`` and writes ``evaluation.json``.

    Args:
      recipe: as the config states it; ``init_from`` names the file of weights, or a
        run whose average (or else weights) are taken; None takes the newest checkpoint
        in the directory, weights and average.
      directory: the work directory.
      log: is told what is evaluated.
      stop_requested: asked between batches.

    Returns:
      The metrics, under "eval/" and, for a checkpoint's average, "eval_ema/"; None when
      stopped before the end.

    Raises:
      UserError: the data, the file or the directory cannot be used, or the checkpoint
        is damaged; before anything is computed.
    """
    directory = epath.Path(directory)
    source = open_split(recipe, recipe.eval.split)
    recipe = recipe.for_source(num_classes=source.num_classes)
    label_sets = open_label_sets(recipe.data.label_sets, source.class_names)
    if recipe.init_from is None:
        weights, origin = _of_checkpoint(recipe, directory)
    else:
        variables, origin = _read(recipe)
        weights = {"eval": variables}
    processes.on_main(lambda: check_writable(directory / RESULT))
    log(f"weights  {recipe.model} from {origin}")
    note = f"; {source.note}" if source.note else ""
    log(
        f"data     {source.name}: {len(source)} images at {recipe.eval_image_size} px"
        f"{note}"
    )
    log(f"devices  {parallel.describe()}")
    model = recipe.create_model().clone(dtype=jnp.float32)
    row = evaluate(
        parallel.pmap_eval_step(
            make_eval_step(
                model,
                normalization=recipe.data.normalization,
                label_sets=label_sets,
            )
        ),
        {prefix: parallel.place_state(tree) for prefix, tree in weights.items()},
        source,
        recipe,
        processes.StopVote(stop_requested),
    )
    if row is not None:
        facts = {"model": recipe.model, "weights": origin, "data": source.name}
        processes.on_main(lambda: _write(directory, facts | row))
    return row


def _write(directory: epath.Path, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=2) + "\n"
    write_atomically(directory / RESULT, text)


def _read(recipe: Recipe) -> tuple[Any, str]:
    """The variables of ``init_from``, with the data's number of classes; their name."""
    variables, origin = read_weights(recipe)
    classes = variables["params"]["head"]["bias"].shape[0]
    if classes != recipe.num_classes:
        raise UserError(
            f"{recipe.init_from} has {classes} classes, the run {recipe.num_classes} "
            f"(config.data.num_classes, or else the data's); evaluate it on its own "
            f"data set, or, if the data are a part of that, give each class its label: "
            f"--config.data.num_classes={classes} --config.data.class_map=FILE"
        )
    return variables, origin


def _check_classes(recipe: Recipe, config: epath.Path) -> None:
    """Says why, before a checkpoint of another width is taken for a damaged one."""
    trained = workdir.read_config(config)["data"]["num_classes"]
    if trained != recipe.num_classes:
        raise UserError(
            f"the run in {config.parent} has {trained} classes, the data (or "
            f"config.data.num_classes) {recipe.num_classes}; evaluate it on data with "
            f"its classes"
        )


def _of_checkpoint(recipe: Recipe, directory: epath.Path) -> tuple[dict[str, Any], str]:
    """Variables by prefix, and the name of the checkpoint; a run may be going on."""
    folder = directory / workdir.CHECKPOINTS
    if not folder.is_dir():
        raise UserError(
            f"there is no checkpoint in {directory}; name a run by --workdir, or a "
            f"file of weights by --config.init_from"
        )
    _check_classes(recipe, directory / workdir.CONFIG)
    restored = checkpoint.read_one(folder, None, weight_shapes(recipe))
    weights = by_prefix(recipe, restored.state)
    return weights, f"{folder} step {restored.record['step']}"

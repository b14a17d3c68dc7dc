"""Evaluates the weights of a run, or of a file, on several sets, sizes and crops.

The checkpoint is read once, and the step is compiled once for each image size. What is
taken is the run's last checkpoint unless another is asked for, and every result says
which it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from etils import epath

from nfnets.data.augment_config import check_eval_crop
from nfnets.data.label_sets import open_label_sets
from nfnets.errors import UserError
from nfnets.training import parallel, processes, resolution_sweep
from nfnets.training.evaluation import evaluate
from nfnets.training.evaluation_results import (
    RESULTS,
    Result,
    describe_result,
    write_result,
)
from nfnets.training.evaluation_sets import (
    EvaluationSet,
    Places,
    of_one_shape,
    open_sets,
)
from nfnets.training.initial_weights import read_weights
from nfnets.training.metrics import Row
from nfnets.training.recipe import Recipe
from nfnets.training.run_weights import check_network, read_all_weights
from nfnets.training.steps import make_eval_step

_METRICS = ("top1", "top5", "loss", "examples")
# Evaluation crops that do not read crop_pct.
_WITHOUT_RATIO = ("resize", "v2")

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Tested:
    """What is tested.

    Attributes:
      recipe: says how images are cropped; with the number of classes in place.
      by_prefix: variables, {"eval": ...} and perhaps {"eval_ema": ...}.
      facts: for the results: "model", "weights" (in words), "checkpoint" ("last",
        "best", "step", or "file") and "step" (None of a file).
    """

    recipe: Recipe
    by_prefix: dict[str, Any]
    facts: dict[str, Any]

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
    return Tested(recipe, found.by_prefix, facts)


def read_file_weights(recipe: Recipe, log: Log) -> Tested:
    """The weights that ``recipe.init_from`` names.

    Raises:
      UserError: they cannot be read.
    """
    variables, origin = read_weights(recipe)
    log(f"weights  {recipe.model} from {origin}")
    facts = {"weights": origin, "checkpoint": "file", "step": None}
    return Tested(recipe, {"eval": variables}, {"model": recipe.model} | facts)


def evaluate_and_write(
    tested: Tested,
    names: Sequence[str],
    places: Places,
    directory: epath.Path,
    *,
    sizes: Sequence[int],
    crops: Sequence[float],
    log: Log,
    stop_requested: Callable[[], bool],
) -> bool:
    """As ``evaluate_weights``; each result is logged and written when it is there.

    With sizes or crops the files of ``resolution_sweep`` are written, and a table is
    logged at the end; otherwise ``evaluations.json``.
    """
    sweeps = bool(sizes or crops)
    results: list[Result] = []

    def write() -> None:
        if sweeps:
            title = f"{tested.facts['model']}, {tested.facts['weights']}"
            resolution_sweep.write_files(directory, results, title)
        else:
            write_result(directory, results[-1])

    def take(result: Result) -> None:
        results.append(result)
        for line in describe_result(result):
            log(line)
        processes.on_main(write)

    complete = evaluate_weights(
        tested,
        names,
        places,
        sizes=sizes,
        crops=crops,
        log=log,
        take=take,
        stop_requested=stop_requested,
    )
    if sweeps and results:
        log(resolution_sweep.table(results))
    if results:
        files = resolution_sweep.FILES if sweeps else (RESULTS,)
        log(f"wrote    {', '.join(str(directory / name) for name in files)}")
    return complete


def evaluate_weights(
    tested: Tested,
    names: Sequence[str],
    places: Places,
    *,
    sizes: Sequence[int] = (),
    crops: Sequence[float] = (),
    log: Log,
    take: Callable[[Result], None],
    stop_requested: Callable[[], bool] = lambda: False,
) -> bool:
    """Evaluates on each set at each size and crop ratio, size by size.

    Args:
      tested: the weights.
      names: of the sets.
      places: where the sets are.
      sizes: image sizes in pixels; none takes the recipe's.
      crops: crop ratios; none takes the recipe's.
      log: is told the counts and the devices.
      take: is given each result when it is there.
      stop_requested: asked between batches.

    Returns:
      Whether all was done; not when stopped.

    Raises:
      UserError: data or settings that do not fit, before anything is computed.
    """
    stated = tested.recipe.data.num_classes
    if stated not in (None, tested.num_classes):
        raise UserError(
            f"the weights have {tested.num_classes} classes, but "
            f"config.data.num_classes is {stated}"
        )
    settings = make_settings(tested.recipe, sizes, crops)
    sets = open_sets(
        names, tested.recipe, places, num_classes=tested.num_classes, log=log
    )
    recipe = tested.recipe.for_source(num_classes=tested.num_classes)
    model = recipe.create_model().clone(dtype=jnp.float32)
    for size in dict.fromkeys(s.eval_image_size for s in settings):
        _check_size(model, tested.by_prefix["eval"], size)
    log(f"devices  {parallel.describe()}")
    step = parallel.pmap_eval_step(_eval_step(model, recipe, sets))
    weights = {k: parallel.place_state(tree) for k, tree in tested.by_prefix.items()}
    stopped = processes.StopVote(stop_requested)
    for setting in settings:
        for one in of_one_shape(sets):
            row = evaluate(
                step, weights, one.source, setting, stopped, one.image_labels
            )
            if row is None:
                return False
            facts = tested.facts | {"data": one.source.name}
            take(Result(one.name, setting, _metrics(row, one.name), facts))
    return True


def _eval_step(model: Any, recipe: Recipe, sets: Sequence[EvaluationSet]) -> Any:
    """The step for all sets; label sets of classes are those of val's."""
    label_sets = None
    if recipe.data.label_sets is not None:
        names = sets[0].source.class_names
        label_sets = open_label_sets(recipe.data.label_sets, names)
    return make_eval_step(
        model, normalization=recipe.data.normalization, label_sets=label_sets
    )


def _metrics(row: Row, name: str) -> dict[str, Row]:
    """The evaluation's row by prefix; ReaL defines no loss, so it has none."""
    kept = [key for key in _METRICS if key != "loss" or name != "real"]
    prefixes = dict.fromkeys(key.partition("/")[0] for key in row)
    return {p: {key: row[f"{p}/{key}"] for key in kept} for p in prefixes}


def _check_size(model: Any, variables: Any, size: int) -> None:
    """Refuses a size that the network cannot take, before the first is computed."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    try:
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{type(model).__name__} cannot take images of {size} px: {reason}"
        ) from error


def make_settings(
    recipe: Recipe, sizes: Sequence[int], crops: Sequence[float]
) -> list[Recipe]:
    """The recipe at each size and crop ratio, size by size.

    Raises:
      UserError: a size below 1 or a ratio outside (0, 1], or ratios for a crop that
        has none.
    """
    if crops and recipe.eval.crop in _WITHOUT_RATIO:
        raise UserError(
            f"the evaluation crop {recipe.eval.crop!r} has no ratio to sweep; leave "
            f"out --crops, or give --config=NAME --config.eval.crop=resize_crop"
        )
    for size in sizes:
        if size < 1:
            raise UserError(f"image size is {size}; expected 1 pixel or more")
    settings = []
    for size in sizes or [recipe.eval.image_size]:  # type: ignore[list-item]
        for crop in crops or [recipe.eval.crop_pct]:  # type: ignore[list-item]
            changed = dataclasses.replace(recipe.eval, image_size=size, crop_pct=crop)
            settings.append(dataclasses.replace(recipe, eval=changed))
            check_eval_crop(settings[-1].eval_crop)
    return settings

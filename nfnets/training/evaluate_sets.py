"""Evaluates the weights of a run, or of a file, on several sets, sizes and crops.

The checkpoint is read once, and the step is compiled once for each image size. What is
taken is the run's last checkpoint unless another is asked for, and every result says
which it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from etils import epath

from nfnets.data.augment_config import check_eval_crop
from nfnets.data.label_sets import open_label_sets
from nfnets.errors import UserError
from nfnets.training import parallel, per_class, processes, resolution_sweep
from nfnets.training.class_names import class_names
from nfnets.training.eval_step import make_eval_step
from nfnets.training.evaluation import evaluation_sums, row_of
from nfnets.training.evaluation_results import (
    RESULTS,
    Result,
    check_results,
    describe_result,
    write_result,
)
from nfnets.training.evaluation_sets import (
    EvaluationSet,
    Places,
    of_one_shape,
    open_sets,
)
from nfnets.training.metrics import Row
from nfnets.training.recipe import Recipe
from nfnets.training.tested_weights import Tested, check_size

_METRICS = ("top1", "top5", "loss", "examples")
# Evaluation crops that do not read crop_pct.
_WITHOUT_RATIO = ("resize", "v2")

Log = Callable[[str], None]


def evaluate_and_write(
    tested: Tested,
    names: Sequence[str],
    places: Places,
    directory: epath.Path,
    *,
    sizes: Sequence[int],
    crops: Sequence[float],
    by_class: bool,
    log: Log,
    stop_requested: Callable[[], bool],
) -> bool:
    """As ``evaluate_weights``; each result is logged and written when it is there.

    With sizes or crops the files of ``resolution_sweep`` are written, and a table is
    logged at the end; otherwise ``evaluations.json``, and those of ``per_class``.
    """
    sweeps = bool(sizes or crops)
    if sweeps and by_class:
        raise UserError(
            "--per_class is of one size and crop; leave out --sizes and --crops, or "
            "set them by --config=NAME --config.eval.image_size=..."
        )
    check = resolution_sweep.check_files if sweeps else check_results
    processes.on_main(lambda: check(directory))
    results: list[Result] = []
    files = list(resolution_sweep.FILES if sweeps else (RESULTS,))
    classes: tuple[str, ...] = ()
    if by_class:
        classes = class_names(tested.run, tested.recipe, tested.num_classes, log)

    def write() -> None:
        if sweeps:
            title = f"{tested.facts['model']}, {tested.facts['weights']}"
            resolution_sweep.write_files(directory, results, title)
        else:
            write_result(directory, results[-1])
            files.extend(_write_classes(directory, results[-1], classes))

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
        by_class=by_class,
        log=log,
        take=take,
        stop_requested=stop_requested,
    )
    if sweeps and results:
        log(resolution_sweep.table(results))
    if results:
        log(f"wrote    {', '.join(str(directory / name) for name in files)}")
    return complete


def evaluate_weights(
    tested: Tested,
    names: Sequence[str],
    places: Places,
    *,
    sizes: Sequence[int] = (),
    crops: Sequence[float] = (),
    by_class: bool = False,
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
      by_class: whether results have counts by class, where images have one label.
      log: is told the counts and the devices.
      take: is given each result when it is there.
      stop_requested: asked between batches.

    Returns:
      Whether all was done; not when stopped.

    Raises:
      UserError: data or settings that do not fit, before anything is computed.
    """
    _check_classes(tested)
    settings = make_settings(tested.recipe, sizes, crops)
    sets = open_sets(
        names, tested.recipe, places, num_classes=tested.num_classes, log=log
    )
    recipe = tested.recipe.for_source(num_classes=tested.num_classes)
    model = recipe.create_model().clone(dtype=jnp.float32)
    for size in dict.fromkeys(s.eval_image_size for s in settings):
        check_size(model, tested.by_prefix["eval"], size)
    log(f"devices  {parallel.describe()}")
    counted = _counted_sets(recipe, sets, log) if by_class else ()
    step = parallel.pmap_eval_step(_eval_step(model, recipe, sets, bool(counted)))
    weights = {k: parallel.place_state(tree) for k, tree in tested.by_prefix.items()}
    stopped = processes.StopVote(stop_requested)
    for setting in settings:
        for one in of_one_shape(sets):
            sums = evaluation_sums(
                step, weights, one.source, setting, stopped, one.image_labels
            )
            if sums is None:
                return False
            take(_result(tested, one, setting, sums, by_class=one.name in counted))
    return True


def _result(
    tested: Tested, one: EvaluationSet, setting: Recipe, sums: Any, *, by_class: bool
) -> Result:
    """What the sums over a set say."""
    facts = tested.facts | {"data": one.source.name}
    counts = {
        prefix: per_class.count_classes(parts, tested.num_classes)
        for prefix, parts in sums.items()
        if by_class
    }
    return Result(one.name, setting, _metrics(row_of(sums), one.name), facts, counts)


def _check_classes(tested: Tested) -> None:
    stated = tested.recipe.data.num_classes
    if stated not in (None, tested.num_classes):
        raise UserError(
            f"the weights have {tested.num_classes} classes, but "
            f"config.data.num_classes is {stated}"
        )


def _counted_sets(
    recipe: Recipe, sets: Sequence[EvaluationSet], log: Log
) -> tuple[str, ...]:
    """Names of the sets whose images have one label each; says which have several."""
    several = {s.name for s in sets if s.image_labels is not None}
    if recipe.data.label_sets is not None:
        several = {s.name for s in sets}
    for name in sorted(several):
        log(f"note     no numbers by class of {name}: its images have several labels")
    return tuple(s.name for s in sets if s.name not in several)


def _write_classes(
    directory: epath.Path, result: Result, classes: Sequence[str]
) -> list[str]:
    """Writes a result's files by class, none where it has no counts; their names."""
    written = []
    for prefix, counts in result.counts.items():
        average = prefix == "eval_ema"
        suffix = f"{result.name}_ema" if average else result.name
        title = f"{result.facts['model']} on {result.name}"
        title += ": moving average" if average else ""
        paths = per_class.write_classes(directory, suffix, counts, classes, title)
        written += [path.name for path in paths]
    return written


def _eval_step(
    model: Any, recipe: Recipe, sets: Sequence[EvaluationSet], guesses: bool
) -> Any:
    """The step for all sets; label sets of classes are those of val's."""
    label_sets = None
    if recipe.data.label_sets is not None:
        names = sets[0].source.class_names
        label_sets = open_label_sets(recipe.data.label_sets, names)
    return make_eval_step(
        model,
        normalization=recipe.data.normalization,
        label_sets=label_sets,
        guesses=guesses,
    )


def _metrics(row: Row, name: str) -> dict[str, Row]:
    """The evaluation's row by prefix; ReaL defines no loss, so it has none."""
    kept = [key for key in _METRICS if key != "loss" or name != "real"]
    prefixes = dict.fromkeys(key.partition("/")[0] for key in row)
    return {p: {key: row[f"{p}/{key}"] for key in kept} for p in prefixes}


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

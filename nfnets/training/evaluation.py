"""Exact evaluation: every example once, on any number of devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nfnets.data.pipeline import make_eval_iter
from nfnets.data.sources import Source
from nfnets.training import parallel
from nfnets.training.metrics import Row, eval_row
from nfnets.training.recipe import Recipe


def round_up(batch_size: int, multiple: int) -> int:
    """The smallest multiple that is at least ``batch_size``."""
    return -(-batch_size // multiple) * multiple


def evaluate(
    eval_step: Any,
    variables_by_prefix: Mapping[str, Any],
    source: Source,
    recipe: Recipe,
    stop_requested: Callable[[], bool] = lambda: False,
    image_labels: np.ndarray | None = None,
) -> Row | None:
    """As ``evaluation_sums``; the metrics of all weights, each under its prefix."""
    sums = evaluation_sums(
        eval_step, variables_by_prefix, source, recipe, stop_requested, image_labels
    )
    return None if sums is None else row_of(sums)


def row_of(sums: Mapping[str, Sequence[Mapping[str, Any]]]) -> Row:
    """One row of the sums of ``evaluation_sums``."""
    row: Row = {}
    for prefix, parts in sums.items():
        row |= eval_row(parts, prefix)
    return row


def evaluation_sums(
    eval_step: Any,
    variables_by_prefix: Mapping[str, Any],
    source: Source,
    recipe: Recipe,
    stop_requested: Callable[[], bool],
    image_labels: np.ndarray | None,
) -> dict[str, list[Mapping[str, Any]]] | None:
    """Evaluates one or several sets of weights in one pass over the data.

    Args:
      eval_step: from ``parallel.pmap_eval_step``.
      variables_by_prefix: e.g. {"eval": ..., "eval_ema": ...}.
      source: the split; a damaged image in it is an error.
      recipe: says size, crop and batch; the result does not depend on the batch.
      stop_requested: asked between batches.
      image_labels: int32 [n, L], all labels of each image, filled up with -1; None
        where an image has the one label of the source.

    Returns:
      What the step gave for each batch, as NumPy arrays, under the prefix of each set
      of weights; None when stopped before the end.
    """
    num_devices = parallel.num_devices()
    batches = make_eval_iter(
        source,
        crop=recipe.eval_crop,
        image_size=recipe.eval_image_size,
        batch_size=round_up(recipe.eval.batch_size, num_devices),
        num_devices=len(parallel.devices()),
        threads=recipe.data.threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        image_labels=image_labels,
    )
    sums: dict[str, list[Any]] = {prefix: [] for prefix in variables_by_prefix}
    with batches:
        for host_batch in batches:
            if stop_requested():
                return None
            batch = parallel.place_batch(host_batch)
            for prefix, variables in variables_by_prefix.items():
                # One batch behind: the device is busy while the host fetches.
                sums[prefix].append(eval_step(variables, batch))
                if len(sums[prefix]) > 1:
                    sums[prefix][-2] = parallel.fetch(sums[prefix][-2])
    return {prefix: parallel.fetch(parts) for prefix, parts in sums.items()}

"""What evaluations gave, kept by set in ``evaluations.json``."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from etils import epath

from nfnets.errors import UserError
from nfnets.training.metrics import Row
from nfnets.training.per_class import ClassCounts
from nfnets.training.recipe import Recipe
from nfnets.training.storage import (
    check_writable,
    make_folder,
    one_at_a_time,
    write_atomically,
)

RESULTS = "evaluations.json"
_LOCK = ".evaluations.lock"


@dataclasses.dataclass(frozen=True)
class Result:
    """One set, at one size and crop.

    Attributes:
      name: the set's.
      recipe: with the size and the crop ratio.
      metrics: by prefix, "top1", "top5", "examples" and, where it is defined, "loss".
      facts: what was tested, on what.
      counts: by prefix, counts by class; empty where nobody asked for them.
    """

    name: str
    recipe: Recipe
    metrics: dict[str, Row]
    facts: dict[str, Any]
    counts: dict[str, ClassCounts] = dataclasses.field(default_factory=dict)


def describe_result(result: Result) -> list[str]:
    """A line for the weights and, where there is one, for their average."""
    size, crop = result.recipe.eval_image_size, result.recipe.eval.crop_pct
    where = f"{size} px" + (f", crop {crop:g}" if crop is not None else "")
    names = {"eval": "weights", "eval_ema": "moving average"}
    return [
        f"result   {result.name}: {row['top1']:.2%} top-1, {row['top5']:.2%} top-5 on "
        f"{row['examples']} images at {where} ({names[prefix]})"
        for prefix, row in result.metrics.items()
    ]


def write_result(directory: epath.Path, result: Result) -> None:
    """Puts a result into ``evaluations.json``; those of other sets stay.

    Several processes of one machine may do so at once.

    Raises:
      UserError: the file there is not one of ours, or cannot be written.
    """
    path = directory / RESULTS
    entry = {key: result.metrics["eval"].get(key) for key in result.metrics["eval"]}
    entry |= result.facts
    entry |= {
        "image_size": result.recipe.eval_image_size,
        "crop": result.recipe.eval.crop,
        "crop_pct": result.recipe.eval.crop_pct,
    }
    if "eval_ema" in result.metrics:
        entry["ema"] = result.metrics["eval_ema"]
    make_folder(directory)
    with one_at_a_time(directory / _LOCK):
        results = read_results(path) | {result.name: entry}
        write_atomically(path, json.dumps(results, indent=2) + "\n")


def check_results(directory: epath.Path) -> None:
    """Checks, before the work, that ``write_result`` can write what it gives.

    Raises:
      UserError: it cannot, or the file there is not one of ours.
    """
    path = directory / RESULTS
    check_writable(path)
    with one_at_a_time(directory / _LOCK):
        read_results(path)


def read_results(path: epath.Path) -> dict[str, Any]:
    """The results by set; none where there is no such file.

    Raises:
      UserError: the file is not one of ours.
    """
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); mend or remove it") from error
    entries = results.values() if isinstance(results, dict) else [results]
    if not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path} holds no results by set; mend or remove it")
    return results

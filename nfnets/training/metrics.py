"""From device scalars to the rows of ``metrics.jsonl``: names, units, exact means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]

# Shown as they were at the last step of a window; everything else is a mean over it.
_LAST_VALUE = ("learning_rate", "skipped_total")


def window_row(window: Sequence[Mapping[str, float]]) -> Row:
    """One row for the steps since the last row.

    Args:
      window: the train step's metrics, one mapping per step, at least one.

    Returns:
      Keys "train/NAME": means over the steps whose update was made (None when all were
      skipped); learning rate and the number of skipped steps as of the last step.
    """
    made = [metrics for metrics in window if metrics["skipped_in_a_row"] == 0]
    row: Row = {}
    for name in window[-1]:
        if name == "skipped_in_a_row":
            continue
        if name in _LAST_VALUE:
            value = float(window[-1][name])
        else:
            value = mean(metrics[name] for metrics in made)
        row[f"train/{name}"] = value if math.isfinite(value) else None
    row["train/skipped_total"] = int(row["train/skipped_total"])
    return row


def mean(values: Iterable[float]) -> float:
    """Mean in float64, exact to rounding; NaN for no values."""
    values = [float(value) for value in values]
    return math.fsum(values) / len(values) if values else math.nan


def eval_row(sums: Iterable[Mapping[str, Any]], prefix: str) -> Row:
    """Accuracies (fractions), mean loss and the number of examples of an evaluation.

    Args:
      sums: the evaluation step's sums, one mapping per batch.
      prefix: "eval" or "eval_ema".
    """
    sums = list(sums)
    examples = sum(int(s["examples"]) for s in sums)
    loss = math.fsum(float(s["loss"]) for s in sums) / examples
    return {
        f"{prefix}/top1": sum(int(s["top1"]) for s in sums) / examples,
        f"{prefix}/top5": sum(int(s["top5"]) for s in sums) / examples,
        f"{prefix}/loss": loss if math.isfinite(loss) else None,
        f"{prefix}/examples": examples,
    }

"""What the runs of a sweep reached: a row per run, statistics over the seeds.

Accuracies are those of the last checkpoint, never of the best one.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from etils import epath

from nfnets.sweep.axes import SEED_FIELD, Cell, cell_name, number
from nfnets.sweep.directory import Contents, read_outcome, run_directory
from nfnets.training.evaluation_results import RESULTS as EVALUATIONS
from nfnets.training.evaluation_results import read_results as read_evaluations
from nfnets.training.metrics import Row
from nfnets.training.report import images_per_second, latest_rows
from nfnets.training.workdir import read_rows

_TRAINING = ("eval", "eval_ema")
STATUSES = ("ok", "diverged", "failed", "unfinished", "not started")


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What is known of one run.

    Attributes:
      name: of the run.
      cell: its settings.
      status: one of ``STATUSES``.
      reason: why it failed or diverged; else empty.
      step: the last one with a row, 0 without any.
      seconds: wall time of its processes (``Outcome.seconds``); None while unknown.
      images_per_second: median of its training rows; None without any.
      metrics: of the last checkpoint of a finished run: "eval/top1", "eval_ema/top1",
        "v2/top1", ...; empty for any other.
      stale: sets that were evaluated at another step than the last; not in ``metrics``.
      evaluations: all rows with "eval/top1", by step.
    """

    name: str
    cell: Cell
    status: str
    reason: str
    step: int
    seconds: float | None
    images_per_second: float | None
    metrics: Mapping[str, float]
    stale: tuple[str, ...]
    evaluations: tuple[Row, ...]

    @property
    def setting(self) -> Cell:
        """All its settings but the seed."""
        return tuple(pair for pair in self.cell if pair[0] != SEED_FIELD)


@dataclasses.dataclass(frozen=True)
class Summary:
    """One metric of one setting over its seeds.

    Attributes:
      setting: all settings but the seed.
      counts: runs by status.
      n: finished runs that have the metric.
      mean: of these; None without any.
      std: with n - 1 in the denominator; None below two.
      low: their smallest.
      high: their largest.
    """

    setting: Cell
    counts: Mapping[str, int]
    n: int
    mean: float | None
    std: float | None
    low: float | None
    high: float | None


def read_results(directory: Path, contents: Contents) -> list[RunResult]:
    """The results of all runs of a sweep, in order, whether they have begun or not."""
    return [_read_result(directory, cell) for cell in contents.runs]


def _read_result(directory: Path, cell: Cell) -> RunResult:
    name = cell_name(cell)
    folder = run_directory(directory, name)
    rows = latest_rows(read_rows(folder, growing=True))
    outcome = read_outcome(folder)
    status = "unfinished" if rows else "not started"
    if outcome is not None and outcome.status != "interrupted":
        status = outcome.status
    step = rows[-1]["step"] if rows else 0
    evaluations = tuple(row for row in rows if "eval/top1" in row)
    metrics: dict[str, float] = {}
    stale: tuple[str, ...] = ()
    if status == "ok":
        metrics, stale = _final_metrics(folder, rows[-1] if rows else {})
    return RunResult(
        name=name,
        cell=cell,
        status=status,
        reason=outcome.reason if outcome else "",
        step=step,
        seconds=outcome.seconds if outcome else None,
        images_per_second=images_per_second(rows, 1, step),
        metrics=metrics,
        stale=stale,
        evaluations=evaluations,
    )


def _final_metrics(
    folder: epath.Path, last: Row
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Metrics of the last step, and the sets evaluated at another one."""
    metrics = {
        key: value
        for key, value in last.items()
        if key.partition("/")[0] in _TRAINING and isinstance(value, int | float)
    }
    stale = []
    for name, values in read_evaluations(folder / EVALUATIONS).items():
        if values.get("step", last.get("step")) != last.get("step"):
            stale.append(name)
            continue
        for prefix, part in ((name, values), (f"{name}_ema", values.get("ema", {}))):
            for key in ("top1", "top5", "examples"):
                if key in part:
                    metrics[f"{prefix}/{key}"] = part[key]
    return metrics, tuple(stale)


def accuracies(results: Sequence[RunResult]) -> list[str]:
    """The top-1 metrics that any run has: of training first, then of other sets."""
    found = dict.fromkeys(key for r in results for key in r.metrics)
    keys = [key for key in found if key.endswith("/top1")]
    return sorted(keys, key=lambda key: key.partition("/")[0] not in _TRAINING)


def by_setting(results: Sequence[RunResult]) -> dict[Cell, list[RunResult]]:
    """The runs of each setting, in order."""
    groups: dict[Cell, list[RunResult]] = {}
    for result in results:
        groups.setdefault(result.setting, []).append(result)
    return groups


def values_of(results: Sequence[RunResult], metric: str) -> list[float]:
    """A metric of those that have it."""
    return [r.metrics[metric] for r in results if metric in r.metrics]


def summarise(results: Sequence[RunResult], metric: str) -> list[Summary]:
    """Statistics over the seeds, one for each setting."""
    return [
        _summary(setting, group, metric)
        for setting, group in by_setting(results).items()
    ]


def _summary(setting: Cell, group: Sequence[RunResult], metric: str) -> Summary:
    values = values_of(group, metric)
    return Summary(
        setting=setting,
        counts={status: sum(r.status == status for r in group) for status in STATUSES},
        n=len(values),
        mean=math.fsum(values) / len(values) if values else None,
        std=statistics.stdev(values) if len(values) > 1 else None,
        low=min(values, default=None),
        high=max(values, default=None),
    )


def table_rows(results: Sequence[RunResult]) -> list[Row]:
    """Rows of results.csv: settings, outcome, metrics."""
    return [
        {
            "run": r.name,
            **{field: value for field, value in r.cell},
            "status": r.status,
            "step": r.step,
            "seconds": r.seconds,
            "images_per_second": r.images_per_second,
            **r.metrics,
            "reason": r.reason,
        }
        for r in results
    ]


def numeric_axes(contents: Contents) -> list[str]:
    """Fields, but the seed, with several values that are numbers or None.

    Fields that are set together with others are left out.
    """
    found = []
    for fields in contents.axes:
        texts = {value for cell in contents.runs for f, value in cell if f in fields}
        numbers = {text for text in texts if number(text) is not None}
        if (
            len(fields) == 1
            and fields[0] != SEED_FIELD
            and len(texts) >= 2
            and numbers
            and texts - numbers <= {"None"}
        ):
            found.append(fields[0])
    return found

"""What a run leaves for its reader: CSV, curves and a report, made from its rows."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from etils import epath

from nfnets.training.curves import draw_curves
from nfnets.training.metrics import Row
from nfnets.training.recipe import Recipe
from nfnets.training.stages import Stage, stage_ends
from nfnets.training.storage import write_atomically
from nfnets.training.workdir import read_rows

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What a report says beside the numbers.

    Attributes:
      command: as it was typed.
      changes: fields that differ from the named config, as "old -> new".
      num_params: of the network.
      num_trained: of these, the ones that are not frozen.
      devices: e.g. "1 x cpu".
      data: one line on the data set.
    """

    command: str
    changes: Mapping[str, str]
    num_params: int
    num_trained: int
    devices: str
    data: str


def versions() -> dict[str, str]:
    """Python's version and those of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def latest_rows(rows: Sequence[Row]) -> list[Row]:
    """One row per step, by step: its training and evaluation values put together.

    A step that was done again after a restart shows its last values.
    """
    merged: dict[int, Row] = {}
    for row in rows:
        merged.setdefault(row["step"], {}).update(row)
    return [merged[step] for step in sorted(merged)]


def write_reports(
    workdir: epath.Path, recipe: Recipe, facts: RunFacts
) -> list[epath.Path]:
    """Writes metrics.csv, curves.png and report.md anew; returns their paths."""
    rows = latest_rows(read_rows(workdir))
    write_csv(workdir / "metrics.csv", rows)
    draw_curves(workdir / "curves.png", rows, recipe.stages, title=recipe.name)
    write_atomically(workdir / "report.md", report_text(rows, recipe, facts))
    return [workdir / name for name in ("metrics.csv", "curves.png", "report.md")]


def write_csv(path: epath.Path, rows: Sequence[Row]) -> None:
    """Writes rows as a table; a value a row does not have is left empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue())


def report_text(rows: Sequence[Row], recipe: Recipe, facts: RunFacts) -> str:
    """The report as Markdown: results, settings, and what is needed to do it again."""
    evaluations = [row for row in rows if "eval/top1" in row]
    changed = [f"- `{key}`: {value}" for key, value in facts.changes.items()]
    environment = ", ".join(f"{k} {v}" for k, v in versions().items())
    lines = [
        f"# {recipe.name}: {recipe.model}",
        "",
        "```",
        facts.command,
        "```",
        "",
        f"- model: {recipe.model}, {facts.num_params:,} parameters",
        f"- data: {facts.data}",
        f"- devices: {facts.devices}; batch {recipe.batch_size}; "
        f"{recipe.total_steps} steps; seed {recipe.seed}",
        f"- versions: {environment}",
        "",
        "## Results",
        "",
        *_results_table(evaluations),
        "",
        "![curves](curves.png)",
        "",
        *_stage_table(rows, recipe.stages),
        "## Differences from the named config",
        "",
        *(changed or ["None."]),
        "",
        "## Resolved recipe",
        "",
        "```json",
        json.dumps(recipe.to_dict(), indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def _stage_table(rows: Sequence[Row], stages: Sequence[Stage]) -> list[str]:
    """Size, regularisation and speed of each stage; nothing for a constant recipe."""
    if len(stages) == 1:
        return []
    lines = [
        "## Stages",
        "",
        "| steps | px | RandAugment | mixup | cutmix | dropout | images/s |",
        "|---|---|---|---|---|---|---|",
    ]
    first = 1
    for stage, end in stage_ends(stages):
        augment = stage.augment
        regularisation = (
            augment.randaugment_magnitude or 0,
            augment.mixup_alpha,
            augment.cutmix_alpha,
            stage.drop_rate,
        )
        speed = images_per_second(rows, first, end)
        cells = [
            f"{first} to {end}",
            f"{stage.image_size}",
            *(f"{value:.4g}" for value in regularisation),
            "no row" if speed is None else f"{speed:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
        first = end + 1
    return [*lines, ""]


def images_per_second(rows: Sequence[Row], first: int, last: int) -> float | None:
    """Median speed of the rows of steps ``first`` to ``last``; None without rows."""
    key = "train/images_per_second"
    speeds = [row[key] for row in rows if first <= row["step"] <= last and key in row]
    return statistics.median(speeds) if speeds else None


def _results_table(evaluations: Sequence[Row]) -> list[str]:
    if not evaluations:
        return ["Not evaluated yet."]
    prefixes = [p for p in ("eval", "eval_ema") if f"{p}/top1" in evaluations[-1]]
    names = {"eval": "last weights", "eval_ema": "moving average"}
    header = "| step | epoch | weights | top-1 | top-5 | loss | examples |"
    lines = [header, "|---|---|---|---|---|---|---|"]
    best = max(evaluations, key=lambda row: row[f"{prefixes[-1]}/top1"])
    for row in dict.fromkeys([best["step"], evaluations[-1]["step"]]):
        found = next(r for r in evaluations if r["step"] == row)
        for prefix in prefixes:
            lines.append(_result_line(found, prefix, names[prefix]))
    return lines


def _result_line(row: Row, prefix: str, weights: str) -> str:
    loss: Any = row[f"{prefix}/loss"]
    shown = "not finite" if loss is None else f"{loss:.4f}"
    return (
        f"| {row['step']} | {row['epoch']:.2f} | {weights} "
        f"| {row[f'{prefix}/top1']:.2%} | {row[f'{prefix}/top5']:.2%} "
        f"| {shown} | {row[f'{prefix}/examples']} |"
    )

"""What a run leaves for its reader: CSV, curves and a report, made from its rows."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from etils import epath

from nfnets.training.metrics import Row
from nfnets.training.recipe import Recipe
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
      devices: e.g. "1 x cpu".
      data: one line on the data set.
    """

    command: str
    changes: Mapping[str, str]
    num_params: int
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
    draw_curves(workdir / "curves.png", rows, title=recipe.name)
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


# Panels of curves.png: title, the keys drawn in it, whether the axis is logarithmic.
PANELS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("loss", ("train/loss", "eval/loss", "eval_ema/loss"), True),
    ("top-1 accuracy", ("train/top1", "eval/top1", "eval_ema/top1"), False),
    ("learning rate", ("train/learning_rate",), False),
    (
        "fraction of units clipped",
        (
            "train/agc_clipped/weights",
            "train/agc_clipped/gains_biases",
            "train/agc_clipped",
        ),
        False,
    ),
)


def draw_curves(path: epath.Path, rows: Sequence[Row], title: str) -> None:
    """Draws loss, accuracy, learning rate and clipping over the steps, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (name, keys, logarithmic) in zip(
        figure.subplots(2, 2).flat, PANELS, strict=True
    ):
        for key in keys:
            points = [(r["step"], r[key]) for r in rows if r.get(key) is not None]
            if points:
                marker = "o" if key.startswith("eval") else None
                axes.plot(*zip(*points, strict=True), label=key, marker=marker, ms=3)
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
            if logarithmic:
                axes.set_yscale("log")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
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

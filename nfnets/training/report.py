"""What a run leaves for its reader: CSV, curves and a report, made from its rows."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from nfnets.training.curves import draw_curves
from nfnets.training.metrics import Row
from nfnets.training.recipe import Recipe
from nfnets.training.stages import Stage, stage_ends
from nfnets.training.storage import write_atomically
from nfnets.training.workdir import read_rows
from nfnets.versions import versions


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


def latest_rows(rows: Sequence[Row]) -> list[Row]:
    """One row per step, by step: its training and evaluation values put together.

    A step that was done again after a restart shows its last values.
    """
    merged: dict[int, Row] = {}
    for row in rows:
        merged.setdefault(row["step"], {}).update(row)
    return [merged[step] for step in sorted(merged)]


def write_reports(
    workdir: epath.Path, recipe: Recipe, facts: RunFacts, seconds: float
) -> list[epath.Path]:
    """Writes metrics.csv, curves.png and report.md anew; returns their paths.

    Args:
      workdir: of the run.
      recipe: of the run.
      facts: what the rows do not say.
      seconds: wall-clock time that the run took until now.
    """
    written = read_rows(workdir)
    rows = latest_rows(written)
    write_csv(workdir / "metrics.csv", rows)
    draw_curves(workdir / "curves.png", rows, recipe.stages, title=recipe.name)
    about = run_lines(written, recipe, facts, seconds)
    text = report_text(rows, recipe, facts, about)
    write_atomically(workdir / "report.md", text)
    return [workdir / name for name in ("metrics.csv", "curves.png", "report.md")]


def write_csv(path: epath.Path, rows: Sequence[Row]) -> None:
    """Writes rows as a table; a value a row does not have is left empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue())


def report_text(
    rows: Sequence[Row], recipe: Recipe, facts: RunFacts, about: Sequence[str]
) -> str:
    """The report as Markdown: results, settings, and what is needed to do it again."""
    evaluations = [row for row in rows if "eval/top1" in row]
    changed = [f"- `{key}`: {value}" for key, value in facts.changes.items()]
    lines = [
        f"# {recipe.name}: {recipe.model}",
        "",
        "```",
        facts.command,
        "```",
        "",
        *about,
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
        "## The first batch",
        "",
        "![images of the first batch](samples.png)",
        "",
    ]
    return "\n".join(lines)


def run_lines(
    written: Sequence[Row], recipe: Recipe, facts: RunFacts, seconds: float
) -> list[str]:
    """Network, data, optimizer, time and versions, one line each.

    Args:
      written: rows as they were written, restarts and all.
      recipe: of the run.
      facts: what the rows do not say.
      seconds: see ``write_reports``.
    """
    rows = latest_rows(written)
    steps = rows[-1]["step"] if rows else 0
    resumed = [row["step"] for row in written if row.get("event") == "resumed"]
    restarts = sum(step < recipe.total_steps for step in resumed)
    trained = f", {facts.num_trained:,} of them trained"
    start = recipe.init_from or "random weights"
    environment = ", ".join(f"{k} {v}" for k, v in versions().items())
    return [
        f"- model: {recipe.model}, {facts.num_params:,} parameters"
        f"{trained if facts.num_trained < facts.num_params else ''}, from {start}",
        f"- data: {facts.data}",
        f"- images: trained at {_sizes(recipe)} px, tested at "
        f"{recipe.eval_image_size} px",
        f"- steps: {steps} of {recipe.total_steps} with {recipe.batch_size} images, "
        f"{steps * recipe.batch_size:,} images seen, "
        f"{steps / recipe.steps_per_epoch:.2f} epochs; "
        f"{_last(rows, 'train/skipped_total')} updates skipped as not finite, "
        f"{_last(rows, 'train/damaged_images')} damaged images; seed {recipe.seed}",
        f"- optimizer: {_optimizer(recipe)}",
        f"- devices: {facts.devices}; {recipe.dtype}",
        f"- time: {_clock(seconds)} with compilation and evaluation; restarts: "
        f"{restarts}, not counting the time of work that was lost by them",
        f"- speed: {_speed(rows, recipe)}",
        f"- versions: {environment}",
    ]


def _sizes(recipe: Recipe) -> str:
    sizes = list(dict.fromkeys(stage.image_size for stage in recipe.stages))
    return str(sizes[0]) if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"


def _optimizer(recipe: Recipe) -> str:
    optim = recipe.optim
    parts = [
        f"{optim.name}, {optim.schedule} schedule, peak learning rate "
        f"{recipe.peak_lr:.6g} after {recipe.warmup_steps:.0f} steps of warmup",
        f"weight decay {recipe.weight_decay:g}",
    ]
    if optim.agc_clipping is not None:
        parts.append(f"AGC {optim.agc_clipping:g}")
    if recipe.sam.rho > 0:
        parts.append(f"SAM {recipe.sam.rho:g}")
    if recipe.ema_decay is not None:
        parts.append(f"moving average {recipe.ema_decay:g}")
    return "; ".join(parts)


def _last(rows: Sequence[Row], key: str) -> int:
    """The last value of a count; 0 where no row has it."""
    return next((row[key] for row in reversed(rows) if key in row), 0)


def _clock(seconds: float) -> str:
    """2 h 03 min 04 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min {rest:02} s"


def _speed(rows: Sequence[Row], recipe: Recipe) -> str:
    """Median time of a step, images per second, and the share of waiting for input."""
    speed = images_per_second(rows, 1, recipe.total_steps)
    if speed is None:
        return "not measured yet"
    seconds = recipe.batch_size / speed
    wait = _median(rows, "train/input_wait", 1, recipe.total_steps)
    waiting = "" if wait is None else f", {wait:.1%} of it waiting for input"
    step = f"{seconds:.3g} s per step{waiting}"
    return f"{step}, {speed:,.0f} images/s (medians of the rows)"


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
    return _median(rows, "train/images_per_second", first, last)


def _median(rows: Sequence[Row], key: str, first: int, last: int) -> float | None:
    values = [row[key] for row in rows if first <= row["step"] <= last and key in row]
    return statistics.median(values) if values else None


def _results_table(evaluations: Sequence[Row]) -> list[str]:
    if not evaluations:
        return ["Not evaluated yet."]
    prefixes = [p for p in ("eval", "eval_ema") if f"{p}/top1" in evaluations[-1]]
    names = {"eval": "last weights", "eval_ema": "moving average"}
    best = max(evaluations, key=lambda row: row[f"{prefixes[-1]}/top1"])
    header = "| step | epoch | weights | top-1 | top-5 | loss | examples |"
    lines = [header, "|---|---|---|---|---|---|---|"]
    if best["step"] != evaluations[-1]["step"]:
        by = names[prefixes[-1]]
        lines = [
            f"The best of {len(evaluations)} evaluations, by the top-1 of the {by}, "
            "and the last one.",
            "",
            *lines,
        ]
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

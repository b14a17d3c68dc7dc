"""Accuracy against test resolution and crop ratio: a table, a CSV file, a picture.

A study of ResNet strikes back (arXiv 2110.00476): networks gain from test images that
are larger than those of the training, and from crops that leave less out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from etils import epath

from nfnets.training.evaluation_results import Result
from nfnets.training.figures import new_figure, save_figure
from nfnets.training.storage import check_writable, make_folder, write_atomically

CSV = "resolution_sweep.csv"
PICTURE = "resolution_sweep.png"
FILES = (CSV, PICTURE)
COLUMNS = (
    "set",
    "average",  # 1 of the moving average, 0 of the weights
    "image_size",
    "crop_pct",
    "top1",
    "top5",
    "loss",
    "examples",
    "checkpoint",
    "step",
)
# (set, whether of the moving average) -> crop ratio -> [(image size, top-1)]
Panels = dict[tuple[str, bool], dict[float | None, list[tuple[int, float]]]]


def check_files(directory: epath.Path) -> None:
    """Raises UserError, before the work, where ``write_files`` cannot write."""
    for name in FILES:
        check_writable(directory / name)


def write_files(directory: epath.Path, results: Sequence[Result], title: str) -> None:
    """Writes the CSV file and the picture of all results so far, over older ones."""
    make_folder(directory)
    write_csv(directory / CSV, results)
    draw(directory / PICTURE, results, title)


def write_csv(path: epath.Path, results: Sequence[Result]) -> None:
    """A row per set, size, crop and kind of weights, in the order of the results."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for result in results:
        for prefix, metrics in result.metrics.items():
            writer.writerow(
                {
                    "set": result.name,
                    "average": int(prefix == "eval_ema"),
                    "image_size": result.recipe.eval_image_size,
                    "crop_pct": result.recipe.eval.crop_pct,
                    "checkpoint": result.facts["checkpoint"],
                    "step": result.facts["step"],
                    **metrics,
                }
            )
    write_atomically(path, text.getvalue())


def panels(results: Sequence[Result]) -> Panels:
    """Top-1 by size, for each crop ratio, of each set and kind of weights."""
    found: Panels = {}
    for result in results:
        for prefix, metrics in result.metrics.items():
            lines = found.setdefault((result.name, prefix == "eval_ema"), {})
            points = lines.setdefault(result.recipe.eval.crop_pct, [])
            points.append((result.recipe.eval_image_size, metrics["top1"]))
    return {
        key: {crop: sorted(points) for crop, points in lines.items()}
        for key, lines in found.items()
    }


def table(results: Sequence[Result]) -> str:
    """Top-1 in percent, a line per size and a column per crop ratio, of each panel."""
    blocks = []
    for key, lines in panels(results).items():
        sizes = sorted({size for points in lines.values() for size, _ in points})
        head = "".join(f"{_crop_name(crop):>12}" for crop in lines)
        rows = [f"{_title(key):36}{head}"]
        for size in sizes:
            values = [dict(points).get(size) for points in lines.values()]
            cells = ("" if v is None else f"{100 * v:.2f}" for v in values)
            rows.append(f"{f'{size} px':36}" + "".join(f"{c:>12}" for c in cells))
        blocks.append("\n".join(rows))
    return "\n\n".join(blocks)


def draw(path: epath.Path, results: Sequence[Result], title: str) -> None:
    """Top-1 over test size, a line per crop ratio, a panel per set and weights."""
    found = panels(results)
    figure = new_figure(max(6, 4.5 * len(found)), 4, title)
    grid = figure.subplots(1, len(found), squeeze=False)
    for axes, (key, lines) in zip(grid.flat, found.items(), strict=True):
        for crop, points in lines.items():
            sizes, top1 = zip(*points, strict=True)
            percent = [100 * value for value in top1]
            axes.plot(sizes, percent, label=_crop_name(crop), marker="o", ms=4)
        axes.set_title(_title(key))
        axes.set_xlabel("test size (pixels)")
        axes.set_xticks(sorted({s for points in lines.values() for s, _ in points}))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save_figure(figure, path)


def _title(key: tuple[str, bool]) -> str:
    name, average = key
    return f"{name} top-1 (%){', moving average' if average else ''}"


def _crop_name(crop: float | None) -> str:
    return "crop" if crop is None else f"crop {crop:g}"

"""Pictures over the numeric axes of a sweep: lines, and a heat map of two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from etils import epath

from nfnets.sweep.axes import Cell, number
from nfnets.sweep.pictures import (
    NAMES,
    label_of,
    outside_legend,
    panels,
    style,
)
from nfnets.sweep.results import RunResult, Summary, summarise
from nfnets.training.figures import save_figure

_LOGARITHMIC_FROM = 4.0  # largest over smallest


def values_along(summaries: Sequence[Summary], field: str) -> list[str]:
    """The values of a field: None first, then by size."""
    texts = {dict(summary.setting)[field] for summary in summaries}
    return sorted(texts, key=_by_size)


def _by_size(text: str) -> float:
    value = number(text)
    return -math.inf if value is None else value


def without(setting: Cell, *fields: str) -> Cell:
    """A setting without these fields."""
    return tuple(pair for pair in setting if pair[0] not in fields)


def draw_lines(
    path: epath.Path, results: Sequence[RunResult], metric: str, numeric: Sequence[str]
) -> epath.Path | None:
    """Draws a metric along a numeric axis, a line for each of the other settings.

    The axis is the first whose values are all numbers, or else the first one, with None
    at its left. What diverged is a cross at the bottom, with how many of its seeds.

    Returns:
      The path; None without a numeric axis, or before anything is finished.
    """
    summaries = summarise(results, metric)
    ended = [s for s in summaries if s.n or s.counts["diverged"]]
    if not numeric or not ended:
        return None
    plain = [f for f in numeric if "None" not in values_along(summaries, f)]
    field = (plain or list(numeric))[0]
    others = [f for f in numeric if f != field]
    name = NAMES.get(metric, metric)
    figure, (axes,) = panels(1, f"final top-1 by {field} ({name})", (8.0, 5.5), 1)
    positions = _positions(axes, values_along(summaries, field))
    groups: dict[Cell, list[Summary]] = {}
    for summary in ended:
        groups.setdefault(without(summary.setting, field), []).append(summary)
    order = values_along(summaries, others[0]) if others else []
    in_order = sorted(
        groups.items(), key=lambda g: order and order.index(dict(g[0])[others[0]])
    )
    for i, (setting, group) in enumerate(in_order):
        points = {positions[dict(s.setting)[field]]: s for s in group}
        ordered = sorted(points.items(), key=lambda point: point[0])
        _draw_line(axes, ordered, i, label_of(setting))
    axes.set_xlabel(field)
    axes.set_ylabel("top-1 accuracy (%); bars: std over seeds")
    axes.grid(alpha=0.3)
    axes.margins(x=0.08)
    if any(s.counts["diverged"] for s in ended):
        axes.plot(
            [], [], "x", color="black", ms=8, mew=2, label="k/n of its seeds diverged"
        )
    outside_legend(figure, axes)
    return save_figure(figure, path)


def _positions(axes: Any, texts: Sequence[str]) -> dict[str, float]:
    """Where values stand: at their size, or side by side where one is None."""
    numbers = [number(text) for text in texts]
    positions: dict[str, float] = {}
    for i, (text, value) in enumerate(zip(texts, numbers, strict=True)):
        positions[text] = float(i) if None in numbers or value is None else value
    values = sorted(positions.values())
    if None not in numbers and values[0] > 0:
        if values[-1] / values[0] >= _LOGARITHMIC_FROM:
            axes.set_xscale("log")
    axes.set_xticks(list(positions.values()), list(positions))
    axes.minorticks_off()
    return positions


def _draw_line(
    axes: Any, points: Sequence[tuple[float, Summary]], index: int, label: str
) -> None:
    look = style(index)
    finished = [(x, s) for x, s in points if s.mean is not None]
    axes.errorbar(
        [x for x, _ in finished],
        [100 * (s.mean or 0) for _, s in finished],
        yerr=[100 * (s.std or 0) for _, s in finished],
        **look,
        ms=5,
        lw=1.5,
        capsize=3,
        label=label,
    )
    for x, summary in points:
        if summary.counts["diverged"]:
            height = 0.03 + 0.045 * index
            at = axes.get_xaxis_transform()
            axes.plot(x, height, "x", color=look["color"], ms=8, mew=2, transform=at)
            axes.annotate(
                _diverged_share(summary),
                (x, height),
                xycoords=at,
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
                color=look["color"],
            )


def _diverged_share(summary: Summary) -> str:
    return f"{summary.counts['diverged']}/{sum(summary.counts.values())}"


def draw_heat_map(
    path: epath.Path, results: Sequence[RunResult], metric: str, numeric: Sequence[str]
) -> epath.Path | None:
    """Draws the mean of a metric over two numeric axes, a panel per other setting.

    Returns:
      The path; None with less than two such axes, or before anything is finished.
    """
    if len(numeric) < 2:
        return None
    across, down = numeric[:2]
    summaries = summarise(results, metric)
    means = [100 * s.mean for s in summaries if s.mean is not None]
    if not means:
        return None
    columns, lines = (values_along(summaries, field) for field in (across, down))
    groups: dict[Cell, list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(without(summary.setting, across, down), []).append(summary)
    size = (1.1 * len(columns) + 1.8, 0.6 * len(lines) + 1.5)
    name = NAMES.get(metric, metric)
    title = f"final top-1 (%), mean over seeds ({name})"
    figure, grid = panels(len(groups), title, size, 3)
    for axes, (setting, group) in zip(grid, groups.items(), strict=True):
        image = _draw_map(axes, group, (across, columns), (down, lines), means)
        if len(groups) > 1:
            axes.set_title(label_of(setting), fontsize="small")
        axes.set_xlabel(across)
        axes.set_ylabel(down)
        axes.label_outer()
    figure.colorbar(image, ax=grid, label="top-1 (%)")
    return save_figure(figure, path)


def _draw_map(
    axes: Any,
    group: Sequence[Summary],
    across: tuple[str, list[str]],
    down: tuple[str, list[str]],
    means: Sequence[float],
) -> Any:
    """One panel; ``means`` are those of all panels, for the colours."""
    cells = {(dict(s.setting)[down[0]], dict(s.setting)[across[0]]): s for s in group}
    low, high = min(means), max(means)
    values = [[math.nan] * len(across[1]) for _ in down[1]]
    for y, line in enumerate(down[1]):
        for x, column in enumerate(across[1]):
            summary = cells.get((line, column))
            mean = None if summary is None else summary.mean
            if mean is not None:
                values[y][x] = 100 * mean
            dark = mean is not None and 100 * mean < (low + high) / 2
            colour = "white" if dark else "black"
            text = _cell_text(summary)
            axes.text(
                x, y, text, ha="center", va="center", color=colour, fontsize="small"
            )
    span = {"vmin": low, "vmax": high if high > low else low + 1}
    image = axes.imshow(values, cmap="viridis", aspect="auto", origin="lower", **span)
    axes.set_facecolor("0.9")
    axes.set_xticks(range(len(across[1])), across[1])
    axes.set_yticks(range(len(down[1])), down[1])
    return image


def _cell_text(summary: Summary | None) -> str:
    if summary is None:
        return ""
    mean = "" if summary.mean is None else f"{100 * summary.mean:.2f}"
    if not summary.counts["diverged"]:
        return mean
    note = f"{_diverged_share(summary)} diverged"
    return f"{mean}\n{note}" if mean else note

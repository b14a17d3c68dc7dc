"""Pictures over the seeds of a sweep: histogram, spread over epochs, val against V2."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from nfnets.sweep.axes import Cell
from nfnets.sweep.results import RunResult, by_setting, values_of
from nfnets.training.figures import new_figure, save_figure

# Okabe and Ito's colours, which the colour-blind can tell apart; grey for their yellow.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#000000", "#8C8C8C"),
)
DASHES = ("-", "--", ":", "-.")
MARKERS = "osD^v<>p"
_MOST_PANELS = 32
_FEWEST_BINS, _MOST_BINS = 8, 60
_MOST_OVERLAID = 6
NAMES = {"eval/top1": "last weights", "eval_ema/top1": "moving average"}


def style(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of the i-th line; 32 lines differ."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def label_of(setting: Cell) -> str:
    """A setting as a legend shows it: fields without what they belong to."""
    pairs = [f"{f.rpartition('.')[2]} {value}" for f, value in setting]
    return ", ".join(pairs) or "all runs"


def outside_legend(figure: Any, axes: Any) -> None:
    """Puts a legend below the picture, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=1)
    columns = max(1, min(4, len(labels), 110 // (longest + 6)))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize="small"
    )


def panels(
    count: int, title: str, panel_size: tuple[float, float], columns: int
) -> tuple[Any, list[Any]]:
    """A picture with so many panels that share both axes, and the panels."""
    columns = min(columns, count)
    lines = math.ceil(count / columns)
    width, height = panel_size
    figure = new_figure(
        max(6.0, width * columns), max(3.0, height * lines + 0.6), title
    )
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    flat = list(grid.flat)
    for axes in flat[count:]:
        axes.remove()
    return figure, flat[:count]


def draw_histogram(
    path: epath.Path, results: Sequence[RunResult], metric: str
) -> epath.Path | None:
    """Draws how often each accuracy came up over the seeds, a panel per setting.

    Returns:
      The path; None where no setting has two finished runs.
    """
    groups = {
        setting: [100 * value for value in values_of(group, metric)]
        for setting, group in by_setting(results).items()
    }
    groups = {setting: v for setting, v in groups.items() if len(v) > 1}
    if not groups:
        return None
    edges = _bin_edges(list(groups.values()))
    shown = list(groups.items())[:_MOST_PANELS]
    title = f"top-1 over the seeds ({NAMES.get(metric, metric)})"
    title += "" if len(shown) == len(groups) else f": first {len(shown)} settings"
    columns = 1 if len(shown) <= 8 else 3
    size = (7.0, 1.5) if columns == 1 else (4.2, 1.5)
    figure, grid = panels(len(shown), title, size, columns)
    for axes, (setting, values) in zip(grid, shown, strict=True):
        _draw_seeds(axes, values, edges, label_of(setting))
    figure.supxlabel("top-1 accuracy (%); line: mean, ticks: seeds", fontsize="medium")
    figure.supylabel("runs", fontsize="medium")
    return save_figure(figure, path)


def _draw_seeds(
    axes: Any, values: Sequence[float], edges: Sequence[float], label: str
) -> None:
    mean, std = statistics.fmean(values), statistics.stdev(values)
    axes.hist(values, bins=edges, color=COLOURS[0], alpha=0.75)
    axes.plot(values, [0] * len(values), "|", color="black", ms=12, clip_on=False)
    axes.axvline(mean, color=COLOURS[1], lw=1.5)
    title = f"{label}: mean {mean:.2f}, std {std:.2f}, n {len(values)}"
    axes.set_title(title, fontsize="small", loc="left")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def _bin_edges(groups: Sequence[Sequence[float]]) -> list[float]:
    """Equal bins over all values, about 0.4 of the settings' spread wide."""
    everything = [value for values in groups for value in values]
    low, high = min(everything), max(everything)
    if low == high:
        low, high = low - 0.5, high + 0.5
    spread = math.sqrt(statistics.fmean(map(statistics.variance, groups)))
    wanted = (high - low) / (0.4 * spread) if spread else _MOST_BINS
    bins = round(min(_MOST_BINS, max(_FEWEST_BINS, wanted)))
    return [low + (high - low) * i / bins for i in range(bins + 1)]


def draw_spread(path: epath.Path, results: Sequence[RunResult]) -> epath.Path | None:
    """Draws accuracy over the epochs: mean, standard deviation and range of the seeds.

    A run that diverged is a thin line that ends in a cross. One picture has all
    settings where they are few, otherwise each has a panel.

    Returns:
      The path; None where no run was evaluated.
    """
    groups = {
        setting: [r for r in group if r.evaluations and r.status in ("ok", "diverged")]
        for setting, group in by_setting(results).items()
    }
    groups = {setting: group for setting, group in groups.items() if group}
    if not groups:
        return None
    averaged = any("eval_ema/top1" in r.metrics for g in groups.values() for r in g)
    metrics = ("eval/top1", "eval_ema/top1") if averaged else ("eval/top1",)
    overlaid = len(groups) <= _MOST_OVERLAID
    draw = _spread_overlaid if overlaid else _spread_side_by_side
    figure, grid = draw(groups, metrics)
    for axes in grid:
        axes.grid(alpha=0.3)
        if axes.get_subplotspec().is_last_row():
            axes.set_xlabel("epoch")
    outside_legend(figure, grid[0])
    figure.supylabel("top-1 accuracy (%)", fontsize="medium")
    return save_figure(figure, path)


_Groups = Mapping[Cell, Sequence[RunResult]]
_SPREAD = "top-1 over the epochs; band: std over seeds, light band: min to max"


def _spread_overlaid(groups: _Groups, metrics: Sequence[str]) -> tuple[Any, list[Any]]:
    """A panel per metric, a band per setting."""
    figure, grid = panels(len(metrics), _SPREAD, (6.5, 5.0), 2)
    for axes, metric in zip(grid, metrics, strict=True):
        for i, (setting, group) in enumerate(groups.items()):
            _draw_band(axes, group, metric, i, label_of(setting))
        axes.set_title(NAMES[metric], fontsize="medium")
    return figure, grid


def _spread_side_by_side(
    groups: _Groups, metrics: Sequence[str]
) -> tuple[Any, list[Any]]:
    """A panel per setting, a band per metric."""
    shown = list(groups.items())[:_MOST_PANELS]
    cut = f"; first {len(shown)} settings" if len(shown) < len(groups) else ""
    size, columns = ((4.0, 2.6), 3) if len(shown) <= 9 else ((3.2, 2.0), 4)
    figure, grid = panels(len(shown), _SPREAD + cut, size, columns)
    for axes, (setting, group) in zip(grid, shown, strict=True):
        for i, metric in enumerate(metrics):
            _draw_band(axes, group, metric, i, NAMES[metric])
        axes.set_title(label_of(setting), fontsize="small")
    return figure, grid


def _draw_band(
    axes: Any, group: Sequence[RunResult], metric: str, index: int, label: str
) -> None:
    """Mean, standard deviation and range over the seeds of one setting."""
    look = style(index)
    by_epoch: dict[float, list[float]] = {}
    for result in group:
        points = [
            (r["epoch"], 100 * r[metric]) for r in result.evaluations if metric in r
        ]
        if result.status != "ok":
            _draw_diverged(axes, points, look["color"])
            continue
        for epoch, value in points:
            by_epoch.setdefault(epoch, []).append(value)
    epochs = sorted(by_epoch)
    values = [by_epoch[epoch] for epoch in epochs]
    mean = [statistics.fmean(v) for v in values]
    std = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
    axes.plot(epochs, mean, **look, ms=4, lw=1.5, label=label)
    for low, high, alpha in (
        (
            [m - s for m, s in zip(mean, std, strict=True)],
            [m + s for m, s in zip(mean, std, strict=True)],
            0.3,
        ),
        ([min(v) for v in values], [max(v) for v in values], 0.13),
    ):
        axes.fill_between(epochs, low, high, color=look["color"], alpha=alpha, lw=0)


def _draw_diverged(
    axes: Any, points: Sequence[tuple[float, float]], colour: str
) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), ":", color=colour, lw=1)
        axes.plot(*points[-1], "x", color=colour, ms=8, mew=2)


def draw_val_against_v2(
    path: epath.Path, results: Sequence[RunResult]
) -> epath.Path | None:
    """Draws V2 accuracy against that of the validation set, a point per run.

    A run that keeps a moving average is at the accuracies of that.

    Returns:
      The path; None where no run was evaluated on both.
    """

    def accuracy(result: RunResult, name: str) -> float | None:
        average = result.metrics.get(f"{name}_ema/top1")
        return result.metrics.get(f"{name}/top1") if average is None else average

    both = [r for r in results if None not in (accuracy(r, "val"), accuracy(r, "v2"))]
    if not both:
        return None
    figure = new_figure(7, 6, "ImageNet-V2 against validation top-1, last checkpoints")
    axes = figure.subplots()
    for i, (setting, group) in enumerate(by_setting(both).items()):
        val, v2 = (
            [100 * (accuracy(result, name) or 0) for result in group]
            for name in ("val", "v2")
        )
        look = style(i) | {"linestyle": "none"}
        axes.plot(val, v2, **look, ms=6, alpha=0.8, label=label_of(setting))
    axes.set_xlabel("validation top-1 (%)")
    axes.set_ylabel("V2 top-1 (%)")
    axes.grid(alpha=0.3)
    outside_legend(figure, axes)
    return save_figure(figure, path)

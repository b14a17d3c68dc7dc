"""The picture of a run: what was measured and, of progressive learning, its stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etils import epath

from nfnets.training.figures import new_figure, save_figure
from nfnets.training.metrics import Row
from nfnets.training.stages import Stage, stage_ends

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


def draw_curves(
    path: epath.Path, rows: Sequence[Row], stages: Sequence[Stage], title: str
) -> None:
    """Draws loss, accuracy, learning rate and clipping over the steps, as a PNG.

    With several stages also their image sizes and regularisation.
    """
    lines = 2 if len(stages) == 1 else 3
    figure = new_figure(10, 3.5 * lines, title)
    grid = list(figure.subplots(lines, 2).flat)
    for axes, (name, keys, logarithmic) in zip(grid, PANELS, strict=False):
        for key in keys:
            points = [(r["step"], r[key]) for r in rows if r.get(key) is not None]
            if points:
                marker = "o" if key.startswith("eval") else None
                axes.plot(*zip(*points, strict=True), label=key, marker=marker, ms=3)
        if axes.lines and logarithmic:
            axes.set_yscale("log")
        _label(axes, name)
    if len(stages) > 1:
        _draw_stages(grid[-2], grid[-1], stages)
    save_figure(figure, path)


def _draw_stages(
    size_axes: Any, regularisation_axes: Any, stages: Sequence[Stage]
) -> None:
    """Image size by step, and each regularisation as a share of its largest value."""
    edges = [0, *(end for _, end in stage_ends(stages))]
    size_axes.stairs([stage.image_size for stage in stages], edges, baseline=None)
    _label(size_axes, "image size (pixels)")
    regularisation = {
        "RandAugment": [s.augment.randaugment_magnitude or 0 for s in stages],
        "mixup": [s.augment.mixup_alpha for s in stages],
        "cutmix": [s.augment.cutmix_alpha for s in stages],
        "dropout": [s.drop_rate for s in stages],
    }
    for name, values in regularisation.items():
        if max(values) > 0:
            shares = [value / max(values) for value in values]
            label = f"{name}, 1 = {max(values):g}"
            regularisation_axes.stairs(shares, edges, baseline=None, label=label)
    _label(regularisation_axes, "regularisation, share of its largest")


def _label(axes: Any, title: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")

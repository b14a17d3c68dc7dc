"""A picture of images and of what a network takes them for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from etils import epath

from nfnets.data.decode import decode
from nfnets.training.figures import new_figure, save_figure
from nfnets.training.predict import Prediction
from nfnets.training.storage import make_folder

# Images that are shown at most.
MOST_SHOWN = 48
_COLUMNS = 6
# Classes named at an image.
_NAMED = 3
# Characters that fit beside a number.
_LINE = 26
# Pixels of an image's longer side, and below which its pixels are shown as squares.
_LARGE, _SMALL = 400, 64


def draw_grid(
    path: epath.Path,
    predictions: Sequence[Prediction],
    names: Sequence[str],
    title: str,
) -> int:
    """Draws the first images that could be read, and around each its likeliest classes.

    Returns:
      How many images are shown; nothing is written where there is none.
    """
    shown = [p for p in predictions if p.damage is None][:MOST_SHOWN]
    if not shown:
        return 0
    columns = min(_COLUMNS, len(shown))
    lines = math.ceil(len(shown) / columns)
    width = max(2.3 * columns, 0.1 * len(title) + 0.5)  # of the images, of the title
    figure = new_figure(width, 3.0 * lines + 0.4, title)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for axes, prediction in zip(grid.flat, shown, strict=False):
        _draw_image(axes, prediction, names)
    make_folder(path.parent)
    save_figure(figure, path)
    return len(shown)


def _draw_image(axes: Any, prediction: Prediction, names: Sequence[str]) -> None:
    image = decode(prediction.path)
    height, width = image.shape[:2]
    longer = max(height, width)
    step = max(1, longer // _LARGE)
    kernel = "nearest" if longer < _SMALL else "antialiased"
    edges = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(image[::step, ::step], interpolation=kernel, extent=edges)
    # A square around the centre, so that the lines below all images are level.
    axes.set_xlim((width - longer - 1) / 2, (width + longer - 1) / 2)
    axes.set_ylim((height + longer - 1) / 2, (height - longer - 1) / 2)
    pairs = zip(prediction.labels, prediction.probabilities, strict=True)
    guesses = [f"{_shortened(names[i])}  {share:.1%}" for i, share in pairs]
    axes.set_title(guesses[0], fontsize=10, fontweight="bold")
    below = [*guesses[1:_NAMED], _shortened(prediction.path, from_left=True)]
    axes.set_xlabel("\n".join(below), fontsize=8, color="0.35")


def _shortened(text: str, *, from_left: bool = False) -> str:
    if len(text) <= _LINE:
        return text
    return f"…{text[1 - _LINE :]}" if from_left else f"{text[: _LINE - 1]}…"

"""Accuracy class by class, and which classes are taken for which others."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from nfnets.training.figures import new_figure, save_figure
from nfnets.training.storage import make_folder, write_atomically

# Classes up to which a confusion matrix is drawn.
MOST_DRAWN = 50
COLUMNS = (
    "label",
    "name",
    "examples",
    "top1",
    "top5",
    "wrong_label",
    "wrong_name",
    "wrong_count",
)
# Classes up to which the picture has numbers in its cells.
_MOST_NUMBERED = 30


@dataclasses.dataclass(frozen=True)
class ClassCounts:
    """Counts of an evaluation on images of one label each.

    Attributes:
      pairs: images by (label, first guess), of those that came up.
      hits5: int [K], images with the label among five guesses, by label.
    """

    pairs: Mapping[tuple[int, int], int]
    hits5: np.ndarray

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.hits5)


def count_classes(
    batches: Iterable[Mapping[str, Any]], num_classes: int
) -> ClassCounts:
    """Counts what the evaluation step with ``guesses`` gave, batch by batch."""
    pairs: dict[tuple[int, int], int] = {}
    hits5 = np.zeros(num_classes, np.int64)
    for batch in batches:
        counted = batch["mask"] > 0
        label, guess = batch["label"][counted], batch["guess"][counted]
        for pair in zip(label.tolist(), guess.tolist(), strict=True):
            pairs[pair] = pairs.get(pair, 0) + 1
        np.add.at(hits5, label, batch["hit5"][counted])
    return ClassCounts(pairs, hits5)


def class_rows(counts: ClassCounts, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row of ``COLUMNS`` per class, by label.

    Accuracies are fractions, None of a class without images; the wrong class is the one
    that its images are most often taken for, the first of equally frequent ones, None
    where all are right.
    """
    guesses: list[dict[int, int]] = [{} for _ in names]
    for (label, guess), count in counts.pairs.items():
        guesses[label][guess] = count
    rows = []
    for label, of_label in enumerate(guesses):
        examples = sum(of_label.values())
        wrong = {g: n for g, n in sorted(of_label.items()) if g != label}
        worst = max(wrong, key=wrong.__getitem__, default=None)
        values = (
            label,
            names[label],
            examples,
            of_label.get(label, 0) / examples if examples else None,
            int(counts.hits5[label]) / examples if examples else None,
            worst,
            None if worst is None else names[worst],
            None if worst is None else wrong[worst],
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def write_classes(
    directory: epath.Path,
    suffix: str,
    counts: ClassCounts,
    names: Sequence[str],
    title: str,
) -> list[epath.Path]:
    """Writes ``per_class_SUFFIX.csv`` and, of few classes, ``confusion_SUFFIX.png``."""
    make_folder(directory)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(class_rows(counts, names))
    written = [directory / f"per_class_{suffix}.csv"]
    write_atomically(written[0], text.getvalue())
    if counts.num_classes <= MOST_DRAWN:
        path = directory / f"confusion_{suffix}.png"
        written.append(draw_confusion(path, counts, names, title))
    return written


def confusion_matrix(counts: ClassCounts) -> np.ndarray:
    """Images by label (rows) and first guess (columns), int [K, K]."""
    matrix = np.zeros((counts.num_classes, counts.num_classes), np.int64)
    for pair, count in counts.pairs.items():
        matrix[pair] = count
    return matrix


def draw_confusion(
    path: epath.Path, counts: ClassCounts, names: Sequence[str], title: str
) -> epath.Path:
    """Draws the confusion matrix: rows are true, columns predicted classes.

    What is right is blue, what is wrong red; a colour is the share of its row, a number
    the images.
    """
    matrix = confusion_matrix(counts)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    right = np.eye(len(matrix), dtype=bool)
    side = max(4.5, min(0.42 * len(matrix), 16))
    correct = int(np.trace(matrix))
    title += f"\n{correct} of {matrix.sum()} right ({correct / matrix.sum():.2%})"
    figure = new_figure(side + 1.5, side + 1.0, title)
    axes = figure.subplots()
    for part, colours in ((right, "Blues"), (~right, "Reds")):
        # The root makes a few wrong ones among many visible.
        shown = np.ma.masked_where(~part | (matrix == 0), np.sqrt(shares))
        axes.imshow(shown, cmap=colours, vmin=0, vmax=1.25)
    if len(matrix) <= _MOST_NUMBERED:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            number = str(matrix[row, column])
            style = {"ha": "center", "va": "center", "fontsize": "small"}
            axes.text(column, row, number, color=colour, **style)
    turned = 0 if max(map(len, names)) <= 2 else 90
    axes.set_xticks(range(len(names)), names, rotation=turned)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_axisbelow(True)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    return save_figure(figure, path)

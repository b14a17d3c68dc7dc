"""Predictions for people and programs: lines on the terminal, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from nfnets.errors import UserError
from nfnets.training.predict import Prediction
from nfnets.training.storage import as_path, make_folder, write_atomically

SUFFIXES = (".csv", ".json")
# A longer name moves what comes after it in its line.
_NAME_WIDTH = 22


def describe(prediction: Prediction, names: Sequence[str], path_width: int) -> str:
    """One line: the file, then name and probability of each class."""
    path = prediction.path.ljust(path_width)
    if prediction.damage is not None:
        return f"{path}  cannot be read: {prediction.damage}"
    width = min(_NAME_WIDTH, max(map(len, names)))
    pairs = zip(prediction.labels, prediction.probabilities, strict=True)
    cells = [f"{names[label].ljust(width)} {share:7.2%}" for label, share in pairs]
    return f"{path}  {'   '.join(cells)}"


def table_path(text: str) -> epath.Path:
    """The path of ``--out``.

    Raises:
      UserError: its suffix is none of ``SUFFIXES``.
    """
    path = as_path(text)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out={text} ends in none of {', '.join(SUFFIXES)}")
    return path


def write_predictions(
    path: epath.Path, predictions: Sequence[Prediction], names: Sequence[str]
) -> None:
    """Writes a row per image, in the form that the suffix of the path says."""
    make_folder(path.parent)
    form = _as_json if path.suffix.lower() == ".json" else _as_csv
    write_atomically(path, form(predictions, names))


def _as_json(predictions: Sequence[Prediction], names: Sequence[str]) -> str:
    rows = [
        {
            "path": prediction.path,
            "predictions": [
                {"label": label, "name": names[label], "probability": probability}
                for label, probability in zip(
                    prediction.labels, prediction.probabilities, strict=True
                )
            ],
            "error": prediction.damage,
        }
        for prediction in predictions
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def _as_csv(predictions: Sequence[Prediction], names: Sequence[str]) -> str:
    ranks = range(1, 1 + max(len(prediction.labels) for prediction in predictions))
    fields = ("label", "name", "probability")
    text = io.StringIO()
    columns = ["path", *(f"{f}_{rank}" for rank in ranks for f in fields), "error"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for prediction in predictions:
        row: dict[str, Any] = {"path": prediction.path, "error": prediction.damage}
        pairs = zip(prediction.labels, prediction.probabilities, strict=True)
        for rank, (label, probability) in enumerate(pairs, start=1):
            values = (label, names[label], probability)
            row |= {f"{f}_{rank}": v for f, v in zip(fields, values, strict=True)}
        writer.writerow(row)
    return text.getvalue()

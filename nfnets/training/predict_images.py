"""Predicts image files, and leaves what was asked for: lines, a table, a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from etils import epath

from nfnets.training import parallel
from nfnets.training.class_names import class_names
from nfnets.training.predict import Prediction, predict
from nfnets.training.prediction_files import describe, write_predictions
from nfnets.training.prediction_grid import draw_grid
from nfnets.training.storage import check_writable
from nfnets.training.tested_weights import Tested

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be made.

    Attributes:
      raw: whether the weights are taken even where there is a moving average.
      top_k: classes per image.
      table: file of a row per image; None for none.
      grid: file of the picture; None for none.
    """

    raw: bool
    top_k: int
    table: epath.Path | None
    grid: epath.Path | None


def predict_images(
    tested: Tested,
    paths: Sequence[str],
    asked: Asked,
    *,
    log: Log,
    stop_requested: Callable[[], bool],
) -> list[Prediction]:
    """Logs a line per image when it is there, and writes the files at the end.

    Returns:
      A prediction per image; fewer when stopped, and the files have these.

    Raises:
      UserError: settings that do not fit, or a file that cannot be written, before
        anything is predicted.
    """
    for file in (asked.table, asked.grid):
        if file is not None:
            check_writable(file)
    names = class_names(tested.run, tested.recipe, tested.num_classes, log)
    prefix = "eval" if asked.raw else list(tested.by_prefix)[-1]
    kind = "moving average" if prefix == "eval_ema" else "weights"
    size = tested.recipe.eval_image_size
    log(f"images   {len(paths)} at {size} px, {kind}, on {parallel.describe()}")
    width = max(map(len, paths))
    done: list[Prediction] = []
    for batch in predict(tested, paths, prefix=prefix, top_k=asked.top_k):
        for prediction in batch:
            log(describe(prediction, names, width))
        done += batch
        if stop_requested():
            break
    if done and asked.table is not None:
        write_predictions(asked.table, done, names)
        log(f"wrote    {asked.table}")
    if asked.grid is not None:
        title = f"{tested.facts['model']}, {tested.facts['weights']} ({kind})"
        shown = draw_grid(asked.grid, done, names, title)
        which = "" if shown == len(done) else f": {shown} of {len(done)} images"
        log(f"wrote    {asked.grid}{which}" if shown else "note     nothing to draw")
    return done

"""A test split for data that have none: one training image in ten, never trained on.

Which ones depends on each image's own name, not on its place: images that are added
later change neither side for those that were there, so that a network is not
evaluated on what it was trained on. (In classes of a few images the rule that both
sides get one may move an image.) Where images have no names, as in Hugging Face's data
sets, their places stand for them: there, only what is added at the end moves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from nfnets.data.source import Source, part_of
from nfnets.errors import UserError

_ONE_IN = 10


def held_out(names: Iterable[str], labels: np.ndarray) -> np.ndarray:
    """Which records make the test split.

    Args:
        names: of the records; the same wherever the data lie.
        labels: int ``[n]``.

    Returns:
        bool ``[n]``, true for about one in ten. Of a class with two images or more, at
        least one is true and one is false; a class's only image is for training.
    """
    digests = (hashlib.sha256(name.encode("utf-8", "replace")) for name in names)
    draws = np.array([int.from_bytes(d.digest()[:8], "big") for d in digests], "u8")
    chosen = draws < 2**64 // _ONE_IN
    order = np.lexsort((draws, labels))  # by class, then by draw
    bounds = np.flatnonzero(np.diff(labels[order])) + 1
    chosen[order[np.concatenate([[0], bounds])]] = True  # the smallest draw of each
    chosen[order[np.concatenate([bounds, [len(order)]]) - 1]] = False  # the largest
    return chosen


def split_held_out(source: Source, names: Iterable[str] | None, split: str) -> Source:
    """One side of data that have no test split.

    Args:
        source: all records, at least one.
        names: see :func:`held_out`; None takes the records' places.
        split: ``train``, ``test``, or ``whole_test``.

    Returns:
        The part, with a ``note`` that says so; for ``whole_test`` all records.

    Raises:
        UserError: every class has one image only.
    """
    if split == "whole_test":
        return source
    places = map(str, range(len(source)))
    chosen = held_out(places if names is None else names, source.labels)
    if not chosen.any():
        raise UserError(
            f"{source.name} has one image a class and no test split, so there is "
            "nothing to evaluate on; add images, or a folder test"
        )
    if split == "test":
        part = part_of(
            source, np.flatnonzero(chosen), f"{source.name}[the held-out tenth]"
        )
    else:
        part = part_of(
            source, np.flatnonzero(~chosen), f"{source.name}[but the held-out tenth]"
        )
    note = (
        f"the data have no test split: {chosen.sum()} of {len(chosen)} images, chosen "
        f"by their {'places' if names is None else 'names'}, are kept from training to "
        f"evaluate on"
    )
    return replace(part, note=note)

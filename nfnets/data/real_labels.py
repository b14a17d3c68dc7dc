"""ImageNet-ReaL: the set of right labels of each validation image, perhaps none.

Beyer et al.: *Are we done with ImageNet?* (arXiv 2006.07159). Their ``real.json`` is a
list of lists in the order of the validation files' numbers; an image without labels is
left out of every mean. Sources have orders of their own, so images and lists are put
together by file name, never by place.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from nfnets.data.decode import DamagedImage
from nfnets.data.source import Source
from nfnets.errors import UserError

T = TypeVar("T")

# Images that count, of 50000, and the images of the other sets (docs/evaluation.md).
PUBLISHED = {"val": 50_000, "real": 46_837, "v2": 10_000}

# ILSVRC2012_val_00000001.JPEG, and with the class in the name, as on Hugging Face.
_NAME = re.compile(r"ILSVRC2012_val_(\d{8})(?:_n\d{8})?\.\w+", re.ASCII | re.IGNORECASE)
_EXPECTED = "expected real.json of google-research/reassessed-imagenet, a list of lists"


def real_images(
    source: Source, path: str | None, *, num_classes: int, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images of a source that have labels, and all labels of each.

    Args:
        source: ImageNet's validation images, all or some, in any order.
        path: of ``real.json``; ``None`` takes the labels that the records list
            (``tfds:imagenet2012_real``).
        num_classes: K, of the network.
        threads: that read names or labels.

    Returns:
        int64 ``[m]``, indices of the images with labels, increasing; and int32
        ``[m, L]``, their labels in 0..K-1, filled up with -1.

    Raises:
        UserError: the file is of another form, or an image cannot be found in it.
    """
    if path is not None:
        lists = read_real(path)
        numbers = validation_numbers(source, len(lists), path, threads)
        found: list[Sequence[int]] = [lists[number - 1] for number in numbers]
    elif source.all_labels is not None:
        found = _read_all(source, source.all_labels, threads)
    else:
        raise UserError(
            f"{source.name} lists no ReaL labels; give --real=real.json (a file of "
            "google-research/reassessed-imagenet), or --val=tfds:imagenet2012_real"
        )
    labels = [label for labels in found for label in labels]
    if labels and not 0 <= min(labels) <= max(labels) < num_classes:
        raise UserError(
            f"the ReaL labels of {path or source.name} are {min(labels)} to "
            f"{max(labels)}, but the network has {num_classes} classes; evaluate one "
            f"of ImageNet-1k"
        )
    kept = [index for index, labels in enumerate(found) if labels]
    if not kept:
        raise UserError(f"none of the {len(found)} images of {source.name} has labels")
    table = np.full((len(kept), max(len(found[index]) for index in kept)), -1, np.int32)
    for row, index in zip(table, kept, strict=True):
        row[: len(found[index])] = found[index]
    return np.array(kept), table


def read_real(path: str) -> list[list[int]]:
    """The labels of the images numbered 1, 2, ..., as the file has them.

    Raises:
        UserError: unreadable, or anything but a list of lists of whole numbers.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lists = json.load(file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {_EXPECTED}") from error
    except (ValueError, RecursionError) as error:  # also of json and UTF-8 decoding
        raise UserError(f"{path}: {error}; {_EXPECTED}") from error
    if not isinstance(lists, list) or not lists:
        raise UserError(f"{path} has no list with entries; {_EXPECTED}")
    for number, labels in enumerate(lists, start=1):
        if not isinstance(labels, list) or any(type(x) is not int for x in labels):
            raise UserError(f"{path}: entry {number} is {labels!r}; {_EXPECTED}")
    return lists


def validation_numbers(
    source: Source, count: int, path: str, threads: int
) -> list[int]:
    """The number in each image's file name, 1..``count``, none of them twice.

    Raises:
        UserError: the source has no such names, or other numbers.
    """
    names = []
    if source.file_name is not None:
        names = _read_all(source, source.file_name, threads)
    matches = [_NAME.fullmatch(name) for name in names]
    for name, match in zip(names, matches, strict=True):
        if match is None or not 1 <= int(match[1]) <= count:
            raise UserError(
                f"{source.name}: an image is called {name!r}; to find its labels in "
                f"{path} it must be ILSVRC2012_val_00000001.JPEG to "
                f"..._{count:08d}.JPEG, as in ImageNet's own validation tar"
            )
    if not names:
        raise UserError(
            f"{source.name} has no file names, by which ReaL labels are found; use "
            "ImageNet's validation images as folder:, tar:, hf: or tfds:"
        )
    numbers = [int(match[1]) for match in matches if match is not None]
    number, times = Counter(numbers).most_common(1)[0]
    if times > 1:
        raise UserError(
            f"{source.name} has ILSVRC2012_val_{number:08d} {times} times; each image "
            "counts once, so remove the copies"
        )
    return numbers


def is_validation_name(source: Source) -> bool:
    """Whether the first image is called as ImageNet's validation images are.

    Raises:
        UserError: it is damaged.
    """
    if source.file_name is None or len(source) == 0:
        return False
    with _refusing_damage():
        return _NAME.fullmatch(source.file_name(0)) is not None


def _read_all(source: Source, read: Callable[[int], T], threads: int) -> list[T]:
    with _refusing_damage(), ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(read, range(len(source))))


@contextlib.contextmanager
def _refusing_damage() -> Iterator[None]:
    """Turns DamagedImage into a UserError."""
    try:
        yield
    except DamagedImage as error:
        raise UserError(
            f"damaged evaluation image {error}; evaluation leaves none out, so mend or "
            "replace the file"
        ) from error

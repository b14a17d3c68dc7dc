"""Several labels for one image: the set of labels that each class of the data has.

In ImageNet-21k an image filed under ``beagle`` also shows a hound, a dog and an animal.
The data keep one class per image; a file says which labels a class entails.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from nfnets.errors import UserError, did_you_mean

_EXPECTED = 'expected JSON like {"beagle": ["hound", "dog"]}'


def open_label_sets(path: str | None, class_names: Sequence[str]) -> np.ndarray | None:
    """The sets of a file for the classes of the data.

    Args:
        path: JSON, an object of lists of class names by class name; a class belongs to
            its own set, whether its list says so or not, and one that is not in the
            file has itself alone. ``None``: there are no sets.
        class_names: of the data, K, by label.

    Returns:
        int32 ``[K, L]``: the labels of each class, its own first, then in the order of
        the file, filled up with -1; L is the size of the largest set. ``None`` for
        ``None``.

    Raises:
        UserError: unreadable or of another form; a name that no class of the data has,
            or that several have.
    """
    if path is None:
        return None
    labels = {name: label for label, name in enumerate(class_names)}
    times = Counter(class_names)
    sets: dict[int, list[int]] = {label: [label] for label in range(len(class_names))}
    for name, members in _read(path).items():
        for entry in (name, *members):
            if times[entry] != 1:
                raise UserError(
                    f"label sets {path}: {entry!r} is the name of {times[entry]} "
                    f"classes of the data; {did_you_mean(entry, labels)}"
                )
        # As an ordered set.
        own = dict.fromkeys(labels[entry] for entry in (name, *members))
        sets[labels[name]] = list(own)
    return _padded(list(sets.values()))


def stand_in_label_sets(path: str | None, num_classes: int) -> np.ndarray | None:
    """Made-up sets as large as the largest of a file, where no data say the names.

    Returns:
        int32 ``[K, L]`` without padding; ``None`` for ``None``.

    Raises:
        UserError: the file is unreadable or of another form.
    """
    if path is None:
        return None
    largest = max(len({name, *members}) for name, members in _read(path).items())
    first = np.arange(num_classes, dtype=np.int32).reshape(-1, 1)
    steps = np.arange(min(largest, num_classes), dtype=np.int32).reshape(1, -1)
    return (first + steps) % num_classes


def _padded(sets: Sequence[Sequence[int]]) -> np.ndarray:
    table = np.full((len(sets), max(map(len, sets))), -1, np.int32)
    for row, members in zip(table, sets, strict=True):
        row[: len(members)] = members
    return table


def _read(path: str) -> dict[str, list[str]]:
    """The lists of names by name, as the file has them; at least one."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file, object_pairs_hook=_without_repeats)
    except OSError as error:
        raise UserError(
            f"label sets {path}: {error.strerror}; check the path"
        ) from error
    except (ValueError, RecursionError) as error:  # also of json and UTF-8 decoding
        raise UserError(f"label sets {path}: {error}; {_EXPECTED}") from error
    if not isinstance(value, dict) or not value:
        raise UserError(f"label sets {path}: no object with entries; {_EXPECTED}")
    for name, members in value.items():
        if not isinstance(members, list) or not all(
            isinstance(member, str) for member in members
        ):
            raise UserError(
                f"label sets {path}: the entry {name!r} is no list of names; "
                f"{_EXPECTED}"
            )
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(n for n, k in Counter(n for n, _ in pairs).items() if k > 1)
        raise ValueError(f"{repeated!r} is there twice")
    return found

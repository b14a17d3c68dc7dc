"""Class folders: ``PATH/train/<class>/*.jpg`` and ``PATH/test/<class>/*.jpg``.

``val`` or ``validation`` may stand for ``test``. Everything is sorted by name, so a
copy of the folder gives the same records in the same order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nfnets.errors import UserError, did_you_mean

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TEST_FOLDERS = ("test", "val", "validation")
_MAX_LABEL = 10**6 - 1  # a larger one is a slip of the pen
_LAYOUT = "expected PATH/train/<class>/*.jpg and PATH/test/<class>/*.jpg"


@dataclass(frozen=True)
class Listing:
    """The files of one split: ``labels`` int32 ``[n]`` belongs to ``paths``."""

    class_names: tuple[str, ...]
    labels: np.ndarray
    paths: list[str]


def list_folder(path: str, split: str, class_map: str | None) -> Listing:
    """Lists one split.

    Args:
        path: the data set's folder.
        split: ``train`` or ``test``.
        class_map: file read by :func:`read_class_map`; ``None`` numbers the
            training class folders by name, and the test split must have the same.

    Raises:
        UserError: a folder is missing, empty or has an unexpected class.
    """
    train, test = find_splits(path)
    folder = train if split == "train" else test
    names = _subfolders(folder)
    if class_map is None:
        labels = {name: label for label, name in enumerate(_subfolders(train))}
        _check_same_classes(set(labels), set(names), train, folder)
    else:
        labels = read_class_map(class_map)
        for name in names:
            if name not in labels:
                raise UserError(
                    f"class folder {os.path.join(folder, name)} is not in the class "
                    f"map {class_map}; add a line for it, {did_you_mean(name, labels)}"
                )
    if not names:
        raise UserError(f"{folder} has no class folders; {_LAYOUT}")
    paths: list[str] = []
    numbers: list[int] = []
    for name in names:
        files = _image_files(os.path.join(folder, name))
        paths += files
        numbers += [labels[name]] * len(files)
    return Listing(_class_names(labels), np.array(numbers, np.int32), paths)


def find_splits(path: str) -> tuple[str, str]:
    """The training and test folders under ``path``; a UserError explains the layout."""
    if not path:
        raise UserError(f"data source 'folder:' names no path; {_LAYOUT}")
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        raise UserError(
            f"data folder {path} does not exist; download the data set and lay it out "
            f"as class folders ({_LAYOUT}), or try --config=digits, which runs anywhere"
        )
    train = os.path.join(path, "train")
    tests = [name for name in TEST_FOLDERS if os.path.isdir(os.path.join(path, name))]
    if not os.path.isdir(train) or not tests:
        missing = "train" if not os.path.isdir(train) else "test (or val, validation)"
        raise UserError(f"{path} has no folder {missing}; {_LAYOUT}")
    if len(tests) > 1:
        raise UserError(
            f"{path} has the folders {' and '.join(tests)}, so which one is the test "
            "split is not clear; keep one of them"
        )
    return train, os.path.join(path, tests[0])


def read_class_map(path: str) -> dict[str, int]:
    """Reads which label each folder name has.

    Text: one ``name`` per line (labels 0, 1, ...) or ``name label`` per line; empty
    lines and lines that begin with # do not count. JSON (``*.json``): a list of
    names, or an object of labels by name.

    Raises:
        UserError: unreadable, empty, a name twice, or a label that is no integer.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        entries = _json_entries(text) if path.endswith(".json") else _text_entries(text)
    except OSError as error:
        raise UserError(
            f"class map {path}: {error.strerror}; check the path"
        ) from error
    except ValueError as error:  # also what json and UTF-8 decoding raise
        raise UserError(
            f"class map {path}: {error}; expected one 'name' or 'name label' per line, "
            "or JSON"
        ) from error
    labels: dict[str, int] = {}
    for name, label in entries:
        if name in labels:
            raise UserError(f"class map {path} has {name!r} twice; keep one of them")
        if not 0 <= label <= _MAX_LABEL:
            raise UserError(
                f"class map {path}: label {label} of {name!r} is outside "
                f"0..{_MAX_LABEL}; labels begin at 0"
            )
        labels[name] = label
    if not labels:
        raise UserError(f"class map {path} is empty; write one class name per line")
    return labels


def _text_entries(text: str) -> list[tuple[str, int]]:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    pairs = [line.rsplit(maxsplit=1) for line in lines]
    numbered = [len(pair) == 2 and pair[1].lstrip("-").isdecimal() for pair in pairs]
    if not any(numbered):
        return [(line, label) for label, line in enumerate(lines)]
    if not all(numbered):
        raise ValueError(f"line {lines[numbered.index(False)]!r} has no label")
    return [(pair[0], int(pair[1])) for pair in pairs]


def _json_entries(text: str) -> list[tuple[str, int]]:
    value = json.loads(text)
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        if len(set(value)) < len(value):
            raise ValueError("a name is there twice")
        value = {name: label for label, name in enumerate(value)}
    if not isinstance(value, dict):
        raise ValueError(f"the JSON value is a {type(value).__name__}")
    for name, label in value.items():
        if not isinstance(label, int) or not isinstance(name, str):
            raise ValueError(f"entry {name!r}: {label!r} is not a name with a label")
    return list(value.items())


def _class_names(labels: Mapping[str, int]) -> tuple[str, ...]:
    """Folder names by label; the first where several folders share one."""
    names = {label: name for name, label in reversed(list(labels.items()))}
    return tuple(names.get(i, f"class_{i}") for i in range(max(labels.values()) + 1))


def _check_same_classes(
    expected: set[str], found: set[str], train: str, folder: str
) -> None:
    for name in sorted(found - expected):
        raise UserError(
            f"class folder {os.path.join(folder, name)} is not in {train}; both "
            f"splits need the same class folders, {did_you_mean(name, expected)}"
        )
    for name in sorted(expected - found):
        raise UserError(
            f"{folder} has no class folder {name!r}, which {train} has; both splits "
            "need the same class folders (or give a class map)"
        )


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; check its permissions") from error


def _image_files(folder: str) -> list[str]:
    """Image files of one class, its subfolders included, sorted by path."""
    files = []
    for directory, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                files.append(os.path.join(directory, name))
    if not files:
        raise UserError(
            f"class folder {folder} has no images ({', '.join(SUFFIXES)}); add some or "
            "remove the folder"
        )
    return sorted(files)

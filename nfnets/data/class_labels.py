"""Which label each class folder has: by its name's place, or from a file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from nfnets.errors import UserError, did_you_mean

_MAX_LABEL = 10**6 - 1  # a larger one is a slip of the pen


def class_labels(
    names: Collection[str],
    folder: str,
    *,
    train_names: Collection[str],
    train: str,
    class_map: str | None,
) -> dict[str, int]:
    """The label of each class, those of the training split at least.

    Args:
        names: class folders of the split that is opened.
        folder: where they are, for messages.
        train_names: class folders of the training split.
        train: where they are.
        class_map: file read by :func:`read_class_map`; ``None`` numbers
            ``train_names`` as :func:`in_order` has them, and ``names`` must be the
            same.

    Raises:
        UserError: a class folder that should not be there, or is not.
    """
    if class_map is None:
        _check_same_classes(set(train_names), set(names), train, folder)
        return {name: label for label, name in enumerate(in_order(train_names))}
    labels = read_class_map(class_map)
    for name in sorted(names):
        if name not in labels:
            raise UserError(
                f"class folder {folder}/{name} is not in the class map {class_map}; "
                f"add a line for it, {did_you_mean(name, labels)}"
            )
    return labels


def in_order(names: Collection[str]) -> list[str]:
    """Class names by text, or, where all of them are decimal numbers, by number.

    So folders 0 to 999, as those of ImageNet-V2, have their names as labels; by text
    10 would come before 2.
    """
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def class_names(labels: Mapping[str, int]) -> tuple[str, ...]:
    """Folder names by label; the first where several folders share one."""
    names = {label: name for name, label in reversed(list(labels.items()))}
    return tuple(names.get(i, f"class_{i}") for i in range(max(labels.values()) + 1))


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


def _check_same_classes(
    expected: set[str], found: set[str], train: str, folder: str
) -> None:
    for name in sorted(found - expected):
        raise UserError(
            f"class folder {folder}/{name} is not in {train}; both "
            f"splits need the same class folders, {did_you_mean(name, expected)}"
        )
    for name in sorted(expected - found):
        raise UserError(
            f"{folder} has no class folder {name!r}, which {train} has; both splits "
            "need the same class folders (or give a class map)"
        )

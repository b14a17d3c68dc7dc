"""Hugging Face data sets with images and labels, from the hub or a local path.

The package ``datasets`` keeps its records as Arrow files that are mapped into memory,
so that a random record is cheap; what comes as parquet it first converts, once, into
its cache (``$HF_HOME``), which takes about the space of the data again. The bytes of
the images are taken as they are; the pipeline decodes them.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from nfnets.data.decode import DamagedImage, one_line, read_image_file
from nfnets.data.held_out import split_held_out
from nfnets.data.source import Source, of_files
from nfnets.errors import UserError

_INSTALL = "pip install 'nfnets-flax[hf]'"
_TEST_NAMES = ("test", "validation", "val", "valid")


def open_hf(text: str, split: str) -> Source:
    """Opens a split of ``NAME_OR_PATH[:CONFIG]``; downloads it where it must.

    Args:
        text: a data set of the hub (``OWNER/NAME``), what ``save_to_disk`` wrote, a
            folder that ``datasets`` can read (images in class folders, parquet), or one
            parquet file.
        split: ``train`` or ``test``, which may be called ``validation``, ``val`` or
            ``valid``, and is that where ``test`` has no labels. Where there is none, a
            tenth of ``train`` is held out, or, for ``whole_test``, all of it is taken.

    Raises:
        UserError: the package is missing, the data cannot be had, or have no column of
            images or of labels.
    """
    splits = _load(text)
    if "train" not in splits and len(splits) != 1:
        raise UserError(f"hf:{text} has no split train; there: {', '.join(splits)}")
    train_name = "train" if "train" in splits else next(iter(splits))
    train = splits[train_name]
    image_key, label_key = _columns(text, train.features)
    names, train_labels = _labels(train, label_key, None)
    test_name = _test_name(splits, label_key, names)
    title = f"hf:{text}/{train_name}"
    if split == "train" or test_name is None:
        source = _source(title, train, image_key, names, train_labels)
        if test_name is None:
            return split_held_out(source, None, split)
        return source
    _, labels = _labels(splits[test_name], label_key, names)
    return _source(
        f"hf:{text}/{test_name}", splits[test_name], image_key, names, labels
    )


def _load(text: str) -> dict[str, Any]:
    """The splits by name.

    Raises:
        UserError: in one line, whatever went wrong.
    """
    if not text:
        raise UserError("data source 'hf:' names no data set; expected hf:OWNER/NAME")
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"the package datasets is needed for hf:{text} and is not installed; "
            f"run: {_INSTALL}"
        ) from error
    path, config = os.path.expanduser(text), None
    if not os.path.exists(path):
        path, _, config = path.partition(":")
    if path.startswith((".", "/")) and not os.path.exists(path):
        raise UserError(f"hf:{text}: {path} does not exist; check the path")
    try:
        found = _load_path(datasets, path, config or None)
    except Exception as error:  # it raises many types
        raise UserError(
            f"hf:{text} cannot be opened: {one_line(error)}; check the name, its "
            "configuration (hf:NAME:CONFIG) and the network, and, if access is "
            "restricted, run: hf auth login"
        ) from error
    return found if isinstance(found, dict) else {"train": found}


def _load_path(datasets: Any, path: str, config: str | None) -> Any:
    if os.path.isfile(path):
        return datasets.load_dataset("parquet", data_files=path)
    for name in ("dataset_dict.json", "state.json"):
        if os.path.exists(os.path.join(path, name)):
            return datasets.load_from_disk(path)
    return datasets.load_dataset(path, config)


def _columns(text: str, features: Any) -> tuple[str, str]:
    """The columns of the images and of the labels."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    labels += [name for name in ("label", "labels") if kinds.get(name) == "Value"]
    if not images or not labels:
        there = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise UserError(
            f"hf:{text} needs a column of type Image and one of type ClassLabel (or "
            f"called label); there: {there}"
        )
    return images[0], labels[0]


def _labels(
    table: Any, key: str, names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes, and int32 ``[n]``, -1 where a record has no label.

    Args:
        table: one split.
        key: the column of the labels, numbers or names.
        names: of the training split's classes; ``None`` finds them.
    """
    values = table.select_columns([key]).with_format("arrow")[:][key].to_pylist()
    if names is None:
        names = getattr(table.features[key], "names", None) and tuple(
            table.features[key].names
        )
    known = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in known):
        names = names or tuple(sorted(set(known)))
        places = {name: place for place, name in enumerate(names)}
        numbers = [places.get(value, -1) for value in values]
    else:
        numbers = [-1 if value is None else int(value) for value in values]
        highest = max(numbers, default=-1)
        names = names or tuple(f"class_{label}" for label in range(highest + 1))
    return names, np.array(numbers, np.int32)


def _test_name(
    splits: dict[str, Any], label_key: str, names: tuple[str, ...]
) -> str | None:
    """The split to evaluate on: the first with labels; ``None`` where there is none."""
    for name in _TEST_NAMES:
        if name in splits and label_key in splits[name].features:
            _, labels = _labels(splits[name], label_key, names)
            if (labels >= 0).any():
                return name
    return None


def _source(
    name: str,
    table: Any,
    image_key: str,
    class_names: tuple[str, ...],
    labels: np.ndarray,
) -> Source:
    import datasets

    images = table.select_columns([image_key])
    images = images.cast_column(image_key, datasets.Image(decode=False))

    def title(index: int, path: str | None) -> str:
        return f"{name} record {index}" + (f" ({path})" if path else "")

    def describe(index: int) -> str:
        return title(index, images[index][image_key]["path"])

    def encoded(index: int) -> bytes:
        image = images[index][image_key]
        if image is None:
            raise DamagedImage(title(index, None), "it has no image")
        if image["bytes"] is not None:
            return image["bytes"]
        return read_image_file(image["path"], title(index, image["path"]))

    def file_name(index: int) -> str:
        return os.path.basename(images[index][image_key]["path"] or "")

    return of_files(name, class_names, labels, encoded, describe, file_name)

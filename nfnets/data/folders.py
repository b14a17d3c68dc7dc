"""Class folders: ``PATH/train/<class>/*.jpg`` and ``PATH/test/<class>/*.jpg``.

``val`` or ``validation`` may stand for ``test``. Without it, and in a folder that only
holds class folders, a tenth of the images is held out (``nfnets.data.held_out``).
Everything is sorted by name, so a copy of the folder gives the same records in the
same order; classes that are all called by numbers are numbered in the order of these.
"""

from __future__ import annotations

import os

import numpy as np

from nfnets.data import storage
from nfnets.data.class_labels import class_labels, class_names
from nfnets.data.decode import read_image_file
from nfnets.data.held_out import split_held_out
from nfnets.data.source import Source, of_files
from nfnets.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
TEST_NAMES = ("test", "val", "validation")
LAYOUT = (
    "expected PATH/train/<class>/*.jpg and PATH/test/<class>/*.jpg, or only "
    "PATH/<class>/*.jpg"
)


def open_folder(path: str, split: str, class_map: str | None) -> Source:
    """Opens one split; lists files, reads none.

    Args:
        path: the data set's folder, on a local disk.
        split: ``train``, ``test`` or ``whole_test``, which holds no tenth out.
        class_map: a file (``class_labels.read_class_map``); ``None`` numbers the
            training class folders by name, and the test split must have the same.

    Raises:
        UserError: a folder is missing, empty or has an unexpected class.
    """
    if storage.is_url(path):
        raise UserError(
            f"data source 'folder:{path}': folders are read from local disks only; "
            "copy it to one, or use tfds: with data_dir=gs://..."
        )
    train, test = find_splits(path)
    folder = train if split == "train" or test is None else test
    names = _subfolders(folder)
    labels = class_labels(
        names, folder, train_names=_subfolders(train), train=train, class_map=class_map
    )
    if not names:
        raise UserError(f"{folder} has no class folders; {LAYOUT}")
    paths: list[str] = []
    numbers: list[int] = []
    for name in names:
        files = _image_files(os.path.join(folder, name))
        paths += files
        numbers += [labels[name]] * len(files)
    source = of_files(
        f"folder:{path}" if test is None else f"folder:{path}/{split}",
        class_names(labels),
        np.array(numbers, np.int32),
        encoded=lambda index: read_image_file(paths[index], paths[index]),
        describe=lambda index: paths[index],
        file_name=lambda index: os.path.basename(paths[index]),
    )
    if test is not None:
        return source
    inside = (os.path.relpath(file, folder).replace(os.sep, "/") for file in paths)
    return split_held_out(source, inside, split)


def find_splits(path: str) -> tuple[str, str | None]:
    """The training and test folders under ``path``; ``None`` where none is for tests.

    Raises:
        UserError: explains the layout.
    """
    if not path:
        raise UserError(f"data source 'folder:' names no path; {LAYOUT}")
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        raise UserError(
            f"data folder {path} does not exist; download the data set and lay it out "
            f"as class folders ({LAYOUT}), or try --config=digits, which runs anywhere"
        )
    train = os.path.join(path, "train")
    tests = [name for name in TEST_NAMES if os.path.isdir(os.path.join(path, name))]
    if len(tests) > 1:
        raise UserError(
            f"{path} has the folders {' and '.join(tests)}, so which one is the test "
            "split is not clear; keep one of them"
        )
    if os.path.isdir(train):
        return train, os.path.join(path, tests[0]) if tests else None
    if tests:
        raise UserError(f"{path} has no folder train, but {tests[0]}; {LAYOUT}")
    _check_unsplit(path)
    return path, None


def _check_unsplit(path: str) -> None:
    """Refuses what is more likely the wrong folder than one of class folders."""
    names = _subfolders(path)
    for name in names:
        inner = os.path.join(path, name)
        if {"train", *TEST_NAMES} & set(_subfolders(inner)):
            raise UserError(
                f"{inner} looks like a data set of its own; use folder:{inner}"
            )
    if len(names) < 2:
        found = f"only the class folder {names[0]}" if names else "no class folders"
        raise UserError(f"{path} has {found}; {LAYOUT}")


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; check its permissions") from error


def _image_files(folder: str) -> list[str]:
    files = images_under(folder)
    if not files:
        raise UserError(
            f"class folder {folder} has no images ({', '.join(SUFFIXES)}); add some or "
            "remove the folder"
        )
    return files


def images_under(folder: str) -> list[str]:
    """Image files of a folder, by their suffix, subfolders included, sorted by path."""
    files = []
    for directory, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if is_image(name):
                files.append(os.path.join(directory, name))
    return sorted(files)


def is_image(name: str) -> bool:
    """Whether a file of this name, without its folder, counts."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")

"""Images inside uncompressed tar files, by random access; nothing is unpacked.

One file that holds ``train/<class>/*.jpg`` and ``test/<class>/*.jpg`` (also ``val`` or
``validation``; all may be below a folder of their own); or a folder with ``train.tar``
and ``test.tar`` of ``<class>/*.jpg``. A member ``<class>.tar`` is such a class folder,
as in ImageNet's training tar. The rest is as with ``folder:``: without a test split a
tenth is held out, and records are sorted by name.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from nfnets.data import storage
from nfnets.data.class_labels import class_labels, class_names
from nfnets.data.decode import DamagedImage
from nfnets.data.folders import TEST_NAMES
from nfnets.data.held_out import split_held_out
from nfnets.data.source import Source, of_files
from nfnets.data.tar_index import TarIndex, index_tar
from nfnets.errors import UserError

_SPLITS = ("train", *TEST_NAMES)
_LAYOUT = (
    "expected members train/<class>/*.jpg and test/<class>/*.jpg, or only "
    "<class>/*.jpg, or a folder with train.tar and test.tar"
)


@dataclass(frozen=True)
class ClassFiles:
    """The images of one split.

    Attributes:
        index: of the tar that they are in.
        members: int ``[n]``, their places in the index, sorted by class and name.
        depth: of the class folder in the members' names.
    """

    index: TarIndex
    members: np.ndarray
    depth: int

    @property
    def title(self) -> str:
        """The tar and the split's folder in it."""
        name = self.index.names[self.members[0]]
        return "/".join([self.index.path, *name.split("/")[: self.depth]])

    def inside(self, record: int) -> list[str]:
        """The parts of a record's name, its class first."""
        return self.index.names[self.members[record]].split("/")[self.depth :]


def open_tar(path: str, split: str, class_map: str | None) -> Source:
    """Opens one split; reads the headers of the tar, and no image.

    Args:
        path: of the tar, or of the folder of two, on a local disk.
        split: ``train``, ``test`` or ``whole_test``, which holds no tenth out.
        class_map: as with ``folder:``.

    Raises:
        UserError: a tar that cannot be used, or is not laid out as expected.
    """
    if not path or storage.is_url(path):
        raise UserError(
            f"data source 'tar:{path}': tars are read from local disks only; {_LAYOUT}"
        )
    splits = find_splits(os.path.expanduser(path))
    train = splits["train"]
    files = train if split == "train" else splits.get("test", train)
    found = [files.inside(i)[0] for i in range(len(files.members))]
    trained = {train.inside(i)[0] for i in range(len(train.members))}
    labels = class_labels(
        set(found),
        files.title,
        train_names=trained,
        train=train.title,
        class_map=class_map,
    )
    source = of_files(
        f"tar:{path}/{split}" if "test" in splits else f"tar:{path}",
        class_names(labels),
        np.array([labels[name] for name in found], np.int32),
        encoded=lambda index: _read(files.index, int(files.members[index])),
        describe=lambda index: _title(files.index, int(files.members[index])),
        file_name=lambda index: files.inside(index)[-1],
    )
    if "test" in splits:
        return source
    inside = ("/".join(files.inside(i)) for i in range(len(files.members)))
    return split_held_out(source, inside, split)


def find_splits(path: str) -> dict[str, ClassFiles]:
    """The images of ``train``, and of ``test`` where there is such a split.

    Raises:
        UserError: explains the layout.
    """
    if not os.path.isdir(path):
        return _splits_inside(index_tar(path))
    there = [name for name in _SPLITS if os.path.exists(_tar_of(path, name))]
    if "train" not in there:
        packed = [n for n in sorted(os.listdir(path)) if n.startswith("train.tar.")]
        if packed:
            index_tar(os.path.join(path, packed[0]))  # says how to unpack it
        raise UserError(f"{path} has no train.tar; {_LAYOUT}")
    tests = _one_test(path, there)
    indices = {"train": index_tar(_tar_of(path, "train"))}
    if tests:
        indices["test"] = index_tar(_tar_of(path, tests))
    return {
        name: _class_files(index, range(len(index.names)), _shared(index.names, ()))
        for name, index in indices.items()
    }


def _splits_inside(index: TarIndex) -> dict[str, ClassFiles]:
    names = index.names
    depth = _shared(names, _SPLITS)
    tops = [name.split("/")[depth] for name in names]
    test = _one_test(index.path, set(tops))
    if "train" not in tops and test is None:
        inner = {name.split("/")[depth + 1 :][0] for name in names if "/" in name}
        if inner & set(_SPLITS):
            raise UserError(f"{index.path} holds several data sets; {_LAYOUT}")
        return {"train": _class_files(index, range(len(names)), depth)}
    if "train" not in tops:
        raise UserError(f"{index.path} has no folder train, but {test}; {_LAYOUT}")
    wanted = {"train": "train"} | ({"test": test} if test else {})
    return {
        split: _class_files(
            index, [i for i, top in enumerate(tops) if top == folder], depth + 1
        )
        for split, folder in wanted.items()
    }


def _one_test(path: str, there: Collection[str]) -> str | None:
    tests = [name for name in TEST_NAMES if name in there]
    if len(tests) > 1:
        raise UserError(
            f"{path} has {' and '.join(tests)}, so which one is the test split is not "
            "clear; keep one of them"
        )
    return tests[0] if tests else None


def _shared(names: list[str], stop: Collection[str]) -> int:
    """How many folders all names begin with; neither one in ``stop`` nor classes."""
    folders = names[0].split("/")[:-2]
    for depth, folder in enumerate(folders):
        prefix = "/".join(folders[: depth + 1]) + "/"
        deep = all(n.startswith(prefix) and n.count("/") > depth + 1 for n in names)
        if folder in stop or not deep:
            return depth
    return len(folders)


def _class_files(index: TarIndex, members: Collection[int], depth: int) -> ClassFiles:
    for member in members:
        if index.names[member].count("/") <= depth:
            raise UserError(f"{_title(index, member)} is in no class folder; {_LAYOUT}")

    def by_class(member: int) -> list[str]:
        return index.names[member].split("/", depth + 1)[depth:]

    return ClassFiles(index, np.array(sorted(members, key=by_class)), depth)


def _read(index: TarIndex, member: int) -> bytes:
    start, size = int(index.offsets[member]), int(index.sizes[member])
    data = storage.read_range(index.path, start, start + size)
    if len(data) < size:
        reason = f"the tar ends {size - len(data)} bytes early"
        raise DamagedImage(_title(index, member), reason)
    return data


def _title(index: TarIndex, member: int) -> str:
    name = index.names[member].encode("utf-8", "backslashreplace").decode("utf-8")
    return f"{index.path}: {name}"


def _tar_of(folder: str, split: str) -> str:
    return os.path.join(folder, f"{split}.tar")

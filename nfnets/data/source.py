"""What every data set is to the pipeline: labelled images with random access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nfnets.data.decode import decode

# Fields of a source that are functions of a record's index, or None.
_PER_RECORD = ("read", "describe", "encoded", "file_name", "all_labels")


@dataclass(frozen=True)
class Source:
    """Labelled images with random access.

    Attributes:
        name: the data set and the split, for logs.
        class_names: one name per label; its length is the number of classes.
        labels: int32 ``[n]``, each inside ``0..num_classes - 1``.
        read: index -> uint8 RGB ``[H, W, 3]``, which the caller must not write to;
            safe in threads; raises :class:`~nfnets.data.decode.DamagedImage`.
        describe: index -> the record's name for messages, e.g. its path.
        encoded: index -> the bytes of its image file, to be decoded by the caller;
            safe in threads; raises DamagedImage. ``None`` where images are in memory.
        note: what whoever reads a result must know of the split; empty where it is
            what its name says.
        file_name: index -> the name, without folders, of the image's file in the
            original data, empty where the record does not say; safe in threads; raises
            DamagedImage. ``None`` where images come from no files.
        all_labels: index -> all labels of the image, perhaps none, where records list
            them beside their one label (TFDS's ``imagenet2012_real``); likewise.
            ``None`` where they do not.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[int], np.ndarray]
    describe: Callable[[int], str]
    encoded: Callable[[int], bytes | memoryview] | None = None
    note: str = ""
    file_name: Callable[[int], str] | None = None
    all_labels: Callable[[int], Sequence[int]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Labels are ``0..num_classes - 1``."""
        return len(self.class_names)


def of_files(
    name: str,
    class_names: tuple[str, ...],
    labels: np.ndarray,
    encoded: Callable[[int], bytes],
    describe: Callable[[int], str],
    file_name: Callable[[int], str],
) -> Source:
    """A source of image files; the arguments are the attributes of the same name."""
    return Source(
        name=name,
        class_names=class_names,
        labels=labels,
        read=lambda index: decode(encoded(index), name=describe(index)),
        describe=describe,
        encoded=encoded,
        file_name=file_name,
    )


def part_of(source: Source, indices: np.ndarray, name: str) -> Source:
    """Some records of a source, in the given order."""

    def at(call: Callable[[int], Any] | None) -> Callable[[int], Any] | None:
        return call and (lambda index: call(int(indices[index])))

    calls: dict[str, Any] = {f: at(getattr(source, f)) for f in _PER_RECORD}
    return replace(source, name=name, labels=source.labels[indices], **calls)


def joined(parts: Sequence[Source]) -> Source:
    """The records of sources one after another; they have the same classes and kind."""
    first = parts[0]
    if len(parts) == 1:
        return first
    starts = np.cumsum([0, *map(len, parts)])

    def at(field: str) -> Callable[[int], Any] | None:
        """The field as a function of the index among all; None if sources have none."""
        if getattr(first, field) is None:
            return None

        def call(index: int) -> Any:
            part = int(np.searchsorted(starts, index, side="right")) - 1
            return getattr(parts[part], field)(index - int(starts[part]))

        return call

    name = "+".join(part.name for part in parts)
    labels = np.concatenate([part.labels for part in parts])
    calls: dict[str, Any] = {field: at(field) for field in _PER_RECORD}
    return replace(first, name=name, labels=labels, **calls)

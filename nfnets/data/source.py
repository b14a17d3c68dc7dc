"""What every data set is to the pipeline: labelled images with random access."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nfnets.data.decode import decode


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
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[int], np.ndarray]
    describe: Callable[[int], str]
    encoded: Callable[[int], bytes | memoryview] | None = None
    note: str = ""

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
) -> Source:
    """A source of image files; the arguments are the attributes of the same name."""
    return Source(
        name=name,
        class_names=class_names,
        labels=labels,
        read=lambda index: decode(encoded(index), name=describe(index)),
        describe=describe,
        encoded=encoded,
    )


def part_of(source: Source, indices: np.ndarray, name: str) -> Source:
    """Some records of a source, in the given order."""
    encoded = source.encoded
    return replace(
        source,
        name=name,
        labels=source.labels[indices],
        read=lambda index: source.read(int(indices[index])),
        describe=lambda index: source.describe(int(indices[index])),
        encoded=encoded and (lambda index: encoded(int(indices[index]))),
    )

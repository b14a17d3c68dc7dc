"""What every data set is to the pipeline: labelled images with random access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    encoded, file_name = source.encoded, source.file_name
    all_labels = source.all_labels
    return replace(
        source,
        name=name,
        labels=source.labels[indices],
        read=lambda index: source.read(int(indices[index])),
        describe=lambda index: source.describe(int(indices[index])),
        encoded=encoded and (lambda index: encoded(int(indices[index]))),
        file_name=file_name and (lambda index: file_name(int(indices[index]))),
        all_labels=all_labels and (lambda index: all_labels(int(indices[index]))),
    )

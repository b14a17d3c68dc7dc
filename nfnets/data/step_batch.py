"""One process's batch of one step, while a backend fills it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nfnets.data.augment_config import has_policy
from nfnets.data.decode import MAX_PIXELS
from nfnets.data.sources import Source
from nfnets.data.train_slots import (
    Picture,
    Planned,
    ReadPicture,
    TrainSlots,
    group_rows,
    plan_rows,
)

# Bytes of a file -> height, width and number of components of a JPEG; else None.
ReadHeader = Callable[[bytes | memoryview], tuple[int, int, int] | None]


@dataclass(frozen=True)
class StepBatch:
    """What is to be filled, and with what.

    Attributes:
        slots: the stage's.
        step: since the start of the run.
        indices: int ``[records per step]``, which records the step reads.
        first_slot: place of the first row in the batch of all processes.
        batch: the arrays to be filled, with the device axis: ``[D, n, ...]`` each.
        arrays: the same memory as ``[rows, ...]``.
        groups: rows that show the same record, together.
    """

    slots: TrainSlots
    step: int
    indices: np.ndarray
    first_slot: int
    batch: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    groups: list[list[int]]

    def plan(self, rows: Sequence[int], read: ReadPicture) -> Planned:
        """Plans rows that show one record; see :func:`train_slots.plan_rows`."""
        return plan_rows(
            self.slots, self.step, self.indices, rows, self.first_slot, read
        )

    def put_labels(self, row: int, labels: dict[str, Any]) -> None:
        """Writes a row's entries of all arrays but the images."""
        for name, entry in labels.items():
            self.arrays[name][row] = entry

    @property
    def truncates(self) -> bool:
        """Whether fractions are dropped: TensorFlow's policies see whole numbers so.

        Otherwise they are rounded.
        """
        return has_policy(self.slots.augment) and self.slots.augment.semantics == "tf"


def make_step_batch(
    slots: TrainSlots,
    step: int,
    indices: np.ndarray,
    shapes: dict[str, tuple[tuple[int, ...], Any]],
    process_index: int,
) -> StepBatch:
    """A batch to be filled.

    Args:
        slots: the stage's.
        step: since the start of the run.
        indices: int ``[records per step]``, which records the step reads.
        shapes: of the arrays, see ``pipeline.train_batch_shapes``.
        process_index: whose rows they are.
    """
    whole = {name: np.empty(*shape) for name, shape in shapes.items()}
    # [D, n, ...] -> [D * n, ...], sharing the memory.
    flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in whole.items()}
    count = whole["label"].size
    first_slot = process_index * count
    groups = group_rows(slots, indices, range(count), first_slot)
    return StepBatch(slots, step, indices, first_slot, whole, flat, groups)


def read_decoded(source: Source, index: int) -> Picture:
    """A record as pixels; raises DamagedImage."""
    image = source.read(index)
    return Picture(image, *image.shape[:2])


class NotPlainJpeg(Exception):
    """The record is no JPEG of grey or three colours, or a huge one."""


def read_encoded(source: Source, index: int, header: ReadHeader) -> Picture:
    """A record as the bytes of a JPEG, or as pixels where the source has only those.

    Raises:
        DamagedImage: it cannot be read.
        NotPlainJpeg: it is to be decoded as a whole.
    """
    if source.encoded is None:
        return read_decoded(source, index)
    data = source.encoded(index)
    found = header(data)
    if found is None:
        raise NotPlainJpeg
    height, width, components = found
    if components not in (1, 3) or height * width > MAX_PIXELS:
        raise NotPlainJpeg
    return Picture(data, height, width)

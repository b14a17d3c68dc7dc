"""What fills the slots of a training batch, as a function of seed, step and slot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nfnets.data.augment_config import AugmentConfig
from nfnets.data.decode import DamagedImage
from nfnets.data.host_mixing import HostMix, draw_mix, mixes_on_host, pair_at
from nfnets.data.operation import Operation
from nfnets.data.order import AUGMENT, MIX, SUBSTITUTE, slot_rng
from nfnets.data.plan import Crop, draw_crop, draw_operations
from nfnets.data.sources import Source
from nfnets.errors import UserError

# Replacements tried for one slot before the data set is given up.
_SUBSTITUTES = 20


class Picture(NamedTuple):
    """An image, decoded or not.

    Attributes:
        data: uint8 ``[H, W, 3]``, or the bytes of a file.
        height: H.
        width: W.
    """

    data: np.ndarray | bytes | memoryview
    height: int
    width: int


# Reads a record of the source; raises DamagedImage.
ReadPicture = Callable[[int], Picture]


@dataclass(frozen=True)
class TrainSlots:
    """What the slots of the steps of a stage have in common.

    Attributes:
        source: the training split.
        augment: crop, policy and mixing.
        image_size: S, the side of the images.
        records_per_device: read per device and step, mixing partners included.
        num_devices: of all processes.
        seed: of order and augmentation.
    """

    source: Source
    augment: AugmentConfig
    image_size: int
    records_per_device: int
    num_devices: int
    seed: int


class SlotPlan(NamedTuple):
    """What one image of the batch is made of.

    Attributes:
        row: its place in the process's batch.
        pictures: one, or two that are mixed.
        crops: of the pictures.
        mix: how two are mixed; ``None`` for one.
        operations: of the policy, applied last.
        labels: the slot's entries of the batch's other arrays.
    """

    row: int
    pictures: tuple[Picture, ...]
    crops: tuple[Crop, ...]
    mix: HostMix | None
    operations: tuple[Operation, ...]
    labels: dict[str, Any]


Planned = tuple[list[SlotPlan], list[DamagedImage]]


def group_rows(
    slots: TrainSlots, indices: np.ndarray, rows: range, first_slot: int
) -> list[list[int]]:
    """Rows that show the same record (repeated augmentation) together, else alone.

    Args:
        slots: the stage's.
        indices: int ``[records per step]``, which records the step reads.
        rows: of the process's batch.
        first_slot: place of its first row in the batch of all processes.
    """
    if slots.augment.repeats == 1 or mixes_on_host(slots.augment):
        return [[row] for row in rows]
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(int(indices[first_slot + row]), []).append(row)
    return list(groups.values())


def plan_rows(
    slots: TrainSlots,
    step: int,
    indices: np.ndarray,
    rows: Sequence[int],
    first_slot: int,
    read: ReadPicture,
) -> Planned:
    """Plans rows that show one record, and lists the damaged records met.

    Args:
        slots: the stage's.
        step: since the start of the run.
        indices: int ``[records per step]``, which records the step reads.
        rows: of the process's batch.
        first_slot: place of its first row in the batch of all processes.
        read: reads a record; it is called once for rows that share theirs.
    """
    read = _remembering(read)
    plans, damaged = [], []
    for row in rows:
        plan = _plan_mixed if mixes_on_host(slots.augment) else _plan_single
        planned, errors = plan(slots, step, indices, first_slot + row, read)
        plans.append(planned._replace(row=row))
        damaged += errors
    return plans, damaged


def _remembering(read: ReadPicture) -> ReadPicture:
    """The same, which reads a record once."""
    pictures: dict[int, Picture] = {}

    def remembering(index: int) -> Picture:
        if index not in pictures:
            pictures[index] = read(index)
        return pictures[index]

    return remembering


def _plan_single(
    slots: TrainSlots, step: int, indices: np.ndarray, slot: int, read: ReadPicture
) -> tuple[SlotPlan, list[DamagedImage]]:
    picture, label, damaged = _find(slots, step, indices, slot, read)
    rng = slot_rng(slots.seed, step, purpose=AUGMENT, slot=slot)
    crop = _draw_crop(rng, picture, slots)
    operations = draw_operations(rng, slots.augment)
    return SlotPlan(0, (picture,), (crop,), None, operations, {"label": label}), damaged


def _plan_mixed(
    slots: TrainSlots, step: int, indices: np.ndarray, slot: int, read: ReadPicture
) -> tuple[SlotPlan, list[DamagedImage]]:
    """Two records, each with draws of its own slot, mixed and then augmented."""
    augment, records = slots.augment, slots.records_per_device
    device, place = divmod(slot, records // 2)
    pair = pair_at(augment, records // 2, place)
    pictures, crops, labels = [], [], []
    damaged: list[DamagedImage] = []
    for record in (device * records + pair.first, device * records + pair.second):
        picture, label, errors = _find(slots, step, indices, record, read)
        rng = slot_rng(slots.seed, step, purpose=AUGMENT, slot=record)
        crops.append(_draw_crop(rng, picture, slots))
        pictures.append(picture)
        labels.append(label)
        damaged += errors
    rng = slot_rng(slots.seed, step, purpose=MIX, slot=slot)
    mix = draw_mix(rng, slots.image_size, augment, mixup_on=pair.mixup)
    operations = draw_operations(rng, augment)
    entries = {"label": labels[0], "mix_label": labels[1], "ratio": mix.ratio}
    return (
        SlotPlan(0, tuple(pictures), tuple(crops), mix, operations, entries),
        damaged,
    )


def _draw_crop(rng: np.random.Generator, picture: Picture, slots: TrainSlots) -> Crop:
    crop = draw_crop(
        rng, picture.height, picture.width, slots.augment, slots.image_size
    )
    if isinstance(picture.data, np.ndarray):  # decoded already, at its full size
        return crop._replace(denominator=1)
    return crop


def _find(
    slots: TrainSlots, step: int, indices: np.ndarray, slot: int, read: ReadPicture
) -> tuple[Picture, int, list[DamagedImage]]:
    """The picture and label of one record, and the damaged ones met.

    Another record takes a damaged one's place; which one is a function of
    (seed, step, slot, attempt).
    """
    source, index = slots.source, int(indices[slot])
    damaged: list[DamagedImage] = []
    while True:
        try:
            return read(index), int(source.labels[index]), damaged
        except DamagedImage as error:
            damaged.append(error)
        if len(damaged) == 1:
            rng = slot_rng(slots.seed, step, purpose=SUBSTITUTE, slot=slot)
        if len(damaged) > _SUBSTITUTES:
            raise UserError(
                f"{source.name}: {len(damaged)} records in a row are damaged, the last "
                f"is {damaged[-1]}; check the data set"
            )
        index = int(rng.random() * len(source))

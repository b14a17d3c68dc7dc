"""What fills one slot of a training batch, as a function of seed, step and slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nfnets.data.augment import (
    AugmentConfig,
    apply_policy,
    augment_image,
    crop_for_train,
)
from nfnets.data.decode import DamagedImage
from nfnets.data.host_mixing import mix_pair, mixes_on_host, pair_at
from nfnets.data.order import AUGMENT, MIX, SUBSTITUTE, slot_rng
from nfnets.data.sources import Source
from nfnets.errors import UserError

# A slot's entry in every array of the batch, and the damaged records met.
Filled = tuple[dict[str, Any], list[DamagedImage]]
# Replacements tried for one slot before the data set is given up.
_SUBSTITUTES = 20


@dataclass(frozen=True)
class TrainSlots:
    """What the slots of every step have in common.

    Attributes:
        source: the training split.
        augment: crop, policy and mixing.
        image_size: S, the side of the images.
        records_per_device: read per device and step, mixing partners included.
        seed: of order and augmentation.
    """

    source: Source
    augment: AugmentConfig
    image_size: int
    records_per_device: int
    seed: int


def fill_slot(slots: TrainSlots, step: int, indices: np.ndarray, slot: int) -> Filled:
    """What a slot of the batch of all devices and processes holds.

    Args:
        slots: the run's.
        step: since the start of the run.
        indices: int ``[records per step]``, which records the step reads.
        slot: place of the image in the batch, counted over all devices.
    """
    if mixes_on_host(slots.augment):
        return _mixed_image(slots, step, indices, slot)
    image, label, damaged = _read(slots, step, indices, slot)
    rng = slot_rng(slots.seed, step, purpose=AUGMENT, slot=slot)
    image = augment_image(rng, image, slots.augment, slots.image_size)
    return {"image": image, "label": label}, damaged


def _mixed_image(
    slots: TrainSlots, step: int, indices: np.ndarray, slot: int
) -> Filled:
    """Two records, each with draws of its own slot, mixed and then augmented."""
    augment, records = slots.augment, slots.records_per_device
    device, place = divmod(slot, records // 2)
    pair = pair_at(augment, records // 2, place)
    images, labels = [], []
    damaged: list[DamagedImage] = []
    for record in (device * records + pair.first, device * records + pair.second):
        image, label, errors = _read(slots, step, indices, record)
        rng = slot_rng(slots.seed, step, purpose=AUGMENT, slot=record)
        images.append(crop_for_train(rng, image, augment, slots.image_size))
        labels.append(label)
        damaged += errors
    rng = slot_rng(slots.seed, step, purpose=MIX, slot=slot)
    mixed, ratio = mix_pair(rng, images[0], images[1], augment, mixup_on=pair.mixup)
    entries = {
        "image": apply_policy(rng, mixed, augment),
        "label": labels[0],
        "mix_label": labels[1],
        "ratio": ratio,
    }
    return entries, damaged


def _read(
    slots: TrainSlots, step: int, indices: np.ndarray, slot: int
) -> tuple[np.ndarray, int, list[DamagedImage]]:
    """The image uint8 ``[H, W, 3]`` and label of one record, and the damaged ones met.

    Another record takes a damaged one's place; which one is a function of
    (seed, step, slot, attempt).
    """
    source, index = slots.source, int(indices[slot])
    damaged: list[DamagedImage] = []
    while True:
        try:
            return source.read(index), int(source.labels[index]), damaged
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

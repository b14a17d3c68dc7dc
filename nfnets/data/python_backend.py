"""Makes training batches with packages that come as wheels: simplejpeg, OpenCV, Pillow.

Each thread of the pool reads, decodes and augments its own rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nfnets.data.augment import apply_operations, crop_image, to_uint8
from nfnets.data.decode import DamagedImage, decode_scaled, jpeg_header
from nfnets.data.host_mixing import mix_pair
from nfnets.data.plan import Crop
from nfnets.data.prefetch import SlotPool
from nfnets.data.step_batch import (
    NotPlainJpeg,
    StepBatch,
    read_decoded,
    read_encoded,
)
from nfnets.data.train_slots import Picture, SlotPlan


def fill(batch: StepBatch, pool: SlotPool) -> list[DamagedImage]:
    """Fills a batch, and lists the damaged records met."""
    lists = pool.run(
        lambda number: _fill_group(batch, batch.groups[number]), len(batch.groups)
    )
    return [error for damaged in lists for error in damaged]


def _fill_group(batch: StepBatch, rows: Sequence[int]) -> list[DamagedImage]:
    source = batch.slots.source

    def decoded(index: int) -> Picture:
        return read_decoded(source, index)

    def encoded(index: int) -> Picture:
        return read_encoded(source, index, jpeg_header)

    scaled = batch.slots.augment.scaled_decode
    try:
        plans, damaged = batch.plan(rows, encoded if scaled else decoded)
        images = [render(plan, batch) for plan in plans]
    except (DamagedImage, NotPlainJpeg):  # only where files are decoded in `render`
        plans, damaged = batch.plan(rows, decoded)
        images = [render(plan, batch) for plan in plans]
    for plan, image in zip(plans, images, strict=True):
        batch.arrays["image"][plan.row] = image
        batch.put_labels(plan.row, plan.labels)
    return damaged


def render(plan: SlotPlan, batch: StepBatch) -> np.ndarray:
    """Carries out a plan: uint8 ``[S, S, 3]``; raises DamagedImage."""
    size, truncate = batch.slots.image_size, batch.truncates
    if plan.mix is None:
        (crop,), (picture,) = plan.crops, plan.pictures
        image = crop_image(*_pixels(picture, crop), size)
    else:
        first, second = (
            crop_image(*_pixels(picture, crop), size).astype(np.float32)
            for picture, crop in zip(plan.pictures, plan.crops, strict=True)
        )
        image = mix_pair(first, second, plan.mix)
    image = to_uint8(image, truncate=truncate)
    return apply_operations(image, plan.operations, batch.slots.augment.semantics)


def _pixels(picture: Picture, crop: Crop) -> tuple[np.ndarray, Crop]:
    """The pixels of a picture, at the size at which the crop wants it decoded."""
    if isinstance(picture.data, np.ndarray):
        return picture.data, crop
    return decode_scaled(picture.data, crop.denominator), crop

"""Batches as a function of the step, so that nothing needs saving to resume.

What fills slot s of step t, its crop and its augmentation depend on (seed, t, s)
alone: not on the number of threads or processes, nor on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nfnets.data.augment import (
    AugmentConfig,
    EvalCrop,
    check_augment,
    check_eval_crop,
    crop_for_eval,
)
from nfnets.data.decode import DamagedImage
from nfnets.data.host_mixing import mixes_on_host
from nfnets.data.mixing import check_mixing, partners
from nfnets.data.order import shard_range, step_indices
from nfnets.data.prefetch import Prefetcher, SlotPool
from nfnets.data.sources import Source
from nfnets.data.train_iterator import Batch, TrainIterator
from nfnets.data.train_slots import TrainSlots, fill_slot
from nfnets.errors import UserError


def train_batch_shapes(
    augment: AugmentConfig, image_size: int, images_per_device: int, num_devices: int
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and dtype of every array of a training batch of one process.

    Args:
        augment: says who mixes: where the host does, partners' labels and weights of
            the labels come along; where the device does, twice the images.
        image_size: S, the side of the images.
        images_per_device: B, images trained on per device and step.
        num_devices: D, of this process.

    Returns:
        ``image`` uint8 ``[D, n, S, S, 3]`` and ``label`` int32 ``[D, n]``, where n is
        ``B * partners(augment)``, or, mixed on the host, B; then also ``mix_label``
        int32 and ``ratio`` float32, the weight of ``label``, ``[D, B]`` each.
    """
    mixed = mixes_on_host(augment)
    rows = images_per_device * (1 if mixed else partners(augment))
    leading = (num_devices, rows)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((*leading, image_size, image_size, 3), np.uint8),
        "label": (leading, np.int32),
    }
    if mixed:
        shapes |= {"mix_label": (leading, np.int32), "ratio": (leading, np.float32)}
    return shapes


def make_train_iter(
    source: Source,
    *,
    augment: AugmentConfig,
    image_size: int,
    images_per_step: int,
    num_devices: int,
    seed: int,
    start_step: int,
    num_steps: int,
    max_damaged: float,
    threads: int,
    log: Callable[[str], None],
    damaged: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainIterator:
    """One process's rows of the batches of ``start_step`` to ``num_steps - 1``.

    The rows of all processes in order are the batch that one process with all the
    devices would make.

    Args:
        source: the training split, the same in every process.
        augment: crop, flip, policy, and mixing where the host does it.
        image_size: S, the side of the images.
        images_per_step: images read per step over all processes, that is the batch
            size times ``mixing.partners(augment)``.
        num_devices: D, of this process; the others have as many.
        seed: of order and augmentation, ``0..2**64 - 1``.
        start_step: first step, counted from 0 since the start of the run.
        num_steps: step after the last.
        max_damaged: share of the images seen that may be damaged; 10 always may. Each
            process counts its own.
        threads: that decode; the batches do not depend on it.
        log: is told of each damaged record once.
        damaged: damaged images met before ``start_step``.
        process_index: of this process, below ``process_count``.
        process_count: processes that share each step.

    Returns:
        An iterator of the arrays of :func:`train_batch_shapes`, fresh ones each time;
        ``close()`` it when leaving early.

    Raises:
        UserError: settings that do not fit; while iterating, too many damaged images.
    """
    check_augment(augment)
    all_devices, read_per_image = num_devices * process_count, partners(augment)
    unit = all_devices * read_per_image
    _check_batch("images per step", images_per_step, all_devices, unit, image_size)
    check_mixing(augment, images_per_step // unit)
    shapes = train_batch_shapes(
        augment, image_size, images_per_step // unit, num_devices
    )
    slots = TrainSlots(
        source, augment, image_size, images_per_step // all_devices, seed
    )
    pool = SlotPool(threads)

    def make(step: int) -> tuple[Batch, list[DamagedImage]]:
        indices = step_indices(seed, step, images_per_step, len(source))
        return _train_batch(slots, shapes, pool, step, indices, process_index)

    images_per_batch = images_per_step // process_count
    return TrainIterator(
        Prefetcher(make, range(start_step, num_steps), pool),
        max_damaged,
        log,
        damaged=damaged,
        seen=start_step * images_per_batch,
        images_per_batch=images_per_batch,
    )


def _train_batch(
    slots: TrainSlots,
    shapes: dict[str, tuple[tuple[int, ...], Any]],
    pool: SlotPool,
    step: int,
    indices: np.ndarray,
    process_index: int,
) -> tuple[Batch, list[DamagedImage]]:
    """One process's rows of a step, and the damaged records met."""
    batch = {name: np.empty(*shape) for name, shape in shapes.items()}
    # [D, n, ...] -> [D * n, ...], sharing the memory.
    rows = {name: array.reshape(-1, *array.shape[2:]) for name, array in batch.items()}
    count = batch["label"].size

    def fill(row: int) -> list[DamagedImage]:
        slot = process_index * count + row
        entries, damaged = fill_slot(slots, step, indices, slot)
        for name, entry in entries.items():
            rows[name][row] = entry
        return damaged

    return batch, [error for errors in pool.run(fill, count) for error in errors]


def make_eval_iter(
    source: Source,
    *,
    crop: EvalCrop,
    image_size: int,
    batch_size: int,
    num_devices: int,
    threads: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Prefetcher[Batch]:
    """One process's examples, in order; over all processes each exactly once.

    Args:
        source: the test split, the same in every process.
        crop: how images become square.
        image_size: S, the side of the images.
        batch_size: examples per batch over all processes.
        num_devices: D, of this process; the others have as many.
        threads: that decode.
        process_index: of this process, below ``process_count``.
        process_count: processes, which read contiguous parts of the source
            (``order.shard_range``).

    Returns:
        An iterator of ``image`` float32 ``[D, B, S, S, 3]``, not normalised, ``label``
        int32 ``[D, B]`` and ``mask`` bool ``[D, B]``. All batches have the same shape,
        and all processes the same number of batches; padding has zero images, label 0
        and mask ``False``.

    Raises:
        UserError: settings that do not fit; while iterating, a damaged image: an
            evaluation that leaves one out is not the evaluation that was asked for.
    """
    check_eval_crop(crop)
    all_devices = num_devices * process_count
    _check_batch(
        "evaluation batch size", batch_size, all_devices, all_devices, image_size
    )
    first, end = shard_range(0, len(source), process_index, process_count)
    rows = batch_size // process_count
    longest = -(-len(source) // process_count)
    pool = SlotPool(threads)

    def make(offset: int) -> Batch:
        start = first + offset
        count = min(max(end - start, 0), rows)
        batch: Batch = {
            "image": np.zeros((rows, image_size, image_size, 3), np.float32),
            "label": np.zeros(rows, np.int32),
            "mask": np.arange(rows) < count,
        }
        batch["label"][:count] = source.labels[start : start + count]

        def fill(row: int) -> None:
            image = _read_for_eval(source, start + row)
            batch["image"][row] = crop_for_eval(image, crop, image_size)

        pool.run(fill, count)
        return {
            name: array.reshape(num_devices, -1, *array.shape[1:])
            for name, array in batch.items()
        }

    return Prefetcher(make, range(0, longest, rows), pool)


def _read_for_eval(source: Source, index: int) -> np.ndarray:
    try:
        return source.read(index)
    except DamagedImage as error:
        raise UserError(
            f"damaged evaluation image {error}; evaluation leaves none out, so "
            "mend or replace the file"
        ) from error


def _check_batch(
    what: str, size: int, num_devices: int, unit: int, image_size: int
) -> None:
    if size < 1 or size % unit:
        raise UserError(
            f"{what} is {size}, which {num_devices} devices cannot share equally; use "
            f"a multiple of {unit}"
        )
    if image_size < 1:
        raise UserError(f"image size is {image_size}; expected 1 pixel or more")

"""Batches as a function of the step, so that nothing needs saving to resume.

What fills slot s of step t, its crop and its augmentation depend on (seed, t, s)
alone: not on the number of threads, nor on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from nfnets.data.augment import (
    AugmentConfig,
    EvalCrop,
    augment_image,
    check_augment,
    check_eval_crop,
    crop_for_eval,
)
from nfnets.data.decode import DamagedImage
from nfnets.data.order import AUGMENT, SUBSTITUTE, slot_rng, step_indices
from nfnets.data.prefetch import Prefetcher, SlotPool
from nfnets.data.sources import Source
from nfnets.errors import UserError

Batch = dict[str, np.ndarray]

# Damaged images that never stop a run, however few images it has seen.
MIN_DAMAGED = 10
# Replacements tried for one slot before the data set is given up.
_SUBSTITUTES = 20


class TrainIterator(Iterator[Batch]):
    """Training batches in step order; see :func:`make_train_iter`.

    Attributes:
        damaged: damaged images met since the start of the run, in the batches handed
            out so far.
    """

    def __init__(
        self,
        batches: Prefetcher[tuple[Batch, list[DamagedImage]]],
        max_damaged: float,
        log: Callable[[str], None],
        *,
        damaged: int,
        seen: int,
    ):
        self.damaged = damaged
        self._seen = seen
        self._named: set[str] = set()
        self._batches = batches
        self._max_damaged = max_damaged
        self._log = log

    def __iter__(self) -> TrainIterator:
        return self

    def __next__(self) -> Batch:
        batch, damaged = next(self._batches)
        self._seen += batch["label"].size
        for error in damaged:
            self._count(error)
        return batch

    def _count(self, error: DamagedImage) -> None:
        self.damaged += 1
        if error.record not in self._named:
            self._named.add(error.record)
            self._log(f"damaged image, another takes its place: {error}")
        limit = max(MIN_DAMAGED, self._max_damaged * self._seen)
        if self.damaged > limit:
            self.close()
            raise UserError(
                f"{self.damaged} damaged images among {self._seen} seen, more than "
                f"{limit:g} (data.max_damaged={self._max_damaged:g}); the last is "
                f"{error}; mend the files or raise data.max_damaged"
            )

    def close(self) -> None:
        """Stops and joins the loader's threads; harmless when called again."""
        self._batches.close()

    def __enter__(self) -> TrainIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
) -> TrainIterator:
    """Batches of steps ``start_step`` to ``num_steps - 1``.

    Args:
        source: the training split.
        augment: crop, flip and RandAugment; mixing is left to the device.
        image_size: S, the side of the images.
        images_per_step: images read per step over all devices, that is the batch
            size times ``mixing.partners(augment)``.
        num_devices: D, a divisor of ``images_per_step``.
        seed: of order and augmentation, ``0..2**64 - 1``.
        start_step: first step, counted from 0 since the start of the run.
        num_steps: step after the last.
        max_damaged: share of the images seen that may be damaged; 10 always may.
        threads: that decode; the batches do not depend on it.
        log: is told of each damaged record once.
        damaged: damaged images met before ``start_step``.

    Returns:
        An iterator of ``image`` uint8 ``[D, B, S, S, 3]`` and ``label`` int32
        ``[D, B]``, fresh arrays each time; ``close()`` it when leaving early.

    Raises:
        UserError: settings that do not fit; while iterating, too many damaged images.
    """
    check_augment(augment)
    _check_batch("images per step", images_per_step, num_devices, image_size)
    pool = SlotPool(threads)

    def make(step: int) -> tuple[Batch, list[DamagedImage]]:
        indices = step_indices(seed, step, images_per_step, len(source))
        images = np.empty((images_per_step, image_size, image_size, 3), np.uint8)
        labels = np.empty(images_per_step, np.int32)

        def fill(slot: int) -> list[DamagedImage]:
            index = int(indices[slot])
            image, index, damaged = _read_or_replace(source, index, seed, step, slot)
            rng = slot_rng(seed, step, purpose=AUGMENT, slot=slot)
            images[slot] = augment_image(rng, image, augment, image_size)
            labels[slot] = source.labels[index]
            return damaged

        damaged = [
            error for errors in pool.run(fill, images_per_step) for error in errors
        ]
        batch: Batch = {"image": images, "label": labels}
        return _split_over_devices(batch, num_devices), damaged

    keys = range(start_step, num_steps)
    return TrainIterator(
        Prefetcher(make, keys, pool),
        max_damaged,
        log,
        damaged=damaged,
        seen=start_step * images_per_step,
    )


def make_eval_iter(
    source: Source,
    *,
    crop: EvalCrop,
    image_size: int,
    batch_size: int,
    num_devices: int,
    threads: int,
) -> Prefetcher[Batch]:
    """Every example exactly once, in order.

    Args:
        source: the test split.
        crop: how images become square.
        image_size: S, the side of the images.
        batch_size: examples per batch over all devices.
        num_devices: D, a divisor of ``batch_size``.
        threads: that decode.

    Returns:
        An iterator of ``image`` uint8 ``[D, B, S, S, 3]``, ``label`` int32
        ``[D, B]`` and ``mask`` bool ``[D, B]``. All batches have the same shape; in
        the last, padding has zero images, label 0 and mask ``False``.

    Raises:
        UserError: settings that do not fit; while iterating, a damaged image: an
            evaluation that leaves one out is not the evaluation that was asked for.
    """
    check_eval_crop(crop)
    _check_batch("evaluation batch size", batch_size, num_devices, image_size)
    pool = SlotPool(threads)

    def make(start: int) -> Batch:
        count = min(batch_size, len(source) - start)
        images = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
        labels = np.zeros(batch_size, np.int32)
        labels[:count] = source.labels[start : start + count]

        def fill(slot: int) -> None:
            try:
                image = source.read(start + slot)
            except DamagedImage as error:
                raise UserError(
                    f"damaged evaluation image {error}; evaluation leaves none out, so "
                    "mend or replace the file"
                ) from error
            images[slot] = crop_for_eval(image, crop, image_size)

        pool.run(fill, count)
        batch: Batch = {"image": images, "label": labels}
        batch["mask"] = np.arange(batch_size) < count
        return _split_over_devices(batch, num_devices)

    return Prefetcher(make, range(0, len(source), batch_size), pool)


def _read_or_replace(
    source: Source, index: int, seed: int, step: int, slot: int
) -> tuple[np.ndarray, int, list[DamagedImage]]:
    """Reads a record, or another where it is damaged.

    Which other is a function of (seed, step, slot, attempt).

    Returns:
        The image, the index that was read in the end, and the damaged records.
    """
    damaged: list[DamagedImage] = []
    while True:
        try:
            return source.read(index), index, damaged
        except DamagedImage as error:
            damaged.append(error)
        if len(damaged) == 1:
            rng = slot_rng(seed, step, purpose=SUBSTITUTE, slot=slot)
        if len(damaged) > _SUBSTITUTES:
            raise UserError(
                f"{source.name}: {len(damaged)} records in a row are damaged, the last "
                f"is {damaged[-1]}; check the data set"
            )
        index = int(rng.random() * len(source))


def _check_batch(what: str, size: int, num_devices: int, image_size: int) -> None:
    if size < 1 or size % num_devices:
        raise UserError(
            f"{what} is {size}, which {num_devices} devices cannot share equally; use "
            f"a multiple of {num_devices}"
        )
    if image_size < 1:
        raise UserError(f"image size is {image_size}; expected 1 pixel or more")


def _split_over_devices(batch: Batch, num_devices: int) -> Batch:
    """``[D * B, ...]`` -> ``[D, B, ...]`` of every entry."""
    return {
        name: array.reshape(num_devices, -1, *array.shape[1:])
        for name, array in batch.items()
    }

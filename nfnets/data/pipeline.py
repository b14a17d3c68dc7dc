"""Batches as a function of the step, so that nothing needs saving to resume.

What fills slot s of step t, its crop and its augmentation depend on (seed, t, s)
alone: not on the number of threads or processes, nor on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nfnets.data.augment import crop_for_eval
from nfnets.data.augment_config import (
    AugmentConfig,
    EvalCrop,
    check_augment,
    check_eval_crop,
)
from nfnets.data.backends import choose_backend, make_batches
from nfnets.data.decode import DamagedImage
from nfnets.data.host_mixing import mixes_on_host
from nfnets.data.mixing import check_mixing, partners
from nfnets.data.order import records_at, shard_range
from nfnets.data.prefetch import Prefetcher, SlotPool
from nfnets.data.sources import Source
from nfnets.data.step_batch import StepBatch, make_step_batch
from nfnets.data.train_iterator import Batch, TrainIterator
from nfnets.data.train_slots import TrainSlots
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


class LoaderStage(Protocol):
    """Steps under constant settings; see ``training.recipe.Stage``."""

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        ...

    @property
    def image_size(self) -> int:
        """S, the side of the images."""
        ...

    @property
    def augment(self) -> AugmentConfig:
        """Crop, flip, policy and mixing."""
        ...


def make_train_iter(
    source: Source,
    *,
    stages: Sequence[LoaderStage],
    batch_size: int,
    num_devices: int,
    seed: int,
    start_step: int,
    max_damaged: float,
    threads: int,
    log: Callable[[str], None],
    backend: str = "auto",
    drop_last: bool = False,
    damaged: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainIterator:
    """One process's rows of the batches from ``start_step`` to the last stage's end.

    The rows of all processes in order are the batch that one process with all the
    devices would make. The first batches of a stage are made while the stage before is
    still at its last ones, and the order of the records runs through.

    Args:
        source: the training split, the same in every process.
        stages: what is done, in order from step 0.
        batch_size: images trained on per step over all processes; where the recipe
            mixes, twice as many records are read (``mixing.partners``).
        num_devices: D, of this process; the others have as many.
        seed: of order and augmentation, ``0..2**64 - 1``.
        start_step: first step, counted from 0 since the start of the run.
        max_damaged: share of the images seen that may be damaged; 10 always may. Each
            process counts its own.
        threads: that decode; the batches do not depend on it.
        log: is told of each damaged record once.
        backend: ``native``, ``python`` or ``auto``, see ``backends.choose_backend``.
        drop_last: whether an epoch ends with its last whole step (``records_at``).
        damaged: damaged images met before ``start_step``.
        process_index: of this process, below ``process_count``.
        process_count: processes that share each step.

    Returns:
        An iterator of the arrays of :func:`train_batch_shapes`, fresh ones each time;
        ``close()`` it when leaving early.

    Raises:
        UserError: settings that do not fit; while iterating, too many damaged images.
    """
    all_devices = num_devices * process_count
    plans = _plan_stages(source, stages, batch_size, all_devices, num_devices, seed)
    pool = SlotPool(threads)

    def begin(step: int) -> StepBatch:
        return _begin_batch(plans, step, process_index, drop_last)

    steps = range(start_step, sum(stage.steps for stage in stages))
    return TrainIterator(
        make_batches(choose_backend(backend), begin, steps, pool),
        max_damaged,
        log,
        damaged=damaged,
        seen=_position(plans, start_step) // process_count,
    )


@dataclass(frozen=True)
class _StagePlan:
    """A stage, where it begins, and what its batches look like."""

    first_step: int
    first_position: int
    records_per_step: int
    slots: TrainSlots
    shapes: dict[str, tuple[tuple[int, ...], Any]]


def _plan_stages(
    source: Source,
    stages: Sequence[LoaderStage],
    batch_size: int,
    all_devices: int,
    num_devices: int,
    seed: int,
) -> list[_StagePlan]:
    """Checks every stage before the first batch is made."""
    plans, step, position = [], 0, 0
    for stage in stages:
        check_augment(stage.augment)
        _check_batch("batch size", batch_size, all_devices, stage.image_size)
        per_device = batch_size // all_devices
        check_mixing(stage.augment, per_device)
        records = batch_size * partners(stage.augment)
        slots = TrainSlots(
            source,
            stage.augment,
            stage.image_size,
            records_per_device=records // all_devices,
            num_devices=all_devices,
            seed=seed,
        )
        shapes = train_batch_shapes(
            stage.augment, stage.image_size, per_device, num_devices
        )
        plans.append(_StagePlan(step, position, records, slots, shapes))
        step += stage.steps
        position += stage.steps * records
    return plans


def _stage_at(plans: list[_StagePlan], step: int) -> _StagePlan:
    return next(plan for plan in reversed(plans) if plan.first_step <= step)


def _position(plans: list[_StagePlan], step: int) -> int:
    """Records read before a step."""
    plan = _stage_at(plans, step)
    return plan.first_position + (step - plan.first_step) * plan.records_per_step


def _begin_batch(
    plans: list[_StagePlan], step: int, process_index: int, drop_last: bool
) -> StepBatch:
    plan = _stage_at(plans, step)
    slots = plan.slots
    indices = records_at(
        slots.seed,
        _position(plans, step),
        plan.records_per_step,
        len(slots.source),
        repeats=slots.augment.repeats,
        num_devices=slots.num_devices,
        drop_last=drop_last,
    )
    return make_step_batch(slots, step, indices, plan.shapes, process_index)


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
    image_labels: np.ndarray | None = None,
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
        image_labels: int32 ``[n, L]``, all labels of each image, filled up with -1.

    Returns:
        An iterator of ``image`` float32 ``[D, B, S, S, 3]``, not normalised, ``label``
        int32 ``[D, B]``, ``mask`` bool ``[D, B]`` and, with ``image_labels``, these as
        ``labels`` int32 ``[D, B, L]``. All batches have the same shape, and all
        processes the same number; padding has zero images and mask ``False``.

    Raises:
        UserError: settings that do not fit; while iterating, a damaged image: an
            evaluation that leaves one out is not the evaluation that was asked for.
    """
    check_eval_crop(crop)
    all_devices = num_devices * process_count
    _check_batch("evaluation batch size", batch_size, all_devices, image_size)
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
        if image_labels is not None:
            batch["labels"] = np.full((rows, image_labels.shape[1]), -1, np.int32)
            batch["labels"][:count] = image_labels[start : start + count]

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
        advice = "evaluation leaves none out, so mend or replace the file"
        raise UserError(f"damaged evaluation image {error}; {advice}") from error


def _check_batch(what: str, size: int, num_devices: int, image_size: int) -> None:
    if size < 1 or size % num_devices:
        raise UserError(
            f"{what} is {size}, which {num_devices} devices cannot share equally; use "
            f"a multiple of {num_devices}"
        )
    if image_size < 1:
        raise UserError(f"image size is {image_size}; expected 1 pixel or more")

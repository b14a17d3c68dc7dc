"""Makes training batches through the C++ backend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nfnets.data.augment import apply_operations
from nfnets.data.decode import DamagedImage
from nfnets.data.native import load
from nfnets.data.native.jobs import ENCODE, Jobs, make_jobs
from nfnets.data.prefetch import SlotPool
from nfnets.data.step_batch import (
    NotPlainJpeg,
    StepBatch,
    read_decoded,
    read_encoded,
)
from nfnets.data.train_slots import Picture, Planned, SlotPlan

# By group of rows; ``None`` where a record is no plain JPEG: pictures that are decoded
# as a whole are not kept while a batch waits.
Plans = list[Planned | None]


def plan(batch: StepBatch, pool: SlotPool) -> Plans:
    """Reads the records of a batch and plans its rows, on the threads of the pool."""
    native, source = load(), batch.slots.source

    def encoded(index: int) -> Picture:
        return read_encoded(source, index, native.header)

    def plan_group(number: int) -> Planned | None:
        try:
            return batch.plan(batch.groups[number], encoded)
        except NotPlainJpeg:
            return None

    return pool.run(plan_group, len(batch.groups))


def fill(batch: StepBatch, plans: Plans, pool: SlotPool) -> list[DamagedImage]:
    """Carries out the plans in one call, and lists the damaged records met."""
    rows = [row for planned in plans if planned is not None for row in planned[0]]
    broken = set(_make(batch, rows, pool.threads))

    def finish(number: int) -> list[DamagedImage]:
        group, planned = batch.groups[number], plans[number]
        if planned is None or broken & set(group):
            return _fill_decoded(batch, group)
        return planned[1]

    lists = pool.run(finish, len(batch.groups))
    return [error for damaged in lists for error in damaged]


def _fill_decoded(batch: StepBatch, rows: Sequence[int]) -> list[DamagedImage]:
    """Makes rows from pictures that the strict decoder decoded as a whole.

    It also says what is wrong with a file that could not be decoded, if anything is.
    """
    source = batch.slots.source
    plans, damaged = batch.plan(rows, lambda index: read_decoded(source, index))
    if _make(batch, plans, 1):
        raise RuntimeError(f"rows {list(rows)} could not be made from pixels")
    return damaged


def _make(batch: StepBatch, plans: Sequence[SlotPlan], threads: int) -> list[int]:
    """Makes rows, and lists those whose picture could not be decoded."""
    images, jobs = batch.arrays["image"], jobs_of(batch, plans)
    damaged = np.zeros(len(jobs.pictures), np.int32)
    load().make_batch(*jobs.arguments, images, damaged, threads)
    for row, operations in jobs.left_over:
        semantics = batch.slots.augment.semantics
        images[row] = apply_operations(images[row], operations, semantics)
    for plan in plans:
        batch.put_labels(plan.row, plan.labels)
    if not damaged.any():
        return []
    bad_crops = damaged[jobs.crops["picture"]].astype(bool)
    rows = jobs.rows
    second = np.where(rows["second"] < 0, rows["first"], rows["second"])
    return rows["slot"][bad_crops[rows["first"]] | bad_crops[second]].tolist()


def jobs_of(batch: StepBatch, plans: Sequence[SlotPlan]) -> Jobs:
    """The plans as the C++ code reads them."""
    augment, size = batch.slots.augment, batch.slots.image_size
    return make_jobs(
        plans,
        image_size=size,
        encode=ENCODE[augment.semantics],
        truncate=batch.truncates,
    )

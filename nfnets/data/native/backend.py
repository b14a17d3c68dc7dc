"""Makes training batches through the C++ backend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nfnets.data.augment import apply_operations
from nfnets.data.decode import DamagedImage
from nfnets.data.native import load
from nfnets.data.native.jobs import ENCODE, Jobs, make_jobs
from nfnets.data.prefetch import SlotPool
from nfnets.data.step_batch import StepBatch, read_decoded, read_encoded
from nfnets.data.train_slots import Picture, SlotPlan

# What is planned, and the damaged records met: by group of rows.
Plans = list[tuple[list[SlotPlan], list[DamagedImage]]]


def plan(batch: StepBatch, pool: SlotPool) -> Plans:
    """Reads the records of a batch and plans its rows, on the threads of the pool."""
    native, source = load(), batch.slots.source

    def encoded(index: int) -> Picture:
        return read_encoded(source, index, native.header)

    return pool.run(
        lambda number: batch.plan(batch.groups[number], encoded), len(batch.groups)
    )


def fill(batch: StepBatch, plans: Plans, threads: int) -> list[DamagedImage]:
    """Carries out the plans in one call, and lists the damaged records met."""
    broken = set(_make(batch, [p for group, _ in plans for p in group], threads))
    damaged: list[DamagedImage] = []
    for rows, (_, errors) in zip(batch.groups, plans, strict=True):
        damaged += _fill_broken(batch, rows) if broken & set(rows) else errors
    return damaged


def _fill_broken(batch: StepBatch, rows: Sequence[int]) -> list[DamagedImage]:
    """Makes rows again whose picture could not be decoded.

    The strict decoder says what is wrong with it, or that nothing is.
    """
    source = batch.slots.source
    plans, damaged = batch.plan(rows, lambda index: read_decoded(source, index))
    _make(batch, plans, 1)
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

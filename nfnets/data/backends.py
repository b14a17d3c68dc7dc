"""Which backend makes the training batches, and the stream of what it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nfnets.data import native, python_backend
from nfnets.data.decode import DamagedImage
from nfnets.data.prefetch import Prefetcher, SlotPool
from nfnets.data.step_batch import StepBatch
from nfnets.errors import UserError

BACKENDS = ("auto", "native", "python")


class Made(NamedTuple):
    """A finished batch.

    Attributes:
        batch: arrays with the device axis, ``[D, n, ...]``.
        records: read for it by this process.
        damaged: records met that cannot be read.
    """

    batch: dict[str, np.ndarray]
    records: int
    damaged: list[DamagedImage]


def choose_backend(name: str) -> str:
    """``native`` or ``python``.

    Args:
        name: one of them, or ``auto``: native where it was built.

    Raises:
        UserError: an unknown name, or native was asked for and was not built.
    """
    if name not in BACKENDS:
        raise UserError(f"backend is {name!r}; expected one of {', '.join(BACKENDS)}")
    if name == "python":
        return "python"
    try:
        native.load()
    except ImportError as error:
        if name == "auto":
            return "python"
        raise UserError(
            "the native backend was not built; install a C++ compiler and the headers "
            "of libjpeg-turbo (Debian: apt-get install g++ libjpeg-dev), then: "
            "pip install --no-cache-dir --force-reinstall --no-deps . in the checkout, "
            f"or set data.backend to python ({error})"
        ) from error
    return "native"


def describe_backend(name: str) -> str:
    """One line for the log: which backend :func:`choose_backend` takes, and why."""
    if choose_backend(name) == "native":
        return "native backend (C++, libjpeg-turbo)"
    if name == "python":
        return "python backend (simplejpeg, OpenCV, Pillow), as asked for"
    return "python backend (simplejpeg, OpenCV, Pillow): the native one was not built"


def make_batches(
    backend: str,
    begin: Callable[[int], StepBatch],
    steps: range,
    pool: SlotPool,
) -> Prefetcher[Made]:
    """The batches of steps, in order, made ahead.

    Args:
        backend: from :func:`choose_backend`.
        begin: the batch of a step, to be filled.
        steps: in order.
        pool: whose threads do the work.
    """
    if backend == "python":

        def fill(step: int) -> Made:
            batch = begin(step)
            return _made(batch, python_backend.fill(batch, pool))

        return Prefetcher(fill, steps, pool)
    from nfnets.data.native import backend as native_backend

    readers = SlotPool(pool.threads)

    def read(step: int) -> tuple[StepBatch, native_backend.Plans]:
        batch = begin(step)
        return batch, native_backend.plan(batch, readers)

    # Reading runs ahead of decoding, so a slow disk and the processor work at the same
    # time; by one batch, since files are kept in memory until they are decoded.
    planned = Prefetcher(read, steps, readers, ready=1)

    def make(step: int) -> Made:
        batch, plans = next(planned)
        return _made(batch, native_backend.fill(batch, plans, pool))

    return Prefetcher(make, steps, pool, upstream=planned)


def _made(batch: StepBatch, damaged: list[DamagedImage]) -> Made:
    num_devices = len(batch.batch["label"])
    return Made(batch.batch, num_devices * batch.slots.records_per_device, damaged)

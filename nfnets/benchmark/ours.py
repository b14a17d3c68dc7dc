"""Our loaders, as training uses them, and what they cannot be faster than."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nfnets.benchmark.images import TFDS_NAME
from nfnets.benchmark.job import Job
from nfnets.benchmark.variants import Variant
from nfnets.data.augment_config import AugmentConfig
from nfnets.data.order import records_at
from nfnets.data.pipeline import make_train_iter, train_batch_shapes
from nfnets.data.prefetch import SlotPool
from nfnets.data.sources import Source, open_source
from nfnets.data.step_batch import make_step_batch
from nfnets.data.train_iterator import TrainIterator
from nfnets.data.train_slots import TrainSlots

# More steps than any measurement takes.
_STEPS = 10**9
# Different batches that the bare kernel is called with in turn.
_PREPARED = 8
_TF_RANDAUGMENT = {
    "randaugment_layers": 2,
    "randaugment_magnitude": 9.0,
}
# timm's rand-m9-mstd0.5-inc1
_TIMM_RANDAUGMENT = {
    **_TF_RANDAUGMENT,
    "randaugment_rate": 0.5,
    "randaugment_noise": 0.5,
    "randaugment_increasing": True,
}


def make_augment(variant: Variant, policy: str) -> AugmentConfig:
    """Box and flip, and with ``randaugment`` the policy of those whose box it is."""
    semantics = "timm" if variant.crop == "timm_box" else "tf"
    settings: dict[str, Any] = {
        "crop": variant.crop,
        "crop_pad": 0,
        "crop_area": (0.08, 1.0),
        "crop_aspect": (3 / 4, 4 / 3),
        "flip_rate": 0.5,
        "interpolation": variant.kernel,
        "antialias": variant.antialias,
        "scaled_decode": False,
        "repeats": 1,
        "mixing": "nfnet",
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
        "mix_rate": 1.0,
        "cutmix_rate": 0.5,
        "augment_before_mix": True,
        "semantics": semantics,
        "autoaugment": None,
        "randaugment_layers": 0,
        "randaugment_magnitude": None,
        "randaugment_rate": 1.0,
        "randaugment_noise": 0.0,
        "randaugment_increasing": False,
        "erase_rate": 0.0,
        "erase_mode": "const",
        "erase_count": 1,
    }
    if policy == "randaugment":
        settings |= _TIMM_RANDAUGMENT if semantics == "timm" else _TF_RANDAUGMENT
    return AugmentConfig(**settings)


def open_images(directory: str) -> Source:
    """The TFRecord file, which tf.data reads too."""
    return open_source(f"tfds:{TFDS_NAME}", "train", data_dir=directory)


class _Stage(NamedTuple):
    steps: int
    image_size: int
    augment: AugmentConfig


def make_iterator(
    source: Source, job: Job, variant: Variant, backend: str
) -> TrainIterator:
    """The training iterator, on one device."""
    stage = _Stage(_STEPS, job.size, make_augment(variant, job.policy))
    return make_train_iter(
        source,
        stages=[stage],
        batch_size=job.batch_size,
        num_devices=1,
        seed=0,
        start_step=0,
        max_damaged=0.0,
        threads=job.threads,
        log=lambda message: print(message, file=sys.stderr),
        backend=backend,
    )


def train_batches(job: Job, variant: Variant) -> Iterator[np.ndarray]:
    """``make_train_iter`` with the backend that the variant names."""
    source = open_images(job.directory)
    for batch in make_iterator(source, job, variant, variant.loader):
        yield batch["image"]


def native_kernel(job: Job, variant: Variant) -> Iterator[np.ndarray]:
    """One call of the native batch function after the other, on prepared jobs.

    Crops are drawn and bytes are read before the first batch: what the calls cost
    without Python around them.
    """
    from nfnets.data import native
    from nfnets.data.native import backend

    augment, source = make_augment(variant, job.policy), open_images(job.directory)
    slots = TrainSlots(source, augment, job.size, job.batch_size, 1, seed=0)
    shapes = train_batch_shapes(augment, job.size, job.batch_size, 1)
    prepared = []
    for step in range(_PREPARED):
        start = step * job.batch_size
        indices = records_at(0, start, job.batch_size, len(source))
        batch = make_step_batch(slots, step, indices, shapes, process_index=0)
        plans = backend.plan(batch, SlotPool(1))
        rows = [plan for planned in plans if planned for plan in planned[0]]
        prepared.append(backend.jobs_of(batch, rows))
    images = np.empty((job.batch_size, job.size, job.size, 3), np.uint8)
    for jobs in itertools.cycle(prepared):
        damaged = np.zeros(len(jobs.pictures), np.int32)
        native.load().make_batch(*jobs.arguments, images, damaged, job.threads)
        yield images

"""Repeated augmentation: DeiT's order on one process, copies that share a decode."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import BACKENDS, plain_augment, train_iter

from nfnets.data import order
from nfnets.data.order import records_at
from nfnets.data.sources import Source

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "timm_repeat_aug.json").read_text("utf-8")
)
COUNT, DEVICES = 48, 4


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: str(c["dataset"]))
def test_each_device_reads_what_a_process_of_timm_reads(case, monkeypatch):
    count, devices = case["dataset"], case["replicas"]
    monkeypatch.setattr(order, "epoch_order", lambda seed, epoch, n: np.arange(n))
    size = devices * 4
    steps = [
        records_at(0, start, size, count, repeats=3, num_devices=devices)
        for start in range(0, count // size * size, size)
    ]
    streams = np.concatenate([step.reshape(devices, -1) for step in steps], axis=1)
    for rank in case["ranks"]:
        # timm's tail may be cut off or padded: what both have must be equal.
        known = rank["first12"][: streams.shape[1]]
        assert streams[rank["rank"], : len(known)].tolist() == known


def test_an_epoch_has_a_third_of_the_images():
    """1024 positions show 342 records, three times each but the last; as in timm."""
    (case,) = (case for case in GOLDEN["cases"] if case["dataset"] == 1024)
    records = records_at(0, 0, 1024, 1024, repeats=3, num_devices=4)
    seen, times = np.unique(records, return_counts=True)
    assert len(seen) == case["distinct_images"]
    assert np.sort(times).tolist() == [1, *[3] * 341]
    second = records_at(0, 1024, 1024, 1024, repeats=3, num_devices=4)
    assert set(second) != set(seen)  # every epoch draws anew


@pytest.mark.parametrize("repeats", [1, 3])
def test_dropping_the_last_batch_ends_an_epoch_with_a_whole_one(repeats):
    """50 records are 3 steps of 16; the next step draws from a new order."""
    step = functools.partial(
        records_at, 5, size=16, count=50, repeats=repeats, num_devices=4
    )
    first = np.concatenate([step(start=s * 16, drop_last=True) for s in range(3)])
    whole = np.concatenate([step(start=s * 16) for s in range(3)])
    assert first.tolist() == whole.tolist()
    after = step(start=48, drop_last=True)
    tail_and_after = step(start=48)
    assert after.tolist() != tail_and_after.tolist()
    assert len(set(after)) == len(set(first[:16].tolist()))
    shown = -(-48 // repeats)
    assert len(set(first)) == shown
    # A source smaller than the step is shown as it is without.
    small = functools.partial(records_at, 5, 0, 16, 6)
    assert small(drop_last=True).tolist() == small().tolist()


def source(reads: list[int]) -> Source:
    """Noise images, which tell when they are read."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 40, 40, 3), np.uint8)

    def read(index: int) -> np.ndarray:
        reads.append(index)
        return images[index]

    return Source(
        name="noise",
        class_names=tuple(str(i) for i in range(COUNT)),
        labels=np.arange(COUNT, dtype=np.int32),
        read=read,
        describe=lambda index: f"record {index}",
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_copies_are_read_once_and_differ(backend):
    reads: list[int] = []
    augment = plain_augment(
        crop="timm_box", antialias=True, flip_rate=0.5, crop_area=(0.1, 1.0), repeats=3
    )
    (batch,) = train_iter(
        source(reads),
        augment=augment,
        image_size=16,
        batch_size=24,
        num_devices=DEVICES,
        num_steps=1,
        backend=backend,
    )
    labels, images = batch["label"], batch["image"]
    assert labels.shape == (DEVICES, 6)
    assert sorted(reads) == sorted(set(labels.ravel().tolist()))
    for label in set(labels.ravel().tolist()):
        devices, places = np.nonzero(labels == label)
        assert len(devices) == 3
        assert len(set(devices)) == 3  # copies train on different devices
        copies = {images[d, p].tobytes() for d, p in zip(devices, places, strict=True)}
        assert len(copies) == 3

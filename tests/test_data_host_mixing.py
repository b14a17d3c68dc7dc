"""Mixing on the host: the official numbers, and the device's."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import BACKENDS, plain_augment, train_iter

from nfnets.data import (
    host_mixing,
    mixing_draws,
    nfnet_mixing,
    pipeline,
    train_slots,
)
from nfnets.data.augment_config import AugmentConfig
from nfnets.data.host_mixing import Pair, draw_beta, mixes_on_host, pair_at
from nfnets.data.operation import Operation
from nfnets.data.order import records_at
from nfnets.data.resize import resize
from nfnets.data.sources import Source
from nfnets.errors import UserError

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "nfnet_mixing.json").read_text("utf-8")
)
BOTH = plain_augment(
    mixup_alpha=0.2,
    cutmix_alpha=1.0,
    augment_before_mix=False,
    randaugment_layers=4,
    randaugment_magnitude=5.0,
)
MIXUP = dataclasses.replace(BOTH, cutmix_alpha=0.0)
CUTMIX = dataclasses.replace(BOTH, mixup_alpha=0.0)


@pytest.mark.parametrize(
    ("change", "on_host"),
    [
        ({}, True),
        ({"cutmix_alpha": 0.0}, True),
        ({"mixup_alpha": 0.0}, True),
        ({"autoaugment": "v0", "randaugment_layers": 0}, True),
        ({"augment_before_mix": True}, False),
        ({"randaugment_layers": 0}, False),  # nothing is quantised: the device mixes
        ({"mixup_alpha": 0.0, "cutmix_alpha": 0.0}, False),
        ({"mixing": "effnetv2"}, False),
        ({"mixing": "timm_batch"}, False),
    ],
)
def test_who_mixes(change, on_host):
    assert mixes_on_host(dataclasses.replace(BOTH, **change)) == on_host


def mix_batch(
    config: AugmentConfig, images: np.ndarray, ratio: np.ndarray, boxes: list
) -> dict[str, np.ndarray]:
    """A device's batch with given draws, one ratio or box per mixed image."""
    count = len(images) // 2
    mixed, weights = [], []
    pairs = [pair_at(config, count, place) for place in range(count)]
    for place, (first, second, is_mixup) in enumerate(pairs):
        if is_mixup:
            mixed.append(host_mixing.mixup(images[first], images[second], ratio[place]))
            weights.append(ratio[place])
        else:
            box = boxes[place]
            mixed.append(host_mixing.cutmix(images[first], images[second], box))
            weights.append(host_mixing.box_share(box, *images.shape[1:3]))
    return {
        "images": np.stack(mixed),
        "labels": np.array([pair.first for pair in pairs]),
        "mix_labels": np.array([pair.second for pair in pairs]),
        "ratio": np.array(weights),
    }


@pytest.mark.parametrize(
    ("name", "config"), [("mixup", MIXUP), ("cutmix", CUTMIX), ("mixup_cutmix", BOTH)]
)
def test_mixing_is_the_official_one(name, config):
    rs = np.random.RandomState(0)  # as the goldens were made
    images = rs.standard_normal((8, 16, 16, 3)).astype(np.float32)
    ratio = rs.uniform(size=8).astype(np.float32)
    boxes = [(i, i + 6, 2 * i % 8, 2 * i % 8 + 5) for i in range(8)]
    # With both, outputs 2 and 3 read the official code's masks 4 and 5.
    given = boxes if config is CUTMIX else [boxes[place + 2] for place in range(4)]
    ours, golden = mix_batch(config, images, ratio, given), GOLDEN["mixing"][name]
    assert list(ours["images"].shape) == golden["images_shape"]
    assert ours["images"].dtype == np.float32
    np.testing.assert_allclose(
        ours["images"].mean(axis=(1, 2, 3)),
        golden["images_mean_per_example"],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        np.sqrt((ours["images"] ** 2).sum(axis=(1, 2, 3))),
        golden["images_l2_per_example"],
        rtol=1e-6,
    )
    assert ours["labels"].tolist() == golden["labels"]
    assert ours["mix_labels"].tolist() == golden["mix_labels"]
    np.testing.assert_allclose(ours["ratio"], golden["ratio"], rtol=1e-6)


@pytest.mark.parametrize("case", GOLDEN["cutmix_boxes"], ids=lambda c: f"{c['r_x']}")
def test_boxes_are_the_official_ones(case):
    height, width = case["h"], case["w"]
    box = host_mixing.box_of(
        height, width, case["r_y"], case["r_x"], case["proportion"]
    )
    if case["box_y0y1x0x1"] is not None:
        assert list(box) == case["box_y0y1x0x1"]
    share = host_mixing.box_share(box, height, width)
    assert share == pytest.approx(case["ratio"], rel=1e-6)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47)])
def test_boxes_are_the_device_s(height, width):
    rng = np.random.default_rng(0)
    proportion = rng.random(300).astype(np.float32)
    y, x = rng.integers(0, height, 300), rng.integers(0, width, 300)
    masks = np.asarray(mixing_draws.cutmix_mask(height, width, y, x, proportion))
    for mask, *draws in zip(masks, y, x, proportion, strict=True):
        top, bottom, left, right = host_mixing.box_of(height, width, *draws)
        expected = np.zeros((height, width, 1), np.float32)
        expected[top:bottom, left:right] = 1
        np.testing.assert_array_equal(mask, expected)


def test_mixing_is_the_device_s():
    rng = np.random.default_rng(1)
    images = rng.uniform(-40, 300, (16, 12, 12, 3)).astype(np.float32)
    ratio = rng.random(8).astype(np.float32)
    boxes = [host_mixing.draw_box(rng, 12, 12, 1.0) for _ in range(8)]
    mask = np.zeros((8, 12, 12, 1), np.float32)
    for place, (top, bottom, left, right) in enumerate(boxes):
        mask[place, top:bottom, left:right] = 1
    labels = np.arange(16)
    on_device = {
        MIXUP: nfnet_mixing.mixup(images, labels, ratio),
        CUTMIX: nfnet_mixing.cutmix(images, labels, mask),
        BOTH: nfnet_mixing.half_half_mix(images, labels, ratio[:4], mask[4:]),
    }
    for config, expected in on_device.items():
        ours = mix_batch(config, images, ratio, boxes)
        for mine, theirs in zip(ours.values(), expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-4)


def test_halves_of_the_batch_by_hand():
    # Facts of the official code: mixup of x[0:q] and x[q:2q], cutmix of x[2q:3q] and
    # the last q, q = 2B // 4.
    assert [pair_at(BOTH, 4, i) for i in range(4)] == [
        Pair(0, 2, True),
        Pair(1, 3, True),
        Pair(4, 6, False),
        Pair(5, 7, False),
    ]


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 0.8, 1.0, 3.0, 20.0])
def test_beta_has_its_moments(alpha):
    rng = np.random.default_rng(0)
    draws = np.array([draw_beta(rng, alpha) for _ in range(20_000)])
    assert draws.min() >= 0
    assert draws.max() <= 1
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)), kurtosis 3 - 6 / (2 a + 3).
    variance = 1 / (4 * (2 * alpha + 1))
    fourth = variance**2 * (3 - 6 / (2 * alpha + 3))
    centred = draws - 0.5
    assert centred.mean() == pytest.approx(0, abs=4 * np.sqrt(variance / 20_000))
    assert (centred**2).mean() == pytest.approx(variance, rel=0.04)
    assert (centred**4).mean() == pytest.approx(fourth, rel=0.08)


def test_beta_needs_uniform_numbers_only():
    """NumPy promises that only ``random`` stays the same between versions."""

    class Uniform:
        def __init__(self) -> None:
            self.numbers = itertools.cycle([0.3, 0.9, 0.01, 0.0])

        def random(self) -> float:
            return next(self.numbers)

    assert draw_beta(Uniform(), 1.0) == 0.3
    # Ulrich: 1/2 + cos(2 pi 0.9) sqrt(1 - 0.3^(2/3)) / 2
    # = 1/2 + 0.809017 * sqrt(1 - 0.448140) / 2.
    assert draw_beta(Uniform(), 2.0) == pytest.approx(0.80050, abs=1e-5)
    # Joehnk: 0.7^2 + 0.1^2 <= 1, so 0.49 / 0.50.
    assert draw_beta(Uniform(), 0.5) == pytest.approx(0.98)
    for _ in range(50):
        assert draw_beta(np.random.default_rng(0), 1e-4) in (0.0, 1.0)


def noise_source(count: int) -> Source:
    """Images with strong edges, so that enlarging them overshoots; label i."""
    images = np.random.default_rng(0).integers(0, 2, (count, 6, 6, 3), np.uint8) * 255
    return Source(
        name="noise",
        class_names=tuple(str(i) for i in range(count)),
        labels=np.arange(count, dtype=np.int32),
        read=lambda index: images[index],
        describe=lambda index: f"record {index}",
    )


def first_batch(config: AugmentConfig, **changes) -> dict[str, np.ndarray]:
    options = dict(
        augment=config,
        image_size=12,
        batch_size=16,
        seed=3,
        num_steps=1,
        max_damaged=0.0,
    )
    (batch,) = train_iter(noise_source(40), **{**options, **changes})
    return batch


@pytest.mark.parametrize("config", [BOTH, MIXUP, CUTMIX])
@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_are_mixed_from_float_crops_then_augmented(
    config, backend, monkeypatch
):
    """Rebuilt from the batch's ratios: overshoot is kept until after the mix."""
    monkeypatch.setattr(
        train_slots, "draw_operations", lambda rng, config: (Operation("Invert"),)
    )
    batch, source = first_batch(config, backend=backend), noise_source(40)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((2, 8, 12, 12, 3), "uint8"),
        "label": ((2, 8), "int32"),
        "mix_label": ((2, 8), "int32"),
        "ratio": ((2, 8), "float32"),
    }
    labels = source.labels[records_at(3, 0, 32, 40)].reshape(2, 16)
    for device, place in itertools.product(range(2), range(8)):
        image, label, mix_label, ratio = (v[device, place] for v in batch.values())
        pair = pair_at(config, 8, place)
        assert label == labels[device, pair.first]
        assert mix_label == labels[device, pair.second]
        first, second = (
            resize(source.read(int(i)), (12, 12), kernel="bicubic", antialias=False)
            for i in (label, mix_label)
        )
        assert first.min() < -10
        inverted = 255 - image
        if pair.mixup:
            mixed = ratio * first + (1 - ratio) * second
            np.testing.assert_array_equal(inverted, mixed.clip(0, 255).astype(np.uint8))
        else:
            first, second = (x.clip(0, 255).astype(np.uint8) for x in (first, second))
            from_first = (inverted == first).all(-1)
            from_second = (inverted == second).all(-1)
            assert (from_first | from_second).all()
            assert ratio * 144 == pytest.approx(round(ratio * 144), abs=1e-4)
            assert (~from_second).sum() <= round(ratio * 144) <= from_first.sum()


def test_draws_differ_by_slot_step_and_seed():
    batch = first_batch(MIXUP)
    ratios = set(batch["ratio"].ravel().tolist())
    assert len(ratios) == 16
    again, other = first_batch(MIXUP, threads=3), first_batch(MIXUP, seed=4)
    later = first_batch(MIXUP, start_step=1, num_steps=2)
    for name, array in batch.items():
        np.testing.assert_array_equal(array, again[name])
    for elsewhere in (other, later):
        assert not ratios & set(elsewhere["ratio"].ravel().tolist())


@pytest.mark.parametrize(
    "config", [BOTH, dataclasses.replace(BOTH, augment_before_mix=True), MIXUP]
)
def test_shapes_are_known_before_the_first_batch(config):
    batch = first_batch(config)
    shapes = pipeline.train_batch_shapes(config, 12, 8, 2)
    assert {name: (a.shape, a.dtype) for name, a in batch.items()} == shapes
    assert batch["label"].shape == ((2, 8) if "ratio" in batch else (2, 16))


def test_batch_that_cannot_be_paired_is_refused():
    with pytest.raises(UserError, match=r"is 3, which 2 devices .* a multiple of 2"):
        first_batch(MIXUP, batch_size=3)
    with pytest.raises(UserError, match=r"3 images per device.*even"):
        first_batch(BOTH, batch_size=6)

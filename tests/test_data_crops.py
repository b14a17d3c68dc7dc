"""Resizing by hand and against Pillow, and the laws of the crops."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import plain_augment
from PIL import Image

from nfnets.data import augment, crops
from nfnets.data.augment import AugmentConfig
from nfnets.errors import UserError


def row(*values: float) -> np.ndarray:
    """One image row, the same in the three channels: uint8 [1, n, 3]."""
    return np.repeat(np.array(values, np.uint8)[None, :, None], 3, axis=-1)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def resized(image: np.ndarray, height: int, width: int, kernel: str) -> list[int]:
    out = crops.resize(image, (height, width), kernel=kernel, antialias=False)
    assert out.dtype == np.float32
    return crops.round_to_uint8(out)[0, :, 0].tolist()


def test_bilinear_looks_at_two_pixels_only():
    # Centres at 0.5, 2.5, 4.5: means of neighbours. At 1 and 4: the pixel itself,
    # where an antialiased kernel would take in its neighbours.
    assert resized(row(0, 10, 50, 100, 200, 240), 1, 3, "bilinear") == [5, 75, 220]
    assert resized(row(0, 10, 50, 100, 200, 240), 1, 2, "bilinear") == [10, 200]
    # Doubling: weights 3/4 and 1/4, the border repeated.
    assert resized(row(0, 100), 1, 4, "bilinear") == [0, 25, 75, 100]


def test_bicubic_weights_by_hand():
    # Halving: offset 1/2, Keys' weights -1/16, 9/16, 9/16, -1/16; at the border the
    # tap outside is left out: (9, 9, -1) / 17.
    image = row(16, 32, 80, 240, 160, 0, 64, 128)
    inner = (-32 + 9 * 80 + 9 * 240 - 160) / 16
    edge = (9 * 16 + 9 * 32 - 80) / 17
    out = crops.resize_bicubic(image, (1, 4))[0, :, 0]
    assert out[0] == pytest.approx(edge, rel=1e-6)
    assert out[1] == pytest.approx(inner, rel=1e-6)
    # Doubling: offsets 1/4 and 3/4.
    out = crops.resize_bicubic(image, (1, 16))[0, :, 0]
    weights = [-0.0703125, 0.8671875, 0.2265625, -0.0234375]
    assert out[5] == pytest.approx(np.dot(weights, [32, 80, 240, 160]), rel=1e-6)


def test_bicubic_overshoot_is_clipped_not_wrapped():
    out = crops.resize_bicubic(row(0, 0, 255, 255), (1, 8))[0, :, 0]
    assert out.min() < -1
    assert out.max() > 256
    assert resized(row(0, 0, 255, 255), 1, 8, "bicubic")[2:6] == [0, 52, 203, 255]


@pytest.mark.parametrize("kernel", crops.KERNELS)
def test_enlarging_equals_pillow(kernel):
    """Pillow's kernels do not widen when enlarging, so both families agree."""
    # Away from 0 and 255: Pillow clips the overshoot between its two passes.
    image = noise(13, 17) // 2 + 64
    method = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[kernel]
    expected = np.asarray(Image.fromarray(image).resize((40, 30), method)).astype(int)
    ours = crops.resize(image, (30, 40), kernel=kernel, antialias=False)
    assert np.abs(np.rint(ours) - expected).max() <= 1


@pytest.mark.parametrize("kernel", crops.KERNELS)
def test_antialias_is_pillow(kernel):
    image = noise(50, 70)[3:40, 5:66]  # a view, as crops are
    method = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[kernel]
    whole = Image.fromarray(np.ascontiguousarray(image))
    expected = np.asarray(whole.resize((20, 16), method))
    ours = crops.resize(image, (16, 20), kernel=kernel, antialias=True)
    np.testing.assert_array_equal(ours, expected)


def test_resize_commutes_with_transpose_and_flip():
    image = noise(21, 34)
    both = crops.resize(image, (16, 12), kernel="bicubic", antialias=False)
    turned = crops.resize(
        image.transpose(1, 0, 2), (12, 16), kernel="bicubic", antialias=False
    )
    assert np.abs(both.astype(int) - turned.transpose(1, 0, 2)).max() <= 1
    flipped = crops.resize(image[:, ::-1], (16, 12), kernel="bicubic", antialias=False)
    assert np.abs(both.astype(int) - flipped[:, ::-1]).max() <= 1


def test_random_boxes_keep_their_limits():
    rng = np.random.default_rng(0)
    height, width = 120, 90
    boxes = [
        crops.random_box(rng, height, width, (0.08, 1.0), (3 / 4, 4 / 3))
        for _ in range(4000)
    ]
    found = np.array([box for box in boxes if box is not None])
    top, left, rows, columns = found.T
    share = rows * columns / (height * width)
    assert len(found) > 3900
    assert share.min() >= 0.1  # 0.08 is asked, but 0.1 must be covered
    assert share.max() <= 1
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + rows <= height).all()
    assert (left + columns <= width).all()
    # Width is rounded: half a pixel on each side of the aspect limits.
    assert ((columns + 0.5) / rows >= 3 / 4).all()
    assert ((columns - 0.5) / rows <= 4 / 3).all()


def test_box_height_is_uniform_given_the_aspect():
    """TensorFlow draws the height, so the area of square boxes is (uniform)^2."""
    rng = np.random.default_rng(1)
    boxes = [crops.random_box(rng, 200, 200, (0.16, 1.0), (1, 1)) for _ in range(6000)]
    heights = np.array([box[2] for box in boxes if box is not None])
    # Uniform on 80..200, sqrt(0.16) = 0.4: mean 140, variance (121^2 - 1) / 12.
    assert heights.min() == 80
    assert heights.max() == 200
    assert heights.mean() == pytest.approx(140, abs=1.5)
    assert heights.var() == pytest.approx((121**2 - 1) / 12, rel=0.04)
    positions = np.array([box[0] / (200 - box[2]) for box in boxes if box[2] < 150])
    assert positions.mean() == pytest.approx(0.5, abs=0.02)


def test_impossible_box_falls_back_to_the_centre():
    image = np.zeros((10, 200, 3), np.uint8)
    image[:, 90:110] = 255  # no box of 90 % of this strip has aspect 1
    rng = np.random.default_rng(0)
    assert crops.random_box(rng, 10, 200, (0.9, 1.0), (1, 1)) is None
    out = crops.random_window(rng, image, 8, (0.9, 1.0), (1, 1))
    # The centre square of side 10 * 8 / (8 + 32).
    np.testing.assert_array_equal(out, np.full((2, 2, 3), 255))


def test_pad_and_crop_shifts_evenly():
    image = noise(6, 5)
    rng = np.random.default_rng(0)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {
        padded[y : y + 6, x : x + 5].tobytes(): (y, x)
        for y in range(5)
        for x in range(5)
    }
    counts = np.zeros((5, 5), int)
    for _ in range(5000):
        counts[windows[crops.pad_and_crop(rng, image, 2).tobytes()]] += 1
    # 200 expected in each; chi-squared with 24 degrees of freedom, 99.9 % is 51.
    assert ((counts - 200) ** 2 / 200).sum() < 51


def test_pad_wider_than_the_image_is_harmless():
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert crops.pad_and_crop(rng, noise(3, 3), 9).shape == (3, 3, 3)


def test_flip_rate():
    image = noise(4, 4)
    rng = np.random.default_rng(0)
    flips = 0
    for _ in range(2000):
        out = crops.random_flip(rng, image, 0.3)
        flips += not np.array_equal(out, image)
    np.testing.assert_array_equal(crops.random_flip(rng, image, 1.0), image[:, ::-1])
    np.testing.assert_array_equal(crops.random_flip(rng, image, 0.0), image)
    assert flips == pytest.approx(600, abs=70)


def test_centre_crop_cuts_an_odd_rest_from_top_and_left():
    image = noise(7, 10)
    out = crops.centre_crop(image, 4, 5)
    np.testing.assert_array_equal(out, image[2:6, 3:8])  # (7-4+1)//2, (10-5+1)//2


GOOD = plain_augment(crop="random_resized", crop_pad=4, flip_rate=0.5)


@pytest.mark.parametrize("crop", augment.TRAIN_CROPS)
@pytest.mark.parametrize(("height", "width"), [(40, 60), (1, 9), (24, 24)])
def test_every_crop_gives_the_asked_size(crop, height, width):
    config = AugmentConfig(**{**vars(GOOD), "crop": crop})
    rng = np.random.default_rng(0)
    for _ in range(20):
        out = augment.augment_image(rng, noise(height, width), config, 24)
        assert out.shape == (24, 24, 3)
        assert out.dtype == np.uint8


def test_training_crop_flips_before_it_resizes():
    """The official order; it decides which step of the table of weights is used."""
    image = noise(53, 71)
    config = AugmentConfig(**{**vars(GOOD), "flip_rate": 1.0})
    for seed in range(5):
        rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
        out = augment.crop_for_train(rng, image, config, 24)
        window = crops.random_window(same, image, 24, (0.08, 1.0), (3 / 4, 4 / 3))
        expected = crops.resize_bicubic(window[:, ::-1].copy(), (24, 24))
        np.testing.assert_array_equal(out, expected)
        assert out.dtype == np.float32


def test_without_a_policy_pixels_are_rounded_and_with_one_truncated(monkeypatch):
    """tf.cast drops the fraction, which only RandAugment's uint8 images go through."""
    pixels = np.float32([[[-8.2, 0.5, 1.5], [99.7, 254.6, 259.0]]])
    rng = np.random.default_rng(0)
    out = augment.apply_policy(rng, pixels.copy(), GOOD)
    assert out.tolist() == [[[0, 0, 2], [100, 255, 255]]]
    nothing = augment.Semantics(lambda rng, image, *_: image, lambda rng, image: image)
    monkeypatch.setitem(augment.SEMANTICS, "tf", nothing)
    for policy in ({"randaugment_layers": 2, "randaugment_magnitude": 9.0}, AUTO):
        config = AugmentConfig(**{**vars(GOOD), **policy})
        out = augment.apply_policy(rng, pixels.copy(), config)
        assert out.tolist() == [[[0, 0, 1], [99, 254, 255]]]


AUTO = {"autoaugment": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": "center"}, "crop is 'center'; expected one of random_resized"),
        ({"interpolation": "cubic"}, "expected one of bilinear, bicubic"),
        ({"crop_area": (0.0, 1.0)}, r"crop_area is \(0.0, 1.0\)"),
        ({"crop_aspect": (2.0, 1.0)}, "crop_aspect"),
        ({"flip_rate": 1.5}, "flip_rate is 1.5; expected 0 to 1"),
        ({"crop_pad": -1}, "crop_pad is -1"),
        ({"mixup_alpha": -0.2}, "mixup_alpha is -0.2"),
        ({"semantics": "pil"}, "semantics is 'pil'; expected one of tf"),
        (
            {**AUTO, "randaugment_layers": 2, "randaugment_magnitude": 9.0},
            "autoaugment is on together with 2 randaugment_layers",
        ),
    ],
)
def test_bad_settings_are_named(change, message):
    augment.check_augment(GOOD)
    with pytest.raises(UserError, match=message):
        augment.check_augment(AugmentConfig(**{**vars(GOOD), **change}))

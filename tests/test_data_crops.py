"""Resizing by hand and against Pillow, and the laws of the crops."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import plain_augment
from PIL import Image

from nfnets.data import augment, augment_config, crops, resize
from nfnets.data.augment_config import AugmentConfig
from nfnets.data.plan import draw_crop
from nfnets.errors import UserError


def row(*values: float) -> np.ndarray:
    """One image row, the same in the three channels: uint8 [1, n, 3]."""
    return np.repeat(np.array(values, np.uint8)[None, :, None], 3, axis=-1)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def resized(image: np.ndarray, height: int, width: int, kernel: str) -> list[int]:
    out = resize.resize(image, (height, width), kernel=kernel, antialias=False)
    assert out.dtype == np.float32
    return resize.round_to_uint8(out)[0, :, 0].tolist()


def bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resize.resize(image, size, kernel="bicubic", antialias=False)


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
    out = bicubic(image, (1, 4))[0, :, 0]
    assert out[0] == pytest.approx(edge, rel=1e-6)
    assert out[1] == pytest.approx(inner, rel=1e-6)
    # Doubling: offsets 1/4 and 3/4.
    out = bicubic(image, (1, 16))[0, :, 0]
    weights = [-0.0703125, 0.8671875, 0.2265625, -0.0234375]
    assert out[5] == pytest.approx(np.dot(weights, [32, 80, 240, 160]), rel=1e-6)


def test_bicubic_overshoot_is_clipped_not_wrapped():
    out = bicubic(row(0, 0, 255, 255), (1, 8))[0, :, 0]
    assert out.min() < -1
    assert out.max() > 256
    assert resized(row(0, 0, 255, 255), 1, 8, "bicubic")[2:6] == [0, 52, 203, 255]


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_enlarging_equals_pillow(kernel):
    """Pillow's kernels do not widen when enlarging, so both families agree."""
    # Away from 0 and 255: Pillow clips the overshoot between its two passes.
    image = noise(13, 17) // 2 + 64
    method = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[kernel]
    expected = np.asarray(Image.fromarray(image).resize((40, 30), method)).astype(int)
    ours = resize.resize(image, (30, 40), kernel=kernel, antialias=False)
    assert np.abs(np.rint(ours) - expected).max() <= 1


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_antialias_is_pillow(kernel):
    image = noise(50, 70)[3:40, 5:66]  # a view, as crops are
    method = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[kernel]
    whole = Image.fromarray(np.ascontiguousarray(image))
    expected = np.asarray(whole.resize((20, 16), method))
    ours = resize.resize(image, (16, 20), kernel=kernel, antialias=True)
    np.testing.assert_array_equal(ours, expected)


def test_resize_commutes_with_transpose_and_flip():
    image = noise(21, 34)
    both = resize.resize(image, (16, 12), kernel="bicubic", antialias=False)
    turned = resize.resize(
        image.transpose(1, 0, 2), (12, 16), kernel="bicubic", antialias=False
    )
    assert np.abs(both.astype(int) - turned.transpose(1, 0, 2)).max() <= 1
    flipped = resize.resize(image[:, ::-1], (16, 12), kernel="bicubic", antialias=False)
    assert np.abs(both.astype(int) - flipped[:, ::-1]).max() <= 1


def test_random_boxes_keep_their_limits():
    rng = np.random.default_rng(0)
    height, width = 120, 90
    boxes = [
        crops.draw_tf_box(rng, height, width, (0.08, 1.0), (3 / 4, 4 / 3), 0.1)
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
    boxes = [
        crops.draw_tf_box(rng, 200, 200, (0.16, 1.0), (1, 1), 0.1) for _ in range(6000)
    ]
    heights = np.array([box[2] for box in boxes if box is not None])
    # Uniform on 80..200, sqrt(0.16) = 0.4: mean 140, variance (121^2 - 1) / 12.
    assert heights.min() == 80
    assert heights.max() == 200
    assert heights.mean() == pytest.approx(140, abs=1.5)
    assert heights.var() == pytest.approx((121**2 - 1) / 12, rel=0.04)
    positions = np.array([box[0] / (200 - box[2]) for box in boxes if box[2] < 150])
    assert positions.mean() == pytest.approx(0.5, abs=0.02)


def test_impossible_box_falls_back_to_the_centre():
    """No box of 90 % of this strip has aspect 1."""
    rng = np.random.default_rng(0)
    assert crops.draw_tf_box(rng, 10, 200, (0.9, 1.0), (1, 1), 0.1) is None
    options = dict(area=(0.9, 1.0), aspect=(1, 1))
    # NFNet: the centre square of side 10 * 8 / (8 + 32); EfficientNetV2: all of it;
    # timm: the largest central box of an aspect in the limits.
    expected = {
        "tf_box": (4, 99, 2, 2),
        "v2_box": (0, 0, 10, 200),
        "timm_box": (0, 95, 10, 10),
    }
    for law, box in expected.items():
        assert crops.random_box(rng, 10, 200, 8, law=law, **options) == box


def test_timm_boxes_have_uniform_areas_and_log_uniform_aspects():
    """Timm's law: both moments of the uniform distributions, on boxes that fit at once.

    Areas of at most a quarter with aspects up to 4/3 always fit a square image.
    """
    rng = np.random.default_rng(0)
    boxes = np.array(
        [
            crops.draw_timm_box(rng, 400, 400, (0.05, 0.25), (3 / 4, 4 / 3))
            for _ in range(6000)
        ]
    )
    top, left, rows, columns = boxes.T
    share, log_aspect = rows * columns / 400**2, np.log(columns / rows)
    assert share.mean() == pytest.approx(0.15, abs=0.003)
    assert share.var() == pytest.approx(0.2**2 / 12, rel=0.05)
    width = 2 * np.log(4 / 3)
    assert log_aspect.mean() == pytest.approx(0, abs=0.01)
    assert log_aspect.var() == pytest.approx(width**2 / 12, rel=0.05)
    # Every place is drawn, the last one too.
    assert (top / (400 - rows)).mean() == pytest.approx(0.5, abs=0.015)
    assert (left == 400 - columns).any()
    assert (left + columns <= 400).all()


def test_v2_boxes_may_be_smaller_than_a_tenth():
    rng = np.random.default_rng(0)
    options = dict(area=(0.05, 1.0), aspect=(0.75, 1.33))
    shares = {
        law: min(
            np.prod(crops.random_box(rng, 200, 200, 224, law=law, **options)[2:])
            for _ in range(500)
        )
        / 200**2
        for law in ("tf_box", "v2_box")
    }
    assert 0.05 <= shares["v2_box"] < 0.1 <= shares["tf_box"]


def crop_of(rng: np.random.Generator, image: np.ndarray, **changes) -> np.ndarray:
    """What a plain recipe with these changes makes of an image, at its size."""
    config = plain_augment(**changes)
    size = image.shape[0]
    return augment.crop_image(image, draw_crop(rng, size, size, config, size), size)


def test_pad_and_crop_shifts_evenly():
    image = noise(6, 6)
    rng = np.random.default_rng(0)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0))).astype(np.float32)
    windows = {
        padded[y : y + 6, x : x + 6].tobytes(): (y, x)
        for y in range(5)
        for x in range(5)
    }
    counts = np.zeros((5, 5), int)
    for _ in range(5000):
        counts[windows[crop_of(rng, image, crop="pad", crop_pad=2).tobytes()]] += 1
    # 200 expected in each; chi-squared with 24 degrees of freedom, 99.9 % is 51.
    assert ((counts - 200) ** 2 / 200).sum() < 51


def test_pad_draws_the_row_first_and_0_moves_down_and_right():
    """Pinned: another convention would change what a resumed run sees."""

    class Drawn:
        def __init__(self, *numbers: float) -> None:
            self.random = iter(numbers).__next__

    config = plain_augment(crop="pad", crop_pad=2)
    assert draw_crop(Drawn(0.0, 0.5, 0.9), 6, 6, config, 6).shift == (2, 0)
    assert draw_crop(Drawn(0.99, 0.2, 0.9), 6, 6, config, 6).shift == (-2, 1)


def test_pad_wider_than_the_image_is_harmless():
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert crop_of(rng, noise(3, 3), crop="pad", crop_pad=9).shape == (3, 3, 3)


def test_flip_rate():
    image = noise(4, 4)
    rng = np.random.default_rng(0)
    flips = 0
    for _ in range(2000):
        flips += not np.array_equal(crop_of(rng, image, flip_rate=0.3), image)
    mirrored = image[:, ::-1]
    np.testing.assert_array_equal(crop_of(rng, image, flip_rate=1.0), mirrored)
    np.testing.assert_array_equal(crop_of(rng, image, flip_rate=0.0), image)
    assert flips == pytest.approx(600, abs=70)


def test_the_two_kernels_of_timm_are_drawn_evenly():
    config = plain_augment(interpolation="random", antialias=True)
    rng = np.random.default_rng(0)
    kernels = [draw_crop(rng, 9, 9, config, 4).kernel for _ in range(1000)]
    assert set(kernels) == {"bilinear", "bicubic"}
    assert kernels.count("bicubic") == pytest.approx(500, abs=65)  # 4 deviations


def test_scaled_decode_is_planned_where_the_crop_stays_large_enough():
    config = plain_augment(scaled_decode=True, antialias=True)
    rng = np.random.default_rng(0)
    for side, expected in ((159, 1), (160, 2), (319, 2), (320, 4), (900, 4)):
        assert draw_crop(rng, side, 900, config, 80).denominator == expected
    config = plain_augment(scaled_decode=False, antialias=True)
    assert draw_crop(rng, 900, 900, config, 80).denominator == 1


def test_centre_box_cuts_an_odd_rest_from_top_and_left():
    box = crops.centre_box(7, 10, 4, 5)
    assert box == (2, 3, 4, 5)  # (7-4+1)//2, (10-5+1)//2
    image = noise(7, 10)
    np.testing.assert_array_equal(crops.cut(image, box), image[2:6, 3:8])


GOOD = plain_augment(crop="tf_box", crop_pad=4, flip_rate=0.5)


@pytest.mark.parametrize("crop", augment_config.TRAIN_CROPS)
@pytest.mark.parametrize(("height", "width"), [(40, 60), (1, 9), (24, 24)])
def test_every_crop_gives_the_asked_size(crop, height, width):
    config = AugmentConfig(**{**vars(GOOD), "crop": crop})
    rng = np.random.default_rng(0)
    for _ in range(20):
        plan = draw_crop(rng, height, width, config, 24)
        out = augment.crop_image(noise(height, width), plan, 24)
        assert out.shape == (24, 24, 3)


def test_nfnets_crop_flips_before_it_resizes():
    """The official order; it decides which step of the table of weights is used."""
    image = noise(53, 71)
    config = AugmentConfig(**{**vars(GOOD), "flip_rate": 1.0})
    for seed in range(5):
        rng = np.random.default_rng(seed)
        plan = draw_crop(rng, 53, 71, config, 24)
        assert plan.flip_first
        out = augment.crop_image(image, plan, 24)
        window = crops.cut(image, plan.box)
        np.testing.assert_array_equal(out, bicubic(window[:, ::-1].copy(), (24, 24)))
        assert out.dtype == np.float32


def test_other_crops_flip_last():
    """TensorFlow 1's kernel is not symmetric, so the order shows."""
    image = noise(53, 71)
    config = plain_augment(crop="tf_box", flip_rate=1.0, interpolation="bicubic_tf1")
    plan = draw_crop(np.random.default_rng(0), 53, 71, config, 24)
    out = augment.crop_image(image, plan, 24)
    window = crops.cut(image, plan.box)
    straight = resize.resize(window, (24, 24), kernel="bicubic_tf1", antialias=False)
    np.testing.assert_array_equal(out, straight[:, ::-1])


def test_fractions_are_rounded_or_dropped():
    pixels = np.float32([[[-8.2, 0.5, 1.5], [99.7, 254.6, 259.0]]])
    rounded = augment.to_uint8(pixels.copy(), truncate=False)
    assert rounded.tolist() == [[[0, 0, 2], [100, 255, 255]]]
    dropped = augment.to_uint8(pixels.copy(), truncate=True)
    assert dropped.tolist() == [[[0, 0, 1], [99, 254, 255]]]


def test_fast_bilinear_stays_close_to_tensorflows():
    image, flat = noise(50, 70), np.full((50, 70, 3), 77, np.uint8)
    for height, width in ((20, 30), (31, 99), (50, 70)):
        exact = resize.resize(
            image, (height, width), kernel="bilinear", antialias=False
        )
        error = resize.resize_bilinear_fast(image, (height, width)) - exact
        assert 0 <= error.min() <= error.max() <= 0.01
        fast = resize.resize_bilinear_fast(flat, (height, width))
        assert (augment.to_uint8(fast, truncate=True) == 77).all()


AUTO = {"autoaugment": "v0"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": "center"}, "crop is 'center'; expected one of tf_box"),
        ({"interpolation": "cubic"}, "expected one of bilinear, bicubic"),
        ({"crop_area": (0.0, 1.0)}, r"crop_area is \(0.0, 1.0\)"),
        ({"crop_aspect": (2.0, 1.0)}, "crop_aspect"),
        ({"flip_rate": 1.5}, "flip_rate is 1.5; expected 0 to 1"),
        ({"crop_pad": -1}, "crop_pad is -1"),
        ({"mixup_alpha": -0.2}, "mixup_alpha is -0.2"),
        ({"semantics": "pil"}, "semantics is 'pil'; expected one of tf"),
        ({"autoaugment": "original"}, "'original'; the semantics tf have v0 only"),
        ({"randaugment_noise": 0.5}, "randaugment_noise is 0.5, which only"),
        ({"interpolation": "random"}, "random, which needs antialias"),
        (
            {"interpolation": "bicubic_tf1", "semantics": "timm", "autoaugment": "3a"},
            "operations have no kernel bicubic_tf1",
        ),
        ({"scaled_decode": True}, "scaled_decode is True without antialias"),
        ({"repeats": 0}, "repeats is 0; expected 1 or more"),
        (
            {**AUTO, "randaugment_layers": 2, "randaugment_magnitude": 9.0},
            "autoaugment is v0 together with 2 randaugment_layers",
        ),
    ],
)
def test_bad_settings_are_named(change, message):
    augment_config.check_augment(GOOD)
    with pytest.raises(UserError, match=message):
        augment_config.check_augment(AugmentConfig(**{**vars(GOOD), **change}))

"""Random erasing: by hand given the boxes, and timm's law of the boxes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import plain_augment

from nfnets.data.augment_config import check_augment
from nfnets.data.erasing import (
    Boxes,
    erase,
    random_erase,
    sample_boxes,
    sample_cutout,
)
from nfnets.errors import UserError

jitted_sample = functools.partial(jax.jit, static_argnums=(1, 2, 3, 5))(sample_boxes)
jitted_erase = jax.jit(random_erase, static_argnums=2)


def boxes_of(*rows: list[tuple[int, int, int, int]]) -> Boxes:
    """Boxes (top, left, height, width) of each image."""
    return Boxes(*jnp.array(rows, jnp.int32).transpose(2, 0, 1))


def test_a_later_box_covers_an_earlier_one():
    boxes = boxes_of([(0, 0, 2, 3), (1, 2, 2, 2)], [(3, 3, 0, 1), (0, 1, 4, 1)])
    fill = jnp.array([[7.0, 8.0], [5.0, 6.0]])[:, :, None, None, None]
    out = erase(jnp.zeros((2, 4, 4, 1)), boxes, fill)
    first = [[7, 7, 7, 0], [7, 7, 8, 8], [0, 0, 8, 8], [0, 0, 0, 0]]
    np.testing.assert_array_equal(out[0, :, :, 0], first)
    np.testing.assert_array_equal(out[1, :, :, 0], [[0, 6, 0, 0]] * 4)


def reference_boxes(
    rng: np.random.Generator, count: int, height: int, width: int, most: int
) -> np.ndarray:
    """Height and width of one image's boxes after timm's rule, one at a time."""
    sizes = []
    for _ in range(count):
        number = rng.integers(1, most + 1)
        for _ in range(number):
            for _ in range(10):
                area = rng.uniform(0.02, 1 / 3) * height * width / number
                aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
                tall = round(float(np.sqrt(area * aspect)))
                wide = round(float(np.sqrt(area / aspect)))
                if tall < height and wide < width:
                    sizes.append((tall, wide))
                    break
    return np.array(sizes)


def largest_gap(first: np.ndarray, second: np.ndarray) -> float:
    """Between two empirical distribution functions."""
    places = np.union1d(first, second)
    shares = (
        np.searchsorted(np.sort(x), places, "right") / x.size for x in (first, second)
    )
    return float(np.abs(np.subtract(*shares)).max())


@pytest.mark.parametrize(
    ("height", "width", "most"), [(32, 32, 3), (12, 60, 1), (224, 224, 1)]
)
def test_boxes_have_timm_s_law(height, width, most):
    count = 4000
    boxes = jitted_sample(jax.random.key(0), count, height, width, 1.0, most)
    top, left, tall, wide = (np.asarray(part) for part in boxes)
    on = tall > 0
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    expected = reference_boxes(np.random.default_rng(0), count, height, width, most)
    assert on.sum() == pytest.approx(len(expected), rel=0.05)
    for ours, theirs in (
        ((tall * wide)[on], expected.prod(axis=1)),
        (tall[on], expected[:, 0]),
        (wide[on], expected[:, 1]),
    ):
        # Kolmogorov and Smirnov: 0.044 is passed once in 1000 times by chance.
        assert largest_gap(ours, theirs) < 0.044
    # Every place that keeps the box inside: uniform, both ends included.
    places = ((top + 0.5) / (height - tall + 1))[on]
    for q in (0.1, 0.5, 0.9):
        assert np.quantile(places, q) == pytest.approx(q, abs=0.03)


def test_erased_area_is_in_range():
    boxes = jitted_sample(jax.random.key(1), 4000, 224, 224, 1.0, 1)
    share = np.asarray(boxes.height * boxes.width) / 224**2
    # Sides are rounded to whole pixels, by up to 1/2.
    assert 0.018 < share[share > 0].min() < 0.025
    assert 0.31 < share.max() < 0.34
    aspect = np.asarray(boxes.height / boxes.width)
    assert 0.28 < aspect.min() < 0.32
    assert 1 / 0.32 < aspect.max() < 1 / 0.28


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_rate_of_images_that_are_erased(rate):
    boxes = jitted_sample(jax.random.key(2), 4000, 32, 32, rate, 3)
    erased = np.asarray(boxes.height > 0).any(axis=1).mean()
    assert erased == pytest.approx(rate, abs=0.03)
    if rate in (0, 1):
        assert erased == rate


def test_number_of_boxes_is_uniform_up_to_the_count():
    boxes = jitted_sample(jax.random.key(3), 4000, 32, 32, 1.0, 3)
    number = np.asarray(boxes.height > 0).sum(axis=1)
    np.testing.assert_allclose(
        np.bincount(number, minlength=4)[1:] / 4000, 1 / 3, atol=0.03
    )


@pytest.mark.parametrize(("mode", "count"), [("const", 1), ("rand", 3), ("pixel", 2)])
def test_what_is_put_in_the_box(mode, count):
    images = jnp.full((64, 24, 24, 3), 100.0)
    config = plain_augment(erase_rate=1.0, erase_mode=mode, erase_count=count)
    out = np.asarray(jitted_erase(images, jax.random.key(4), config))
    assert (out.shape, out.dtype) == (images.shape, np.float32)
    erased = out != 100
    assert (erased.any(axis=-1) == erased.all(axis=-1)).all()
    colours = [
        np.unique(image[e[..., 0]], axis=0)
        for image, e in zip(out, erased, strict=True)
    ]
    put = out[erased]
    if mode == "const":
        assert (put == 0).all()
        return
    most = max(len(c) for c in colours)
    assert most == count if mode == "rand" else most > 100
    drawn = np.concatenate(colours) if mode == "rand" else put
    assert drawn.mean() == pytest.approx(0, abs=5 / np.sqrt(drawn.size))
    assert drawn.std() == pytest.approx(1, abs=5 / np.sqrt(2 * drawn.size))


def official_cutout(centre: int, length: int) -> tuple[int, int]:
    """First pixel and extent along one axis: what the paddings on both sides leave."""
    before = max(0, centre - length // 4)
    behind = max(0, length - centre - length // 4)
    return before, length - before - behind


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 30)])
def test_cutout_has_a_uniform_centre_and_stops_at_the_borders(height, width):
    jitted = functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))(sample_cutout)
    boxes = jitted(jax.random.key(5), 8000, height, width, 1.0)
    assert boxes.top.shape == (8000, 1)
    axes = ((boxes.top, boxes.height, height), (boxes.left, boxes.width, width))
    for first, extent, length in axes:
        pairs = np.stack([first, extent], -1)[:, 0]
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        expected: dict[tuple[int, int], int] = {}
        for centre in range(length):
            pair = official_cutout(centre, length)
            expected[pair] = expected.get(pair, 0) + 1
        assert {tuple(pair) for pair in found.tolist()} == set(expected)
        for pair, count in zip(found.tolist(), counts, strict=True):
            share = expected[tuple(pair)] / length
            noise = np.sqrt(share * (1 - share) / 8000)
            assert count / 8000 == pytest.approx(share, abs=4.5 * noise)
    # Rows and columns are drawn apart.
    assert abs(np.corrcoef(boxes.top[:, 0], boxes.left[:, 0])[0, 1]) < 0.05


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_cutout_is_filled_with_uniform_noise(rate):
    images = jnp.full((256, 16, 16, 3), 100.0)
    config = plain_augment(erase_rate=rate, erase_mode="cutout")
    out = np.asarray(jitted_erase(images, jax.random.key(6), config))
    erased = out != 100
    assert (erased.any(axis=-1) == erased.all(axis=-1)).all()
    share = erased.any(axis=(1, 2, 3)).mean()
    assert share == (rate if rate in (0, 1) else pytest.approx(rate, abs=0.1))
    if rate == 0:
        return
    # A square, at least a quarter of the side wide: 4 to 8 of 16 pixels.
    rows, columns = erased[..., 0].any(axis=2), erased[..., 0].any(axis=1)
    area = rows.sum(axis=1) * columns.sum(axis=1)
    np.testing.assert_array_equal(erased[..., 0].sum(axis=(1, 2)), area)
    assert area[area > 0].min() >= 16
    assert area.max() == 64
    put = np.sort(out[erased])
    assert 0 <= put[0]
    assert put[-1] < 1
    ramp = np.arange(put.size) / put.size
    assert np.abs(put - ramp).max() < 1.95 / np.sqrt(put.size)  # once in 1000
    assert np.unique(put).size > 0.99 * put.size  # every value of its own


def test_cutout_has_one_box():
    config = plain_augment(erase_mode="cutout", erase_count=2)
    with pytest.raises(UserError, match=r"erase_count is 2.*cutout has one box"):
        check_augment(config)

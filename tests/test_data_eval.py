"""Evaluation images: the official numbers, and the definition in plain loops."""

from __future__ import annotations

import itertools
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from helpers import sample_image
from PIL import Image

from nfnets.data import augment_config
from nfnets.data.augment import crop_for_eval
from nfnets.data.augment_config import EvalCrop
from nfnets.data.decode import decode
from nfnets.data.normalization import NORMALIZATIONS
from nfnets.errors import UserError

IMAGENET = NORMALIZATIONS["imagenet"]
GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "nfnet_eval_preprocess.json").read_text("utf-8")
)
# Official name -> ours.
FORMS = {
    "resize_crop_32@256": ("resize_crop", 256, None),
    "resize_crop_0.875@224": ("resize_crop", 224, 0.875),
    "crop_resize@224": ("crop_resize", 224, None),
}


@pytest.fixture(scope="module")
def tench() -> bytes:
    data = sample_image("n01440764_tench.JPEG")
    assert zlib.crc32(data) == GOLDEN["jpeg_crc32"]
    return data


@pytest.mark.parametrize("name", GOLDEN["forms"])
def test_evaluation_is_official_to_the_bit(name, tench):
    """Of the pixels that TensorFlow decodes, with libjpeg's fast DCT."""
    image = simplejpeg.decode_jpeg(tench, "RGB", fastdct=True)
    assert zlib.crc32(image.tobytes()) == GOLDEN["decoded_crc32"]
    golden, (form, size, crop_pct) = GOLDEN["forms"][name], FORMS[name]
    crop = EvalCrop(form, "bicubic", antialias=False, crop_pct=crop_pct)
    raw = crop_for_eval(image, crop, size)
    assert raw.dtype == np.float32
    assert list(raw.shape) == golden["shape"]
    for key in ("min", "max", "mean"):
        ours = float(getattr(raw.astype(np.float64), key)())
        assert ours == pytest.approx(golden[f"raw_{key}"], abs=1e-5), key
    normal = (raw - IMAGENET.mean) / IMAGENET.std
    pixels = {
        "corner_px": (0, 0),
        "center_px": (size // 2,) * 2,
        "px_10_200": (10, 200),
    }
    for key, place in pixels.items():
        np.testing.assert_allclose(normal[place], golden[key], atol=1e-5)
    by_channel = normal.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(by_channel.mean(0), golden["norm_mean"], atol=1e-5)
    np.testing.assert_allclose(by_channel.std(0), golden["norm_std"], atol=1e-5)
    assert by_channel.sum() == pytest.approx(golden["norm_sum"], abs=0.1)
    if "norm_x100_round_crc32" in golden:
        hundredths = np.rint(normal * 100).astype(np.int32)
        assert zlib.crc32(hundredths.tobytes()) == golden["norm_x100_round_crc32"]
    assert zlib.crc32(normal.tobytes()) == golden["norm_crc32"]


@pytest.mark.parametrize("name", GOLDEN["forms"])
def test_our_decoder_differs_by_a_grey_level(name, tench):
    """We decode with the accurate DCT; measured: mean 1.0 to 1.3, largest 12.7."""
    golden, (form, size, crop_pct) = GOLDEN["forms"][name], FORMS[name]
    crop = EvalCrop(form, "bicubic", antialias=False, crop_pct=crop_pct)
    ours = crop_for_eval(decode(tench), crop, size)
    theirs = crop_for_eval(
        simplejpeg.decode_jpeg(tench, "RGB", fastdct=True), crop, size
    )
    assert abs(float(ours.mean()) - golden["raw_mean"]) < 1.0
    assert np.abs(ours - theirs).mean() < 1.3
    assert np.abs(ours - theirs).max() < 14


def formula_image(height: int, width: int) -> np.ndarray:
    """Slow waves above, stripes below for the kernel to overshoot at."""
    y, x = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    waves = 127.5 + 90 * np.sin(0.21 * x + 0.13 * y + np.arange(3))
    stripes = 255 * (x // 4 % 2)
    return np.where(y < height // 2, waves, stripes).round().astype(np.uint8)


def keys(distance: float) -> float:
    """Keys 1981, Eq. 15, a = -1/2."""
    s = abs(distance)
    if s <= 1:
        return 1.5 * s**3 - 2.5 * s**2 + 1
    return -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2 if s < 2 else 0.0


def weights_at(place: int, length: int, out_length: int) -> list[tuple[int, float]]:
    """Source pixels of one result pixel and their weights, which sum to 1."""
    centre = (place + 0.5) * length / out_length - 0.5
    # TensorFlow tabulates the kernel at 1024 places per pixel.
    offset = round((centre - math.floor(centre)) * 1024) / 1024
    taps = [
        (math.floor(centre) + tap, keys(offset - tap))
        for tap in (-1, 0, 1, 2)
        if 0 <= math.floor(centre) + tap < length
    ]
    total = sum(weight for _, weight in taps)
    return [(index, weight / total) for index, weight in taps]


def reference_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic without antialias by definition, float64."""
    out = np.zeros((height, width, 3))
    for i, j in itertools.product(range(height), range(width)):
        for y, weight_y in weights_at(i, image.shape[0], height):
            for x, weight_x in weights_at(j, image.shape[1], width):
                out[i, j] += weight_y * weight_x * image[y, x]
    return out


@pytest.mark.parametrize(
    ("height", "width", "size", "crop_pct", "extra"),
    [
        (61, 47, 24, 0.75, 8),
        (23, 38, 31, None, 32),
        (40, 33, 33, 1.0, 0),
        (5, 90, 16, 0.82, 3),  # int(19.5)
    ],
)
def test_evaluation_crops_by_definition(height, width, size, crop_pct, extra):
    """Shrinking, enlarging, odd sizes, and a strip."""
    image = formula_image(height, width)
    whole = reference_resize(image, size, size)
    wide = reference_resize(image, size + extra, size + extra)
    start = (extra + 1) // 2
    side = int(min(height, width) / (size + extra) * size + 1e-9)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    square = image[top : top + side, left : left + side]
    expected = {
        "resize": whole,
        "resize_crop": wide[start : start + size, start : start + size],
        "crop_resize": reference_resize(square, size, size),
    }
    for form, values in expected.items():
        crop = EvalCrop(form, "bicubic", antialias=False, crop_pct=crop_pct)
        ours = crop_for_eval(image, crop, size)
        np.testing.assert_allclose(ours, values, atol=1e-3, err_msg=form)
    assert expected["resize"].min() < -1  # overshoot is there to be kept
    assert expected["resize"].max() > 256


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_antialiased_images_are_whole_numbers(kernel):
    image = formula_image(50, 70)
    crop = EvalCrop("resize", kernel, antialias=True)
    out = crop_for_eval(image, crop, 32)
    method = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[kernel]
    expected = np.asarray(Image.fromarray(image).resize((32, 32), method))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, expected)


def test_an_image_of_the_asked_size_is_left_alone():
    image = formula_image(32, 32)
    for kernel in ("bilinear", "bicubic"):
        out = crop_for_eval(image, EvalCrop("resize", kernel, antialias=False), 32)
        np.testing.assert_array_equal(out, image)
        assert out.dtype == np.float32


def test_bad_evaluation_crop_is_named():
    with pytest.raises(UserError, match="'centre'; expected one of resize"):
        augment_config.check_eval_crop(EvalCrop("centre", "bicubic", antialias=False))
    for crop_pct in (0.0, 1.5):
        crop = EvalCrop("resize", "bicubic", antialias=False, crop_pct=crop_pct)
        with pytest.raises(UserError, match=f"crop_pct is {crop_pct}"):
            augment_config.check_eval_crop(crop)

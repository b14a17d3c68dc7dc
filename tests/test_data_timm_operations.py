"""timm's operations, against the bytes that timm and Pillow give."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from nfnets.data import timm_operations as ops
from nfnets.data.operation import Operation
from nfnets.data.timm_tables import make_operation

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "timm_randaugment.json").read_text("utf-8")
)


def noise(height: int, width: int) -> np.ndarray:
    rs = np.random.RandomState(0)  # as the goldens were made
    return rs.randint(0, 256, (height, width, 3)).astype(np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x, c = np.ogrid[:height, :width, :3]
    return (30 + 2 * x + y + 20 * c + x * y // 32).astype(np.uint8)


IMAGES = {
    "noise_32x32": noise(32, 32),
    "noise_48x40": noise(48, 40),
    "smooth_48x40": smooth(48, 40),
}


def crc32(image: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(image).tobytes())


def test_images_are_those_of_the_goldens():
    crcs = {name: crc32(image) for name, image in IMAGES.items()}
    assert crcs == GOLDEN["images_crc32"]


@pytest.mark.parametrize("image_name", IMAGES)
@pytest.mark.parametrize("case", GOLDEN["pixels"]["noise_32x32"])
def test_pixels_are_those_of_timm(case, image_name):
    name, magnitude, draw, kernel = case.split("/")
    operation = make_operation(name, float(magnitude), float(draw), kernel)
    image = IMAGES[image_name]
    out = ops.apply(image, operation)
    assert out.dtype == np.uint8
    assert out.shape == image.shape
    # The mean first: where Pillow has changed, it says by how much.
    expected_crc32, mean = GOLDEN["pixels"][image_name][case]
    assert out.mean() == pytest.approx(mean, abs=6e-4)
    assert crc32(out) == expected_crc32


def test_the_goldens_name_every_operation():
    cases = (case.split("/") for case in GOLDEN["pixels"]["noise_32x32"])
    made = {make_operation(c[0], 7.0, 0.25, "bicubic").name for c in cases}
    assert made == set(ops.NAMES)
    assert len(ops.NAMES) == 16


# 254 black pixels, 254 that are 1, and one 2.
DARK = np.repeat([0, 1, 2], [254, 254, 1])[:, None, None].repeat(3, -1).astype(np.uint8)
# Where tables go wrong: one pixel, one value, two values, one channel unlike the
# others, and a histogram whose equalization leaves 0..255.
AWKWARD = {
    "pixel": np.array([[[3, 200, 255]]], np.uint8),
    "plain": np.full((9, 7, 3), 77, np.uint8),
    "two_values": np.where(noise(13, 6) < 128, np.uint8(40), np.uint8(41)),
    "dark": DARK,
    "one_channel": noise(30, 17) * np.array([0, 1, 0], np.uint8),
    "narrow": noise(64, 64) // 8 + 90,
    "row": noise(1, 12),
    "two_columns": noise(12, 2),
    "large": noise(150, 130),
}


@pytest.mark.parametrize("image", AWKWARD.values(), ids=AWKWARD)
def test_tables_are_pillows(image):
    picture = Image.fromarray(image)
    for name, expected in {
        "AutoContrast": ImageOps.autocontrast(picture),
        "Equalize": ImageOps.equalize(picture),
        "Invert": ImageOps.invert(picture),
    }.items():
        np.testing.assert_array_equal(ops.apply(image, Operation(name)), expected, name)
    for threshold in (0, 1, 77, 128, 255, 256):
        out = ops.apply(image, Operation("Solarize", threshold))
        np.testing.assert_array_equal(out, ImageOps.solarize(picture, threshold))
    for bits in range(1, 9):
        out = ops.apply(image, Operation("Posterize", bits))
        np.testing.assert_array_equal(out, ImageOps.posterize(picture, bits))


@pytest.mark.parametrize("image", AWKWARD.values(), ids=AWKWARD)
@pytest.mark.parametrize("factor", [0.0, 0.1, 0.37, 0.999, 1.0, 1.63, 1.9])
def test_blends_are_pillows(factor, image):
    picture = Image.fromarray(image)
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        out = ops.apply(image, Operation(name, factor))
        expected = getattr(ImageEnhance, name)(picture).enhance(factor)
        np.testing.assert_array_equal(out, expected, name)


def test_equalization_beyond_255_is_clipped():
    """The step is 508 // 255 = 1, so 0, 254 and 508 values are below the three."""
    out = ops.apply(DARK, Operation("Equalize"))
    assert np.unique(out).tolist() == [0, 254, 255]


def test_posterize_without_bits_is_black_and_with_all_is_the_image():
    image = IMAGES["noise_32x32"]
    assert not ops.apply(image, Operation("Posterize", 0)).any()
    for bits in (8, 9):
        out = ops.apply(image, Operation("Posterize", bits))
        np.testing.assert_array_equal(out, image)


def test_translations_are_shares_of_their_own_side():
    image = noise(12, 8)
    left = ops.apply(image, Operation("TranslateXRel", 0.25, kernel="bilinear"))
    np.testing.assert_array_equal(left[:, :6], image[:, 2:])
    assert (left[:, 6:] == ops.FILL).all()
    up = ops.apply(image, Operation("TranslateYRel", -0.25, kernel="bicubic"))
    np.testing.assert_array_equal(up[3:], image[:9])
    assert (up[:3] == ops.FILL).all()


def test_a_positive_rotation_is_counter_clockwise():
    image = noise(8, 8)
    out = ops.apply(image, Operation("Rotate", 90.0, kernel="nearest"))
    np.testing.assert_array_equal(out, np.rot90(image))


def test_inputs_are_not_written_to_and_may_have_any_strides():
    image = noise(20, 30)
    image.flags.writeable = False
    mirrored = image[:, ::-1]
    for name in ops.NAMES:
        operation = Operation(name, 0.4, kernel="bilinear")
        contiguous = np.ascontiguousarray(mirrored)
        same = ops.apply(contiguous, operation)
        np.testing.assert_array_equal(contiguous, mirrored, name)
        np.testing.assert_array_equal(ops.apply(mirrored, operation), same, name)


@pytest.mark.parametrize(
    "operation",
    [
        Operation("Cutout"),
        Operation("TranslateX", 3),
        Operation("Rotate", 3, kernel=""),
    ],
)
def test_unknown_names_are_refused(operation):
    with pytest.raises(KeyError):
        ops.apply(IMAGES["noise_32x32"], operation)

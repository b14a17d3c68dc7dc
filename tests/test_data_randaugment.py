"""RandAugment against the bytes of the official TensorFlow code."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import plain_augment

from nfnets.data import tf_operations as ops
from nfnets.data.augment import apply_operations
from nfnets.data.augment_config import AugmentConfig, check_augment
from nfnets.data.plan import draw_operations
from nfnets.data.randaugment import REACH, draw_randaugment
from nfnets.errors import UserError

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "nfnet_randaugment.json").read_text("utf-8")
)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rs = np.random.RandomState(0)  # as the goldens were made
    image = rs.randint(0, 256, (32, 32, 3)).astype(np.uint8)
    assert zlib.crc32(image.tobytes()) == GOLDEN["image_crc32"]
    return image


@pytest.mark.parametrize("case", GOLDEN["crc32"])
def test_operation_is_official_to_the_bit(case, image):
    name, level, *negative = case.split("/")
    argument = ops.operation_argument(name, float(level), REACH)
    if name == "Cutout":
        out = ops.cutout(image, int(argument), (10, 16))
    else:
        out = ops.OPERATIONS[name](image, -argument if negative else argument)
    assert out.dtype == np.uint8
    assert zlib.crc32(out.tobytes()) == GOLDEN["crc32"][case]


@pytest.mark.parametrize("level", GOLDEN["arguments"])
def test_arguments_are_official(level):
    for name, expected in GOLDEN["arguments"][level].items():
        ours = ops.operation_argument(name, float(level), REACH)
        assert ours == pytest.approx(expected, rel=1e-6), name


def test_there_are_sixteen_operations_and_no_identity():
    assert len(ops.NAMES) == 16
    assert {case.split("/")[0] for case in GOLDEN["crc32"]} == set(ops.NAMES)


@pytest.mark.parametrize("writeable", [True, False])
@pytest.mark.parametrize("name", ops.NAMES)
def test_operations_do_not_write_to_their_input(image, name, writeable):
    """Alone and in a row; neither where they could, nor by C code that does not ask."""
    operation = ops.draw_operation(name, 9.0, REACH, (0.7, 0.4, 0.6))
    drawn = draw_randaugment(np.random.default_rng(0), 4, 9.0)
    for operations in ([operation], [operation, *drawn]):
        given = image.copy()
        given.flags.writeable = writeable
        apply_operations(given, operations, "tf")
        np.testing.assert_array_equal(given, image)


def test_geometry_by_hand():
    """Translation by two pixels to the left, and a shear of half a pixel per row."""
    ramp = np.arange(5 * 6, dtype=np.uint8).reshape(5, 6)[..., None].repeat(3, -1)
    moved = ops.OPERATIONS["TranslateX"](ramp, 2.0)
    np.testing.assert_array_equal(moved[:, :4], ramp[:, 2:])
    assert (moved[:, 4:] == ops.FILL).all()
    sheared = ops.OPERATIONS["ShearX"](ramp, 0.5)
    # Row 1 reads from x + 0.5, and halves round away from zero: x + 1.
    np.testing.assert_array_equal(sheared[1, :5], ramp[1, 1:])
    np.testing.assert_array_equal(sheared[2, :5], ramp[2, 1:])
    np.testing.assert_array_equal(sheared[0], ramp[0])


def test_strength_five_leaves_the_blends_unchanged(image):
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        argument = ops.operation_argument(name, 5.0, REACH)
        assert argument == 1
        np.testing.assert_array_equal(ops.OPERATIONS[name](image, argument), image)


def test_every_operation_and_both_signs_are_drawn():
    rng = np.random.default_rng(0)
    drawn = [op for _ in range(800) for op in draw_randaugment(rng, 4, 9.0)]
    names = [operation.name for operation in drawn]
    counts = np.array([names.count(name) for name in ops.NAMES])
    # 200 expected of each; chi-squared with 15 degrees of freedom, 99.9 % is 37.7.
    assert ((counts - 200) ** 2 / 200).sum() < 37.7
    signs = [op.argument > 0 for op in drawn if op.name == "Rotate"]
    assert 0.35 < np.mean(signs) < 0.65
    assert all(op.argument >= 0 for op in drawn if op.name == "Posterize")


CONFIG = plain_augment(randaugment_layers=2, randaugment_magnitude=9.0)


def test_a_recipe_draws_and_applies_it(image):
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    operations = draw_operations(rng, CONFIG)
    assert operations == draw_randaugment(same, 2, 9.0)
    first, second = operations
    expected = ops.apply_operation(ops.apply_operation(image, first), second)
    out = apply_operations(image, operations, "tf")
    np.testing.assert_array_equal(out, expected)
    assert not np.array_equal(out, image)


@pytest.mark.parametrize("magnitude", [None, -1.0])
def test_magnitude_must_be_resolved(magnitude):
    config = AugmentConfig(**{**vars(CONFIG), "randaugment_magnitude": magnitude})
    with pytest.raises(UserError, match=f"randaugment_magnitude is {magnitude}"):
        check_augment(config)

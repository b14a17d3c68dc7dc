"""EfficientNetV2's and V1's image code: resizes, evaluation and RandAugment."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from nfnets.data import tf_operations as ops
from nfnets.data.augment import crop_for_eval
from nfnets.data.augment_config import EvalCrop
from nfnets.data.normalization import normalize
from nfnets.data.randaugment import REACH
from nfnets.data.resize import resize


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (45, 60, 3)).astype(np.uint8)


def check(result: np.ndarray, case: dict) -> None:
    """All that the golden file says of a result."""
    assert list(result.shape) == case["shape"]
    assert result.sum(dtype=np.float64) == pytest.approx(case["sum"], abs=1e-3)
    assert result.std(dtype=np.float64) == pytest.approx(case["std"], rel=1e-6)
    height, width = result.shape[:2]
    places = {"px00": (0, 0), "px_mid": (height // 2, width // 2), "px_last": (-1, -1)}
    for name, place in places.items():
        np.testing.assert_allclose(result[place], case[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("case", "kernel", "size"),
    [
        ("resize_bilinear_noantialias_20", "bilinear", 20),
        ("legacy_bicubic_20", "bicubic_tf1", 20),
        ("legacy_bicubic_80", "bicubic_tf1", 80),
        ("v2_bicubic_20", "bicubic", 20),
    ],
)
def test_kernels_are_tensorflows(case, kernel, size, image, golden):
    result = resize(image, (size, size), kernel=kernel, antialias=False)
    check(result, golden("effnetv2_preprocess")["cases"][case])


@pytest.mark.parametrize(
    ("case", "crop", "size", "normalization"),
    [
        ("v2_eval_crop_32", "v2", 32, "effnetv2"),
        ("v2_eval_squash_384", "v2", 384, "effnetv2"),
        ("ft_eval_32", "resize", 32, "inception"),
    ],
)
def test_evaluation_is_the_official_one(case, crop, size, normalization, image, golden):
    pixels = crop_for_eval(image, EvalCrop(crop, "bilinear", antialias=False), size)
    result = np.asarray(normalize(pixels, normalization))
    check(result, golden("effnetv2_preprocess")["cases"][case])


def test_v1_evaluation_is_the_official_one(image, golden):
    """From a JPEG that TensorFlow wrote and read, so it is asked for the pixels."""
    tf = pytest.importorskip("tensorflow")
    case = golden("effnetv2_preprocess")["cases"]["v1_legacy_eval_32_jpeg"]
    pixels = tf.io.decode_jpeg(tf.io.encode_jpeg(image, quality=95)).numpy()
    if f"sum={pixels.sum()}" not in case["note"]:
        pytest.skip("another JPEG decoder than the golden's")
    crop = EvalCrop("crop_resize", "bicubic_tf1", antialias=False)
    check(np.asarray(normalize(crop_for_eval(pixels, crop, 32))), case)


def test_short_edge_is_timm_s():
    """floor(24 / 0.95) = 25; 45 x 60 -> 25 x int(33.3); corner by Python's rounding."""
    from PIL import Image

    image = np.random.RandomState(1).randint(0, 256, (45, 60, 3)).astype(np.uint8)
    crop = EvalCrop("short_edge", "bicubic", antialias=True, crop_pct=0.95)
    whole = np.asarray(
        Image.fromarray(image).resize((33, 25), Image.Resampling.BICUBIC)
    )
    top, left = round((25 - 24) / 2), round((33 - 24) / 2)  # 0 and 4: ties to even
    expected = whole[top : top + 24, left : left + 24]
    np.testing.assert_array_equal(crop_for_eval(image, crop, 24), expected)


@pytest.mark.parametrize(
    ("size", "border"), [(160, 23), (192, 27), (224, 32), (256, 37), (320, 46)]
)
def test_resnet_rs_cuts_a_rounded_border(size, border):
    """ResNet-RS's code: the centre int(short S / (S + pad)), pads of the facts."""
    rows = np.arange(200, dtype=np.uint8)[:, None, None]
    image = np.broadcast_to(rows, (200, 230, 3))
    side = int(200 * size / (size + border))
    crop = EvalCrop("crop_resize", "bicubic_tf1", antialias=False, crop_pct=0.875)
    out = crop_for_eval(image, crop, size)
    # TensorFlow 1 puts the first result pixel on the first pixel of the window.
    assert out[0, 0, 0] == (200 - side + 1) // 2


ARGUMENTS = {"6.667": 20 / 3, "8.333": 25 / 3}


def test_randaugment_is_the_official_one(golden):
    image = np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8)
    cases = golden("effnetv2_randaugment")["cases"]
    assert {case.split("|")[0] for case in cases} == set(ops.NAMES)
    for case, (arguments, digest) in cases.items():
        name, level, sign = case.split("|")
        magnitude = ARGUMENTS.get(level[1:], float(level[1:]))
        argument = ops.operation_argument(name, magnitude, REACH)
        if arguments:
            assert argument == pytest.approx(abs(arguments[0])), case
        if name == "Cutout":
            out = ops.cutout(image, int(argument), (10, 20))
        else:
            out = ops.OPERATIONS[name](image, -argument if sign == "-" else argument)
        assert hashlib.sha256(out.tobytes()).hexdigest()[:16] == digest, case

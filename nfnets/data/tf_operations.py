"""The operations of RandAugment and AutoAugment, as in the official NFNet code.

The quirks of that TensorFlow code, as it runs under TensorFlow 2.21, are kept and
tested bit for bit: a stronger magnitude posterizes and solarizes *less*, Solarize wraps
at 256, Contrast's grey level depends on the number of pixels, and blending truncates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from nfnets.data.operation import Operation
from nfnets.data.resize import load_cv2

# What shows where a geometric operation or Cutout leaves a hole.
FILL = 128
_SOLARIZE_ADD_BELOW = 128

# (image uint8 [H, W, 3], argument) -> uint8 [H, W, 3]
Function = Callable[[np.ndarray, float], np.ndarray]


class Reach(NamedTuple):
    """Pixels at M = 10, whatever the image's size; a policy has its own.

    Attributes:
        cutout: half the side of Cutout's square.
        translate: shift of TranslateX and TranslateY.
    """

    cutout: int
    translate: float


def draw_operation(
    name: str, magnitude: float, reach: Reach, draws: Sequence[float]
) -> Operation:
    """One operation, given the draws.

    Args:
        name: one of ``NAMES``.
        magnitude: M out of 10; may exceed 10.
        reach: the policy's pixels.
        draws: three in 0..1: the sign's, and Cutout's row and column.
    """
    sign, row, column = draws
    argument = operation_argument(name, magnitude, reach)
    if name in GEOMETRIC and sign < 0.5:
        argument = -argument
    return Operation(name, argument, row, column)


def apply_operation(image: np.ndarray, operation: Operation) -> np.ndarray:
    """Applies one operation to uint8 ``[H, W, 3]``; the image is not written to."""
    if operation.name == "Cutout":
        height, width = image.shape[:2]
        centre = int(operation.row * height), int(operation.column * width)
        return cutout(image, int(operation.argument), centre)
    return OPERATIONS[operation.name](image, operation.argument)


def operation_argument(name: str, magnitude: float, reach: Reach) -> float:
    """What an operation does at magnitude M; 0 for those that have no strength."""
    share = magnitude / 10
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return share * 1.8 + 0.1
    whole = {
        "Posterize": 4,
        "Solarize": 256,
        "SolarizeAdd": 110,
        "Cutout": reach.cutout,
    }
    if name in whole:
        return int(share * whole[name])
    if name in ("TranslateX", "TranslateY"):
        return share * reach.translate
    return share * {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3}.get(name, 0.0)


def autocontrast(image: np.ndarray, _: float) -> np.ndarray:
    """Stretches each channel to 0..255."""
    tables = []
    for channel in range(3):
        low = np.float32(image[..., channel].min())
        high = np.float32(image[..., channel].max())
        levels = np.arange(256, dtype=np.float32)
        if high > low:
            scale = np.float32(255) / (high - low)
            levels = np.clip(levels * scale - low * scale, 0, 255)
        tables.append(levels.astype(np.uint8))
    return _look_up(image, np.stack(tables, axis=-1))


def equalize(image: np.ndarray, _: float) -> np.ndarray:
    """Flattens each channel's histogram, with PIL's integer arithmetic."""
    tables = []
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        levels = np.arange(256)
        if step > 0:
            below = np.concatenate([[0], np.cumsum(counts)[:-1]])
            levels = ((below + step // 2) // step).clip(0, 255)
            levels[0] = 0
        tables.append(levels.astype(np.uint8))
    return _look_up(image, np.stack(tables, axis=-1))


def invert(image: np.ndarray, _: float) -> np.ndarray:
    """255 - image."""
    return 255 - image


def posterize(image: np.ndarray, bits: float) -> np.ndarray:
    """Keeps the highest ``bits`` bits; 0 keeps one, as TensorFlow's shift does."""
    shift = 8 - max(int(bits), 1)
    return image >> shift << shift


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Inverts values from ``threshold`` on, which wraps at 256 like a uint8."""
    levels = np.arange(256)
    levels = np.where(levels < int(threshold) % 256, levels, 255 - levels)
    return _look_up(image, levels.astype(np.uint8))


def solarize_add(image: np.ndarray, addition: float) -> np.ndarray:
    """Adds to values below 128, up to 255."""
    levels = np.arange(256)
    added = (levels + int(addition)).clip(0, 255)
    levels = np.where(levels < _SOLARIZE_ADD_BELOW, added, levels)
    return _look_up(image, levels.astype(np.uint8))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with the grey image."""
    weights = np.array([0.2989, 0.587, 0.114], np.float32)
    scaled = np.arange(256, dtype=np.float32)[:, None] * np.float32(1 / 255)
    red, green, blue = (scaled * weights).T  # [256] each
    grey = red[image[..., 0]] + green[image[..., 1]] + blue[image[..., 2]]
    grey = (grey * np.float32(255.5)).astype(np.uint8)[..., None]
    return _blend(np.repeat(grey, 3, axis=-1), image, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with one grey level: the number of pixels / 256, at most 255."""
    return _look_up(image, contrast_table(factor, *image.shape[:2]))


def contrast_table(factor: float, height: int, width: int) -> np.ndarray:
    """What Contrast makes of each value, uint8 ``[256]``."""
    level = min(height * width / 256, 255)
    levels = np.arange(256, dtype=np.uint8)
    return _blend(np.full_like(levels, int(level)), levels, factor)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with black."""
    levels = np.arange(256, dtype=np.uint8)
    return _look_up(image, _blend(np.zeros_like(levels), levels, factor))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with a smoothed image, whose border pixels are the original's."""
    if min(image.shape[:2]) < 3:
        return image
    blurred = image.copy()
    blurred[1:-1, 1:-1] = _smooth(image)
    return _blend(blurred, image, factor)


def _smooth(image: np.ndarray) -> np.ndarray:
    """3x3 mean with the centre counted five times, uint8 ``[H - 2, W - 2, 3]``.

    TensorFlow truncates a float32 sum. That is the integer quotient, unless the sum
    is a multiple of 13: there the rounding errors decide, and are repeated.
    """
    rows, columns = image.shape[0] - 2, image.shape[1] - 2
    windows = [image[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    total = 4 * windows[4].astype(np.uint16)
    for window in windows:
        total += window
    smooth = total // 13
    exact = np.nonzero(smooth * 13 == total)
    weight = np.float32(1) / np.float32(13), np.float32(5) / np.float32(13)
    sums = np.zeros(len(exact[0]), np.float32)
    for place, window in enumerate(windows):
        # One rounding per step: its convolution uses fused multiply-adds.
        term = np.float64(weight[place == 4]) * window[exact]
        sums = (term + sums).astype(np.float32)
    smooth[exact] = sums.clip(0, 255)
    return smooth.astype(np.uint8)


Matrix = tuple[float, float, float, float, float, float]


def warp_matrix(name: str, argument: float, height: int, width: int) -> Matrix:
    """Where a geometric operation's result pixel (x, y) comes from.

    ``(a, b, c, d, e, f)``: from (a x + b y + c, d x + e y + f), the nearest pixel.

    Args:
        name: Rotate, ShearX, ShearY, TranslateX or TranslateY.
        argument: degrees about the centre, a shift per row or column, or pixels.
        height: of the image.
        width: of the image.
    """
    if name == "Rotate":
        return _rotation(argument, height, width)
    return {
        "ShearX": (1.0, argument, 0.0, 0.0, 1.0, 0.0),
        "ShearY": (1.0, 0.0, 0.0, argument, 1.0, 0.0),
        "TranslateX": (1.0, 0.0, argument, 0.0, 1.0, 0.0),
        "TranslateY": (1.0, 0.0, 0.0, 0.0, 1.0, argument),
    }[name]


def _rotation(degrees: float, height: int, width: int) -> Matrix:
    # float32 throughout, as in TensorFlow: it decides which pixel is the nearest.
    last_y, last_x = np.float32(height - 1), np.float32(width - 1)
    angle = np.float32(degrees) * np.float32(math.pi / 180)
    cos, sin = np.cos(angle), np.sin(angle)
    shift_x = (last_x - (cos * last_x - sin * last_y)) / 2
    shift_y = (last_y - (sin * last_x + cos * last_y)) / 2
    matrix = (cos, -sin, shift_x, sin, cos, shift_y)
    return tuple(float(value) for value in matrix)  # type: ignore[return-value]


def _geometric(name: str) -> Function:
    """The function of a geometric operation."""
    return lambda image, argument: _warp(
        image, warp_matrix(name, argument, *image.shape[:2])
    )


def cutout(image: np.ndarray, half: int, centre: tuple[int, int]) -> np.ndarray:
    """Fills the square of side ``2 * half`` around (row, column), clipped."""
    image = image.copy()
    row, column = centre
    rows = slice(max(row - half, 0), row + half)
    image[rows, max(column - half, 0) : column + half] = FILL
    return image


# The order is what the draws of a stream select from. Cutout has a centre besides its
# argument and is called by name.
OPERATIONS: dict[str, Function] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": _geometric("Rotate"),
    "Posterize": posterize,
    "Solarize": solarize,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": _geometric("ShearX"),
    "ShearY": _geometric("ShearY"),
    "TranslateX": _geometric("TranslateX"),
    "TranslateY": _geometric("TranslateY"),
    "SolarizeAdd": solarize_add,
}
NAMES = (*OPERATIONS, "Cutout")
# Positive or negative with equal probability.
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Maps values through a uint8 table ``[256]``, or one per channel ``[256, 3]``."""
    return load_cv2().LUT(image, table.reshape(1, 256, -1))


def _blend(degenerate: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
    """``degenerate + factor * (image - degenerate)``, truncated, both uint8."""
    if factor == 0:
        return degenerate
    if factor == 1:
        return image
    base = degenerate.astype(np.float32)
    mixed = base + np.float32(factor) * (image.astype(np.float32) - base)
    if not 0 < factor < 1:
        mixed = mixed.clip(0, 255)
    return mixed.astype(np.uint8)


def _warp(image: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Each result pixel shows the pixel nearest to where the matrix says."""
    cv2 = load_cv2()
    height, width = image.shape[:2]
    x = np.arange(width, dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    source = np.empty((height, width, 2), np.int16)
    for axis, (a, b, c) in enumerate((matrix[:3], matrix[3:])):
        value = np.float32(a) * x + np.float32(b) * y + np.float32(c)
        # Halves go away from zero. Beyond int16 is outside any image.
        value = np.copysign(np.floor(np.abs(value.astype(np.float64)) + 0.5), value)
        source[..., axis] = value.clip(-(2**15), 2**15 - 1)
    return cv2.remap(
        image,
        source,
        None,
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(FILL, FILL, FILL),
    )

"""The operations of RandAugment, AutoAugment and 3-Augment, with timm's values.

timm 1.0.31 leaves the pixels to Pillow. So does this module, except where tables of the
256 values or OpenCV are faster and give the same bytes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nfnets.data.decode import missing_extra
from nfnets.data.operation import Operation
from nfnets.data.resize import load_cv2
from nfnets.data.tf_operations import invert, solarize_add

# What shows where a geometric operation leaves a hole: ImageNet's mean colour.
FILL = (124, 116, 104)
# Of Sharpness: the mean of 3x3 pixels, with the centre counted five times.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


@functools.cache
def _load_pillow() -> Any:
    """The package PIL, with the modules that are used here."""
    try:
        import PIL.Image
        import PIL.ImageEnhance
        import PIL.ImageFilter
    except ImportError as error:
        raise missing_extra("Pillow", "augmenting as timm") from error
    return PIL


def apply(image: np.ndarray, operation: Operation) -> np.ndarray:
    """What one operation makes of an image.

    Args:
        image: uint8 ``[H, W, 3]``, any strides.
        operation: named as in ``NAMES``. Degrees for Rotate (counter-clockwise), the
            share of the side for TranslateXRel and TranslateYRel (of the width and the
            height), source pixels per pixel for ShearX and ShearY, bits kept for
            Posterize, the first inverted value for Solarize, what is added below 128
            for SolarizeAdd, the factor (1 is no change) for Color, Contrast,
            Brightness and Sharpness, and the radius in pixels for GaussianBlur.

    Returns:
        uint8 ``[H, W, 3]``, possibly read-only or the image itself.

    Raises:
        KeyError: an unknown name, or an unknown kernel of a geometric operation.
    """
    image = np.ascontiguousarray(image)
    if operation.name in GEOMETRIC:
        matrix = warp_matrix(operation.name, operation.argument, *image.shape[:2])
        return _affine(image, matrix, operation.kernel)
    return PIXELWISE[operation.name](image, operation.argument)


def autocontrast(image: np.ndarray, _: float) -> np.ndarray:
    """Stretches each channel to 0..255."""
    channels, tables = load_cv2().split(image), []
    for channel in channels:
        low, high = int(channel.min()), int(channel.max())
        levels = np.arange(256)
        if high > low:
            scale = 255.0 / (high - low)
            levels = (levels * scale + -low * scale).clip(0, 255)
        tables.append(levels.astype(np.uint8))
    return _look_up_channels(channels, tables)


def equalize(image: np.ndarray, _: float) -> np.ndarray:
    """Flattens each channel's histogram."""
    cv2 = load_cv2()
    channels, tables = cv2.split(image), []
    for channel in channels:
        # float32 counts are exact up to 2**24 pixels.
        counts = cv2.calcHist([channel], [0], None, [256], [0, 256]).ravel()
        counts = counts.astype(np.int64)
        step = (channel.size - int(counts[counts > 0][-1])) // 255
        levels = np.arange(256)
        if step > 0:
            levels = (step // 2 + counts.cumsum() - counts) // step
        tables.append(levels.clip(0, 255).astype(np.uint8))
    return _look_up_channels(channels, tables)


def posterize(image: np.ndarray, bits: float) -> np.ndarray:
    """Keeps the highest ``bits`` bits: black for 0, the image itself from 8 on.

    At 0 bits timm with Pillow 13 stops with an error, and with Pillow 11 is as here.
    """
    if bits >= 8:
        return image
    return image & np.uint8(256 - 2 ** (8 - int(bits)))


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Inverts values from ``threshold`` on; 256 or more inverts none."""
    levels = np.arange(256)
    levels = np.where(levels < threshold, levels, 255 - levels)
    return _look_up(image, levels.astype(np.uint8))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with the grey image."""
    pil = _load_pillow()
    picture = pil.Image.fromarray(image)
    return np.asarray(pil.ImageEnhance.Color(picture).enhance(factor))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with one grey level, the mean of the grey image."""
    grey = np.asarray(_load_pillow().Image.fromarray(image).convert("L"))
    mean = int(int(grey.sum(dtype=np.int64)) / grey.size + 0.5)
    return _look_up(image, _blend_table(mean, factor))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with black."""
    return _look_up(image, _blend_table(0, factor))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with a smoothed image, whose border pixels are the original's."""
    pillow = _load_pillow().Image
    # Pillow rounds thirteenths to the nearest, and none is halfway between two: so
    # OpenCV, which is ten times as fast, gives the same whatever its rounding errors.
    smooth, inside = image.copy(), np.s_[1:-1, 1:-1]
    smooth[inside] = load_cv2().filter2D(image, -1, _SMOOTH)[inside]
    pictures = pillow.fromarray(smooth), pillow.fromarray(image)
    return np.asarray(pillow.blend(*pictures, factor))


def gaussian_blur(image: np.ndarray, radius: float) -> np.ndarray:
    """Pillow's approximation of a Gaussian by three box blurs."""
    pil = _load_pillow()
    picture = pil.Image.fromarray(image)
    return np.asarray(picture.filter(pil.ImageFilter.GaussianBlur(radius)))


Matrix = tuple[float, float, float, float, float, float]


def warp_matrix(name: str, argument: float, height: int, width: int) -> Matrix:
    """Where a geometric operation's result pixel (x, y) comes from.

    ``(a, b, c, d, e, f)``: from (a x + b y + c, d x + e y + f), in Pillow's
    coordinates, whose pixel centres lie at halves.

    Args:
        name: one of ``GEOMETRIC``.
        argument: as of :func:`apply`.
        height: of the image.
        width: of the image.
    """
    if name == "Rotate":
        return _rotation(argument, height, width)
    return {
        "ShearX": (1.0, argument, 0.0, 0.0, 1.0, 0.0),
        "ShearY": (1.0, 0.0, 0.0, argument, 1.0, 0.0),
        "TranslateXRel": (1.0, 0.0, argument * width, 0.0, 1.0, 0.0),
        "TranslateYRel": (1.0, 0.0, 0.0, 0.0, 1.0, argument * height),
    }[name]


def _rotation(degrees: float, height: int, width: int) -> Matrix:
    """Counter-clockwise about the centre; Pillow rounds to 15 places, and so do we."""
    angle = -math.radians(degrees % 360)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    shift_x, shift_y = cos * -x + sin * -y + x, -sin * -x + cos * -y + y
    return cos, sin, shift_x, -sin, cos, shift_y


PIXELWISE: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Posterize": posterize,
    "Solarize": solarize,
    "SolarizeAdd": solarize_add,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "GaussianBlur": gaussian_blur,
}
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
NAMES = (*PIXELWISE, *GEOMETRIC)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Maps all values through one uint8 table ``[256]``."""
    return load_cv2().LUT(image, table)


def _look_up_channels(
    channels: Sequence[np.ndarray], tables: Sequence[np.ndarray]
) -> np.ndarray:
    """Maps each uint8 ``[H, W]`` through its own table -> uint8 ``[H, W, 3]``."""
    cv2 = load_cv2()
    pairs = zip(channels, tables, strict=True)
    return cv2.merge([cv2.LUT(channel, table) for channel, table in pairs])


def _blend_table(level: int, factor: float) -> np.ndarray:
    """What Pillow's blend of one grey level with 0..255 gives, uint8 ``[256]``."""
    pillow = _load_pillow().Image
    ramp = pillow.fromarray(np.arange(256, dtype=np.uint8)[None])
    plain = pillow.new("L", ramp.size, level)
    return np.asarray(pillow.blend(plain, ramp, factor))[0]


def _resample(kernel: str) -> Any:
    pillow = _load_pillow().Image
    kernels = {
        "nearest": pillow.NEAREST,
        "bilinear": pillow.BILINEAR,
        "bicubic": pillow.BICUBIC,
    }
    return kernels[kernel]


def _affine(image: np.ndarray, matrix: Matrix, kernel: str) -> np.ndarray:
    """Each result pixel shows where the matrix says."""
    pillow = _load_pillow().Image
    picture = pillow.fromarray(image)
    moved = picture.transform(
        picture.size,
        pillow.AFFINE,
        matrix,
        resample=_resample(kernel),
        fillcolor=FILL,
    )
    return np.asarray(moved)

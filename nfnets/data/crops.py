"""Resizing and cropping of uint8 images, the same numbers on every machine.

Two families of resize exist in the papers' code and differ visibly. TensorFlow's
default looks at 2 (bilinear) or 4 (bicubic) source pixels per axis whatever the
scale; with ``antialias`` the kernel widens when shrinking, as Pillow always does.
Both put pixel centres at half integers and use Keys' cubic with a = -0.5. OpenCV's
cubic has a = -0.75 and is therefore not used.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from nfnets.data.decode import missing_extra

KERNELS = ("bilinear", "bicubic")
# TensorFlow looks its cubic weights up in a table of this many steps per pixel.
_CUBIC_STEPS = 1024
# A crop must show at least this share of the image.
_MIN_COVERED = 0.1
_ATTEMPTS = 10
# Pixels of a resized image that are cut off an edge, where no share is given.
_BORDER = 32


@functools.cache
def load_cv2() -> Any:
    """OpenCV without threads of its own: the pipeline's threads are the parallelism.

    The setting holds for the whole process; with it, calls from several threads
    do not queue behind one shared pool.
    """
    try:
        import cv2
    except ImportError as error:
        raise missing_extra("opencv-python-headless", "resizing images") from error
    cv2.setNumThreads(0)
    return cv2


@functools.cache
def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("Pillow", "antialiased resizing") from error
    return Image


def resize(
    image: np.ndarray, size: tuple[int, int], *, kernel: str, antialias: bool
) -> np.ndarray:
    """Resizes, ignoring the aspect ratio.

    Args:
        image: uint8 ``[H, W, 3]``, any strides.
        size: height and width of the result.
        kernel: ``bilinear`` or ``bicubic``.
        antialias: Pillow's resize; ``False`` is TensorFlow's default.

    Returns:
        float32 ``[size[0], size[1], 3]``, a new array: whole numbers in 0..255,
        except that bicubic without antialias keeps fractions and overshoots.
    """
    if image.shape[:2] == size:
        return image.astype(np.float32, order="C")
    if kernel == "bicubic" and not antialias:
        return resize_bicubic(image, size)
    image = np.ascontiguousarray(image)
    if antialias:
        pillow = _pillow()
        method = {"bilinear": pillow.BILINEAR, "bicubic": pillow.BICUBIC}[kernel]
        image = np.asarray(pillow.fromarray(image).resize(size[::-1], method))
    else:
        cv2 = load_cv2()
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return image.astype(np.float32)


def resize_bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """TensorFlow's bicubic resize without antialias, before any rounding.

    Returns:
        float32 ``[size[0], size[1], 3]``; overshoots beyond 0..255 are kept.
    """
    cv2 = load_cv2()
    height, width = image.shape[:2]
    out_height, out_width = size
    rows = _weighted_rows(image.reshape(height, width * 3), out_height)
    columns = cv2.transpose(rows.reshape(out_height, width, 3))  # [W, H', 3]
    columns = _weighted_rows(columns.reshape(width, out_height * 3), out_width)
    return cv2.transpose(columns.reshape(out_width, out_height, 3))  # [H', W', 3]


def _weighted_rows(rows: np.ndarray, length: int) -> np.ndarray:
    """Four rows of ``[n, k]`` per result row -> float32 ``[length, k]``."""
    indices, weights = bicubic_taps(rows.shape[0], length)
    total = rows[indices[0]] * weights[0]
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        total += rows[index] * weight
    return total


@functools.lru_cache(maxsize=4096)
def bicubic_taps(length_in: int, length_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Source rows and weights of each result row.

    Keys 1981 with a = -0.5, half-pixel centres; taps outside the image weigh
    nothing and the rest is scaled to sum 1, as in TensorFlow and Pillow.

    Returns:
        int64 ``[4, length_out]`` inside ``0..length_in - 1``, and float32
        ``[4, length_out, 1]``.
    """
    # float32 throughout, as in TensorFlow: it decides which weights are looked up.
    half, scale = np.float32(0.5), np.float32(length_in) / np.float32(length_out)
    centre = (np.arange(length_out, dtype=np.float32) + half) * scale - half
    first = np.floor(centre)
    offset = np.rint((centre - first) * _CUBIC_STEPS).astype(np.int64) / _CUBIC_STEPS
    taps = np.arange(-1, 3)[:, None]  # [4, 1]
    indices = first.astype(np.int64) + taps
    weights = _keys_cubic(np.abs(offset - taps)).astype(np.float32)
    weights[(indices < 0) | (indices >= length_in)] = 0
    weights *= 1 / (weights[0] + weights[1] + weights[2] + weights[3])
    return indices.clip(0, length_in - 1), weights[:, :, None]


def _keys_cubic(distance: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys' cubic kernel at distances >= 0."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def round_to_uint8(image: np.ndarray) -> np.ndarray:
    """Rounds (ties to even) and clips to 0..255; ``image`` itself is overwritten."""
    np.rint(image, out=image)
    return truncate_to_uint8(image)


def truncate_to_uint8(image: np.ndarray) -> np.ndarray:
    """Clips to 0..255 and drops the fractions, as TensorFlow casts.

    ``image``, float32 of any shape, is itself overwritten.
    """
    np.clip(image, 0, 255, out=image)
    return image.astype(np.uint8)


def random_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[int, int, int, int] | None:
    """A random box as TensorFlow's ``sample_distorted_bounding_box`` draws it.

    The aspect ratio (width / height) is uniform, then the box's height is uniform
    among those that satisfy the area: not the area itself, as in torchvision.

    Returns:
        top, left, height, width; ``None`` after 10 attempts outside the limits.
    """
    smallest, largest = area[0] * height * width, area[1] * height * width
    for _ in range(_ATTEMPTS):
        ratio = aspect[0] + rng.random() * (aspect[1] - aspect[0])
        low = round(math.sqrt(smallest / ratio))
        high = min(round(math.sqrt(largest / ratio)), height)
        while high > 0 and round(high * ratio) > width:
            high = min(high - 1, int((width + 0.5) / ratio))
        low = min(low, high)
        box_height = low + int(rng.random() * (high - low + 1))
        box_width = round(box_height * ratio)
        # The rounding of either end may leave the limits by a row.
        if box_height * box_width < smallest:
            box_height += 1
        elif box_height * box_width > largest:
            box_height -= 1
        box_width = round(box_height * ratio)
        covered = box_height * box_width
        fits = 0 < box_height <= height and 0 < box_width <= width
        if not fits or not smallest <= covered <= largest:
            continue
        if covered < _MIN_COVERED * height * width:
            continue
        # The last position of an axis is never drawn, as in TensorFlow.
        top = int(rng.random() * (height - box_height))
        left = int(rng.random() * (width - box_width))
        return top, left, box_height, box_width
    return None


def random_window(
    rng: np.random.Generator,
    image: np.ndarray,
    image_size: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> np.ndarray:
    """A random box of the image, still to be resized to ``image_size``.

    Where no box is found, or it is the whole image, the centre of evaluation is
    used, as in the official code.
    """
    height, width = image.shape[:2]
    box = random_box(rng, height, width, area, aspect)
    if box is None or box[2:] == (height, width):
        return centre_square(image, image_size, uncropped_size(image_size, None))
    top, left, box_height, box_width = box
    return image[top : top + box_height, left : left + box_width]


def pad_and_crop(rng: np.random.Generator, image: np.ndarray, pad: int) -> np.ndarray:
    """A random window of the image's own size out of the zero-padded image.

    He et al. 2016, Sec. 4.2 (CIFAR-10). The shift is uniform on -pad..pad per axis.
    """
    shift_y = int(rng.random() * (2 * pad + 1)) - pad
    shift_x = int(rng.random() * (2 * pad + 1)) - pad
    height, width = image.shape[:2]
    window = np.zeros_like(image)
    top, left = max(shift_y, 0), max(shift_x, 0)
    bottom = max(min(height + shift_y, height), top)  # nothing is left of a small image
    right = max(min(width + shift_x, width), left)
    window[top - shift_y : bottom - shift_y, left - shift_x : right - shift_x] = image[
        top:bottom, left:right
    ]
    return window


def random_flip(rng: np.random.Generator, image: np.ndarray, rate: float) -> np.ndarray:
    """Left-right flip with probability ``rate``; always uses one draw."""
    return load_cv2().flip(image, 1) if rng.random() < rate else image


def centre_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Centre window; an odd remainder is cut from the top and the left."""
    top = (image.shape[0] - height + 1) // 2
    left = (image.shape[1] - width + 1) // 2
    return image[top : top + height, left : left + width]


def uncropped_size(image_size: int, crop_pct: float | None) -> int:
    """The side of which the centre S remains: int(S / crop_pct), or S + 32 for None."""
    return image_size + _BORDER if crop_pct is None else int(image_size / crop_pct)


def centre_square(image: np.ndarray, image_size: int, uncropped: int) -> np.ndarray:
    """Centre square with side S / ``uncropped`` of the short edge.

    What ``crop_resize`` resizes to S, the evaluation during training of the official
    code.
    """
    side = max(1, min(image.shape[:2]) * image_size // uncropped)
    return centre_crop(image, side, side)

"""Resizing of uint8 images, the same numbers on every machine.

Two families of resize exist in the papers' code and differ visibly. TensorFlow's
default looks at 2 (bilinear) or 4 (bicubic) source pixels per axis whatever the
scale; with ``antialias`` the kernel widens when shrinking, as Pillow always does.
Both put pixel centres at half integers and use Keys' cubic with a = -0.5. OpenCV's
cubic has a = -0.75 and is therefore not used. TensorFlow 1 (``bicubic_tf1``, the code
of ResNet-RS and EfficientNet V1) has pixel centres at integers and a = -0.75.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nfnets.data.decode import missing_extra

# TensorFlow looks its cubic weights up in a table of this many steps per pixel.
_CUBIC_STEPS = 1024
# OpenCV rounds the places it interpolates at: how far that can move a value of 0..255.
_OPENCV_ERROR = 0.005


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


# Left, top, right, bottom in pixels; fractions are allowed.
Part = tuple[float, float, float, float]


def resize(
    image: np.ndarray,
    size: tuple[int, int],
    *,
    kernel: str,
    antialias: bool,
    part: Part | None = None,
) -> np.ndarray:
    """Resizes, ignoring the aspect ratio.

    Args:
        image: uint8 ``[H, W, 3]``, any strides.
        size: height and width of the result.
        kernel: one of ``augment_config.KERNELS``.
        antialias: Pillow's resize; ``False`` is TensorFlow's default.
        part: of the image that is shown, only with antialias; ``None`` is all.

    Returns:
        ``[size[0], size[1], 3]``, a new array: uint8 with antialias; otherwise float32
        as TensorFlow gives it, with fractions and the overshoots of bicubic.
    """
    if antialias:
        return _resize_antialiased(image, size, kernel, part)
    if image.shape[:2] == size:
        return image.astype(np.float32, order="C")
    if kernel == "bilinear":
        return _resize_bilinear(image, size)
    return _resize_bicubic(image, size, legacy=kernel == "bicubic_tf1")


def _resize_antialiased(
    image: np.ndarray, size: tuple[int, int], kernel: str, part: Part | None
) -> np.ndarray:
    """Along the rows, then along the columns: Pillow 13 chooses the order by cost.

    With one order the numbers are those of all versions of Pillow before it.
    """
    pillow = _pillow()
    method = {"bilinear": pillow.BILINEAR, "bicubic": pillow.BICUBIC}[kernel]
    height, width = image.shape[:2]
    left, top, right, bottom = part or (0, 0, width, height)
    picture = pillow.fromarray(np.ascontiguousarray(image))
    picture = picture.resize((size[1], height), method, box=(left, 0, right, height))
    picture = picture.resize(size[::-1], method, box=(0, top, size[1], bottom))
    return np.asarray(picture)


def resize_bilinear_fast(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear without antialias by OpenCV, a fortieth of the time of the exact one.

    Returns:
        float32 ``[size[0], size[1], 3]``, from 0 to 0.01 above the exact values: a flat
        area does not fall to the next level where fractions are dropped.
    """
    cv2 = load_cv2()
    image = np.ascontiguousarray(image, np.float32)
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    image += np.float32(_OPENCV_ERROR)
    return image


def _resize_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    left, right, share = bilinear_taps(image.shape[1], size[1])
    start = image[:, left].astype(np.float32)
    rows = start + (image[:, right] - start) * share[:, None]  # [H, W', 3]
    upper, lower, share = bilinear_taps(image.shape[0], size[0])
    return rows[upper] + (rows[lower] - rows[upper]) * share[:, None, None]


def _resize_bicubic(
    image: np.ndarray, size: tuple[int, int], *, legacy: bool
) -> np.ndarray:
    cv2 = load_cv2()
    height, width = image.shape[:2]
    out_height, out_width = size
    rows = _weighted_rows(image.reshape(height, width * 3), out_height, legacy)
    columns = cv2.transpose(rows.reshape(out_height, width, 3))  # [W, H', 3]
    columns = _weighted_rows(columns.reshape(width, out_height * 3), out_width, legacy)
    return cv2.transpose(columns.reshape(out_width, out_height, 3))  # [H', W', 3]


def _weighted_rows(rows: np.ndarray, length: int, legacy: bool) -> np.ndarray:
    """Four rows of ``[n, k]`` per result row -> float32 ``[length, k]``."""
    indices, weights = bicubic_taps(rows.shape[0], length, legacy=legacy)
    total = rows[indices[0]] * weights[0]
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        total += rows[index] * weight
    return total


@functools.lru_cache(maxsize=4096)
def bilinear_taps(
    length_in: int, length_out: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source rows of each result row, int64, and the second's share, float32.

    Half-pixel centres; all ``[length_out]``.
    """
    # float32 throughout, as in TensorFlow.
    half, scale = np.float32(0.5), np.float32(length_in) / np.float32(length_out)
    centre = (np.arange(length_out, dtype=np.float32) + half) * scale - half
    first = np.floor(centre)
    lower = first.astype(np.int64).clip(0)
    upper = np.ceil(centre).astype(np.int64).clip(max=length_in - 1)
    return lower, upper, centre - first


@functools.lru_cache(maxsize=4096)
def bicubic_taps(
    length_in: int, length_out: int, *, legacy: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Source rows and weights of each result row.

    Keys 1981 with a = -0.5, half-pixel centres; taps outside the image weigh
    nothing and the rest is scaled to sum 1, as in TensorFlow and Pillow. ``legacy`` is
    TensorFlow 1's: a = -0.75, centres at integers, and the border pixel repeats.

    Returns:
        int64 ``[4, length_out]`` inside ``0..length_in - 1``, and float32
        ``[4, length_out, 1]``.
    """
    # float32 throughout, as in TensorFlow: it decides which weights are looked up.
    half, scale = np.float32(0.5), np.float32(length_in) / np.float32(length_out)
    place = np.arange(length_out, dtype=np.float32)
    centre = place * scale if legacy else (place + half) * scale - half
    first = np.floor(centre)
    offset = np.rint((centre - first) * _CUBIC_STEPS).astype(np.int64) / _CUBIC_STEPS
    taps = np.arange(-1, 3)[:, None]  # [4, 1]
    indices = first.astype(np.int64) + taps
    a = -0.75 if legacy else -0.5
    weights = _keys_cubic(np.abs(offset - taps), a).astype(np.float32)
    if not legacy:
        weights[(indices < 0) | (indices >= length_in)] = 0
        weights *= 1 / (weights[0] + weights[1] + weights[2] + weights[3])
    return indices.clip(0, length_in - 1), weights[:, :, None]


def _keys_cubic(distance: np.ndarray, a: float) -> np.ndarray:
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

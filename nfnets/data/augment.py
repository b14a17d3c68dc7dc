"""Carries out plans on pixels in Python, and the preprocessing of evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from nfnets.data import crops, resize, tf_operations, timm_operations
from nfnets.data.augment_config import EvalCrop
from nfnets.data.operation import Operation
from nfnets.data.plan import Crop

# Whose operations, by ``AugmentConfig.semantics``.
APPLY = {"tf": tf_operations.apply_operation, "timm": timm_operations.apply}
# From this size on, EfficientNetV2's code shows the whole image, squashed.
_V2_WHOLE = 320


def crop_image(image: np.ndarray, crop: Crop, image_size: int) -> np.ndarray:
    """Cuts, resizes, shifts and flips: uint8 ``[H, W, 3]`` -> ``[S, S, 3]``.

    Args:
        image: at 1 / ``crop.denominator`` of the size that the plan was made for.
        crop: the plan.
        image_size: S.

    Returns:
        uint8 with antialias, otherwise float32, as of :func:`resize.resize`.
    """
    box, part = _scaled(crop)
    image, size = crops.cut(image, box), (image_size, image_size)
    if crop.flip and crop.flip_first:
        image = _flipped(image)
    kernel, antialias = crop.kernel, crop.antialias
    if kernel == "bilinear" and not antialias:
        image = resize.resize_bilinear_fast(image, size)
    else:
        image = resize.resize(
            image, size, kernel=kernel, antialias=antialias, part=part
        )
    if crop.shift != (0, 0):
        image = _shifted(image, *crop.shift)
    return _flipped(image) if crop.flip and not crop.flip_first else image


def _scaled(crop: Crop) -> tuple[crops.Box, resize.Part | None]:
    """The box in pixels of the scaled image, and the part of it that is shown."""
    scale = crop.denominator
    if scale == 1:
        return crop.box, None
    top, left, height, width = crop.box
    first_row, first_column = top // scale, left // scale
    rows = -(-(top + height) // scale) - first_row
    columns = -(-(left + width) // scale) - first_column
    y, x = top / scale - first_row, left / scale - first_column
    part = (x, y, x + width / scale, y + height / scale)
    return (first_row, first_column, rows, columns), part


def to_uint8(image: np.ndarray, *, truncate: bool) -> np.ndarray:
    """Clips and rounds, or truncates; a float image is overwritten."""
    if image.dtype == np.uint8:
        return image
    if truncate:
        return resize.truncate_to_uint8(image)
    # Differs: without a policy the official NFNet code keeps the fractions and the
    # overshoots of the bicubic kernel; here the host sends uint8.
    return resize.round_to_uint8(image)


def _flipped(image: np.ndarray) -> np.ndarray:
    return resize.load_cv2().flip(image, 1)


def _shifted(image: np.ndarray, shift_y: int, shift_x: int) -> np.ndarray:
    """The image moved down and right, zeros moving in."""
    height, width = image.shape[:2]
    window = np.zeros_like(image)
    top, left = max(shift_y, 0), max(shift_x, 0)
    bottom = max(min(height + shift_y, height), top)  # nothing is left of a small image
    right = max(min(width + shift_x, width), left)
    window[top:bottom, left:right] = image[
        top - shift_y : bottom - shift_y, left - shift_x : right - shift_x
    ]
    return window


def apply_operations(
    image: np.ndarray, operations: Iterable[Operation], semantics: str
) -> np.ndarray:
    """Applies operations in order: uint8 ``[S, S, 3]``, not written to -> the same."""
    apply = APPLY[semantics]
    image = np.ascontiguousarray(image)
    for operation in operations:
        image = apply(image, operation)
    return image


def crop_for_eval(image: np.ndarray, crop: EvalCrop, image_size: int) -> np.ndarray:
    """One evaluation image, uint8 ``[H, W, 3]`` -> float32 ``[S, S, 3]``.

    Nothing is rounded or clipped after a resize without antialias, as in the official
    codes; with antialias the numbers are whole, as Pillow's.
    """
    height, width = image.shape[:2]
    size, result = (image_size, image_size), (0, 0, image_size, image_size)
    if crop.crop == "resize_crop":
        side = crops.uncropped_size(image_size, crop.crop_pct)
        size, result = (side, side), crops.centre_box(side, side, *size)
    elif crop.crop == "crop_resize":
        image = crops.cut(image, crops.centre_square(height, width, _share(crop, size)))
    elif crop.crop == "short_edge":
        size = _short_edge_size(height, width, image_size, crop.crop_pct or 1.0)
        result = _torch_centre(size, image_size)
    elif crop.crop == "v2" and image_size < _V2_WHOLE:
        side = int(image_size / (image_size + 32) * min(height, width))
        image = crops.cut(
            image, ((height - side) // 2, (width - side) // 2, side, side)
        )
    kernel, antialias = crop.interpolation, crop.antialias
    resized = resize.resize(image, size, kernel=kernel, antialias=antialias)
    return crops.cut(resized, result).astype(np.float32)


def _share(crop: EvalCrop, size: tuple[int, int]) -> float:
    """Of the short edge: S / (S + 32), or, as in ResNet-RS's code, a rounded border."""
    if crop.crop_pct is None:
        return size[0] / crops.uncropped_size(size[0], None)
    return size[0] / (size[0] + round(size[0] * (1 / crop.crop_pct - 1)))


def _short_edge_size(
    height: int, width: int, image_size: int, crop_pct: float
) -> tuple[int, int]:
    """timm: the short edge becomes floor(S / crop_pct), the other keeps the shape."""
    short = math.floor(image_size / crop_pct)
    if height <= width:
        return short, int(short * width / height)
    return int(short * height / width), short


def _torch_centre(size: tuple[int, int], image_size: int) -> crops.Box:
    """The centre as torchvision rounds it."""
    top, left = (round((side - image_size) / 2) for side in size)
    return top, left, image_size, image_size

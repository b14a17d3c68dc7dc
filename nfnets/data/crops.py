"""Where images are cut: the boxes of the papers' codes, in pixels.

A box is (top, left, height, width).
"""

from __future__ import annotations

import math

import numpy as np

Box = tuple[int, int, int, int]

# After so many attempts, the laws of random boxes give up.
# Differs: EfficientNetV2's code (``v2_box``) leaves it at TensorFlow's 100.
_ATTEMPTS = 10
# Share of the image that a box must show in the codes of NFNet and ResNet-RS.
_MIN_COVERED = 0.1
# Pixels of a resized image that are cut off an edge, where no share is given.
_BORDER = 32


def random_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    image_size: int,
    *,
    law: str,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Box:
    """A random box, to be resized to ``image_size``.

    Args:
        rng: everything random is drawn from it.
        height: of the image.
        width: of the image.
        image_size: S, which decides what the ``tf_box`` law falls back to.
        law: ``tf_box``, ``v2_box`` or ``timm_box``, see ``AugmentConfig``.
        area: smallest and largest share of the image.
        aspect: smallest and largest width / height.
    """
    if law == "timm_box":
        return draw_timm_box(rng, height, width, area, aspect)
    min_covered = _MIN_COVERED if law == "tf_box" else 0.0
    whole = (0, 0, height, width)
    box = draw_tf_box(rng, height, width, area, aspect, min_covered) or whole
    if law == "tf_box" and box == whole:
        # Differs: the official NFNet code cuts 32 pixels off then; ResNet-RS's rounds
        # S / 0.875, which is the same at 224 pixels only, and here is 32 too.
        return centre_square(
            height, width, image_size / uncropped_size(image_size, None)
        )
    return box


def draw_tf_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    min_covered: float,
) -> Box | None:
    """A random box as TensorFlow's ``sample_distorted_bounding_box`` draws it.

    The aspect ratio (width / height) is uniform, then the box's height is uniform
    among those that satisfy the area: not the area itself, as in torchvision.

    Args:
        rng: two draws per attempt, and two for the place.
        height: of the image.
        width: of the image.
        area: smallest and largest share of the image.
        aspect: smallest and largest width / height.
        min_covered: share of the image that the box must show.

    Returns:
        ``None`` after 10 attempts outside the limits.
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
        if covered < min_covered * height * width:
            continue
        # The last position of an axis is never drawn, as in TensorFlow.
        top = int(rng.random() * (height - box_height))
        left = int(rng.random() * (width - box_width))
        return top, left, box_height, box_width
    return None


def draw_timm_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Box:
    """A random box as timm's and torchvision's RandomResizedCrop draw it.

    The area is uniform, the aspect ratio log-uniform; after 10 attempts outside the
    image, the largest central box within the aspect limits.
    """
    for _ in range(_ATTEMPTS):
        share, log_ratio = rng.random(2)
        pixels = (area[0] + share * (area[1] - area[0])) * height * width
        low, high = math.log(aspect[0]), math.log(aspect[1])
        ratio = math.exp(low + log_ratio * (high - low))
        box_width = round(math.sqrt(pixels * ratio))
        box_height = round(math.sqrt(pixels / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.random() * (height - box_height + 1))
            left = int(rng.random() * (width - box_width + 1))
            return top, left, box_height, box_width
    box_height, box_width = height, width
    if width / height < aspect[0]:
        box_height = round(width / aspect[0])
    elif width / height > aspect[1]:
        box_width = round(height * aspect[1])
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def centre_box(height: int, width: int, box_height: int, box_width: int) -> Box:
    """Centre box; an odd remainder is cut from the top and the left."""
    top, left = (height - box_height + 1) // 2, (width - box_width + 1) // 2
    return top, left, box_height, box_width


def centre_square(height: int, width: int, share: float) -> Box:
    """Centre square whose side is a share of the short edge, rounded down.

    What ``crop_resize`` resizes to S, the evaluation during training of the official
    code, with the share S / (S + 32).
    """
    side = max(1, int(share * min(height, width)))
    return centre_box(height, width, side, side)


def uncropped_size(image_size: int, crop_pct: float | None) -> int:
    """The side of which the centre S remains: int(S / crop_pct), or S + 32 for None."""
    return image_size + _BORDER if crop_pct is None else int(image_size / crop_pct)


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """The pixels inside the box, a view."""
    top, left, height, width = box
    return image[top : top + height, left : left + width]

"""Random erasing (arXiv 1708.04896) and cutout, on the device, of normalised images.

The laws of area, aspect ratio, tries and number of boxes are timm's, whose recipes use
erasing; cutout's are those of EfficientNetV2's fine-tuning. Erased after normalisation,
so a constant 0 is the mean colour.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nfnets.data.augment_config import AugmentConfig

AREA = (0.02, 1 / 3)  # of the image; shared among an image's boxes
ASPECT = (0.3, 1 / 0.3)  # height / width, log-uniform
TRIES = 10  # for a box that is smaller than the image, else none is erased


class Boxes(NamedTuple):
    """Boxes inside the image, int32 ``[B, N]`` each; one that is off has height 0."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def random_erase(images: jax.Array, key: jax.Array, config: AugmentConfig) -> jax.Array:
    """Erases random boxes of a random share of the images.

    Args:
        images: float32 ``[B, H, W, C]``, normalised.
        key: PRNG key, another one on each device.
        config: gives rate, mode and count.

    Returns:
        float32 ``[B, H, W, C]``.
    """
    box_key, fill_key = jax.random.split(key)
    batch, height, width, channels = images.shape
    if config.erase_mode == "cutout":
        boxes = sample_cutout(box_key, batch, height, width, config.erase_rate)
        noise = jax.random.uniform(fill_key, (batch, 1, height, width, channels))
        return erase(images, boxes, noise)
    count = config.erase_count
    boxes = sample_boxes(box_key, batch, height, width, config.erase_rate, count)
    shapes = {
        "const": (1, 1, 1, 1),
        "rand": (count, 1, 1, channels),
        # All boxes cut from one noise image: the law is the same as of fresh noise.
        "pixel": (1, height, width, channels),
    }
    shape = (batch, *shapes[config.erase_mode])
    if config.erase_mode == "const":
        return erase(images, boxes, jnp.zeros(shape))
    return erase(images, boxes, jax.random.normal(fill_key, shape))


def sample_boxes(
    key: jax.Array, batch: int, height: int, width: int, rate: float, count: int
) -> Boxes:
    """Random boxes of ``batch`` images of H x W pixels, N = ``count`` each.

    An image is erased with probability ``rate``, by 1 to ``count`` boxes, uniformly
    (the others are off). Each has an area uniform in ``AREA`` of the image, divided by
    the image's number of boxes, an aspect ratio log-uniform in ``ASPECT`` and a uniform
    place. It is the first of ``TRIES`` that is smaller than the image in both
    directions; where none is, it is off.
    """
    keys = jax.random.split(key, 6)
    erased = jax.random.uniform(keys[0], (batch, 1)) < rate
    number = jax.random.randint(keys[1], (batch, 1), 1, count + 1)
    tries = (batch, count, TRIES)
    area = jax.random.uniform(keys[2], tries, minval=AREA[0], maxval=AREA[1])
    area *= height * width / number[..., None]
    low, high = (math.log(aspect) for aspect in ASPECT)
    aspect = jnp.exp(jax.random.uniform(keys[3], tries, minval=low, maxval=high))
    tall = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    wide = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (tall < height) & (wide < width)
    first = jnp.argmax(fits, axis=-1, keepdims=True)
    tall, wide, fits = (
        jnp.take_along_axis(x, first, axis=-1)[..., 0] for x in (tall, wide, fits)
    )  # [B, N]
    on = erased & fits & (jnp.arange(count)[None] < number)
    tall, wide = jnp.where(on, tall, 0), jnp.where(on, wide, 0)
    top = jax.random.randint(keys[4], on.shape, 0, height - tall + 1)
    left = jax.random.randint(keys[5], on.shape, 0, width - wide + 1)
    return Boxes(top, left, tall, wide)


def sample_cutout(
    key: jax.Array, batch: int, height: int, width: int, rate: float
) -> Boxes:
    """One square for each of a share ``rate`` of the images (arXiv 1708.04552), N = 1.

    Its centre is any pixel, uniformly; it begins a quarter of the image's side before
    it and ends as far behind it, cut off at the image's borders.
    """
    keys = jax.random.split(key, 3)
    on = jax.random.uniform(keys[0], (batch, 1)) < rate

    def side(key: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
        centre = jax.random.randint(key, (batch, 1), 0, length)
        first = jnp.maximum(centre - length // 4, 0)
        end = jnp.minimum(centre + length // 4, length)
        return first, jnp.where(on, end - first, 0)

    top, tall = side(keys[1], height)
    left, wide = side(keys[2], width)
    return Boxes(top, left, tall, wide)


def erase(images: jax.Array, boxes: Boxes, fill: jax.Array) -> jax.Array:
    """Puts ``fill`` where the boxes are, a later box over an earlier one.

    Args:
        images: ``[B, H, W, C]``.
        boxes: N per image.
        fill: what each box shows, of the images' type, ``[B, N or 1, H or 1, W or 1,
            C or 1]``.
    """

    def inside(length: int, first: jax.Array, size: jax.Array) -> jax.Array:
        places = jnp.arange(length)[None, None, :]
        first, size = first[..., None], size[..., None]
        return (places >= first) & (places < first + size)  # [B, N, length]

    rows = inside(images.shape[1], boxes.top, boxes.height)
    columns = inside(images.shape[2], boxes.left, boxes.width)
    masks = rows[:, :, :, None] & columns[:, :, None, :]  # [B, N, H, W]
    for box in range(masks.shape[1]):
        shown = fill[:, min(box, fill.shape[1] - 1)]
        images = jnp.where(masks[:, box, :, :, None], shown, images)
    return images

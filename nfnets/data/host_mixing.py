"""Mixup and cutmix on the host, for recipes that augment the mixed image.

The official NFNet order: float crops are mixed first, then RandAugment or AutoAugment
sees the mixed image, so the device cannot be the one that mixes. Who is mixed with
whom, and how, is as on the device: ``nfnets.data.nfnet_mixing``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from nfnets.data.augment_config import AugmentConfig, has_policy
from nfnets.data.mixing import partners
from nfnets.data.mixing_draws import box_edges

# Top, bottom, left, right; the ends are exclusive.
Edges = tuple[int, int, int, int]


class Pair(NamedTuple):
    """What one mixed image is made of.

    Attributes:
        first: place among the 2B records of a device's batch.
        second: the partner's place.
        mixup: mixup, otherwise cutmix.
    """

    first: int
    second: int
    mixup: bool


def mixes_on_host(config: AugmentConfig) -> bool:
    """Whether images are mixed before RandAugment or AutoAugment, hence on the host.

    Without either the two orders are the same, and the device mixes. Only NFNet's
    recipes augment mixed images (``augment_config.check_augment``).
    """
    mixing_first = partners(config) > 1 and not config.augment_before_mix
    return mixing_first and has_policy(config)


def pair_at(config: AugmentConfig, images_per_device: int, place: int) -> Pair:
    """What the image at a place of a device's mixed batch is made of.

    Args:
        config: with mixup, cutmix or both.
        images_per_device: B, even where both are on (``mixing.check_mixing``).
        place: of the image, in ``0..B - 1``.
    """
    if config.mixup_alpha == 0 or config.cutmix_alpha == 0:
        return Pair(place, images_per_device + place, config.mixup_alpha > 0)
    quarter = images_per_device // 2  # of the 2B records
    if place < quarter:
        return Pair(place, quarter + place, True)
    return Pair(quarter + place, 2 * quarter + place, False)


class HostMix(NamedTuple):
    """How two images are mixed.

    Attributes:
        ratio: weight of the first image, in 0..1; cutmix: the box's share.
        box: cutmix: where the first image shows; ``None`` for mixup.
    """

    ratio: float
    box: Edges | None


def draw_mix(
    rng: np.random.Generator, image_size: int, config: AugmentConfig, *, mixup_on: bool
) -> HostMix:
    """Draws a random weight, or a random box.

    Args:
        rng: everything random is drawn from it.
        image_size: S, the side of the images.
        config: gives the alphas.
        mixup_on: mixup, otherwise cutmix.
    """
    if mixup_on:
        return HostMix(float(np.float32(draw_beta(rng, config.mixup_alpha))), None)
    box = draw_box(rng, image_size, image_size, config.cutmix_alpha)
    return HostMix(box_share(box, image_size, image_size), box)


def mix_pair(first: np.ndarray, second: np.ndarray, mix: HostMix) -> np.ndarray:
    """Mixes two images, float32 ``[S, S, 3]``."""
    if mix.box is None:
        return mixup(first, second, np.float32(mix.ratio))
    return cutmix(first, second, mix.box)


def mixup(first: np.ndarray, second: np.ndarray, ratio: np.float32) -> np.ndarray:
    """``ratio * first + (1 - ratio) * second``, float32 ``[H, W, 3]``."""
    return ratio * first + (1 - ratio) * second


def cutmix(first: np.ndarray, second: np.ndarray, box: Edges) -> np.ndarray:
    """``first`` inside the box, ``second`` outside, float32 ``[H, W, 3]``."""
    top, bottom, left, right = box
    mixed = second.copy()
    mixed[top:bottom, left:right] = first[top:bottom, left:right]
    return mixed


def box_share(box: Edges, height: int, width: int) -> float:
    """The box's share of the image, which is the weight of the first label."""
    top, bottom, left, right = box
    return (bottom - top) * (right - left) / (height * width)


def draw_box(rng: np.random.Generator, height: int, width: int, alpha: float) -> Edges:
    """A random box, by the law of ``mixing_draws.sample_cutmix_mask``."""
    centre_y, centre_x = int(rng.random() * height), int(rng.random() * width)
    return box_of(height, width, centre_y, centre_x, draw_beta(rng, alpha))


def box_of(
    height: int, width: int, centre_y: int, centre_x: int, proportion: float
) -> Edges:
    """The box of given draws, as ``mixing_draws.cutmix_mask`` of one image."""
    outside = np.float32(proportion)
    top, bottom = box_edges(height, np.int32(centre_y), outside)
    left, right = box_edges(width, np.int32(centre_x), outside)
    return int(top), int(bottom), int(left), int(right)


def draw_beta(rng: np.random.Generator, alpha: float) -> float:
    """Beta(alpha, alpha) out of uniform numbers alone, see ``nfnets.data.order``.

    Args:
        rng: one draw where alpha is 1, a few otherwise.
        alpha: above 0.

    Returns:
        A number in 0..1.
    """
    if alpha == 1:
        return rng.random()
    if alpha > 0.5:  # Ulrich 1984: a coordinate of a point on a sphere
        radius = math.sqrt(1 - rng.random() ** (2 / (2 * alpha - 1)))
        return 0.5 + 0.5 * radius * math.cos(2 * math.pi * rng.random())
    while True:  # Joehnk 1964, in logarithms: powers of 1 / alpha may underflow
        first, second = (math.log(1 - rng.random()) / alpha for _ in range(2))
        larger = max(first, second)
        total = larger + math.log(math.exp(first - larger) + math.exp(second - larger))
        if total <= 0:
            return math.exp(first - total)

"""Mixup and cutmix as in timm, for "ResNet strikes back": a batch with its reverse.

Image i is mixed with image B - 1 - i, by mixup or by cutmix. One draw decides how for
the whole batch (mode batch, the paper's), for both images of a pair (pair) or for each
image (elem).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nfnets.data.augment_config import AugmentConfig
from nfnets.data.mixing_draws import Mixed, cutmix_mask, sample_beta


class Draws(NamedTuple):
    """How n images, pairs or batches are mixed; each ``[n]``.

    Attributes:
        share: float32 in 0..1, the weight of the image itself; of cutmix, before its
            box is rounded and clipped. 1 leaves the image as it is.
        cutmix: bool, cutmix rather than mixup.
        centre_y: int32 in ``0..H - 1``, of cutmix's box.
        centre_x: int32 in ``0..W - 1``.
    """

    share: jax.Array
    cutmix: jax.Array
    centre_y: jax.Array
    centre_x: jax.Array


def mix(
    images: jax.Array, labels: jax.Array, key: jax.Array, config: AugmentConfig
) -> Mixed:
    """Mixes one device's batch by random draws, to whole grey levels.

    The images come out rounded, as in timm's default path, which mixes uint8.

    Args:
        images: float32 ``[B, H, W, 3]`` of whole numbers in 0..255, B even.
        labels: int ``[B]``.
        key: PRNG key.
        config: gives mode, rates and alphas.
    """
    batch, height, width = images.shape[:3]
    count = {"timm_batch": 1, "timm_pair": batch // 2, "timm_elem": batch}
    draws = sample_draws(key, count[config.mixing], height, width, config)
    images, labels, mix_labels, ratio = mix_drawn(images, labels, draws)
    return jnp.round(images), labels, mix_labels, ratio


def sample_draws(
    key: jax.Array, count: int, height: int, width: int, config: AugmentConfig
) -> Draws:
    """Draws for n = ``count`` images, pairs or batches of H x W pixels.

    Mixed with probability ``mix_rate``, then by cutmix with probability
    ``cutmix_rate`` where both are on; the share is ~ Beta(alpha, alpha) of the chosen
    one, and the centre of the box a uniform pixel.
    """
    keys = jax.random.split(key, 6)
    mixup_alpha, cutmix_alpha = config.mixup_alpha, config.cutmix_alpha
    if mixup_alpha > 0 and cutmix_alpha > 0:
        cutmix = jax.random.uniform(keys[0], (count,)) < config.cutmix_rate
        mixup_share = sample_beta(keys[1], count, mixup_alpha)
        cutmix_share = sample_beta(keys[2], count, cutmix_alpha)
        share = jnp.where(cutmix, cutmix_share, mixup_share)
    else:
        cutmix = jnp.full((count,), cutmix_alpha > 0)
        share = sample_beta(keys[1], count, cutmix_alpha or mixup_alpha)
    mixed = jax.random.uniform(keys[3], (count,)) < config.mix_rate
    return Draws(
        share=jnp.where(mixed, share, 1.0),
        cutmix=cutmix,
        centre_y=jax.random.randint(keys[4], (count,), 0, height),
        centre_x=jax.random.randint(keys[5], (count,), 0, width),
    )


def mix_drawn(images: jax.Array, labels: jax.Array, draws: Draws) -> Mixed:
    """Mixes image i with image B - 1 - i, given the draws; nothing is rounded.

    Args:
        images: float32 ``[B, H, W, C]``, B even.
        labels: ``[B]``.
        draws: one for the batch, one per pair (i, B - 1 - i) or one per image.

    Returns:
        See ``mixing.mix``. The weight of a cutmix label is the exact share of the
        pixels outside the clipped box (timm's corrected lambda).
    """
    batch, height, width = images.shape[:3]
    share, cutmix, centre_y, centre_x = (_per_image(d, batch) for d in draws)
    mask = cutmix_mask(height, width, centre_y, centre_x, share)  # [B, H, W, 1]
    own = jnp.where(
        cutmix[:, None, None, None], 1 - mask, share[:, None, None, None]
    )  # [B, H, W, 1], the weight of the image itself
    ratio = jnp.where(cutmix, 1 - jnp.mean(mask, axis=(1, 2, 3)), share)
    return own * images + (1 - own) * images[::-1], labels, labels[::-1], ratio


def _per_image(draw: jax.Array, batch: int) -> jax.Array:
    """Spreads draws ``[n]`` over the images they are for, ``[batch]``."""
    if draw.shape[0] == batch:
        return draw
    if draw.shape[0] == 1:
        return jnp.broadcast_to(draw, (batch,))
    return jnp.concatenate([draw, draw[::-1]])

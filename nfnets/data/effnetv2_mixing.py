"""Mixup and cutmix as in EfficientNetV2's released code: a batch with its reverse.

The paper (arXiv 2104.00298, Sec. 4) speaks of mixup alone; the code also has cutmix,
and where both are on, mixes one half of the batch by each.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from nfnets.data.augment_config import AugmentConfig
from nfnets.data.mixing_draws import Mixed, sample_beta, sample_cutmix_mask


def mix(
    images: jax.Array, labels: jax.Array, key: jax.Array, config: AugmentConfig
) -> Mixed:
    """Mixes one device's batch with random weights and boxes.

    Args:
        images: float32 ``[B, H, W, 3]``, B even.
        labels: int ``[B]``.
        key: PRNG key.
        config: each image has its own ~ Beta(alpha, alpha): mixup's weight, and the
            share outside cutmix's box.
    """
    # Differs: officially the batch of a host is mixed, here that of a device, so the
    # partners and the shared weight of cutmix's labels come from fewer images.
    count, height, width = images.shape[:3]
    mixup_key, cutmix_key = jax.random.split(key)
    if config.cutmix_alpha == 0:
        share = sample_beta(mixup_key, count, config.mixup_alpha)
        return mixup(images, labels, share)
    if config.mixup_alpha == 0:
        alpha = config.cutmix_alpha
        mask = sample_cutmix_mask(cutmix_key, count, height, width, alpha)
        return cutmix(images, labels, mask)
    half = count // 2
    share = sample_beta(mixup_key, half, config.mixup_alpha)
    mask = sample_cutmix_mask(cutmix_key, half, height, width, config.cutmix_alpha)
    return half_half_mix(images, labels, share, mask)


def mixup(images: jax.Array, labels: jax.Array, share: jax.Array) -> Mixed:
    """Mixup of image i with image B - 1 - i, given the draws.

    Args:
        images: float32 ``[B, H, W, 3]``.
        labels: ``[B]``.
        share: ``[B]`` in 0..1; the larger of it and its rest is the weight of the
            image itself, so that no image is mostly its partner.
    """
    ratio = jnp.maximum(share, 1 - share)
    weight = ratio[:, None, None, None]
    return weight * images + (1 - weight) * images[::-1], labels, labels[::-1], ratio


def cutmix(images: jax.Array, labels: jax.Array, mask: jax.Array) -> Mixed:
    """CutMix of image i with image B - 1 - i, given the boxes.

    Args:
        images: float32 ``[B, H, W, 3]``.
        labels: ``[B]``.
        mask: float32 ``[B, H, W, 1]``, 1 inside the box, where the partner shows. Its
            mean over the **whole** batch is the weight of every partner's label, as
            officially; in the CutMix paper each image has its own.
    """
    ratio = jnp.full(labels.shape, 1 - jnp.mean(mask))
    return (1 - mask) * images + mask * images[::-1], labels, labels[::-1], ratio


def half_half_mix(
    images: jax.Array, labels: jax.Array, share: jax.Array, mask: jax.Array
) -> Mixed:
    """Mixup of the first half, cutmix of the second, given the draws.

    Args:
        images: float32 ``[B, H, W, 3]``, B even.
        labels: ``[B]``.
        share: ``[B / 2]``, see :func:`mixup`.
        mask: ``[B / 2, H, W, 1]``, see :func:`cutmix`.
    """
    half = images.shape[0] // 2
    mixed = mixup(images[:half], labels[:half], share)
    cut = cutmix(images[half:], labels[half:], mask)
    # Images, labels, partners' labels, ratio: two of [B / 2] -> [B].
    return jax.tree.map(lambda *pair: jnp.concatenate(pair), mixed, cut)

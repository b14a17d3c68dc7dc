"""Mixup and cutmix as in the official NFNet code: partners come from a second batch.

The host sends twice the images, and the surplus supplies the partners; with both on,
one half of each device's batch is mixup and the other cutmix. What is augmented after
mixing is mixed on the host instead, see ``nfnets.data.host_mixing``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from nfnets.data.augment_config import AugmentConfig
from nfnets.data.mixing_draws import Mixed, sample_beta, sample_cutmix_mask


def mix(
    images: jax.Array, labels: jax.Array, key: jax.Array, config: AugmentConfig
) -> Mixed:
    """Mixes one device's batch of twice the images, with random weights and boxes.

    Args:
        images: float32 ``[2B, H, W, 3]``, B even where both are on.
        labels: int ``[2B]``.
        key: PRNG key.
        config: mixup's ratio is ~ Beta(alpha, alpha), and so is the share outside
            cutmix's box, for which the official code draws U(0, 1), which is alpha 1.
    """
    count, height, width = images.shape[0] // 2, *images.shape[1:3]
    mixup_key, cutmix_key = jax.random.split(key)
    if config.cutmix_alpha == 0:
        ratio = sample_beta(mixup_key, count, config.mixup_alpha)
        return mixup(images, labels, ratio)
    if config.mixup_alpha == 0:
        alpha = config.cutmix_alpha
        mask = sample_cutmix_mask(cutmix_key, count, height, width, alpha)
        return cutmix(images, labels, mask)
    half = count // 2
    ratio = sample_beta(mixup_key, half, config.mixup_alpha)
    mask = sample_cutmix_mask(cutmix_key, half, height, width, config.cutmix_alpha)
    return half_half_mix(images, labels, ratio, mask)


def mixup(images: jax.Array, labels: jax.Array, ratio: jax.Array) -> Mixed:
    """Mixup of the first half with the second, given the draws.

    Args:
        images: float32 ``[2B, H, W, 3]``.
        labels: ``[2B]``.
        ratio: ``[B]``, the weight of the first image.
    """
    first, second = jnp.split(images, 2)
    labels, mix_labels = jnp.split(labels, 2)
    weight = ratio[:, None, None, None]
    return weight * first + (1 - weight) * second, labels, mix_labels, ratio


def cutmix(images: jax.Array, labels: jax.Array, mask: jax.Array) -> Mixed:
    """CutMix of the first half with the second, given the boxes.

    Args:
        images: float32 ``[2B, H, W, 3]``.
        labels: ``[2B]``.
        mask: float32 ``[B, H, W, 1]``, 1 inside the box, where the **first** image
            shows; its mean is the weight of the first label.
    """
    # Differs: in the CutMix paper the box shows the partner; here it is the official
    # NFNet code that is followed.
    first, second = jnp.split(images, 2)
    labels, mix_labels = jnp.split(labels, 2)
    ratio = jnp.mean(mask, axis=(1, 2, 3))
    return mask * first + (1 - mask) * second, labels, mix_labels, ratio


def half_half_mix(
    images: jax.Array, labels: jax.Array, ratio: jax.Array, mask: jax.Array
) -> Mixed:
    """Mixup of the first two quarters, cutmix of the last two, given the draws.

    Args:
        images: float32 ``[2B, H, W, 3]``, B even.
        labels: ``[2B]``.
        ratio: ``[B / 2]``, see :func:`mixup`.
        mask: ``[B / 2, H, W, 1]``, see :func:`cutmix`.
    """
    half = images.shape[0] // 2
    mixed = mixup(images[:half], labels[:half], ratio)
    cut = cutmix(images[half:], labels[half:], mask)
    # Images, labels, partners' labels, ratio: two of [B / 2] -> [B].
    return jax.tree.map(lambda *pair: jnp.concatenate(pair), mixed, cut)

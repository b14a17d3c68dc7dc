"""Mixup, cutmix and normalisation, on the device and inside the step.

The official NFNet form: the host sends twice the images, and
the surplus supplies the partners; with both mixups on, one half of each device's
batch is mixup and the other cutmix. Papers: mixup arXiv 1710.09412, CutMix
arXiv 1905.04899. What is augmented after mixing is mixed on the host instead, see
``nfnets.data.host_mixing``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets.data.augment import AugmentConfig
from nfnets.errors import UserError

# Per channel R, G, B, in units of uint8 pixels.
IMAGENET_MEAN = (np.array((0.485, 0.456, 0.406)) * 255).astype(np.float32)
IMAGENET_STD = (np.array((0.229, 0.224, 0.225)) * 255).astype(np.float32)

# Images [B, S, S, 3], labels [B], partners' labels [B], weight of labels [B].
Mixed = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def normalize(images: jax.Array) -> jax.Array:
    """Subtracts ImageNet's mean and divides by its deviation, per channel.

    Args:
        images: ``[..., 3]`` in 0..255, uint8 or float.

    Returns:
        float32 ``[..., 3]``.
    """
    channels = (1,) * (images.ndim - 1) + (3,)
    mean, std = IMAGENET_MEAN.reshape(channels), IMAGENET_STD.reshape(channels)
    return (images.astype(jnp.float32) - mean) / std


def partners(config: AugmentConfig) -> int:
    """Images read per image trained on: 2 when the recipe mixes, else 1.

    With 2, an epoch of steps reads two epochs of images, as officially.
    """
    return 2 if config.mixup_alpha > 0 or config.cutmix_alpha > 0 else 1


def check_mixing(config: AugmentConfig, images_per_device: int) -> None:
    """Says whether a device's batch can be halved, before anything is compiled.

    Args:
        config: augmentation.
        images_per_device: B, images trained on per device and step.

    Raises:
        UserError: both mixup and cutmix are on and B is odd: the official code
            silently leaves examples out.
    """
    if config.mixup_alpha > 0 and config.cutmix_alpha > 0 and images_per_device % 2:
        raise UserError(
            f"{images_per_device} images per device cannot be split into a mixup half "
            "and a cutmix half; choose a batch size that is even on every device, or "
            "turn one of them off"
        )


def mix(
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> Mixed:
    """Mixes one device's batch.

    Args:
        images: ``[2B, S, S, 3]``, not yet normalised, uint8 or float; ``[B, ...]``
            where both alphas are 0.
        labels: int ``[2B]``.
        key: PRNG key.
        mixup_alpha: ratio ~ Beta(alpha, alpha); 0 turns mixup off. A Python number.
        cutmix_alpha: share outside the box ~ Beta(alpha, alpha); the official code
            draws U(0, 1), which is 1; 0 turns cutmix off.

    Returns:
        Images float32 ``[B, S, S, 3]``, labels ``[B]``, the partners' labels
        ``[B]``, and float32 ``[B]``: the weight of the first labels, in 0..1.
    """
    images = images.astype(jnp.float32)
    if mixup_alpha == 0 and cutmix_alpha == 0:
        return images, labels, labels, jnp.ones(labels.shape, jnp.float32)
    count, height, width = images.shape[0] // 2, *images.shape[1:3]
    mixup_key, cutmix_key = jax.random.split(key)
    if cutmix_alpha == 0:
        ratio = sample_beta(mixup_key, count, mixup_alpha)
        return mixup(images, labels, ratio)
    if mixup_alpha == 0:
        mask = sample_cutmix_mask(cutmix_key, count, height, width, cutmix_alpha)
        return cutmix(images, labels, mask)
    if count % 2:
        raise ValueError(f"batch of {count} is odd: see check_mixing")
    ratio = sample_beta(mixup_key, count // 2, mixup_alpha)
    mask = sample_cutmix_mask(cutmix_key, count // 2, height, width, cutmix_alpha)
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


def sample_beta(key: jax.Array, count: int, alpha: float) -> jax.Array:
    """Weights ~ Beta(alpha, alpha), float32 ``[count]``."""
    if alpha == 1:  # the same law; Beta's rejection loop takes seconds to compile
        return jax.random.uniform(key, (count,), jnp.float32)
    return jax.random.beta(key, alpha, alpha, (count,), jnp.float32)


def sample_cutmix_mask(
    key: jax.Array, count: int, height: int, width: int, alpha: float
) -> jax.Array:
    """Random boxes, float32 ``[count, H, W, 1]``.

    The centre is a uniform pixel; the share outside the box, before clipping, is
    ~ Beta(alpha, alpha).
    """
    x_key, y_key, share_key = jax.random.split(key, 3)
    centre_x = jax.random.randint(x_key, (count,), 0, width)
    centre_y = jax.random.randint(y_key, (count,), 0, height)
    proportion = sample_beta(share_key, count, alpha)
    return cutmix_mask(height, width, centre_y, centre_x, proportion)


def cutmix_mask(
    height: int,
    width: int,
    centre_y: jax.Array,
    centre_x: jax.Array,
    proportion: jax.Array,
) -> jax.Array:
    """The boxes of given draws.

    Args:
        height: H.
        width: W.
        centre_y: int ``[n]`` in ``0..H - 1``.
        centre_x: int ``[n]`` in ``0..W - 1``.
        proportion: float ``[n]`` in 0..1, the share outside the unclipped box.

    Returns:
        float32 ``[n, H, W, 1]``, 1 inside the box clipped to the image.
    """

    def inside(length: int, centre: jax.Array) -> jax.Array:
        first, last = box_edges(length, centre, proportion)
        places = jnp.arange(length)[None, :]  # [1, length]
        return (places >= first[:, None]) & (places < last[:, None])

    rows, columns = inside(height, centre_y), inside(width, centre_x)
    mask = rows[:, :, None, None] & columns[:, None, :, None]  # [n, H, W, 1]
    return mask.astype(jnp.float32)


def box_edges(length: int, centre: Any, proportion: Any) -> tuple[Any, Any]:
    """Where cutmix's boxes begin and end along one axis, clipped to the image.

    The side is int(sqrt(1 - proportion) * length), its half an integer.

    Args:
        length: of the image along the axis.
        centre: int32 in ``0..length - 1``, any shape, of JAX or, on the host, NumPy.
        proportion: float32 in 0..1, the same shape, of the same library.

    Returns:
        int32 of the same shape; the end is exclusive, and equal where the box is empty.
    """
    xp = proportion.__array_namespace__()
    half = (xp.sqrt(1 - proportion) * length).astype(xp.int32) // 2
    return xp.clip(centre - half, 0, length), xp.clip(centre + half, 0, length)

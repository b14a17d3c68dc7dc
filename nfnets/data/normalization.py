"""How pixels become the numbers that networks see, on the device, inside the step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Normalization(NamedTuple):
    """Mean and deviation per channel R, G, B, float32 in units of uint8 pixels."""

    mean: np.ndarray
    std: np.ndarray


def _normalization(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalization:
    return Normalization(
        *((np.array(values) * 255).astype(np.float32) for values in (mean, std))
    )


# By ``DataConfig.normalization``.
NORMALIZATIONS = {
    # NFNets, ResNet-RS, EfficientNet V1, timm.
    "imagenet": _normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # EfficientNetV2: (x - 128) / 128.
    "effnetv2": _normalization((128 / 255,) * 3, (128 / 255,) * 3),
    # EfficientNetV2's fine-tuning, and Inception's codes: (x / 255 - 0.5) / 0.5.
    "inception": _normalization((0.5,) * 3, (0.5,) * 3),
}


def normalize(images: jax.Array, name: str = "imagenet") -> jax.Array:
    """Subtracts a mean and divides by a deviation, per channel.

    Args:
        images: ``[..., 3]`` in 0..255, uint8 or float.
        name: a key of ``NORMALIZATIONS``.

    Returns:
        float32 ``[..., 3]``.
    """
    channels = (1,) * (images.ndim - 1) + (3,)
    mean, std = (values.reshape(channels) for values in NORMALIZATIONS[name])
    return (images.astype(jnp.float32) - mean) / std


def to_pixels(images: np.ndarray, name: str) -> np.ndarray:
    """What `normalize` made, for a viewer: uint8 ``[..., 3]``, cut at 0 and 255."""
    mean, std = NORMALIZATIONS[name]
    return np.clip(np.rint(images * std + mean), 0, 255).astype(np.uint8)

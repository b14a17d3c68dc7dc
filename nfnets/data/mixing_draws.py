"""What every form of mixing draws: Beta weights, and cutmix's boxes and their masks.

Papers: mixup arXiv 1710.09412, CutMix arXiv 1905.04899.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

# Images [B, S, S, 3], labels [B], partners' labels [B], weight of labels [B].
Mixed = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


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

"""Mixing on the device, inside the step.

Every paper's code has its own mixup and cutmix; here they are put behind one call.
What a recipe augments after mixing is mixed on the host instead, see
``nfnets.data.host_mixing``.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nfnets.data import effnetv2_mixing, nfnet_mixing, timm_mixing
from nfnets.data.augment_config import AugmentConfig
from nfnets.data.mixing_draws import Mixed
from nfnets.errors import UserError

# Whose mixing, by ``AugmentConfig.mixing``: (images float32, labels, key, config).
MIXERS: dict[str, Callable[[jax.Array, jax.Array, jax.Array, AugmentConfig], Mixed]] = {
    "nfnet": nfnet_mixing.mix,
    "effnetv2": effnetv2_mixing.mix,
    "timm_batch": timm_mixing.mix,
    "timm_pair": timm_mixing.mix,
    "timm_elem": timm_mixing.mix,
}


def mixes(config: AugmentConfig) -> bool:
    """Whether any image is mixed."""
    has_form = config.mixup_alpha > 0 or config.cutmix_alpha > 0
    return has_form and config.mix_rate > 0


def partners(config: AugmentConfig) -> int:
    """Images read per image trained on: 2 where NFNet's mixing is on, else 1.

    With 2, an epoch of steps reads two epochs of images, as officially. The other
    codes mix a batch with itself.
    """
    return 2 if config.mixing == "nfnet" and mixes(config) else 1


def check_mixing(config: AugmentConfig, images_per_device: int) -> None:
    """Says whether a device's batch can be mixed, before anything is compiled.

    Args:
        config: augmentation.
        images_per_device: B, images trained on per device and step.

    Raises:
        UserError: B is odd. NFNet's mixing then leaves examples out where both mixup
            and cutmix are on, silently in the official code; in the other codes an
            image would be its own partner.
    """
    if images_per_device % 2 == 0 or not mixes(config):
        return
    if config.mixing != "nfnet":
        raise UserError(
            f"{images_per_device} images per device cannot be paired with each other, "
            f"as augment.mixing {config.mixing} does; choose a batch size that is even "
            "on every device, or set mixup_alpha and cutmix_alpha to 0"
        )
    if config.mixup_alpha > 0 and config.cutmix_alpha > 0:
        raise UserError(
            f"{images_per_device} images per device cannot be split into a mixup half "
            "and a cutmix half; choose a batch size that is even on every device, or "
            "turn one of them off"
        )


def mix(
    images: jax.Array, labels: jax.Array, key: jax.Array, config: AugmentConfig
) -> Mixed:
    """Mixes one device's batch as the recipe says; which form is decided at trace time.

    Args:
        images: ``[P * B, S, S, 3]``, not yet normalised, uint8 or float, where P is
            ``partners(config)``.
        labels: int ``[P * B]``.
        key: PRNG key, another one on each device.
        config: whose form, and how much.

    Returns:
        Images float32 ``[B, S, S, 3]``, labels ``[B]``, the partners' labels
        ``[B]``, and float32 ``[B]``: the weight of the first labels, in 0..1.

    Raises:
        UserError: see :func:`check_mixing`.
    """
    images = images.astype(jnp.float32)
    if not mixes(config):
        return images, labels, labels, jnp.ones(labels.shape, jnp.float32)
    check_mixing(config, images.shape[0] // partners(config))
    return MIXERS[config.mixing](images, labels, key, config)

"""What is done to one image: the settings of a recipe, and their application.

Mixing (mixup, cutmix) is not here: it needs several images and runs on the
device, see ``nfnets.data.mixing``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nfnets.data import crops
from nfnets.data.randaugment import randaugment
from nfnets.errors import UserError

TRAIN_CROPS = ("random_resized", "pad", "resize")
EVAL_CROPS = ("resize", "resize_crop", "crop_resize")


@dataclass(frozen=True)
class AugmentConfig:
    """Training augmentation, as stated by a recipe.

    Attributes:
        crop: ``random_resized`` (a random box, resized), ``resize`` (the whole
            image) or ``pad`` (that, then zero padding and a random window, as
            usual for CIFAR).
        crop_pad: pixels added on each side by ``pad``.
        crop_area: smallest and largest share of the image in ``random_resized``.
        crop_aspect: smallest and largest width / height there.
        flip_rate: probability of a left-right flip.
        interpolation: ``bilinear`` or ``bicubic``.
        antialias: widen the kernel when shrinking; the papers of Google do not.
        mixup_alpha: Beta(alpha, alpha) of mixup; 0 turns it off.
        cutmix_alpha: Beta(alpha, alpha) of cutmix's area; 0 turns it off.
        randaugment_layers: operations per image; 0 turns RandAugment off.
        randaugment_magnitude: M out of 10; ``None`` is the model variant's, which
            is filled in before the settings get here.
    """

    crop: str
    crop_pad: int
    crop_area: tuple[float, float]
    crop_aspect: tuple[float, float]
    flip_rate: float
    interpolation: str
    antialias: bool
    mixup_alpha: float
    cutmix_alpha: float
    randaugment_layers: int
    randaugment_magnitude: float | None


@dataclass(frozen=True)
class EvalCrop:
    """How an evaluation image becomes square.

    Attributes:
        crop: ``resize`` (whole image to S x S), ``resize_crop`` (whole image to
            S + extra, centre crop; NFNet's ``resize_crop_32``) or ``crop_resize``
            (centre crop of S / (S + extra) of the short edge, resized).
        interpolation: ``bilinear`` or ``bicubic``.
        antialias: widen the kernel when shrinking.
        extra: pixels, see ``crop``; the official value is 32.
    """

    crop: str
    interpolation: str
    antialias: bool
    extra: int = 32


def check_augment(config: AugmentConfig) -> None:
    """Refuses settings that no image could satisfy.

    Raises:
        UserError: an unknown name, an empty or impossible range, or RandAugment
            without a magnitude.
    """
    _check_name("crop", config.crop, TRAIN_CROPS)
    _check_name("interpolation", config.interpolation, crops.KERNELS)
    low, high = config.crop_area
    if not 0 < low <= high <= 1:
        raise UserError(
            f"crop_area is {config.crop_area}; expected 0 < low <= high <= 1"
        )
    low, high = config.crop_aspect
    if not 0 < low <= high:
        raise UserError(
            f"crop_aspect is {config.crop_aspect}; expected 0 < low <= high"
        )
    if not 0 <= config.flip_rate <= 1:
        raise UserError(f"flip_rate is {config.flip_rate}; expected 0 to 1")
    for field in ("crop_pad", "mixup_alpha", "cutmix_alpha", "randaugment_layers"):
        if getattr(config, field) < 0:
            raise UserError(f"{field} is {getattr(config, field)}; expected 0 or more")
    magnitude = config.randaugment_magnitude
    if config.randaugment_layers > 0 and (magnitude is None or magnitude < 0):
        raise UserError(
            f"randaugment_magnitude is {magnitude} with {config.randaugment_layers} "
            "randaugment_layers; expected 0 or more (out of 10, larger is allowed)"
        )


def check_eval_crop(crop: EvalCrop) -> None:
    """Refuses unknown names and a negative ``extra`` with a UserError."""
    _check_name("evaluation crop", crop.crop, EVAL_CROPS)
    _check_name("interpolation", crop.interpolation, crops.KERNELS)
    if crop.extra < 0:
        raise UserError(f"extra is {crop.extra}; expected 0 pixels or more")


def _check_name(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UserError(f"{what} is {name!r}; expected one of {', '.join(known)}")


def augment_image(
    rng: np.random.Generator, image: np.ndarray, config: AugmentConfig, image_size: int
) -> np.ndarray:
    """One training image: crop, resize, flip, RandAugment.

    Args:
        rng: everything random is drawn from it, always in the same order.
        image: uint8 ``[H, W, 3]``.
        config: checked by :func:`check_augment`.
        image_size: S, the side of the result.

    Returns:
        uint8 ``[S, S, 3]``.
    """
    # Differs: the official code resizes after the flip and keeps float overshoots
    # of the bicubic kernel; here the host sends uint8, so values are rounded and
    # clipped to 0..255. The order makes no other difference.
    size = (image_size, image_size)
    kernel, antialias = config.interpolation, config.antialias
    if config.crop == "random_resized":
        image = crops.random_resized_crop(
            rng,
            image,
            image_size,
            config.crop_area,
            config.crop_aspect,
            kernel=kernel,
            antialias=antialias,
        )
    else:
        image = crops.resize(image, size, kernel=kernel, antialias=antialias)
        if config.crop == "pad":
            image = crops.pad_and_crop(rng, image, config.crop_pad)
    image = crops.random_flip(rng, image, config.flip_rate)
    if config.randaugment_layers == 0:
        return image
    if config.randaugment_magnitude is None:
        raise UserError("randaugment_magnitude is None; expected a number of 0 or more")
    # Differs: the official NFNet recipe mixes first and augments the mixed image; here
    # mixing is on the device, after this.
    return randaugment(
        rng,
        np.ascontiguousarray(image),
        config.randaugment_layers,
        config.randaugment_magnitude,
    )


def crop_for_eval(image: np.ndarray, crop: EvalCrop, image_size: int) -> np.ndarray:
    """One evaluation image, uint8 ``[H, W, 3]`` -> uint8 ``[S, S, 3]``."""
    kernel, antialias = crop.interpolation, crop.antialias
    if crop.crop == "resize_crop":
        return crops.resize_crop(
            image, image_size, crop.extra, kernel=kernel, antialias=antialias
        )
    if crop.crop == "crop_resize":
        return crops.crop_resize(
            image, image_size, crop.extra, kernel=kernel, antialias=antialias
        )
    return crops.resize(
        image, (image_size, image_size), kernel=kernel, antialias=antialias
    )

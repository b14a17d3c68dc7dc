"""What is done to one image: the settings of a recipe, and their application.

Mixing (mixup, cutmix) is not here: it needs several images, see
``nfnets.data.mixing`` (on the device) and ``nfnets.data.host_mixing``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nfnets.data import crops
from nfnets.data.autoaugment import autoaugment
from nfnets.data.randaugment import randaugment
from nfnets.errors import UserError


class Semantics(NamedTuple):
    """One code base's form of the policies, on uint8 ``[H, W, 3]``.

    Attributes:
        randaugment: (rng, image, layers, magnitude) -> image.
        autoaugment: (rng, image) -> image.
    """

    randaugment: Callable[[np.random.Generator, np.ndarray, int, float], np.ndarray]
    autoaugment: Callable[[np.random.Generator, np.ndarray], np.ndarray]


SEMANTICS = {"tf": Semantics(randaugment, autoaugment)}
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
        augment_before_mix: whether RandAugment or AutoAugment sees the images before
            they are mixed; the official NFNet recipe augments the mixed image.
        semantics: whose operations, a key of ``SEMANTICS``: ``tf`` is the official
            code of Google's papers.
        autoaugment: AutoAugment's policy v0 in place of RandAugment.
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
    augment_before_mix: bool
    semantics: str
    autoaugment: bool
    randaugment_layers: int
    randaugment_magnitude: float | None


@dataclass(frozen=True)
class EvalCrop:
    """How an evaluation image becomes square.

    Attributes:
        crop: ``resize`` (whole image to S x S), ``resize_crop`` (whole image to U x U,
            whatever its aspect ratio, and the centre of that; NFNet's
            ``resize_crop_32``) or ``crop_resize`` (centre square of S / U of the short
            edge, resized).
        interpolation: ``bilinear`` or ``bicubic``.
        antialias: widen the kernel when shrinking.
        crop_pct: S / U, in (0, 1]; ``None`` makes U = S + 32 pixels, as for NFNets.
    """

    crop: str
    interpolation: str
    antialias: bool
    crop_pct: float | None = None


def check_augment(config: AugmentConfig) -> None:
    """Refuses settings that no image could satisfy.

    Raises:
        UserError: an unknown name, an empty or impossible range, RandAugment without
            a magnitude, or RandAugment and AutoAugment together.
    """
    _check_name("crop", config.crop, TRAIN_CROPS)
    _check_name("semantics", config.semantics, tuple(SEMANTICS))
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
    if config.autoaugment and config.randaugment_layers > 0:
        raise UserError(
            f"autoaugment is on together with {config.randaugment_layers} "
            "randaugment_layers; it takes RandAugment's place: set randaugment_layers "
            "to 0 or autoaugment to False"
        )


def check_eval_crop(crop: EvalCrop) -> None:
    """Refuses unknown names and an impossible ``crop_pct`` with a UserError."""
    _check_name("evaluation crop", crop.crop, EVAL_CROPS)
    _check_name("interpolation", crop.interpolation, crops.KERNELS)
    if crop.crop_pct is not None and not 0 < crop.crop_pct <= 1:
        raise UserError(f"crop_pct is {crop.crop_pct}; expected above 0, at most 1")


def _check_name(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UserError(f"{what} is {name!r}; expected one of {', '.join(known)}")


def has_policy(config: AugmentConfig) -> bool:
    """Whether RandAugment or AutoAugment is on."""
    return config.autoaugment or config.randaugment_layers > 0


def augment_image(
    rng: np.random.Generator, image: np.ndarray, config: AugmentConfig, image_size: int
) -> np.ndarray:
    """One training image: crop, flip, resize, RandAugment or AutoAugment.

    Args:
        rng: everything random is drawn from it, always in the same order.
        image: uint8 ``[H, W, 3]``.
        config: checked by :func:`check_augment`.
        image_size: S, the side of the result.

    Returns:
        uint8 ``[S, S, 3]``.
    """
    return apply_policy(rng, crop_for_train(rng, image, config, image_size), config)


def crop_for_train(
    rng: np.random.Generator, image: np.ndarray, config: AugmentConfig, image_size: int
) -> np.ndarray:
    """The first half of :func:`augment_image`: crop, flip, resize.

    Returns:
        float32 ``[S, S, 3]``, a new array; bicubic without antialias overshoots
        0..255, as officially.
    """
    size = (image_size, image_size)
    kernel, antialias = config.interpolation, config.antialias
    if config.crop == "random_resized":
        image = crops.random_window(
            rng, image, image_size, config.crop_area, config.crop_aspect
        )
        image = crops.random_flip(rng, image, config.flip_rate)
        return crops.resize(image, size, kernel=kernel, antialias=antialias)
    image = crops.resize(image, size, kernel=kernel, antialias=antialias)
    if config.crop == "pad":
        image = crops.pad_and_crop(rng, image, config.crop_pad)
    return crops.random_flip(rng, image, config.flip_rate)


def apply_policy(
    rng: np.random.Generator, image: np.ndarray, config: AugmentConfig
) -> np.ndarray:
    """The second half of :func:`augment_image`, or what follows mixing on the host.

    Args:
        rng: what RandAugment or AutoAugment draws from.
        image: float32 ``[S, S, 3]``, overwritten. Official NFNet order: clipped to
            0..255 and truncated to uint8 for the policy.
        config: checked by :func:`check_augment`.

    Returns:
        uint8 ``[S, S, 3]``.
    """
    if not has_policy(config):
        # Differs: without a policy the official code keeps the fractions and the
        # overshoots of the bicubic kernel; here the host sends uint8.
        return crops.round_to_uint8(image)
    image = np.ascontiguousarray(crops.truncate_to_uint8(image))
    semantics = SEMANTICS[config.semantics]
    if config.autoaugment:
        return semantics.autoaugment(rng, image)
    magnitude = config.randaugment_magnitude
    if magnitude is None:
        raise UserError("randaugment_magnitude is None; expected a number of 0 or more")
    return semantics.randaugment(rng, image, config.randaugment_layers, magnitude)


def crop_for_eval(image: np.ndarray, crop: EvalCrop, image_size: int) -> np.ndarray:
    """One evaluation image, uint8 ``[H, W, 3]`` -> float32 ``[S, S, 3]``.

    Nothing is rounded or clipped after a bicubic resize without antialias, as in the
    official code; other kernels give whole numbers in 0..255.
    """
    side, uncropped = image_size, crops.uncropped_size(image_size, crop.crop_pct)
    if crop.crop == "resize_crop":
        side = uncropped
    elif crop.crop == "crop_resize":
        image = crops.centre_square(image, image_size, uncropped)
    image = crops.resize(
        image, (side, side), kernel=crop.interpolation, antialias=crop.antialias
    )
    return crops.centre_crop(image, image_size, image_size)

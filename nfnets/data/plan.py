"""What happens to a training image, drawn before a pixel is touched.

A plan is a function of the random stream, the image's size and the settings. Backends
carry plans out, so the crops and operations do not depend on who computes the pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nfnets.data import crops, timm_policy
from nfnets.data.augment_config import AugmentConfig, has_policy
from nfnets.data.autoaugment import draw_autoaugment
from nfnets.data.operation import Operation
from nfnets.data.randaugment import draw_randaugment

# Sizes, as divisors, at which JPEG decoders give a picture for less work.
_DENOMINATORS = (4, 2)
# Crop, kernel and antialias of the official NFNet code.
_NFNET = ("tf_box", "bicubic", False)


class Crop(NamedTuple):
    """What is cut out of an image and made S x S.

    Attributes:
        box: of the image, (top, left, height, width) in pixels.
        kernel: one of ``augment_config.KERNELS``.
        antialias: whether the kernel widens when shrinking.
        flip: left-right.
        flip_first: whether that comes before the resize, as in the official NFNet code;
            elsewhere it comes last. It decides which of the tabulated weights are used.
        shift: rows down and columns right by which the resized image is moved; zeros
            move in.
        denominator: the image may be decoded at 1 / this of its size.
    """

    box: crops.Box
    kernel: str
    antialias: bool
    flip: bool
    flip_first: bool = False
    shift: tuple[int, int] = (0, 0)
    denominator: int = 1


def draw_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    config: AugmentConfig,
    image_size: int,
) -> Crop:
    """Draws the crop of an image of this size, resized to S = ``image_size``."""
    box, shift = (0, 0, height, width), (0, 0)
    if config.crop == "pad":
        shift = _draw_shift(rng, config.crop_pad)
    elif config.crop != "resize":
        box = crops.random_box(
            rng,
            height,
            width,
            image_size,
            law=config.crop,
            area=config.crop_area,
            aspect=config.crop_aspect,
        )
    flip = bool(rng.random() < config.flip_rate)
    kernel = config.interpolation
    if kernel == "random":
        kernel = "bilinear" if rng.random() < 0.5 else "bicubic"
    return Crop(
        box,
        kernel,
        config.antialias,
        flip,
        flip_first=(config.crop, kernel, config.antialias) == _NFNET,
        shift=shift,
        denominator=_denominator(box, image_size) if config.scaled_decode else 1,
    )


def _draw_shift(rng: np.random.Generator, pad: int) -> tuple[int, int]:
    """He et al. 2016, Sec. 4.2 (CIFAR-10): uniform on -pad..pad per axis."""
    shift_y = pad - int(rng.random() * (2 * pad + 1))
    return shift_y, pad - int(rng.random() * (2 * pad + 1))


def _denominator(box: crops.Box, image_size: int) -> int:
    """The largest at which the box still has as many pixels as the result."""
    fitting = (d for d in _DENOMINATORS if min(box[2:]) >= d * image_size)
    return next(fitting, 1)


def draw_operations(
    rng: np.random.Generator, config: AugmentConfig
) -> tuple[Operation, ...]:
    """Draws the operations of RandAugment or AutoAugment, in their order."""
    if not has_policy(config):
        return ()
    if config.semantics == "timm":
        return _draw_timm(rng, config)
    if config.autoaugment is not None:
        return draw_autoaugment(rng)
    magnitude = config.randaugment_magnitude
    assert magnitude is not None  # check_augment
    return draw_randaugment(rng, config.randaugment_layers, magnitude)


def _draw_timm(
    rng: np.random.Generator, config: AugmentConfig
) -> tuple[Operation, ...]:
    # Geometric operations are sampled by the kernel of the crop.
    kernel, noise = config.interpolation, config.randaugment_noise
    if config.autoaugment is not None:
        return timm_policy.draw_autoaugment(
            rng, config.autoaugment, noise=noise, kernel=kernel
        )
    magnitude = config.randaugment_magnitude
    assert magnitude is not None  # check_augment
    return timm_policy.draw_randaugment(
        rng,
        layers=config.randaugment_layers,
        magnitude=magnitude,
        rate=config.randaugment_rate,
        noise=noise,
        increasing=config.randaugment_increasing,
        kernel=kernel,
    )

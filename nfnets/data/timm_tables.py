"""What timm's policies consist of: the forms of their operations, and the tables.

timm 1.0.31 has three forms of Posterize and two of Solarize and the blends; the plain
ones do not always get stronger with the magnitude, those named Increasing do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from nfnets.data.autoaugment import POLICY_V0
from nfnets.data.autoaugment import Op as SubOperation
from nfnets.data.operation import Operation


class _Form(NamedTuple):
    """How a policy's name becomes an operation.

    Attributes:
        operation: one of ``timm_operations.NAMES``.
        argument: (magnitude / 10, a uniform draw) -> the operation's argument.
    """

    operation: str
    argument: Callable[[float, float], float]


def _signed(draw: float) -> int:
    return 1 if draw < 0.5 else -1


def _none(_: float, __: float) -> float:
    return 0.0


def _either_way(reach: float, level: float, draw: float) -> float:
    return _signed(draw) * (level * reach)


def _strength(level: float, _: float) -> float:
    return level * 1.8 + 0.1


def _strength_increasing(level: float, draw: float) -> float:
    return max(0.1, 1.0 + _signed(draw) * (level * 0.9))


def _solarize(level: float, _: float) -> float:
    return min(256, int(level * 256))


_FORMS = {
    "AutoContrast": _Form("AutoContrast", _none),
    "Equalize": _Form("Equalize", _none),
    "Invert": _Form("Invert", _none),
    "Rotate": _Form("Rotate", functools.partial(_either_way, 30.0)),
    "Posterize": _Form("Posterize", lambda level, _: int(level * 4)),
    "PosterizeIncreasing": _Form("Posterize", lambda level, _: 4 - int(level * 4)),
    "PosterizeOriginal": _Form("Posterize", lambda level, _: 4 + int(level * 4)),
    "Solarize": _Form("Solarize", _solarize),
    "SolarizeIncreasing": _Form("Solarize", lambda level, _: 256 - _solarize(level, _)),
    "SolarizeAdd": _Form("SolarizeAdd", lambda level, _: min(128, int(level * 110))),
    "Color": _Form("Color", _strength),
    "ColorIncreasing": _Form("Color", _strength_increasing),
    "Contrast": _Form("Contrast", _strength),
    "ContrastIncreasing": _Form("Contrast", _strength_increasing),
    "Brightness": _Form("Brightness", _strength),
    "BrightnessIncreasing": _Form("Brightness", _strength_increasing),
    "Sharpness": _Form("Sharpness", _strength),
    "SharpnessIncreasing": _Form("Sharpness", _strength_increasing),
    "ShearX": _Form("ShearX", functools.partial(_either_way, 0.3)),
    "ShearY": _Form("ShearY", functools.partial(_either_way, 0.3)),
    "TranslateXRel": _Form("TranslateXRel", functools.partial(_either_way, 0.45)),
    "TranslateYRel": _Form("TranslateYRel", functools.partial(_either_way, 0.45)),
    # Grey at 10: Color with the share of the colour that is left.
    "Desaturate": _Form("Color", lambda level, _: 1 - (0.5 + 0.5 * level)),
    "GaussianBlurRand": _Form(
        "GaussianBlur", lambda level, draw: 0.1 + (2.0 * level - 0.1) * draw
    ),
}

# The order is what the draws of a stream select from.
RANDAUGMENT = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
RANDAUGMENT_INCREASING = tuple(
    name + "Increasing" if name + "Increasing" in _FORMS else name
    for name in RANDAUGMENT
)

_SubPolicy = tuple[SubOperation, ...]


def _renamed(
    policy: tuple[_SubPolicy, ...], old: str, new: str
) -> tuple[_SubPolicy, ...]:
    """The policy with every ``old`` operation replaced by ``new``."""
    return tuple(
        tuple(op._replace(name=new) if op.name == old else op for op in sub_policy)
        for sub_policy in policy
    )


_V0 = _renamed(POLICY_V0, "TranslateY", "TranslateYRel")
# The policy that the AutoAugment paper prints (arXiv 1805.09501, Table 9).
_ORIGINAL: tuple[_SubPolicy, ...] = tuple(
    (SubOperation(*first), SubOperation(*second))
    for first, second in (
        (("PosterizeOriginal", 0.4, 8), ("Rotate", 0.6, 9)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
        (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
        (("PosterizeOriginal", 0.6, 7), ("PosterizeOriginal", 0.6, 6)),
        (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
        (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
        (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
        (("PosterizeOriginal", 0.8, 5), ("Equalize", 1.0, 2)),
        (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
        (("Equalize", 0.6, 8), ("PosterizeOriginal", 0.4, 6)),
        (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
        (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
        (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
        (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
        (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
        (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
        (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
        (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
        (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
        (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    )
)
# 3-Augment (DeiT III, arXiv 2204.07118): one of three, always applied.
_THREE_AUGMENT: tuple[_SubPolicy, ...] = (
    (SubOperation("Solarize", 1.0, 5),),
    (SubOperation("Desaturate", 1.0, 10),),
    (SubOperation("GaussianBlurRand", 1.0, 10),),
)
POLICIES = {
    "v0": _V0,
    "v0r": _renamed(_V0, "Posterize", "PosterizeIncreasing"),
    "original": _ORIGINAL,
    "originalr": _renamed(_ORIGINAL, "PosterizeOriginal", "PosterizeIncreasing"),
    "3a": _THREE_AUGMENT,
}


def make_operation(name: str, magnitude: float, draw: float, kernel: str) -> Operation:
    """What a policy's operation does at a magnitude.

    Args:
        name: as in ``RANDAUGMENT``, ``RANDAUGMENT_INCREASING`` or ``POLICIES``.
        magnitude: M out of 10, in 0..10.
        draw: in [0, 1). Below 0.5 the sign is positive; for GaussianBlurRand the place
            of the radius in its range.
        kernel: as in :class:`Operation`.
    """
    form = _FORMS[name]
    return Operation(form.operation, form.argument(magnitude / 10, draw), kernel=kernel)

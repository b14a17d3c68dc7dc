"""AutoAugment (arXiv 1805.09501), policy v0, as the official NFNet code applies it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nfnets.data.operation import Operation
from nfnets.data.tf_operations import Reach, draw_operation


class Op(NamedTuple):
    """One operation of a sub-policy.

    Attributes:
        name: one of ``tf_operations.NAMES``.
        probability: of being applied, 0 to 1.
        magnitude: M out of 10, see ``tf_operations.operation_argument``.
    """

    name: str
    probability: float
    magnitude: int


REACH = Reach(cutout=100, translate=250.0)
# Differs: v0 is not the ImageNet policy that the AutoAugment paper prints; it is the
# list that the official NFNet and EfficientNet code applies.
POLICY_V0: tuple[tuple[Op, Op], ...] = (
    (Op("Equalize", 0.8, 1), Op("ShearY", 0.8, 4)),
    (Op("Color", 0.4, 9), Op("Equalize", 0.6, 3)),
    (Op("Color", 0.4, 1), Op("Rotate", 0.6, 8)),
    (Op("Solarize", 0.8, 3), Op("Equalize", 0.4, 7)),
    (Op("Solarize", 0.4, 2), Op("Solarize", 0.6, 2)),
    (Op("Color", 0.2, 0), Op("Equalize", 0.8, 8)),
    (Op("Equalize", 0.4, 8), Op("SolarizeAdd", 0.8, 3)),
    (Op("ShearX", 0.2, 9), Op("Rotate", 0.6, 8)),
    (Op("Color", 0.6, 1), Op("Equalize", 1.0, 2)),
    (Op("Invert", 0.4, 9), Op("Rotate", 0.6, 0)),
    (Op("Equalize", 1.0, 9), Op("ShearY", 0.6, 3)),
    (Op("Color", 0.4, 7), Op("Equalize", 0.6, 0)),
    (Op("Posterize", 0.4, 6), Op("AutoContrast", 0.4, 7)),
    (Op("Solarize", 0.6, 8), Op("Color", 0.6, 9)),
    (Op("Solarize", 0.2, 4), Op("Rotate", 0.8, 9)),
    (Op("Rotate", 1.0, 7), Op("TranslateY", 0.8, 9)),
    (Op("ShearX", 0.0, 0), Op("Solarize", 0.8, 4)),
    (Op("ShearY", 0.8, 0), Op("Color", 0.6, 4)),
    (Op("Color", 1.0, 0), Op("Rotate", 0.6, 2)),
    (Op("Equalize", 0.8, 4), Op("Equalize", 0.0, 8)),
    (Op("Equalize", 1.0, 4), Op("AutoContrast", 0.6, 2)),
    (Op("ShearY", 0.4, 7), Op("SolarizeAdd", 0.6, 7)),
    (Op("Posterize", 0.8, 2), Op("Solarize", 0.6, 10)),
    (Op("Solarize", 0.6, 8), Op("Equalize", 0.6, 1)),
    (Op("Color", 0.8, 6), Op("Rotate", 0.4, 5)),
)


def draw_autoaugment(rng: np.random.Generator) -> tuple[Operation, ...]:
    """The operations of one of the sub-policies, drawn uniformly; two at most.

    Args:
        rng: nine draws, whatever the sub-policy.
    """
    choice, *draws = rng.random(9)
    sub_policy = POLICY_V0[int(choice * len(POLICY_V0))]
    return tuple(
        draw_operation(op.name, op.magnitude, REACH, rest)
        for op, (applied, *rest) in zip(sub_policy, (draws[:4], draws[4:]), strict=True)
        if applied < op.probability
    )

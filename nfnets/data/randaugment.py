"""RandAugment (arXiv 1909.13719) as the official NFNet code applies it.

One of sixteen operations per layer, none of which is the identity; the magnitude is
fixed, and no operation is ever skipped.
"""

from __future__ import annotations

import numpy as np

from nfnets.data.operation import Operation
from nfnets.data.tf_operations import NAMES, Reach, draw_operation

REACH = Reach(cutout=40, translate=100.0)


def draw_randaugment(
    rng: np.random.Generator, layers: int, magnitude: float
) -> tuple[Operation, ...]:
    """``layers`` operations, drawn uniformly with replacement.

    Args:
        rng: four draws per layer, whatever the operation.
        layers: number of operations; none is ever skipped.
        magnitude: M out of 10, the same for every operation; may exceed 10.
    """
    operations = []
    for _ in range(layers):
        choice, *draws = rng.random(4)
        name = NAMES[int(choice * len(NAMES))]
        operations.append(draw_operation(name, magnitude, REACH, draws))
    return tuple(operations)

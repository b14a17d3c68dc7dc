"""RandAugment (arXiv 1909.13719) as the official NFNet code applies it.

One of sixteen operations per layer, none of which is the identity; the magnitude is
fixed, and no operation is ever skipped.
"""

from __future__ import annotations

import numpy as np

from nfnets.data.tf_operations import NAMES, Reach, apply_operation

REACH = Reach(cutout=40, translate=100.0)


def randaugment(
    rng: np.random.Generator, image: np.ndarray, layers: int, magnitude: float
) -> np.ndarray:
    """Applies ``layers`` operations, drawn uniformly with replacement.

    Args:
        rng: four draws per layer, whatever the operation.
        image: uint8 ``[H, W, 3]``.
        layers: number of operations; none is ever skipped.
        magnitude: M out of 10, the same for every operation; may exceed 10.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    for _ in range(layers):
        choice, *draws = rng.random(4)
        name = NAMES[int(choice * len(NAMES))]
        image = apply_operation(image, name, magnitude, REACH, draws)
    return image

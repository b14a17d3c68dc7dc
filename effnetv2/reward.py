"""What the search maximises, and which networks nothing else beats."""

from __future__ import annotations

import math
from collections.abc import Sequence

# EfficientNetV2, Sec. 3.2.
STEP_TIME_EXPONENT = -0.07
PARAMS_EXPONENT = -0.05


def reward(accuracy: float, step_time: float, params: float) -> float:
    """``A * S^w * P^v`` with w = -0.07 and v = -0.05 (EfficientNetV2, Sec. 3.2).

    Args:
      accuracy: A, on images kept from training, in [0, 1].
      step_time: S, seconds of a train step over the backbone's, positive.
      params: P, number of parameters over the backbone's, positive.
    """
    # Open in the paper: what S and P are normalised by; here the backbone's.
    return accuracy * step_time**STEP_TIME_EXPONENT * params**PARAMS_EXPONENT


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats, by ascending cost.

    A point is beaten when another has at most its cost and at least its value, and is
    better in one of the two. Of equal points the first is kept.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i], i))
    front: list[int] = []
    best = -math.inf
    for index in order:
        if values[index] > best:
            front.append(index)
            best = values[index]
    return front

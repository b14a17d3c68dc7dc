"""Arrays that the golden numbers were computed with, from parameter names alone.

No weights are shipped: every array is drawn from a generator seeded with the crc32 of
its name ``module/parameter`` and scaled by what kind of parameter it is.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

# kind of parameter (the last part of its name) -> function of standard normal noise
_RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "w": lambda n: n / np.sqrt(max(1, math.prod(n.shape[:-1]))),
    "gain": lambda n: 1.0 + 0.1 * n,
    "scale": lambda n: 1.0 + 0.1 * n,
    "skip_gain": lambda n: 0.5 + 0.1 * n,
    "b": lambda n: 0.05 * n,
    "offset": lambda n: 0.05 * n,
    **{
        bias: lambda n: 0.05 * n
        for bias in "bias bias1 bias2 bias1a bias1b bias2a bias2b bias3a bias3b".split()
    },
    "mean_ema/average": lambda n: 0.1 * n,
    "var_ema/average": lambda n: 1.0 + 0.1 * np.abs(n),
}


def golden_array(name: str, shape: Sequence[int]) -> np.ndarray:
    """The float32 value of the official parameter or statistic ``name``."""
    *_, module, leaf = name.split("/")
    if leaf == "counter":
        return np.zeros(shape, np.int32)
    if leaf == "hidden":  # equal to its sibling
        return golden_array(name.removesuffix("hidden") + "average", shape)
    rule = _RULES[f"{module}/{leaf}" if leaf == "average" else leaf]
    return np.asarray(rule(_noise(name, shape)), np.float32)


def _noise(name: str, shape: Sequence[int]) -> np.ndarray:
    """Standard normal noise, float64, that a name and a shape alone decide."""
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    return np.asarray(generator.standard_normal(shape))


def golden_arrays(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """All arrays of a network whose official names and shapes are given."""
    return {name: golden_array(name, shape) for name, shape in shapes.items()}


def golden_images(size: int, batch: int = 2) -> np.ndarray:
    """Standard normal noise, float32 [batch, size, size, 3]."""
    generator = np.random.RandomState(0)
    return generator.standard_normal((batch, size, size, 3)).astype(np.float32)


def timm_arrays(
    shapes: Mapping[str, Sequence[int]], gain: float = 1.0
) -> dict[str, np.ndarray]:
    """All arrays of a state dict of timm, whose names and shapes (torch's) are given.

    Args:
      shapes: of the whole state dict; a bias beside a vector of weights is a norm's.
      gain: scales kernels and matrices, beside 1/sqrt(fan_in).
    """
    arrays = {}
    for name, shape in shapes.items():
        module, _, leaf = name.rpartition(".")
        noise = _noise(name, shape)
        if leaf == "num_batches_tracked":
            noise = np.zeros(shape)
        elif leaf == "running_mean":
            noise = 0.1 * noise
        elif leaf == "running_var":
            noise = 1.0 + 0.1 * np.abs(noise)
        elif leaf == "weight" and len(shape) > 1:
            noise = gain * noise / np.sqrt(math.prod(shape[1:]))
        elif leaf == "weight":
            noise = 1.0 + 0.1 * noise
        elif leaf == "bias":
            is_norm = len(shapes[f"{module}.weight"]) == 1
            noise = noise * (0.1 if is_norm else 0.05)
        elif leaf in ("cls_token", "pos_embed"):
            noise = 1.0 + 0.1 * noise
        else:
            raise ValueError(f"no rule for {name}")
        arrays[name] = np.asarray(noise, np.float32)
    return arrays


# variable of a Keras layer -> function of standard normal noise
_KERAS_RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bias": lambda n: 0.05 * n,
    "gamma": lambda n: 1.0 + 0.1 * n,
    "beta": lambda n: 0.1 * n,
    "moving_mean": lambda n: 0.1 * n,
    "moving_variance": lambda n: 1.0 + 0.1 * np.abs(n),
}


def keras_arrays(
    shapes: Mapping[str, Sequence[int]], gain: float = 1.0
) -> dict[str, np.ndarray]:
    """All variables of a Keras model, by "<layer>/<variable>"; as `timm_arrays`."""
    arrays = {}
    for name, shape in shapes.items():
        leaf = name.rpartition("/")[2]
        noise = _noise(name, shape)
        if leaf == "kernel":
            # A depthwise kernel is [kh, kw, C, 1].
            fan_in = shape[:2] if len(shape) == 4 and shape[3] == 1 else shape[:-1]
            noise = gain * noise / np.sqrt(math.prod(fan_in))
        else:
            noise = _KERAS_RULES[leaf](noise)
        arrays[name] = np.asarray(noise, np.float32)
    return arrays


# our leaf -> function of standard normal noise; others, such as scales, are near 1
_OUR_RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bias": lambda n: 0.05 * n,
    "mean": lambda n: 0.1 * n,
    "var": lambda n: 1.0 + 0.1 * np.abs(n),
}


def our_arrays(
    shapes: Mapping[str, Sequence[int]], gain: float = 1.0
) -> dict[str, np.ndarray]:
    """All variables of ours, by "collection/modules/leaf"; as `timm_arrays`.

    Names of no other program take part: what these weights give after an export tests
    the export by itself.
    """
    arrays = {}
    for name, shape in shapes.items():
        leaf = name.rpartition("/")[2]
        noise = _noise(name, shape)
        if leaf == "kernel":
            noise = gain * noise / np.sqrt(math.prod(shape[:-1]))
        else:
            noise = _OUR_RULES.get(leaf, lambda n: 1.0 + 0.1 * n)(noise)
        arrays[name] = np.asarray(noise, np.float32)
    return arrays

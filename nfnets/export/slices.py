"""Pooling as operations on slices, for a converter that cannot write it as pooling."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from jax import Array, lax


def max_over_windows(x: Array, **params: Any) -> Array:
    """The primitive ``reduce_window_max``, on [N, H, W, C], without dilation."""
    return _over_windows(x, lax.max, -math.inf, **params)


def sum_over_windows(x: Array, **params: Any) -> Array:
    """The primitive ``reduce_window_sum``, likewise."""
    return _over_windows(x, lax.add, 0.0, **params)


def _over_windows(
    x: Array,
    combine: Callable[[Array, Array], Array],
    outside: float,
    *,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    **dilations: Any,
) -> Array:
    del dilations  # all 1
    x = _padded(_padded(x, padding[1], 1, outside), padding[2], 2, outside)
    (_, kh, kw, _), (_, sh, sw, _) = window_dimensions, window_strides
    height, width = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
    taps = []
    for i in range(kh):
        rows = lax.slice_in_dim(x, i, i + (height - 1) * sh + 1, sh, axis=1)
        for j in range(kw):
            last = j + (width - 1) * sw + 1
            taps.append(lax.slice_in_dim(rows, j, last, sw, axis=2))
    return functools.reduce(combine, taps)


def _padded(x: Array, pads: tuple[int, int], axis: int, value: float) -> Array:
    """``x`` with so many ``value`` before and after it on an axis."""
    # Not lax.pad, which the converter cannot write either for a batch of any size.
    shape = list(x.shape)
    parts = [x]
    for end, length in enumerate(pads):
        shape[axis] = length
        if length:
            parts.insert(end * len(parts), lax.full(shape, value, x.dtype))
    return lax.concatenate(parts, axis) if len(parts) > 1 else x

"""What the device at hand can do at most, measured: matrix products and copies."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nfnets.training import parallel

# Products in one call, and calls that are waited for together: dispatch vanishes.
CHAIN = 4
CALLS = 8
REPEATS = 5


@dataclasses.dataclass(frozen=True)
class DevicePeak:
    """Of one device.

    Attributes:
      flops: floating-point operations per second in a product of two matrices.
      bytes: per second, read and written, when an array is copied.
    """

    flops: float
    bytes: float


def measure_peak(dtype: str) -> DevicePeak:
    """The best of several sizes and repeats, on this process's first device.

    Args:
      dtype: of the matrices, such as "bfloat16".
    """
    large = parallel.devices()[0].platform != "cpu"
    sizes = (4096, 8192) if large else (512, 1024)
    return DevicePeak(
        flops=max(_matmul_flops(size, dtype) for size in sizes),
        bytes=_copy_bytes(2**30 if large else 2**27),
    )


def _matmul_flops(size: int, dtype: str) -> float:
    """2 n^3 operations a product of n x n matrices."""
    # Random: a chip that saves power on equal numbers would run faster than it can.
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype) / size**0.5

    @jax.jit
    def multiply(left: jax.Array) -> jax.Array:
        for _ in range(CHAIN):
            left = left @ matrix
        return left

    return CHAIN * 2 * size**3 / _shortest(multiply, matrix)


def _copy_bytes(size: int) -> float:
    """Each byte is read once and written once."""
    array = jnp.zeros(size // 4, jnp.float32)
    return 2 * size / _shortest(jax.jit(lambda x: x + 1), array)


def _shortest(function: Callable[[jax.Array], Any], argument: jax.Array) -> float:
    """Seconds of a call, the least of some; the first one compiles and is left out."""
    jax.block_until_ready(function(argument))
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for _ in range(CALLS):
            result = function(argument)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - started) / CALLS)
    return min(times)

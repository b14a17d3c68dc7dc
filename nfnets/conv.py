"""Two-dimensional convolutions, computed in the form that suits the backend.

Arrays are NHWC, kernels HWIO.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

ConvForm = Literal["native", "split", "dense", "shifted", "matmul", "by_platform"]
Padding = str | tuple[tuple[int, int], ...]

# Narrower groups are merged to this many channels; see `_split_conv2d`. 32 runs fastest
# on CPU, 64 compiles twice as fast and runs 1.6 times as long.
_MIN_SPLIT_WIDTH = 32


@dataclasses.dataclass(frozen=True)
class ConvForms:
    """The form that each kind of convolution takes; all others are native.

    Attributes:
      pointwise: 1 x 1 without groups.
      grouped: with more than one channel in each of several groups.
      depthwise: with one channel a group.
    """

    pointwise: ConvForm = "native"
    grouped: ConvForm = "native"
    depthwise: ConvForm = "native"


NATIVE = ConvForms()
# For programs that are exported to several platforms.
BY_PLATFORM = ConvForms("by_platform", "by_platform", "by_platform")
# XLA's CPU backend runs grouped convolutions 3x (forward) to 30x (gradient of the
# kernel) slower than the same work split by groups, depthwise ones 30-70x slower than
# shifted multiply-adds, and 1 x 1 ones slower than a matrix product: they alone make a
# whole network's gradient 1.2 to 1.5x slower (docs/benchmarks.md).
CPU = ConvForms(pointwise="matmul", grouped="split", depthwise="shifted")
# On an H200 a step of NFNet-F0 whose strided grouped convolutions were split took 1.02
# times as long; other forms were not measured there (docs/benchmarks.md).
_BY_BACKEND = {"cpu": CPU}

_forced: contextvars.ContextVar[ConvForms | None] = contextvars.ContextVar(
    "forced_conv_forms", default=None
)


def backend() -> str:
    """The platform that code traced now is meant for: ``cpu``, ``gpu`` or ``tpu``."""
    return jax.default_backend()


@contextlib.contextmanager
def force_conv_forms(forms: ConvForms) -> Iterator[None]:
    """Makes every `conv2d` traced inside take these forms, whatever the backend.

    For counting operations (`nfnets.flops`), export to other platforms, and benchmarks.
    """
    token = _forced.set(forms)
    try:
        yield
    finally:
        _forced.reset(token)


def choose_conv_form(kernel: Array, in_channels: int, groups: int) -> ConvForm:
    """The fastest form of a convolution on the present backend."""
    forms = _forced.get() or _BY_BACKEND.get(backend(), NATIVE)
    return _choose(forms, kernel, in_channels, groups)


def _choose(forms: ConvForms, kernel: Array, in_channels: int, groups: int) -> ConvForm:
    if groups == 1:
        return forms.pointwise if kernel.shape[:2] == (1, 1) else "native"
    return forms.depthwise if groups == in_channels else forms.grouped


def conv2d(
    x: Array,
    kernel: Array,
    *,
    strides: int = 1,
    padding: Padding = "SAME",
    groups: int = 1,
    form: ConvForm | None = None,
) -> Array:
    """Two-dimensional convolution, computed in the form that suits the backend.

    Args:
      x: images or features, [N, H, W, C].
      kernel: [kh, kw, C / groups, D], of the dtype of ``x``.
      strides: step in both directions.
      padding: ``SAME``, ``VALID`` or (before, after) pixels for H and for W.
      groups: number of channel groups; ``C`` makes the convolution depthwise.
      form: ``native`` (one XLA convolution), ``split`` (one per group), ``dense`` (one
        without groups, whose kernel is 0 between them), ``shifted`` (depthwise: a
        multiply-add per kernel tap), ``matmul`` (1 x 1 kernels), or ``by_platform``,
        one of them for each platform that it is lowered for; None chooses by backend.
        Where a form does not apply, the native one is taken. All give the same values
        and gradients up to rounding.

    Returns:
      [N, H', W', D].
    """
    if form is None:
        form = choose_conv_form(kernel, x.shape[-1], groups)
    if form == "shifted" and groups > 1 and groups == x.shape[-1]:
        return _shifted_conv2d(x, kernel, strides, padding)
    if form == "split" and groups > 1:
        return _split_conv2d(x, kernel, strides, padding, groups)
    if form == "dense" and groups > 1:
        dense = _block_diagonal(kernel, groups)
        return _native_conv2d(x, dense, strides, padding, 1)
    if form == "by_platform":
        return _conv2d_by_platform(x, kernel, strides, padding, groups)
    is_pointwise = kernel.shape[:2] == (1, 1) and isinstance(padding, str)
    if form == "matmul" and groups == 1 and is_pointwise:
        return _pointwise_conv2d(x, kernel, strides)
    return _native_conv2d(x, kernel, strides, padding, groups)


def _native_conv2d(
    x: Array, kernel: Array, strides: int, padding: Padding, groups: int
) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(strides, strides),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _conv2d_by_platform(
    x: Array, kernel: Array, strides: int, padding: Padding, groups: int
) -> Array:
    """The CPU's form where the program runs on CPUs, the native one elsewhere."""
    native = functools.partial(
        conv2d, strides=strides, padding=padding, groups=groups, form="native"
    )
    cpu_form = _choose(CPU, kernel, x.shape[-1], groups)
    if cpu_form == "native":
        return native(x, kernel)
    on_cpu = functools.partial(native, form=cpu_form)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=native)


def _pointwise_conv2d(x: Array, kernel: Array, strides: int) -> Array:
    """1 x 1 convolution as a matrix product; neither SAME nor VALID pads here."""
    x = x[:, ::strides, ::strides]
    return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))


# Traced once for all convolutions of equal shapes, and inlined by the compiler.
@functools.partial(jax.jit, static_argnames=("strides", "padding", "groups"))
def _split_conv2d(
    x: Array, kernel: Array, strides: int, padding: Padding, groups: int
) -> Array:
    """One dense convolution per group, or per few groups where they are narrow.

    Many tiny convolutions are slow to compile and to run, so narrow groups are merged
    into one block-diagonal kernel: more multiplications, by zero, but less time.
    """
    *_, group_in, features = kernel.shape
    group_out = features // groups
    merge = max(1, _MIN_SPLIT_WIDTH // group_in)
    outputs = []
    for first in range(0, groups, merge):
        last = min(first + merge, groups)
        x_part = x[..., first * group_in : last * group_in]
        part = kernel[..., first * group_out : last * group_out]
        part = _block_diagonal(part, last - first)
        outputs.append(_native_conv2d(x_part, part, strides, padding, 1))
    return jnp.concatenate(outputs, axis=-1)


def _block_diagonal(kernel: Array, groups: int) -> Array:
    """Grouped kernel [kh, kw, I, g * O] -> dense kernel [kh, kw, g * I, g * O]."""
    if groups == 1:
        return kernel
    kh, kw, group_in, features = kernel.shape
    blocks = kernel.reshape(kh, kw, 1, group_in, groups, features // groups)
    diagonal = jnp.eye(groups, dtype=bool).reshape(1, 1, groups, 1, groups, 1)
    dense = jnp.where(diagonal, blocks, 0)  # [kh, kw, g, I, g, O]
    return dense.reshape(kh, kw, groups * group_in, features)


@functools.partial(jax.jit, static_argnames=("strides", "padding"))
def _shifted_conv2d(x: Array, kernel: Array, strides: int, padding: Padding) -> Array:
    """Depthwise convolution as a sum over kernel taps of shifted, scaled images."""
    kh, kw, _, features = kernel.shape
    pads = explicit_pads(x.shape[1:3], (kh, kw), strides, padding)
    channels = x.shape[-1]
    # Output channel d reads input channel d // (D / C).
    x = jnp.repeat(x, features // channels, axis=-1) if features > channels else x
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height = (x.shape[1] - kh) // strides + 1
    width = (x.shape[2] - kw) // strides + 1
    total = jnp.zeros((x.shape[0], height, width, features), jnp.float32)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i, i + (height - 1) * strides + 1, strides)
            columns = slice(j, j + (width - 1) * strides + 1, strides)
            total = total + x[:, rows, columns] * kernel[i, j, 0].reshape(1, 1, 1, -1)
    return total.astype(x.dtype)


def explicit_pads(
    size: Sequence[int], window: Sequence[int], strides: int, padding: Padding
) -> list[tuple[int, int]]:
    """Padding pixels (before, after) for H and for W."""
    if isinstance(padding, str):
        return list(lax.padtype_to_pads(size, window, (strides, strides), padding))
    return list(padding)

"""Residual blocks in the PyTorch sense, where they stand, and how all of it starts.

A block maps [N, H, W, in] to [N, H', W', out], and to its residual of the same shape,
before stochastic depth, for the probes. Every convolution pads (k - 1) / 2 pixels on
all sides, so its stride s gives ceil(H / s), also where SAME would pad one side only.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from nfnets.batch_norm import named_norm
from nfnets.conv import conv2d
from nfnets.layers import (
    SqueezeExcite,
    StochasticDepth,
    avg_pool_same,
    in_float32,
    zero_init,
)

Init = Callable[..., Array]


class ConvSpec(NamedTuple):
    """One convolution of a block."""

    features: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One block of a network as built."""

    name: str
    in_channels: int
    convs: tuple[ConvSpec, ...]  # of the branch, in order
    stride: int  # of the whole block
    shortcut_kernel: int  # of the projection
    shortcut_pool: bool  # whether pooling has the projection's stride (ResNet-D)
    se_channels: int | None  # hidden in squeeze-excite; None: no SE
    zero_last_scale: bool  # whether the branch starts at 0
    stochastic_depth_rate: float

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.convs[-1].features

    @property
    def has_projection(self) -> bool:
        """Whether the shortcut is a convolution: the shape changes."""
        return self.stride > 1 or self.in_channels != self.out_channels


@dataclasses.dataclass(frozen=True)
class InitialValues:
    """Initialisers of a network; BatchNorm's are its own."""

    kernel: Init  # of convolutions, and of SE's matrices, which are 1x1 convolutions
    head: Init  # of the classifier's matrix
    bias: Callable[[int], Init]  # by fan-in, of SE and of the classifier


def _draw(draw: Callable[..., Array], key: Array, shape: Sequence[int]) -> Array:
    # Drawn flat: XLA takes three times as long to compile draws of more dimensions.
    size = (math.prod(shape),)
    return draw(key, shape=size, dtype=jnp.float32).reshape(shape)


def _fan_out_normal(key: Array, shape: Sequence[int], dtype: Any = None) -> Array:
    """Normal, not cut, with std sqrt(2 / (kh * kw * out)), whatever the groups."""
    del dtype  # parameters are float32
    std = math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1]))
    return std * _draw(jax.random.normal, key, shape)


def _fan_in_truncated(key: Array, shape: Sequence[int], dtype: Any = None) -> Array:
    """Normal cut at 2 std, then scaled to variance 1 / fan_in, as TensorFlow does."""
    del dtype
    cut_std = 0.87962566103423978  # of a unit normal that is cut at 2
    draw = functools.partial(jax.random.truncated_normal, lower=-2.0, upper=2.0)
    return math.prod(shape[:-1]) ** -0.5 / cut_std * _draw(draw, key, shape)


def _normal_001(key: Array, shape: Sequence[int], dtype: Any = None) -> Array:
    del dtype
    return 0.01 * _draw(jax.random.normal, key, shape)


def _uniform(fan_in: int) -> Init:
    """Uniform within 1 / sqrt(fan_in): PyTorch's default."""
    bound = fan_in**-0.5
    draw = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)

    def init(key: Array, shape: Sequence[int], dtype: Any = None) -> Array:
        del dtype
        return _draw(draw, key, shape)

    return init


INITIAL_VALUES: Mapping[str, InitialValues] = {
    "torch": InitialValues(
        kernel=_fan_out_normal,
        head=lambda key, shape, dtype: _uniform(shape[0])(key, shape, dtype),
        bias=_uniform,
    ),
    "tensorflow": InitialValues(
        kernel=_fan_in_truncated, head=_normal_001, bias=zero_init
    ),
}


class Conv(nn.Module):
    """Convolution without bias, padded by (k - 1) / 2 on all sides.

    Parameter, float32: ``kernel`` [k, k, C / groups, features]. [N, H, W, C] ->
    [N, H', W', features] of ``dtype``.
    """

    features: int
    kernel_size: int
    strides: int = 1
    groups: int = 1
    kernel_init: Init = _fan_out_normal
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Convolves ``x``."""
        k = self.kernel_size
        shape = (k, k, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        return conv2d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding="VALID" if k == 1 else (((k - 1) // 2,) * 2,) * 2,
            groups=self.groups,
        )


class ResidualBlock(nn.Module):
    """Convolutions, each with BatchNorm, and SE around a shortcut; ReLU after the sum.

    With two 3x3 convolutions the basic block, with 1x1, 3x3, 1x1 the bottleneck
    (1512.03385), where the stride is on the 3x3: "v1.5".
    """

    spec: BlockSpec
    make_norm: Callable[..., nn.Module]
    initial: InitialValues
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Returns (output, residual)."""
        spec = self.spec
        norm = named_norm(self.make_norm, train=train)
        *first, last = spec.convs
        r = x
        for i, conv in enumerate(first):
            r = nn.relu(norm(f"bn{i}")(self._conv(conv, f"conv{i}")(r)))
        r = self._conv(last, f"conv{len(first)}")(r)
        inits = nn.initializers
        last_norm = self.make_norm(
            scale_init=inits.zeros if spec.zero_last_scale else inits.ones,
            name=f"bn{len(first)}",
        )
        r = self._gated(last_norm(r, train=train))
        shortcut = x
        if spec.has_projection:
            shortcut = norm("shortcut_bn")(self._projected(x))
        rate = spec.stochastic_depth_rate
        drop = StochasticDepth(rate, rescale=True, name="stochastic_depth")
        return nn.relu(shortcut + drop(r, train=train)), r

    def _conv(self, conv: ConvSpec, name: str) -> Conv:
        return Conv(*conv, kernel_init=self.initial.kernel, dtype=self.dtype, name=name)

    def _gated(self, h: Array) -> Array:
        """Squeeze-excite, where the block has it."""
        hidden = self.spec.se_channels
        if hidden is None:
            return h
        gate = SqueezeExcite(
            hidden,
            h.shape[-1],
            self.dtype,
            kernel_init=self.initial.kernel,
            bias_init=self.initial.bias,
            name="squeeze_excite",
        )
        return in_float32(jnp.multiply, h, gate(h))

    def _projected(self, x: Array) -> Array:
        """The shortcut's convolution, in ResNet-D after pooling where it strides."""
        spec, stride = self.spec, self.spec.stride
        if spec.shortcut_pool and stride > 1:
            # 2x2 at the border: the mean of the pixels that are there.
            x, stride = avg_pool_same(x, 2, stride), 1
        conv = ConvSpec(spec.out_channels, spec.shortcut_kernel, stride)
        return self._conv(conv, "conv_shortcut")(x)

"""MBConv and Fused-MBConv (EfficientNetV2, Sec. 3.2, Fig. 2), and where they stand.

A block maps [N, H, W, in] to [N, H', W', out], and to its residual of the same shape,
before stochastic depth, for the probes. Convolutions have no bias and SAME padding.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from effnetv2.block_strings import StageSpec
from nfnets.batch_norm import named_norm
from nfnets.conv import conv2d
from nfnets.layers import SqueezeExcite, StochasticDepth, in_float32


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One block of a network as built; all of them are `block_table`."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    expansion: int
    se_channels: int | None  # hidden in squeeze-excite; None: no SE
    fused: bool
    stochastic_depth_rate: float

    @property
    def has_residual(self) -> bool:
        """Whether the input is added to the output: the shape does not change."""
        return self.stride == 1 and self.in_channels == self.out_channels


def round_filters(filters: int, width: float, *, upper_limit: bool) -> int:
    """Channels times ``width``, as a multiple of 8 and at least 8.

    Args:
      filters: channels of the unscaled network.
      width: the coefficient of compound scaling.
      upper_limit: never below 90 % of the product, as in EfficientNet's original code;
        the code of EfficientNetV2 has no such rule.
    """
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if upper_limit and rounded < 0.9 * scaled else rounded


def round_repeats(repeats: int, depth: float) -> int:
    """Blocks times ``depth``, rounded up."""
    return math.ceil(depth * repeats)


def block_table(
    stages: Sequence[StageSpec],
    *,
    width: float,
    depth: float,
    round_up_limit: bool,
    stochastic_depth_rate: float,
) -> tuple[BlockSpec, ...]:
    """All blocks of a network, in order.

    Args:
      stages: the groups; channels of one fit those of the next.
      width: scales channels, with `round_filters`.
      depth: scales repeats, with `round_repeats`.
      round_up_limit: ``upper_limit`` of `round_filters`.
      stochastic_depth_rate: block i of n gets this times i / n.
    """
    scale = functools.partial(round_filters, width=width, upper_limit=round_up_limit)
    num_blocks = sum(round_repeats(stage.repeats, depth) for stage in stages)
    specs: list[BlockSpec] = []
    for number, stage in enumerate(stages, start=1):
        in_channels, out_channels = scale(stage.in_channels), scale(stage.out_channels)
        for j in range(round_repeats(stage.repeats, depth)):
            ratio = stage.se_ratio
            specs.append(
                BlockSpec(
                    name=f"stage{number}_block{j}",
                    in_channels=in_channels,
                    out_channels=out_channels,
                    kernel=stage.kernel,
                    stride=stage.stride if j == 0 else 1,
                    expansion=stage.expansion,
                    se_channels=(
                        None if ratio is None else max(1, int(in_channels * ratio))
                    ),
                    fused=stage.fused,
                    stochastic_depth_rate=(
                        stochastic_depth_rate * len(specs) / num_blocks
                    ),
                )
            )
            in_channels = out_channels
    return tuple(specs)


def conv_init(
    key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Array:
    """Normal, not cut, with std sqrt(2 / (kh * kw * out)), for [kh, kw, in, out].

    SE's two matrices [in, out] are 1 x 1 convolutions in the official code, so this is
    theirs too. All parameters are float32, whatever ``dtype``.
    """
    del dtype
    return _normal(key, shape, math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1])))


def depthwise_init(key: Array, shape: Sequence[int]) -> Array:
    """As `conv_init` for [kh, kw, 1, C], where ``out`` is 1: the channel multiplier."""
    return _normal(key, shape, math.sqrt(2 / math.prod(shape[:2])))


def _normal(key: Array, shape: Sequence[int], std: float) -> Array:
    # Drawn flat: XLA takes three times as long to compile draws of more dimensions.
    return std * jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)


class Conv(nn.Module):
    """Convolution without bias, SAME padding as in TensorFlow.

    Parameter, float32: ``kernel`` [k, k, C, features], [k, k, 1, features] with
    ``depthwise``. [N, H, W, C] -> [N, H', W', features] of ``dtype``.
    """

    features: int
    kernel_size: int = 1
    strides: int = 1
    depthwise: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Convolves ``x``."""
        channels, k = x.shape[-1], self.kernel_size
        init: Callable[..., Array] = depthwise_init if self.depthwise else conv_init
        inputs = 1 if self.depthwise else channels
        kernel = self.param("kernel", init, (k, k, inputs, self.features))
        return conv2d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            groups=channels if self.depthwise else 1,
        )


class MBConv(nn.Module):
    """Inverted bottleneck, or its fused form, around a shortcut where shapes allow.

    MBConv: 1x1 expansion (none where the expansion is 1), depthwise convolution, SE,
    1x1 projection. Fused-MBConv: one convolution instead of the first two; where the
    expansion is 1, one for everything, which alone is activated at the end, and SE is
    before it. The sum with the shortcut is not activated. ``make_norm`` makes a
    BatchNorm of a name.
    """

    spec: BlockSpec
    make_norm: Callable[..., nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Returns (output, residual)."""
        spec = self.spec
        r = self._fused(x, train) if spec.fused else self._separable(x, train)
        if not spec.has_residual:
            return r, r
        rate = spec.stochastic_depth_rate
        drop = StochasticDepth(rate, rescale=True, name="stochastic_depth")
        return x + drop(r, train=train), r

    def _separable(self, x: Array, train: bool) -> Array:
        """MBConv's branch."""
        spec, width = self.spec, self.spec.in_channels * self.spec.expansion
        conv, norm = self._parts(train)
        h = x
        if spec.expansion > 1:
            h = nn.silu(norm("expand_bn")(conv(width, name="expand_conv")(h)))
        depthwise = conv(
            width, spec.kernel, spec.stride, depthwise=True, name="depthwise_conv"
        )
        h = nn.silu(norm("depthwise_bn")(depthwise(h)))
        h = self._gated(h)
        return norm("project_bn")(conv(spec.out_channels, name="project_conv")(h))

    def _fused(self, x: Array, train: bool) -> Array:
        """Fused-MBConv's branch."""
        spec, width = self.spec, self.spec.in_channels * self.spec.expansion
        conv, norm = self._parts(train)
        full = functools.partial(conv, kernel_size=spec.kernel, strides=spec.stride)
        if spec.expansion == 1:
            h = full(spec.out_channels, name="project_conv")(self._gated(x))
            return nn.silu(norm("project_bn")(h))
        h = nn.silu(norm("expand_bn")(full(width, name="expand_conv")(x)))
        h = self._gated(h)
        return norm("project_bn")(conv(spec.out_channels, name="project_conv")(h))

    def _gated(self, h: Array) -> Array:
        """Squeeze-excite, where the block has it."""
        hidden = self.spec.se_channels
        if hidden is None:
            return h
        gate = SqueezeExcite(
            hidden,
            h.shape[-1],
            self.dtype,
            activation=nn.silu,
            kernel_init=conv_init,
            name="squeeze_excite",
        )
        return in_float32(jnp.multiply, h, gate(h))

    def _parts(self, train: bool) -> tuple[Callable[..., Conv], Callable[..., Any]]:
        """Convolution and BatchNorm with what all of a block's have in common."""
        norm = named_norm(self.make_norm, train=train)
        return functools.partial(Conv, dtype=self.dtype), norm

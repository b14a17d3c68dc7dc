"""Residual blocks of `resnet_baselines`: BatchNorm (v2 and v1), SkipInit and Fixup.

Every block is a bottleneck, [N, H, W, in] -> the output [N, H', W', out] and the
residual before stochastic depth, of the same shape, for the probes. The stride is on
the 3x3 convolution, and ReLUs are not scaled.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from nfnets.batch_norm import named_norm
from nfnets.conv import conv2d
from nfnets.layers import StochasticDepth, add_bias, add_scaled, in_float32, linear_init
from nfnets.nf_layers import BlockSpec


class Conv(nn.Module):
    """Plain convolution, SAME padding.

    Parameters, float32: ``kernel`` [k, k, C, features] and, with ``use_bias``, ``bias``
    [features]. [N, H, W, C] -> [N, H', W', features] of ``dtype``.
    """

    features: int
    kernel_size: int
    strides: int = 1
    use_bias: bool = False
    kernel_init: Callable[..., Array] = linear_init
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Convolves ``x``."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        y = conv2d(
            x.astype(self.dtype), kernel.astype(self.dtype), strides=self.strides
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32)
            y = add_bias(y, bias)
        return y


def scalar_param(module: nn.Module, name: str, value: float) -> Array:
    """A float32 scalar parameter of ``module`` that starts at ``value``."""
    return module.param(name, nn.initializers.constant(value), (), jnp.float32)


def fan_out_init(scale: float = 1.0) -> Callable[..., Array]:
    """Initialiser: normal with std ``scale`` * sqrt(2 / (k^2 * features))."""

    def init(key: Array, shape: Sequence[int]) -> Array:
        std = scale * math.sqrt(2 / (math.prod(shape[:2]) * shape[-1]))
        # Drawn flat: XLA takes three times as long to compile draws of more dimensions.
        noise = jax.random.normal(key, (math.prod(shape),), jnp.float32)
        return noise.reshape(shape) * std

    return init


def _stochastic_depth(spec: BlockSpec, residual: Array, train: bool) -> Array:
    drop = StochasticDepth(spec.stochastic_depth_rate, name="stochastic_depth")
    return drop(residual, train=train)


class PreActBlock(nn.Module):
    """BatchNorm, ReLU and convolution, three times (1603.05027): "v2"."""

    spec: BlockSpec
    make_norm: Callable[..., nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Returns (output, residual)."""
        spec, out_ch = self.spec, self.spec.out_channels
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = named_norm(self.make_norm, train=train)
        h = nn.relu(norm("bn0")(x))
        shortcut = x
        if spec.has_projection:
            shortcut = conv(out_ch, 1, spec.stride, name="conv_shortcut")(h)
        r = conv(spec.width, 1, name="conv0")(h)
        r = nn.relu(norm("bn1")(r))
        r = conv(spec.width, 3, spec.stride, name="conv1")(r)
        r = nn.relu(norm("bn2")(r))
        r = conv(out_ch, 1, name="conv2")(r)
        return shortcut + _stochastic_depth(spec, r, train), r


class PostActBlock(nn.Module):
    """Convolution and BatchNorm, three times; ReLU after the sum (1512.03385): "v1"."""

    spec: BlockSpec
    make_norm: Callable[..., nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Returns (output, residual)."""
        spec, out_ch = self.spec, self.spec.out_channels
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = named_norm(self.make_norm, train=train)
        shortcut = x
        if spec.has_projection:
            shortcut = conv(out_ch, 1, spec.stride, name="conv_shortcut")(x)
            shortcut = norm("shortcut_bn")(shortcut)
        r = conv(spec.width, 1, name="conv0")(x)
        r = nn.relu(norm("bn0")(r))
        r = conv(spec.width, 3, spec.stride, name="conv1")(r)
        r = nn.relu(norm("bn1")(r))
        r = norm("bn2")(conv(out_ch, 1, name="conv2")(r))
        return nn.relu(shortcut + _stochastic_depth(spec, r, train)), r


class SkipInitBlock(nn.Module):
    """Pre-activation without normalisation, a residual gain from 0 (2002.10444)."""

    spec: BlockSpec
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Returns (output, residual)."""
        spec, out_ch = self.spec, self.spec.out_channels
        conv = functools.partial(Conv, use_bias=True, dtype=self.dtype)
        h = nn.relu(x)
        shortcut = x
        if spec.has_projection:
            shortcut = conv(out_ch, 1, spec.stride, name="conv_shortcut")(h)
        r = conv(spec.width, 1, name="conv0")(h)
        r = conv(spec.width, 3, spec.stride, name="conv1")(nn.relu(r))
        r = conv(out_ch, 1, name="conv2")(nn.relu(r))
        skip_gain = scalar_param(self, "skip_gain", 0.0)
        return add_scaled(shortcut, _stochastic_depth(spec, r, train), skip_gain), r


class FixupBlock(nn.Module):
    """Post-activation without normalisation: scalar biases and a scale (1901.09321).

    In a network of L blocks the first two kernels of the branch start smaller by
    L^(-1/4), and the last is 0 (Sec. 3, with three layers per branch).
    """

    spec: BlockSpec
    num_blocks: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Returns (output, residual)."""
        spec, out_ch = self.spec, self.spec.out_channels
        conv = functools.partial(Conv, dtype=self.dtype)
        plain, small = fan_out_init(), fan_out_init(self.num_blocks**-0.25)
        zero = nn.initializers.zeros

        def relu_between(x: Array, before: Array, after: Array) -> Array:
            return nn.relu(x + before) + after

        scalar = functools.partial(scalar_param, self, value=0.0)
        shortcut = x = in_float32(jnp.add, x, scalar("bias1a"))
        if spec.has_projection:
            project = conv(
                out_ch, 1, spec.stride, kernel_init=plain, name="conv_shortcut"
            )
            shortcut = project(x)
        r = conv(spec.width, 1, kernel_init=small, name="conv0")(x)
        r = in_float32(relu_between, r, scalar("bias1b"), scalar("bias2a"))
        r = conv(spec.width, 3, spec.stride, kernel_init=small, name="conv1")(r)
        r = in_float32(relu_between, r, scalar("bias2b"), scalar("bias3a"))
        r = conv(out_ch, 1, kernel_init=zero, name="conv2")(r)
        scale, bias = scalar("scale", value=1.0), scalar("bias3b")
        r = in_float32(lambda r, scale, bias: scale * r + bias, r, scale, bias)
        return nn.relu(shortcut + _stochastic_depth(spec, r, train)), r

"""The parts of normalizer-free networks (Brock, De and Smith 2021, two papers).

"Characterizing signal propagation to close the performance gap in unnormalized
ResNets" (arXiv 2101.08692) and "High-performance large-scale image recognition
without normalization" (arXiv 2102.06171): scaled weight standardisation, activations
scaled by gamma, and the alpha/beta bookkeeping of the residual blocks.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from nfnets.conv import conv2d
from nfnets.errors import UserError, did_you_mean
from nfnets.layers import add_bias, in_float32, sow_probe

Activation = Callable[[Array], Array]

_GELU_SLOPE, _GELU_CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715


@jax.custom_jvp
def gelu(x: Array) -> Array:
    """GELU in its tanh form (1606.08415, Sec. 2), as ``jax.nn.gelu`` and the papers.

    (1 + tanh(z)) / 2 is the sigmoid of 2 z, which takes a GPU a fifth fewer
    instructions, and so does the derivative that is written out (docs/benchmarks.md).
    """
    return x * nn.sigmoid(x * (_GELU_SLOPE + _GELU_SLOPE * _GELU_CUBIC * jnp.square(x)))


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    cubic = _GELU_SLOPE * _GELU_CUBIC * jnp.square(x)
    gate = nn.sigmoid(x * (_GELU_SLOPE + cubic))
    slope = _GELU_SLOPE + 3 * cubic  # of the sigmoid's argument
    return x * gate, dx * (gate + gate * (x - x * gate) * slope)


# gamma makes the variance of gamma * g(x) one for unit normal x (2101.08692, Sec. 4.3).
# Values of the official code; `gelu` is the tanh approximation there and here.
# Differs: that has glu and log_softmax too, which are not elementwise.
_ACTIVATIONS: dict[str, tuple[Activation, float]] = {
    "identity": (lambda x: x, 1.0),
    "celu": (jax.nn.celu, 1.270926833152771),
    "elu": (jax.nn.elu, 1.2716004848480225),
    "gelu": (gelu, 1.7015043497085571),
    "leaky_relu": (jax.nn.leaky_relu, 1.70590341091156),
    "log_sigmoid": (jax.nn.log_sigmoid, 1.9193484783172607),
    "relu": (jax.nn.relu, 1.7139588594436646),
    "relu6": (jax.nn.relu6, 1.7131484746932983),
    "selu": (jax.nn.selu, 1.0008515119552612),
    "sigmoid": (jax.nn.sigmoid, 4.803835391998291),
    "silu": (jax.nn.silu, 1.7881293296813965),
    "soft_sign": (jax.nn.soft_sign, 2.338853120803833),
    "softplus": (jax.nn.softplus, 1.9203323125839233),
    "tanh": (jnp.tanh, 1.5939117670059204),
}


def scaled_activation(name: str) -> Activation:
    """The activation times its gamma (2101.08692, Sec. 4.3), elementwise.

    For the gradient only its input is kept, which is a convolution's output and there
    anyway; its derivative would be one more array of that size.
    """
    if name not in _ACTIVATIONS:
        hint = did_you_mean(name, _ACTIVATIONS)
        raise UserError(f"unknown activation {name!r}; {hint}")
    activation, gamma = _ACTIVATIONS[name]
    scaled = functools.partial(in_float32, lambda x: activation(x) * gamma)
    return jax.checkpoint(scaled)


# Traced once for all kernels of a shape, and inlined by the compiler.
@functools.partial(jax.jit, static_argnames="eps")
def standardize_weight(kernel: Array, gain: Array, eps: float = 1e-4) -> Array:
    """Scaled weight standardisation (2101.08692, Eq. 1; 2102.06171, Sec. 3).

    Each output channel gets mean 0 and variance gain^2 / fan_in. ``eps`` is a floor
    under fan_in * variance, not an addend.

    Args:
      kernel: [kh, kw, C, D], any float dtype.
      gain: [D].
      eps: smallest value of fan_in * variance to divide by.

    Returns:
      float32 kernel of the same shape.
    """
    # Differs: the official code runs this in the compute dtype. In bfloat16 that costs
    # up to 0.18 relative error, so it is float32 here, and the result is cast once.
    kernel = kernel.astype(jnp.float32)
    fan_in = math.prod(kernel.shape[:-1])
    centred = kernel - jnp.mean(kernel, axis=(0, 1, 2), keepdims=True)
    var = jnp.mean(jnp.square(centred), axis=(0, 1, 2), keepdims=True)
    scale = jax.lax.rsqrt(jnp.maximum(var * fan_in, eps))  # [1, 1, 1, D]
    return centred * (scale * gain.astype(jnp.float32).reshape(1, 1, 1, -1))


def _conv_init(key: Array, shape: Sequence[int]) -> Array:
    """Normal with standard deviation 1/sqrt(fan_in), not truncated."""
    # Drawn flat: XLA takes three times as long to compile draws of more dimensions.
    noise = jax.random.normal(key, (math.prod(shape),), jnp.float32)
    return noise.reshape(shape) * math.prod(shape[:-1]) ** -0.5


class WSConv(nn.Module):
    """Convolution whose kernel is standardised before use, SAME padding.

    Parameters, float32: ``kernel`` [k, k, C / groups, features], ``gain`` [features],
    ``bias`` [features]. [N, H, W, C] -> [N, H', W', features] of ``dtype``.
    """

    features: int
    kernel_size: int
    strides: int = 1
    groups: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Convolves ``x``."""
        shape = (
            self.kernel_size,
            self.kernel_size,
            x.shape[-1] // self.groups,
            self.features,
        )
        kernel = self.param("kernel", _conv_init, shape)
        gain = self.param("gain", nn.initializers.ones, shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32)
        y = conv2d(
            x.astype(self.dtype),
            standardize_weight(kernel, gain).astype(self.dtype),
            strides=self.strides,
            groups=self.groups,
        )
        return add_bias(y, bias)


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One residual block as the bookkeeping sees it; all of them are `block_table`."""

    name: str
    in_channels: int
    out_channels: int
    width: int  # channels inside the bottleneck
    groups: int
    stride: int
    beta: float  # 1 / expected standard deviation of the block's input
    stochastic_depth_rate: float

    @property
    def has_projection(self) -> bool:
        """Whether the shortcut is a convolution: the shape changes."""
        return self.stride > 1 or self.in_channels != self.out_channels


def block_table(
    *,
    depths: Sequence[int],
    widths: Sequence[int],
    strides: Sequence[int],
    in_channels: int,
    alpha: float,
    stochastic_depth_rate: float,
    bottleneck: Callable[[int, int, int], tuple[int, int]],
) -> tuple[BlockSpec, ...]:
    """All residual blocks of a network, in order (2101.08692, Sec. 4).

    A block is h_{l+1} = h_l + alpha * f_l(h_l / beta_l) with variance-preserving f, so
    Var(h_{l+1}) = Var(h_l) + alpha^2; a transition block puts its shortcut after the
    division and so resets the variance. `BlockSpec.beta` is the factor 1 / beta_l.

    Args:
      depths: blocks per stage.
      widths: output channels per stage.
      strides: stride of the first block of each stage.
      in_channels: channels of the stem's output.
      alpha: scale of the residual branches.
      stochastic_depth_rate: block i of n gets this times i / n.
      bottleneck: (block index, input, output channels) -> (bottleneck width, groups).
    """
    if not len(depths) == len(widths) == len(strides):
        raise UserError(
            f"depths {tuple(depths)}, widths {tuple(widths)} and strides "
            f"{tuple(strides)} must have one number per stage each"
        )
    for field, values in (("depths", depths), ("widths", widths), ("strides", strides)):
        if min(values, default=1) < 1:
            raise UserError(f"{field} {tuple(values)} should be positive")
    num_blocks = sum(depths)
    specs: list[BlockSpec] = []
    expected_std = 1.0
    for stage, (depth, channels, stride) in enumerate(
        zip(depths, widths, strides, strict=True), start=1
    ):
        for j in range(depth):
            index = len(specs)
            width, groups = bottleneck(index, in_channels, channels)
            specs.append(
                BlockSpec(
                    name=f"stage{stage}_block{j}",
                    in_channels=in_channels,
                    out_channels=channels,
                    width=width,
                    groups=groups,
                    stride=stride if j == 0 else 1,
                    beta=1.0 / expected_std,
                    stochastic_depth_rate=stochastic_depth_rate * index / num_blocks,
                )
            )
            in_channels = channels
            if j == 0:
                expected_std = 1.0  # the variance after a transition block's shortcut
            expected_std = math.sqrt(expected_std**2 + alpha**2)
    return tuple(specs)


def grouped_width(channels: int, group_size: int) -> tuple[int, int]:
    """(width, groups): ``channels`` rounded down to whole groups of ``group_size``."""
    groups = channels // group_size
    if groups == 0:
        raise UserError(
            f"group_size {group_size} is larger than a bottleneck of {channels} "
            "channels; take a smaller group_size or larger widths"
        )
    return groups * group_size, groups


def sow_moments(module: nn.Module, index: int, x: Array) -> None:
    """Probes of h_l for signal propagation plots (2101.08692, Sec. 3): two scalars.

    ``avg_sq_mean_<index>`` is the channel mean squared, ``avg_var_<index>`` the channel
    variance over N, H, W, both averaged over channels. Index 0 is the stem's output.
    """
    axes = tuple(range(x.ndim - 1))

    def squared_mean() -> Array:
        return jnp.mean(jnp.square(jnp.mean(x.astype(jnp.float32), axis=axes)))

    sow_probe(module, f"avg_sq_mean_{index}", squared_mean)
    sow_probe(module, f"avg_var_{index}", lambda: _channel_variance(x))


def sow_residual_variance(module: nn.Module, index: int, residual: Array) -> None:
    """Probe ``res_avg_var_<index>``: variance of f_l, before alpha and skip gain."""
    sow_probe(module, f"res_avg_var_{index}", lambda: _channel_variance(residual))


def _channel_variance(x: Array) -> Array:
    axes = tuple(range(x.ndim - 1))
    return jnp.mean(jnp.var(x.astype(jnp.float32), axis=axes))

"""What families share: pooling, squeeze-excite, stochastic depth, probes.

Nothing here belongs to one paper. Arrays are NHWC, parameters float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from nfnets.conv import explicit_pads

# The probes of a network are sown here; see `sow_probe`.
SIGNAL = "signal"


def in_float32(function: Callable[..., Array], x: Array, *others: Array) -> Array:
    """``function(x, *others)``, computed in float32 and returned in the dtype of ``x``.

    For what compilers fuse, where it costs next to nothing: only what is stored is
    rounded. And the gradient of what is broadcast, a bias, a gate, a gain, is a sum
    over up to 10^8 numbers, of which bfloat16 can lose most.
    """
    # Differs: in the official code these are computed in the compute dtype.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return function(*(each.astype(wide) for each in (x, *others))).astype(x.dtype)


def add_bias(x: Array, bias: Array) -> Array:
    """``x`` [..., C] + ``bias`` [C], in the dtype of ``x``, as cuDNN can add it.

    The bias is cast after it is broadcast, so that its gradient is a sum in its own
    dtype; see `in_float32`.
    """
    bias = bias.reshape((1,) * (x.ndim - 1) + (-1,))
    return x + jnp.broadcast_to(bias, x.shape).astype(x.dtype)


def avg_pool_same(x: Array, window: int, strides: int) -> Array:
    """Average pooling with SAME padding that divides by the pixels really there.

    [N, H, W, C] -> [N, ceil(H / strides), ceil(W / strides), C]. Matters for odd H, W.
    """
    pads = explicit_pads(x.shape[1:3], (window, window), strides, "SAME")
    sums = nn.pool(x, 0.0, lax.add, (window, window), (strides, strides), pads)
    rows, columns = (
        np.convolve(np.pad(np.ones(size), pad), np.ones(window), "valid")[::strides]
        for size, pad in zip(x.shape[1:3], pads, strict=True)
    )
    pixels = np.outer(rows, columns)[None, :, :, None]  # [1, H', W', 1]
    return sums / jnp.asarray(pixels, x.dtype)


def linear_init(
    key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Array:
    """Haiku's default for linear layers: normal cut at 2 std, std = 1/sqrt(fan_in)."""
    init = nn.initializers.truncated_normal(stddev=math.prod(shape[:-1]) ** -0.5)
    # Drawn flat: XLA takes three times as long to compile draws of more dimensions.
    return init(key, (math.prod(shape),), dtype).reshape(shape)


def zero_init(fan_in: int) -> Callable[..., Array]:
    """Biases that start at 0, whatever their layer's fan-in."""
    del fan_in
    return nn.initializers.zeros


class SqueezeExcite(nn.Module):
    """Channel gate from globally pooled features (SE-Nets; NFNets, Appendix C).

    [N, H, W, C] -> [N, 1, 1, features], values in (0, 1); the caller multiplies.
    ``activation`` is that of the hidden layer; ``bias_init`` gives the initialiser of
    the biases for a layer's fan-in.
    """

    hidden: int
    features: int
    dtype: DTypeLike = jnp.float32
    activation: Callable[[Array], Array] = nn.relu
    kernel_init: Callable[..., Array] = linear_init
    bias_init: Callable[[int], Callable[..., Array]] = zero_init

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the gate."""
        h = jnp.mean(x, axis=(1, 2))  # [N, C]
        h = self.activation(self._dense(self.hidden, "reduce", h))
        h = nn.sigmoid(self._dense(self.features, "expand", h))
        return h[:, None, None, :]  # [N, 1, 1, features]

    def _dense(self, features: int, name: str, h: Array) -> Array:
        dense = nn.Dense(
            features,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init(h.shape[-1]),
            name=name,
        )
        return dense(h)


def add_scaled(shortcut: Array, residual: Array, gain: Array) -> Array:
    """``shortcut`` + ``gain`` * ``residual``, with a scalar gain; see `in_float32`."""
    return in_float32(lambda x, r, gain: x + gain * r, shortcut, residual, gain)


def call_block(
    block: nn.Module, x: Array, *, train: bool, remat: bool
) -> tuple[Array, Array]:
    """What ``block(x, train=train)`` returns.

    With ``remat`` only its input is kept for the gradient, and the block runs again
    there (Chen et al., 1604.06174): as many more multiply-adds as a forward pass has,
    for the memory of what is inside the blocks.
    """

    def call(block: nn.Module, x: Array) -> tuple[Array, Array]:
        return block(x, train=train)

    return (nn.remat(call) if remat else call)(block, x)


class StochasticDepth(nn.Module):
    """Drops the residual branch of single examples in training (Huang et al., 2016).

    As in the official NFNets, survivors are not rescaled by 1 / (1 - rate), so the
    expectation differs between training and evaluation; with ``rescale`` they are, as
    in EfficientNet. Rate 0 draws nothing.
    """

    rate: float
    rescale: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, ...] -> the same shape, zeros in the dropped examples."""
        if not train or self.rate == 0.0:
            return x
        key = self.make_rng("stochastic_depth")
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(key, 1.0 - self.rate, shape).astype(x.dtype)
        return x * (kept / (1.0 - self.rate) if self.rescale else kept)


def sow_probe(module: nn.Module, name: str, value: Callable[[], Array]) -> None:
    """Stores ``value()`` as ``name`` in the collection `SIGNAL`, if someone asked.

    ``value`` is only called under ``apply(..., mutable=["signal"])``.
    """
    if module.is_mutable_collection(SIGNAL) and not module.is_initializing():
        module.sow(
            SIGNAL, name, value(), init_fn=lambda: None, reduce_fn=lambda _, new: new
        )

"""BatchNorm over one device's images, with either variance averaged for evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


class BatchNorm(nn.Module):
    """Normalises each channel over N, H, W (1502.03167), then scales and shifts it.

    Statistics and arithmetic are float32, the result is cast to ``dtype``. With
    ``train`` the statistics are the batch's, else the running averages, which are
    ``momentum`` * old + (1 - momentum) * the batch's. They start at mean 0, variance 1.

    Attributes:
      momentum: of the running averages' old value, [0, 1); 0 keeps the last batch's.
      epsilon: added to the variance.
      unbiased: whether the variance that is averaged is that of the batch times
        n / (n - 1), n = N * H * W, as in PyTorch and TensorFlow's fused operation; the
        images of the batch are normalised with the biased one in either case.
      scale_init: of the scale; a block's last one may start at 0.
    """

    momentum: float
    epsilon: float
    unbiased: bool = False
    scale_init: Callable[..., Array] = nn.initializers.ones
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, H, W, C] -> the same shape; training updates ``batch_stats``."""
        channels = (x.shape[-1],)
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        scale = self.param("scale", self.scale_init, channels, jnp.float32)
        bias = self.param("bias", zeros, channels, jnp.float32)
        old_mean = self.variable("batch_stats", "mean", zeros, None, channels)
        old_var = self.variable("batch_stats", "var", ones, None, channels)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, var = old_mean.value, old_var.value  # [C]
        if train:
            mean, var = _moments(x)
        if train and not self.is_initializing():
            n = x.size // x.shape[-1]
            new_var = var * (n / max(1, n - 1)) if self.unbiased else var
            keep = self.momentum
            old_mean.value = keep * old_mean.value + (1 - keep) * mean
            old_var.value = keep * old_var.value + (1 - keep) * new_var
        gain = lax.rsqrt(var + self.epsilon) * scale
        x = (x - _per_channel(mean)) * _per_channel(gain) + _per_channel(bias)
        return x.astype(self.dtype)


def named_norm(
    make_norm: Callable[..., nn.Module], *, train: bool
) -> Callable[[str], Callable[[Array], Array]]:
    """The submodule of a name, ready to be called with features alone."""
    return lambda name: functools.partial(make_norm(name=name), train=train)


def _moments(x: Array) -> tuple[Array, Array]:
    """Mean and variance of each channel [C], in one pass over float32 [N, H, W, C].

    E[x^2] - E[x]^2 loses digits where the mean is large, so one of the values is
    subtracted first: it is as near to the mean as the variance says.
    """
    shift = lax.stop_gradient(x[0, 0, 0])  # [C]
    x = x - _per_channel(shift)
    mean = jnp.mean(x, axis=(0, 1, 2))
    var = jnp.mean(jnp.square(x), axis=(0, 1, 2)) - jnp.square(mean)
    return mean + shift, jnp.maximum(var, 0.0)


def _per_channel(x: Array) -> Array:
    return x.reshape(1, 1, 1, -1)  # [C] -> [1, 1, 1, C]

"""Vision transformers (Dosovitskiy et al. 2021, 2010.11929) as in DeiT (2012.12877).

DeiT-Ti, DeiT-S and ViT-B (which is DeiT-B) with patches of 16 pixels, a class token and
no distillation token, built as timm builds them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from nfnets.errors import UserError
from nfnets.features import Capture, Output, captured
from nfnets.layers import StochasticDepth, add_bias, call_block, in_float32
from nfnets.nf_layers import sow_moments, sow_residual_variance


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """One transformer: architecture, sizes, regularisation."""

    width: int  # channels of a token
    heads: int  # of attention; each has width / heads channels
    depth: int = 12  # blocks
    patch: int = 16  # pixels
    mlp_ratio: int = 4  # hidden channels of an MLP, of the width
    # Pixels; the position embedding is that of train_size / patch patches a side.
    train_size: int = 224
    eval_size: int = 224
    drop_rate: float = 0.0  # dropout before the classifier
    stochastic_depth_rate: float = 0.0


# 2012.12877, Table 1; ViT-B in 2010.11929, Table 1.
VARIANTS: Mapping[str, ViTConfig] = {
    "deit_ti": ViTConfig(width=192, heads=3),
    "deit_s": ViTConfig(width=384, heads=6),
    "vit_b": ViTConfig(width=768, heads=12),
}


# What images of about 32 x 32 pixels need: 8 x 8 patches.
SMALL_IMAGES: Mapping[str, Any] = {"patch": 4, "train_size": 32, "eval_size": 32}

_EPSILON = 1e-6  # of the layer norms


def blocks(row: ViTConfig, stochastic_depth_rate: float) -> tuple[float, ...]:
    """Of every block, the rate of both its branches: i / (n - 1) of it in block i."""
    last = max(1, row.depth - 1)
    return tuple(stochastic_depth_rate * i / last for i in range(row.depth))


def resize_positions(positions: Array, grid: tuple[int, int]) -> Array:
    """A position embedding for another grid of patches; the class token's stays.

    Bicubic (Keys, a = -0.5), antialiased where the grid shrinks, as timm resizes them.

    Args:
      positions: [1 + S * S, D], the class token first, then S x S patches row by row.
      grid: patches down and across.

    Returns:
      [1 + grid[0] * grid[1], D]; ``positions`` itself where the grid is S x S.
    """
    # Differs: DeiT's code resizes without antialiasing and with a = -0.75, once, when
    # it loads weights. Here the weights keep their grid, and every step resizes them.
    side = math.isqrt(positions.shape[0] - 1)
    if grid == (side, side):
        return positions
    width = positions.shape[1]
    patches = positions[1:].reshape(side, side, width)
    resized = jax.image.resize(patches, (*grid, width), "bicubic")
    return jnp.concatenate([positions[:1], resized.reshape(-1, width)])


def _normal(std: float) -> nn.initializers.Initializer:
    """Normal; timm's is cut at +-2, which is so far out that it cuts nothing."""

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        # Drawn flat: XLA takes three times as long to compile draws of more dimensions.
        return std * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

    return init


def _patch_init(fan_in: int) -> nn.initializers.Initializer:
    """Uniform within 1/sqrt(fan_in): torch's default for kernel and bias."""

    def init(key: Array, shape: Sequence[int]) -> Array:
        bound = fan_in**-0.5
        noise = jax.random.uniform(key, (math.prod(shape),), jnp.float32, -bound, bound)
        return noise.reshape(shape)

    return init


class PatchEmbed(nn.Module):
    """One token per patch: a convolution whose stride is its kernel's size.

    Parameters, float32: ``kernel`` [patch, patch, channels, width], ``bias`` [width].
    """

    patch: int
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[N, H, W, channels] -> [N, H / patch, W / patch, width] of ``dtype``.

        Raises:
          UserError: a side of the images is no multiple of ``patch``.
        """
        n, height, width, channels = images.shape
        p = self.patch
        if height % p or width % p:
            raise UserError(
                f"images of {height} x {width} pixels should have sides that are "
                f"multiples of the patch, {p}; take another image size or patch"
            )
        shape = (p, p, channels, self.width)
        fan_in = math.prod(shape[:-1])
        kernel = self.param("kernel", _patch_init(fan_in), shape)
        bias = self.param("bias", _patch_init(fan_in), shape[-1:])
        # Patches do not overlap, so that the convolution is a matrix product.
        x = images.astype(self.dtype).reshape(n, height // p, p, width // p, p, -1)
        x = x.swapaxes(2, 3).reshape(n, height // p, width // p, fan_in)
        x = x @ kernel.astype(self.dtype).reshape(fan_in, self.width)
        return add_bias(x, bias)


class Linear(nn.Module):
    """Matrix product and bias; parameters, float32, as ``nn.Dense`` has them."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., C] -> [..., features] of ``dtype``."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", _normal(0.02), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        x = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return add_bias(x, bias)


class Attention(nn.Module):
    """Self-attention between all tokens, with several heads; softmax in float32."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, T, D] -> [N, T, D]."""
        n, tokens, width = x.shape
        qkv = Linear(3 * width, self.dtype, name="qkv")(x)
        qkv = qkv.reshape(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # [N, T, heads, d]
        scores = jnp.einsum(
            "nqhd,nkhd->nhqk", query, key, preferred_element_type=jnp.float32
        )
        weights = nn.softmax(scores * query.shape[-1] ** -0.5)  # over k
        mixed = jnp.einsum("nhqk,nkhd->nqhd", weights.astype(self.dtype), value)
        mixed = mixed.reshape(n, tokens, width)
        return Linear(width, self.dtype, name="proj")(mixed)


class Mlp(nn.Module):
    """Linear to ``hidden`` channels, exact GELU, linear back."""

    hidden: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, T, D] -> [N, T, D]."""
        h = Linear(self.hidden, self.dtype, name="fc1")(x)
        h = in_float32(functools.partial(nn.gelu, approximate=False), h)
        return Linear(x.shape[-1], self.dtype, name="fc2")(h)


def _layer_norm(dtype: DTypeLike, name: str) -> nn.LayerNorm:
    # Statistics are float32 whatever ``dtype`` is; the fast variance cancels.
    return nn.LayerNorm(
        epsilon=_EPSILON, dtype=dtype, use_fast_variance=False, name=name
    )


class ViTBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), each under stochastic depth."""

    heads: int
    mlp_ratio: int
    stochastic_depth_rate: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """[N, T, D] -> the output, and the sum of both branches, of the same shape.

        The sum is that before stochastic depth, for the probes.
        """
        drop = functools.partial(
            StochasticDepth, self.stochastic_depth_rate, rescale=True
        )
        norm = functools.partial(_layer_norm, self.dtype)
        attention = Attention(self.heads, self.dtype, name="attention")
        mlp = Mlp(self.mlp_ratio * x.shape[-1], self.dtype, name="mlp")
        mixed = attention(norm("norm1")(x))
        x = x + drop(name="stochastic_depth1")(mixed, train=train)
        changed = mlp(norm("norm2")(x))
        x = x + drop(name="stochastic_depth2")(changed, train=train)
        return x, mixed + changed


class ViT(nn.Module):
    """Patches and a class token, `ViTBlock`s, a linear head on the class token.

    Parameters are float32, whatever ``dtype`` is, and so are ``pos_embed`` [tokens, D]
    and ``cls_token`` [D]. Images may have any sides that the patch divides: the
    position embedding is resized to their grid.
    """

    variant: ViTConfig
    num_classes: int
    dtype: DTypeLike = jnp.float32
    drop_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    remat: bool = False  # `layers.call_block`

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool, capture: Capture = None
    ) -> Output:
        """Normalised images [N, H, W, channels] -> float32 logits [N, num_classes].

        Training needs the rng streams ``dropout`` and ``stochastic_depth`` (where the
        rates are not 0). With ``mutable=["signal"]`` the moments of every block come
        back too; ``capture`` gives features instead of the logits (`nfnets.features`).
        """
        row = self.variant
        x = self._tokens(images)
        sow_moments(self, 0, x)
        maps: dict[str, Array] = {}
        for i, rate in enumerate(blocks(row, self.stochastic_depth_rate)):
            block = ViTBlock(
                row.heads, row.mlp_ratio, rate, self.dtype, name=f"block{i}"
            )
            x, residual = call_block(block, x, train=train, remat=self.remat)
            sow_residual_variance(self, i, residual)
            sow_moments(self, i + 1, x)
            maps[f"block{i}"] = x
        pool = _layer_norm(jnp.float32, "final_norm")(x[:, 0])  # [N, D]
        pool = nn.Dropout(self.drop_rate, name="dropout")(pool, deterministic=not train)
        head = nn.Dense(self.num_classes, kernel_init=_normal(0.02), name="head")
        return captured(maps | {"pooled": pool, "logits": head(pool)}, capture)

    def _tokens(self, images: Array) -> Array:
        """[N, H, W, channels] -> [N, 1 + patches, D], the class token first."""
        row = self.variant
        x = PatchEmbed(row.patch, row.width, self.dtype, name="patch_embed")(images)
        n, *grid, width = x.shape
        token = self.param("cls_token", _normal(1e-6), (width,))
        count = 1 + (row.train_size // row.patch) ** 2
        positions = self.param("pos_embed", _normal(0.02), (count, width))
        token = jnp.broadcast_to(token, (n, 1, width)).astype(self.dtype)
        x = jnp.concatenate([token, x.reshape(n, -1, width)], axis=1)
        positions = resize_positions(positions, (grid[0], grid[1]))
        # Cast after they are broadcast, as in `add_bias`.
        return x + jnp.broadcast_to(positions, x.shape).astype(x.dtype)


def build(
    variant: ViTConfig, *, num_classes: int, dtype: DTypeLike = jnp.float32
) -> ViT:
    """The network of a row of `VARIANTS`; raises where the row is impossible."""
    for field in ("width", "heads", "depth", "patch", "mlp_ratio", "train_size"):
        value = getattr(variant, field)
        if value <= 0:
            raise UserError(f"{field} {value} should be more than 0")
    if variant.width % variant.heads:
        raise UserError(
            f"width {variant.width} should be a multiple of heads {variant.heads}"
        )
    if variant.train_size % variant.patch:
        raise UserError(
            f"train_size {variant.train_size} should be a multiple of patch "
            f"{variant.patch}"
        )
    return ViT(
        variant=variant,
        num_classes=num_classes,
        dtype=dtype,
        drop_rate=variant.drop_rate,
        stochastic_depth_rate=variant.stochastic_depth_rate,
    )

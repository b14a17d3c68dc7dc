"""The ResNets that the NFNet papers compare with: BatchNorm, SkipInit and Fixup.

As in the official code of 2101.08692 and 2102.06171: pre-activation and post-activation
ResNets with BatchNorm (``dm_resnet*``), and the earlier ways to train without it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from nfnets.batch_norm import BatchNorm, named_norm
from nfnets.errors import UserError, did_you_mean
from nfnets.features import Capture, Output, captured, stage_of
from nfnets.layers import call_block, in_float32
from nfnets.nf_layers import (
    BlockSpec,
    block_table,
    sow_moments,
    sow_residual_variance,
)
from nfnets.resnet_blocks import (
    Conv,
    FixupBlock,
    PostActBlock,
    PreActBlock,
    SkipInitBlock,
    scalar_param,
)


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """One baseline (2101.08692, Sec. 5): kind, architecture, sizes, regularisation."""

    kind: str  # preact or postact, with BatchNorm; skipinit or fixup, without
    depths: tuple[int, ...]  # blocks per stage
    train_size: int = 224  # pixels
    eval_size: int = 224
    drop_rate: float = 0.0  # dropout before the classifier
    stochastic_depth_rate: float = 0.0
    widths: tuple[int, ...] = (256, 512, 1024, 2048)  # output channels per stage
    strides: tuple[int, ...] = (1, 2, 2, 2)
    stem_channels: int = 64
    stem_kernel: int = 7
    stem_stride: int = 2
    stem_pool: bool = True  # 3x3 max pool, stride 2, at the end of the stem
    bottleneck_ratio: float = 0.25  # of a block's output channels
    bn_momentum: float = 0.9  # of the running averages' old value
    bn_unbiased: bool = False  # whether the averaged variance is the unbiased estimate


_DEPTHS: dict[int, tuple[int, ...]] = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    288: (24, 24, 24, 24),
    600: (50, 50, 50, 50),
}


def _rows(name: str, kind: str, rate: float) -> dict[str, ResNetConfig]:
    return {
        name.format(n): ResNetConfig(kind, depths, stochastic_depth_rate=rate)
        for n, depths in _DEPTHS.items()
    }


VARIANTS: Mapping[str, ResNetConfig] = {
    **_rows("dm_resnet{}", "preact", 0.0),
    **_rows("dm_resnet{}_postact", "postact", 0.0),
    **_rows("skipinit_resnet{}", "skipinit", 0.1),
    **_rows("fixup_resnet{}", "fixup", 0.1),
}


# What images of about 32 x 32 pixels need: a stem that does not shrink them.
SMALL_IMAGES: Mapping[str, Any] = {
    "stem_kernel": 3,
    "stem_stride": 1,
    "stem_pool": False,
}


def blocks(row: ResNetConfig, stochastic_depth_rate: float) -> tuple[BlockSpec, ...]:
    """The residual blocks of a variant, in order; beta is 1 in all of them."""

    def bottleneck(index: int, in_ch: int, out_ch: int) -> tuple[int, int]:
        del index, in_ch
        return int(out_ch * row.bottleneck_ratio), 1

    return block_table(
        depths=row.depths,
        widths=row.widths,
        strides=row.strides,
        in_channels=row.stem_channels,
        alpha=0.0,
        stochastic_depth_rate=stochastic_depth_rate,
        bottleneck=bottleneck,
    )


def _block_of(
    kind: str, num_blocks: int, make_norm: Callable[..., nn.Module]
) -> Callable[..., nn.Module]:
    """The block module of a kind, called with (spec, dtype=, name=)."""
    kinds: dict[str, Callable[..., nn.Module]] = {
        "preact": functools.partial(PreActBlock, make_norm=make_norm),
        "postact": functools.partial(PostActBlock, make_norm=make_norm),
        "skipinit": SkipInitBlock,
        "fixup": functools.partial(FixupBlock, num_blocks=num_blocks),
    }
    if kind not in kinds:
        raise UserError(f"unknown kind {kind!r} of ResNet; {did_you_mean(kind, kinds)}")
    return kinds[kind]


class ResNetBaseline(nn.Module):
    """7x7 stem and max pool, stages of one kind of block, a linear head from 0.

    Differs: parameters, BatchNorm, pooling and the head are float32 whatever ``dtype``
    is; the official bfloat16 mode casts only the logits.
    """

    variant: ResNetConfig
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
        rates are not 0) and, with BatchNorm, ``mutable=["batch_stats"]``. The
        collection ``signal`` and ``capture`` are as in `NFResNet`.
        """
        row = self.variant
        x = self._stem(images, train)
        sow_moments(self, 0, x)
        maps: dict[str, Array] = {}
        specs = blocks(row, self.stochastic_depth_rate)
        make_norm = self._make_norm()
        norm = named_norm(make_norm, train=train)
        block = _block_of(row.kind, len(specs), make_norm)
        for i, spec in enumerate(specs):
            module = block(spec, dtype=self.dtype, name=spec.name)
            x, residual = call_block(module, x, train=train, remat=self.remat)
            sow_residual_variance(self, i, residual)
            sow_moments(self, i + 1, x)
            maps[stage_of(spec.name)] = x  # the last block's, in the end
        if row.kind == "preact":
            x = norm("final_bn")(x)
        if row.kind in ("preact", "skipinit"):
            x = nn.relu(x)
        pool = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # [N, C]
        pool = nn.Dropout(self.drop_rate, name="dropout")(pool, deterministic=not train)
        if row.kind == "fixup":
            pool = pool + scalar_param(self, "bias2", 0.0)
        zeros = nn.initializers.zeros
        head = nn.Dense(self.num_classes, kernel_init=zeros, name="head")
        return captured(maps | {"pooled": pool, "logits": head(pool)}, capture)

    def _make_norm(self) -> Callable[..., nn.Module]:
        # Differs: the running averages start at mean 0 and variance 1, which count for
        # momentum^steps of them, and the train step takes their mean over the devices.
        # The official ones are divided by 1 - momentum^steps, and each device keeps its
        # own.
        return functools.partial(
            BatchNorm,
            momentum=self.variant.bn_momentum,
            epsilon=1e-5,
            unbiased=self.variant.bn_unbiased,
            dtype=self.dtype,
        )

    def _stem(self, images: Array, train: bool) -> Array:
        """[N, H, W, channels] -> [N, H / 4, W / 4, 64] at the variants' strides."""
        row = self.variant
        conv = Conv(
            row.stem_channels,
            row.stem_kernel,
            row.stem_stride,
            dtype=self.dtype,
            name="stem_conv",
        )
        x = conv(images)
        if row.kind == "postact":
            x = nn.relu(named_norm(self._make_norm(), train=train)("stem_bn")(x))
        elif row.kind == "fixup":
            x = nn.relu(in_float32(jnp.add, x, scalar_param(self, "bias1", 0.0)))
        return nn.max_pool(x, (3, 3), (2, 2), "SAME") if row.stem_pool else x


def build(
    variant: ResNetConfig, *, num_classes: int, dtype: DTypeLike = jnp.float32
) -> ResNetBaseline:
    """The network of a row of `VARIANTS`; raises where the row is impossible."""
    blocks(variant, variant.stochastic_depth_rate)
    _block_of(variant.kind, sum(variant.depths), BatchNorm)
    return ResNetBaseline(
        variant=variant,
        num_classes=num_classes,
        dtype=dtype,
        drop_rate=variant.drop_rate,
        stochastic_depth_rate=variant.stochastic_depth_rate,
    )

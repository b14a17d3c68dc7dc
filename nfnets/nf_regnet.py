"""NF-RegNet-B0 ... B8 (Brock, De, Smith 2021, arXiv 2101.08692)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from nfnets.features import Capture, Output, captured, stage_of
from nfnets.layers import (
    SqueezeExcite,
    StochasticDepth,
    add_scaled,
    avg_pool_same,
    call_block,
    in_float32,
)
from nfnets.nf_layers import (
    BlockSpec,
    WSConv,
    block_table,
    grouped_width,
    scaled_activation,
    sow_moments,
    sow_residual_variance,
)


@dataclasses.dataclass(frozen=True)
class NFRegNetConfig:
    """One NF-RegNet (2101.08692, Appendix): architecture, sizes, regularisation."""

    widths: tuple[int, ...]  # output channels per stage, before width_multiplier
    depths: tuple[int, ...]  # blocks per stage
    train_size: int  # pixels
    eval_size: int
    drop_rate: float  # dropout before the classifier
    weight_decay: float | None  # None: the official configuration has none
    stochastic_depth_rate: float = 0.1
    width_multiplier: float = 0.75
    strides: tuple[int, ...] = (2, 2, 2, 2)
    stem_stride: int = 2  # 3x3 convolution to the width of the first stage
    bottleneck_ratio: float = 2.25  # of a block's input channels; 1 in block 0
    group_size: int = 8
    se_ratio: float = 0.5  # of the bottleneck's width
    activation: str = "silu"
    alpha: float = 0.2

    @property
    def scaled_widths(self) -> tuple[int, ...]:
        """Output channels per stage as built."""
        return tuple(int(width * self.width_multiplier) for width in self.widths)

    @property
    def final_channels(self) -> int:
        """Output channels of the last convolution: 1280 for a final width of 440."""
        return 1280 * self.scaled_widths[-1] // 440


VARIANTS: Mapping[str, NFRegNetConfig] = {
    "nf_regnet_b0": NFRegNetConfig(
        widths=(48, 104, 208, 440),
        depths=(1, 3, 6, 6),
        train_size=192,
        eval_size=224,
        drop_rate=0.2,
        weight_decay=5e-5,
    ),
    "nf_regnet_b1": NFRegNetConfig(
        widths=(48, 104, 208, 440),
        depths=(2, 4, 7, 7),
        train_size=224,
        eval_size=256,
        drop_rate=0.2,
        weight_decay=6e-5,
    ),
    "nf_regnet_b2": NFRegNetConfig(
        widths=(56, 112, 232, 488),
        depths=(2, 4, 8, 8),
        train_size=240,
        eval_size=272,
        drop_rate=0.3,
        weight_decay=7e-5,
    ),
    "nf_regnet_b3": NFRegNetConfig(
        widths=(56, 128, 248, 528),
        depths=(2, 5, 9, 9),
        train_size=288,
        eval_size=320,
        drop_rate=0.3,
        weight_decay=8e-5,
    ),
    "nf_regnet_b4": NFRegNetConfig(
        widths=(64, 144, 288, 616),
        depths=(2, 6, 11, 11),
        train_size=320,
        eval_size=384,
        drop_rate=0.4,
        weight_decay=9e-5,
    ),
    "nf_regnet_b5": NFRegNetConfig(
        widths=(80, 168, 336, 704),
        depths=(3, 7, 14, 14),
        train_size=384,
        eval_size=456,
        drop_rate=0.4,
        weight_decay=1e-4,
    ),
    "nf_regnet_b6": NFRegNetConfig(
        widths=(88, 184, 376, 792),
        depths=(3, 8, 16, 16),
        train_size=448,
        eval_size=528,
        drop_rate=0.5,
        weight_decay=None,
    ),
    "nf_regnet_b7": NFRegNetConfig(
        widths=(96, 208, 416, 880),
        depths=(4, 10, 19, 19),
        train_size=512,
        eval_size=600,
        drop_rate=0.5,
        weight_decay=None,
    ),
    "nf_regnet_b8": NFRegNetConfig(
        widths=(104, 232, 456, 968),
        depths=(4, 11, 22, 22),
        train_size=600,
        eval_size=672,
        drop_rate=0.5,
        weight_decay=None,
    ),
}


# What images of about 32 x 32 pixels need: a stem that does not shrink them.
SMALL_IMAGES: Mapping[str, Any] = {"stem_stride": 1}


def blocks(row: NFRegNetConfig, stochastic_depth_rate: float) -> tuple[BlockSpec, ...]:
    """The residual blocks of a variant, in order."""

    def bottleneck(index: int, in_ch: int, out_ch: int) -> tuple[int, int]:
        del out_ch
        ratio = row.bottleneck_ratio if index > 0 else 1.0
        return grouped_width(int(in_ch * ratio), row.group_size)

    return block_table(
        depths=row.depths,
        widths=row.scaled_widths,
        strides=row.strides,
        in_channels=row.scaled_widths[0],
        alpha=row.alpha,
        stochastic_depth_rate=stochastic_depth_rate,
        bottleneck=bottleneck,
    )


class NFRegBlock(nn.Module):
    """Inverted bottleneck with a grouped 3x3 convolution and SE inside it.

    [N, H, W, in] -> the output [N, H', W', out], and the residual before stochastic
    depth, skip gain and alpha, of the same shape, for the probes.
    """

    spec: BlockSpec
    se_ratio: float
    activation: str
    alpha: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Returns (output, residual)."""
        spec, out_ch, width = self.spec, self.spec.out_channels, self.spec.width
        act = scaled_activation(self.activation)
        conv = functools.partial(WSConv, dtype=self.dtype)

        h = act(x) * spec.beta
        shortcut = x
        if spec.has_projection:
            pooled = avg_pool_same(h, 2, spec.stride) if spec.stride > 1 else h
            shortcut = conv(out_ch, 1, name="conv_shortcut")(pooled)

        r = conv(width, 1, name="conv0")(h)
        r = conv(width, 3, spec.stride, spec.groups, name="conv1")(act(r))
        hidden = max(1, int(width * self.se_ratio))
        gate = SqueezeExcite(hidden, width, self.dtype, name="squeeze_excite")(r)
        r = in_float32(jnp.multiply, r, 2 * gate)
        r = conv(out_ch, 1, name="conv2")(act(r))

        rate = spec.stochastic_depth_rate
        kept = StochasticDepth(rate, name="stochastic_depth")(r, train=train)
        skip_gain = self.param("skip_gain", nn.initializers.zeros, (), jnp.float32)
        return add_scaled(shortcut, kept, self.alpha * skip_gain), r


class NFRegNet(nn.Module):
    """NF-RegNet: 3x3 stem, stages of `NFRegBlock`, a 1x1 convolution, a linear head.

    Differs: parameters, pooling and the head are float32 whatever ``dtype`` is; the
    official bfloat16 mode casts only the logits.
    """

    variant: NFRegNetConfig
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
        act = scaled_activation(row.activation)
        conv = functools.partial(WSConv, dtype=self.dtype)
        stem = conv(row.scaled_widths[0], 3, row.stem_stride, name="stem_conv")
        x = stem(images.astype(self.dtype))
        sow_moments(self, 0, x)
        maps: dict[str, Array] = {}
        for i, spec in enumerate(blocks(row, self.stochastic_depth_rate)):
            block = NFRegBlock(
                spec,
                se_ratio=row.se_ratio,
                activation=row.activation,
                alpha=row.alpha,
                dtype=self.dtype,
                name=spec.name,
            )
            x, residual = call_block(block, x, train=train, remat=self.remat)
            sow_residual_variance(self, i, residual)
            sow_moments(self, i + 1, x)
            maps[stage_of(spec.name)] = x  # the last block's, in the end
        x = act(conv(row.final_channels, 1, name="final_conv")(x))
        pool = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # [N, C]
        pool = nn.Dropout(self.drop_rate, name="dropout")(pool, deterministic=not train)
        init = nn.initializers.zeros
        head = nn.Dense(self.num_classes, kernel_init=init, name="head")
        return captured(maps | {"pooled": pool, "logits": head(pool)}, capture)


def build(
    variant: NFRegNetConfig, *, num_classes: int, dtype: DTypeLike = jnp.float32
) -> NFRegNet:
    """The network of a row of `VARIANTS`; raises where the row is impossible."""
    blocks(variant, variant.stochastic_depth_rate)
    return NFRegNet(
        variant=variant,
        num_classes=num_classes,
        dtype=dtype,
        drop_rate=variant.drop_rate,
        stochastic_depth_rate=variant.stochastic_depth_rate,
    )

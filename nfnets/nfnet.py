"""NFNet-F0 ... F7 and F0+ ... F7+ (Brock, De, Smith, Simonyan 2021, 2102.06171)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from nfnets.errors import UserError
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
class NFNetConfig:
    """One NFNet (2102.06171, Sec. 5, Table 1): architecture, sizes, regularisation."""

    depths: tuple[int, ...]  # blocks per stage
    train_size: int  # pixels
    eval_size: int
    drop_rate: float  # dropout before the classifier
    randaugment_magnitude: int
    stochastic_depth_rate: float = 0.25
    widths: tuple[int, ...] = (256, 512, 1536, 1536)  # output channels per stage
    strides: tuple[int, ...] = (1, 2, 2, 2)
    # Stem: 3x3 convolutions; the last one has half the width of the first stage.
    stem_channels: tuple[int, ...] = (16, 32, 64)
    stem_strides: tuple[int, ...] = (2, 1, 1, 2)
    bottleneck_ratio: float = 0.5  # of a block's output channels
    group_size: int = 128
    se_ratio: float = 0.5
    final_conv_ratio: int = 2  # of the last stage's width
    activation: str = "gelu"
    alpha: float = 0.2


_F_SERIES: dict[str, NFNetConfig] = {
    "nfnet_f0": NFNetConfig(
        depths=(1, 2, 6, 3),
        train_size=192,
        eval_size=256,
        drop_rate=0.2,
        randaugment_magnitude=5,
    ),
    "nfnet_f1": NFNetConfig(
        depths=(2, 4, 12, 6),
        train_size=224,
        eval_size=320,
        drop_rate=0.3,
        randaugment_magnitude=10,
    ),
    "nfnet_f2": NFNetConfig(
        depths=(3, 6, 18, 9),
        train_size=256,
        eval_size=352,
        drop_rate=0.4,
        randaugment_magnitude=10,
    ),
    "nfnet_f3": NFNetConfig(
        depths=(4, 8, 24, 12),
        train_size=320,
        eval_size=416,
        drop_rate=0.4,
        randaugment_magnitude=15,
    ),
    "nfnet_f4": NFNetConfig(
        depths=(5, 10, 30, 15),
        train_size=384,
        eval_size=512,
        drop_rate=0.5,
        randaugment_magnitude=15,
    ),
    "nfnet_f5": NFNetConfig(
        depths=(6, 12, 36, 18),
        train_size=416,
        eval_size=544,
        drop_rate=0.5,
        randaugment_magnitude=15,
    ),
    "nfnet_f6": NFNetConfig(
        depths=(7, 14, 42, 21),
        train_size=448,
        eval_size=576,
        drop_rate=0.5,
        randaugment_magnitude=15,
    ),
    "nfnet_f7": NFNetConfig(
        depths=(8, 16, 48, 24),
        train_size=480,
        eval_size=608,
        drop_rate=0.5,
        randaugment_magnitude=15,
    ),
}

# Differs: the official configuration has no augmentation for the wider "+" models (it
# raises KeyError); they take that of their base model here.
_F_PLUS_SERIES: dict[str, NFNetConfig] = {
    f"{name}_plus": dataclasses.replace(row, widths=(384, 768, 2048, 2048))
    for name, row in _F_SERIES.items()
}

VARIANTS: Mapping[str, NFNetConfig] = {**_F_SERIES, **_F_PLUS_SERIES}


# What images of about 32 x 32 pixels need: a stem that does not shrink them.
SMALL_IMAGES: Mapping[str, Any] = {"stem_strides": (1, 1, 1, 1)}


def blocks(row: NFNetConfig, stochastic_depth_rate: float) -> tuple[BlockSpec, ...]:
    """The residual blocks of a variant, in order."""

    def bottleneck(index: int, in_ch: int, out_ch: int) -> tuple[int, int]:
        del index, in_ch
        return grouped_width(int(out_ch * row.bottleneck_ratio), row.group_size)

    return block_table(
        depths=row.depths,
        widths=row.widths,
        strides=row.strides,
        in_channels=row.widths[0] // 2,
        alpha=row.alpha,
        stochastic_depth_rate=stochastic_depth_rate,
        bottleneck=bottleneck,
    )


class NFBlock(nn.Module):
    """Bottleneck with two grouped 3x3 convolutions (2102.06171, Sec. 5).

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
        spec, out_ch = self.spec, self.spec.out_channels
        act = scaled_activation(self.activation)
        conv = functools.partial(WSConv, dtype=self.dtype)
        grouped = functools.partial(conv, spec.width, 3, groups=spec.groups)

        h = act(x) * spec.beta
        shortcut = x
        if spec.has_projection:
            pooled = avg_pool_same(h, 2, spec.stride) if spec.stride > 1 else h
            shortcut = conv(out_ch, 1, name="conv_shortcut")(pooled)

        r = conv(spec.width, 1, name="conv0")(h)
        r = grouped(strides=spec.stride, name="conv1")(act(r))
        r = grouped(name="conv1b")(act(r))
        r = conv(out_ch, 1, name="conv2")(act(r))
        hidden = max(1, int(out_ch * self.se_ratio))
        gate = SqueezeExcite(hidden, out_ch, self.dtype, name="squeeze_excite")(r)
        r = in_float32(jnp.multiply, r, 2 * gate)

        rate = spec.stochastic_depth_rate
        kept = StochasticDepth(rate, name="stochastic_depth")(r, train=train)
        skip_gain = self.param("skip_gain", nn.initializers.zeros, (), jnp.float32)
        return add_scaled(shortcut, kept, self.alpha * skip_gain), r


class NFNet(nn.Module):
    """NFNet: stem, four stages of `NFBlock`, a wide 1x1 convolution, a linear head.

    Differs: parameters, pooling and the head are float32 whatever ``dtype`` is; the
    official bfloat16 mode casts only the logits.
    """

    variant: NFNetConfig
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
        x = self._stem(images.astype(self.dtype))
        sow_moments(self, 0, x)
        maps: dict[str, Array] = {}
        for i, spec in enumerate(blocks(row, self.stochastic_depth_rate)):
            block = NFBlock(
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
        channels = row.widths[-1] * row.final_conv_ratio
        x = act(WSConv(channels, 1, dtype=self.dtype, name="final_conv")(x))
        pool = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # [N, C]
        pool = nn.Dropout(self.drop_rate, name="dropout")(pool, deterministic=not train)
        init = nn.initializers.normal(0.01)
        head = nn.Dense(self.num_classes, kernel_init=init, name="head")
        return captured(maps | {"pooled": pool, "logits": head(pool)}, capture)

    def _stem(self, x: Array) -> Array:
        """[N, H, W, channels] -> [N, H / 4, W / 4, widths[0] / 2], not activated."""
        row = self.variant
        act = scaled_activation(row.activation)
        channels = (*row.stem_channels, row.widths[0] // 2)
        for i, (features, stride) in enumerate(
            zip(channels, row.stem_strides, strict=True)
        ):
            x = act(x) if i > 0 else x
            x = WSConv(features, 3, stride, dtype=self.dtype, name=f"stem_conv{i}")(x)
        return x


def build(
    variant: NFNetConfig, *, num_classes: int, dtype: DTypeLike = jnp.float32
) -> NFNet:
    """The network of a row of `VARIANTS`; raises where the row is impossible."""
    blocks(variant, variant.stochastic_depth_rate)
    if len(variant.stem_strides) != len(variant.stem_channels) + 1:
        raise UserError(
            f"stem_strides {variant.stem_strides} must be one more number than "
            f"stem_channels {variant.stem_channels}"
        )
    return NFNet(
        variant=variant,
        num_classes=num_classes,
        dtype=dtype,
        drop_rate=variant.drop_rate,
        stochastic_depth_rate=variant.stochastic_depth_rate,
    )

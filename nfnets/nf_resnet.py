"""NF-ResNets, with and without squeeze-excite (Brock, De, Smith 2021, 2101.08692)."""

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
    call_block,
    in_float32,
)
from nfnets.nf_layers import (
    BlockSpec,
    WSConv,
    block_table,
    scaled_activation,
    sow_moments,
    sow_residual_variance,
)


@dataclasses.dataclass(frozen=True)
class NFResNetConfig:
    """One NF-ResNet (2101.08692, Sec. 5): architecture, sizes, regularisation."""

    depths: tuple[int, ...]  # blocks per stage
    se_ratio: float | None = None  # of a block's output channels; None: no SE
    train_size: int = 224  # pixels
    eval_size: int = 224
    drop_rate: float = 0.0  # dropout before the classifier
    stochastic_depth_rate: float = 0.1
    widths: tuple[int, ...] = (256, 512, 1024, 2048)  # output channels per stage
    strides: tuple[int, ...] = (1, 2, 2, 2)
    stem_channels: int = 64
    stem_kernel: int = 7
    stem_stride: int = 2
    stem_pool: bool = True  # 3x3 max pool, stride 2, after the stem convolution
    bottleneck_ratio: float = 0.25  # of a block's output channels
    activation: str = "relu"
    alpha: float = 0.2
    skip_gain_init: float = 0.0


_DEPTHS: dict[int, tuple[int, ...]] = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    288: (24, 24, 24, 24),
    600: (50, 50, 50, 50),
}

VARIANTS: Mapping[str, NFResNetConfig] = {
    **{f"nf_resnet{n}": NFResNetConfig(depths=d) for n, d in _DEPTHS.items()},
    **{
        f"nf_seresnet{n}": NFResNetConfig(depths=d, se_ratio=0.25)
        for n, d in _DEPTHS.items()
    },
}


# What images of about 32 x 32 pixels need: a stem that does not shrink them.
SMALL_IMAGES: Mapping[str, Any] = {
    "stem_kernel": 3,
    "stem_stride": 1,
    "stem_pool": False,
}


def blocks(row: NFResNetConfig, stochastic_depth_rate: float) -> tuple[BlockSpec, ...]:
    """The residual blocks of a variant, in order."""

    def bottleneck(index: int, in_ch: int, out_ch: int) -> tuple[int, int]:
        del index, in_ch
        return int(out_ch * row.bottleneck_ratio), 1

    return block_table(
        depths=row.depths,
        widths=row.widths,
        strides=row.strides,
        in_channels=row.stem_channels,
        alpha=row.alpha,
        stochastic_depth_rate=stochastic_depth_rate,
        bottleneck=bottleneck,
    )


class NFResBlock(nn.Module):
    """Pre-activation bottleneck without normalisation (2101.08692, Sec. 4).

    [N, H, W, in] -> the output [N, H', W', out], and the residual before stochastic
    depth, skip gain and alpha, of the same shape, for the probes.
    """

    spec: BlockSpec
    se_ratio: float | None
    activation: str
    alpha: float
    skip_gain_init: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Returns (output, residual)."""
        spec, out_ch = self.spec, self.spec.out_channels
        act = scaled_activation(self.activation)
        conv = functools.partial(WSConv, dtype=self.dtype)

        h = act(x) * spec.beta
        shortcut = x
        if spec.has_projection:
            shortcut = conv(out_ch, 1, spec.stride, name="conv_shortcut")(h)

        r = conv(spec.width, 1, name="conv0")(h)
        r = conv(spec.width, 3, spec.stride, name="conv1")(act(r))
        r = conv(out_ch, 1, name="conv2")(act(r))
        if self.se_ratio is not None:
            hidden = max(1, int(out_ch * self.se_ratio))
            gate = SqueezeExcite(hidden, out_ch, self.dtype, name="squeeze_excite")(r)
            r = in_float32(jnp.multiply, r, 2 * gate)

        rate = spec.stochastic_depth_rate
        kept = StochasticDepth(rate, name="stochastic_depth")(r, train=train)
        init = nn.initializers.constant(self.skip_gain_init)
        skip_gain = self.param("skip_gain", init, (), jnp.float32)
        return add_scaled(shortcut, kept, self.alpha * skip_gain), r


class NFResNet(nn.Module):
    """NF-ResNet: 7x7 stem and max pool, stages of `NFResBlock`, a linear head.

    Differs: parameters, pooling and the head are float32 whatever ``dtype`` is; the
    official bfloat16 mode casts only the logits.
    """

    variant: NFResNetConfig
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
        stem = WSConv(
            row.stem_channels,
            row.stem_kernel,
            row.stem_stride,
            dtype=self.dtype,
            name="stem_conv",
        )
        x = stem(images.astype(self.dtype))
        if row.stem_pool:
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")  # [N, H / 4, W / 4, 64]
        sow_moments(self, 0, x)
        maps: dict[str, Array] = {}
        for i, spec in enumerate(blocks(row, self.stochastic_depth_rate)):
            block = NFResBlock(
                spec,
                se_ratio=row.se_ratio,
                activation=row.activation,
                alpha=row.alpha,
                skip_gain_init=row.skip_gain_init,
                dtype=self.dtype,
                name=spec.name,
            )
            x, residual = call_block(block, x, train=train, remat=self.remat)
            sow_residual_variance(self, i, residual)
            sow_moments(self, i + 1, x)
            maps[stage_of(spec.name)] = x  # the last block's, in the end
        pool = jnp.mean(act(x).astype(jnp.float32), axis=(1, 2))  # [N, C]
        pool = nn.Dropout(self.drop_rate, name="dropout")(pool, deterministic=not train)
        init = nn.initializers.normal(0.01)
        head = nn.Dense(self.num_classes, kernel_init=init, name="head")
        return captured(maps | {"pooled": pool, "logits": head(pool)}, capture)


def build(
    variant: NFResNetConfig, *, num_classes: int, dtype: DTypeLike = jnp.float32
) -> NFResNet:
    """The network of a row of `VARIANTS`; raises where the row is impossible."""
    blocks(variant, variant.stochastic_depth_rate)
    return NFResNet(
        variant=variant,
        num_classes=num_classes,
        dtype=dtype,
        drop_rate=variant.drop_rate,
        stochastic_depth_rate=variant.stochastic_depth_rate,
    )

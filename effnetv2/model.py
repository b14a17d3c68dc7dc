"""EfficientNetV2 (Tan and Le 2021, 2104.00298) and EfficientNet (2019, 1905.11946).

One network, and one table of groups of blocks: V2-B0 ... B3, S, M, L, XL as in Google's
released code, V1 B0 ... B8 and L2, and V1-B4 with its first groups fused (V2, Table 3).
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

from effnetv2 import stage_tables
from effnetv2.block_strings import StageSpec, parse_stages
from effnetv2.blocks import (
    BlockSpec,
    Conv,
    MBConv,
    block_table,
    round_filters,
)
from nfnets.batch_norm import BatchNorm, named_norm
from nfnets.errors import UserError, did_you_mean
from nfnets.features import Capture, Output, captured, stage_of
from nfnets.layers import call_block
from nfnets.nf_layers import sow_moments, sow_residual_variance


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig:
    """One EfficientNet: architecture, sizes, regularisation.

    Channels are multiples of 8 (`round_filters`), also where ``width`` is 1.
    """

    stages: tuple[str, ...]  # groups of blocks, as in `block_strings`
    train_size: int  # pixels
    eval_size: int
    drop_rate: float  # dropout before the classifier
    bn_momentum: float  # of the running averages' old value
    bn_unbiased: bool = False  # whether the averaged variance is the unbiased estimate
    stochastic_depth_rate: float = 0.2
    width: float = 1.0  # scales the channels of every group, of stem and head
    depth: float = 1.0  # scales the repeats of every group
    head_channels: int = 1280  # of the last convolution, before ``width``
    stem_stride: int = 2  # 3x3 convolution to the first group's input channels
    round_up_limit: bool = False  # scaled channels never under 90 %: V1's original code
    # The first groups that become Fused-MBConv. The paper does not say what becomes of
    # their kernels and of SE: "keep" (and "drop" SE), or "fit", the choice that comes
    # nearest to the parameters and FLOPs of its Table 3 (see `groups`).
    fused_stages: int = 0
    fused_kernel: str = "fit"
    fused_se: str = "fit"


# In the released code .9; the paper, as V1, says .99.
_V2_MOMENTUM = 0.9
_V1_MOMENTUM = 0.99


def _v2(
    stages: tuple[str, ...],
    *,
    train_size: int,
    eval_size: int,
    drop_rate: float,
    width: float = 1.0,
    depth: float = 1.0,
) -> EfficientNetConfig:
    return EfficientNetConfig(
        stages,
        train_size,
        eval_size,
        drop_rate,
        bn_momentum=_V2_MOMENTUM,
        width=width,
        depth=depth,
    )


def _v1(width: float, depth: float, size: int, drop_rate: float) -> EfficientNetConfig:
    return EfficientNetConfig(
        stage_tables.V1_BASE,
        train_size=size,
        eval_size=size,
        drop_rate=drop_rate,
        bn_momentum=_V1_MOMENTUM,
        width=width,
        depth=depth,
        round_up_limit=True,
    )


_V2: dict[str, EfficientNetConfig] = {
    "effnetv2_b0": _v2(
        stage_tables.V2_BASE, train_size=192, eval_size=224, drop_rate=0.2
    ),
    "effnetv2_b1": _v2(
        stage_tables.V2_BASE,
        train_size=192,
        eval_size=240,
        drop_rate=0.2,
        width=1.0,
        depth=1.1,
    ),
    "effnetv2_b2": _v2(
        stage_tables.V2_BASE,
        train_size=208,
        eval_size=260,
        drop_rate=0.3,
        width=1.1,
        depth=1.2,
    ),
    "effnetv2_b3": _v2(
        stage_tables.V2_BASE,
        train_size=240,
        eval_size=300,
        drop_rate=0.3,
        width=1.2,
        depth=1.4,
    ),
    "effnetv2_s": _v2(stage_tables.V2_S, train_size=300, eval_size=384, drop_rate=0.2),
    "effnetv2_m": _v2(stage_tables.V2_M, train_size=384, eval_size=480, drop_rate=0.3),
    "effnetv2_l": _v2(stage_tables.V2_L, train_size=384, eval_size=480, drop_rate=0.4),
    "effnetv2_xl": _v2(
        stage_tables.V2_XL, train_size=384, eval_size=512, drop_rate=0.4
    ),
}

# V1 trains at the size that it is tested at (1905.11946, original code).
_V1: dict[str, EfficientNetConfig] = {
    "effnet_b0": _v1(width=1.0, depth=1.0, size=224, drop_rate=0.2),
    "effnet_b1": _v1(width=1.0, depth=1.1, size=240, drop_rate=0.2),
    "effnet_b2": _v1(width=1.1, depth=1.2, size=260, drop_rate=0.3),
    "effnet_b3": _v1(width=1.2, depth=1.4, size=300, drop_rate=0.3),
    "effnet_b4": _v1(width=1.4, depth=1.8, size=380, drop_rate=0.4),
    "effnet_b5": _v1(width=1.6, depth=2.2, size=456, drop_rate=0.4),
    "effnet_b6": _v1(width=1.8, depth=2.6, size=528, drop_rate=0.5),
    "effnet_b7": _v1(width=2.0, depth=3.1, size=600, drop_rate=0.5),
    "effnet_b8": _v1(width=2.2, depth=3.6, size=672, drop_rate=0.5),
    "effnet_l2": _v1(width=4.3, depth=5.3, size=800, drop_rate=0.5),
}

# The paper counts the stem as stage 1 and its "stage 1-3" are the first three groups.
_FUSED: dict[str, EfficientNetConfig] = {
    f"effnet_b4_fused_1_{last}": dataclasses.replace(
        _V1["effnet_b4"], fused_stages=last
    )
    for last in (3, 5, 7)
}

VARIANTS: Mapping[str, EfficientNetConfig] = {**_V2, **_V1, **_FUSED}


# What images of about 32 x 32 pixels need: a stem that does not shrink them.
SMALL_IMAGES: Mapping[str, Any] = {"stem_stride": 1}


def groups(row: EfficientNetConfig) -> tuple[StageSpec, ...]:
    """The groups of blocks of a variant, the first ``fused_stages`` of them fused.

    ``fused_kernel`` is "keep", or "fit": 3x3 in the first three groups. ``fused_se`` is
    "keep", "drop", or "fit": kept in the first five. With both "fit", V1-B4 comes to
    19.99, 43.20 and 131.79 M parameters (Table 3: 20.0, 43.4, 132.0).
    """
    stages = parse_stages(row.stages)
    _check_choice("fused_kernel", row.fused_kernel, ("fit", "keep"))
    _check_choice("fused_se", row.fused_se, ("fit", "keep", "drop"))
    if not 0 <= row.fused_stages <= len(stages):
        raise UserError(
            f"fused_stages {row.fused_stages} should be from 0 to {len(stages)}, the "
            "number of groups in stages"
        )
    return tuple(
        _fused(stage, number, row) if number <= row.fused_stages else stage
        for number, stage in enumerate(stages, start=1)
    )


def _fused(stage: StageSpec, number: int, row: EfficientNetConfig) -> StageSpec:
    small_kernel = row.fused_kernel == "fit" and number <= 3
    without_se = row.fused_se == "drop" or (row.fused_se == "fit" and number > 5)
    return dataclasses.replace(
        stage,
        fused=True,
        kernel=3 if small_kernel else stage.kernel,
        se_ratio=None if without_se else stage.se_ratio,
    )


def _check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"unknown {field} {value!r}; {did_you_mean(value, choices)}")


def blocks(
    row: EfficientNetConfig, stochastic_depth_rate: float
) -> tuple[BlockSpec, ...]:
    """The blocks of a variant, in order."""
    return block_table(
        groups(row),
        width=row.width,
        depth=row.depth,
        round_up_limit=row.round_up_limit,
        stochastic_depth_rate=stochastic_depth_rate,
    )


def _head_init(key: Array, shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Uniform within 1/sqrt(classes): the official code scales by the fan-out."""
    bound = 1 / math.sqrt(shape[-1])
    noise = jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound)
    return noise.reshape(shape)


class EfficientNet(nn.Module):
    """3x3 stem, groups of `MBConv`, a 1x1 convolution, a linear head; SiLU, BatchNorm.

    Parameters and batch statistics are float32, whatever ``dtype`` is.

    Differs: so are pooling and the head, officially in ``dtype``.
    """

    variant: EfficientNetConfig
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

        Training needs ``mutable=["batch_stats"]`` and the rng streams ``dropout`` and
        ``stochastic_depth`` (where the rates are not 0). With ``mutable=["signal"]``
        the moments of every block come back; ``capture`` gives features instead of the
        logits (`nfnets.features`).
        """
        row = self.variant
        # Differs: officially up to eight TPU cores share the statistics of a batch;
        # here, as there on GPUs, a device has its own.
        make_norm = functools.partial(
            BatchNorm,
            momentum=row.bn_momentum,
            epsilon=1e-3,
            unbiased=row.bn_unbiased,
            dtype=self.dtype,
        )
        norm = named_norm(make_norm, train=train)
        conv = functools.partial(Conv, dtype=self.dtype)
        specs = blocks(row, self.stochastic_depth_rate)
        stem = conv(specs[0].in_channels, 3, row.stem_stride, name="stem_conv")
        x = nn.silu(norm("stem_bn")(stem(images)))
        sow_moments(self, 0, x)
        maps: dict[str, Array] = {}
        for i, spec in enumerate(specs):
            block = MBConv(spec, make_norm, self.dtype, name=spec.name)
            x, residual = call_block(block, x, train=train, remat=self.remat)
            sow_residual_variance(self, i, residual)
            sow_moments(self, i + 1, x)
            maps[stage_of(spec.name)] = x  # the last block's, in the end
        channels = round_filters(
            row.head_channels, row.width, upper_limit=row.round_up_limit
        )
        x = nn.silu(norm("final_bn")(conv(channels, name="final_conv")(x)))
        pool = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # [N, C]
        pool = nn.Dropout(self.drop_rate, name="dropout")(pool, deterministic=not train)
        head = nn.Dense(self.num_classes, kernel_init=_head_init, name="head")
        return captured(maps | {"pooled": pool, "logits": head(pool)}, capture)


def build(
    variant: EfficientNetConfig, *, num_classes: int, dtype: DTypeLike = jnp.float32
) -> EfficientNet:
    """The network of a row of `VARIANTS`; raises where the row is impossible."""
    for field in ("width", "depth", "head_channels", "stem_stride"):
        value = getattr(variant, field)
        if value <= 0:
            raise UserError(f"{field} {value} should be more than 0")
    if not 0 <= variant.bn_momentum < 1:
        raise UserError(f"bn_momentum {variant.bn_momentum} should be in [0, 1)")
    blocks(variant, variant.stochastic_depth_rate)
    return EfficientNet(
        variant=variant,
        num_classes=num_classes,
        dtype=dtype,
        drop_rate=variant.drop_rate,
        stochastic_depth_rate=variant.stochastic_depth_rate,
    )

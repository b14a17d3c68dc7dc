"""ResNets as PyTorch has them, their -D, SE and ResNeXt forms, and ResNet-RS.

What ResNet strikes back (Wightman, Touvron, Jegou 2021, 2110.00476) trains, as timm
builds it, and the networks of Revisiting ResNets (Bello et al. 2021, 2103.07579), as
its released code does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from nfnets.batch_norm import BatchNorm, named_norm
from nfnets.errors import UserError, did_you_mean
from nfnets.features import Capture, Output, captured, stage_of
from nfnets.layers import call_block
from nfnets.nf_layers import sow_moments, sow_residual_variance
from resnet_rs.blocks import (
    INITIAL_VALUES,
    BlockSpec,
    Conv,
    ConvSpec,
    ResidualBlock,
)


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """One ResNet: architecture, sizes, regularisation."""

    depths: tuple[int, ...]  # blocks per stage
    train_size: int = 224  # pixels
    eval_size: int = 224
    drop_rate: float = 0.0  # dropout before the classifier
    stochastic_depth_rate: float = 0.0
    # Of the rate: "block", from 0 in the first to all of it in the last, or "stage",
    # the same in all blocks of a stage: of g = 1 ... 4 it is (g + 1) / 5.
    stochastic_depth_growth: str = "block"
    block: str = "bottleneck"  # 1x1, 3x3, 1x1; or "basic": 3x3, 3x3
    widths: tuple[int, ...] = (256, 512, 1024, 2048)  # output channels per stage
    strides: tuple[int, ...] = (1, 2, 2, 2)
    # Channels of a bottleneck's first two convolutions, of its output channels.
    bottleneck_ratios: tuple[float, ...] = (0.25, 0.25)
    groups: int = 1  # of a bottleneck's 3x3
    se_ratio: float | None = None  # SE's hidden, of the output channels; None: no SE
    # Of strided projections: "conv1x1", "conv3x3", or "pool": average pooling, then 1x1
    # (ResNet-D). The others are 1x1.
    shortcut: str = "conv1x1"
    stem_channels: tuple[int, ...] = (64,)  # of the convolutions, each with BatchNorm
    stem_kernel: int = 7  # of all of them
    stem_stride: int = 2  # of the first
    # What halves the image after them: "max", 3x3 with 1 pixel of padding around;
    # "max_caffe", 3x3 from the corner; "conv", a 3x3 convolution; None: nothing.
    stem_pool: str | None = "max"
    init: str = "torch"  # or "tensorflow"; see `blocks.INITIAL_VALUES`
    zero_last_scale: bool = True  # a block's last BatchNorm scale starts at 0
    bn_momentum: float = 0.9  # of the running averages' old value
    bn_unbiased: bool = True  # whether the averaged variance is the unbiased estimate


def _rs(depths: tuple[int, ...], size: int) -> ResNetConfig:
    """A ResNet-RS (2103.07579, released code); ``size`` is its smallest config's.

    Its regularisation goes with the size, too, and is the recipe's.
    """
    return ResNetConfig(
        depths,
        train_size=size,
        eval_size=size,
        stochastic_depth_growth="stage",
        se_ratio=1 / 4,
        shortcut="pool",
        stem_channels=(32, 32, 64),
        stem_kernel=3,
        stem_pool="conv",
        init="tensorflow",
    )


_BASIC: dict[str, Any] = {"block": "basic", "widths": (64, 128, 256, 512)}

VARIANTS: Mapping[str, ResNetConfig] = {
    "resnet18": ResNetConfig((2, 2, 2, 2), **_BASIC),
    "resnet34": ResNetConfig((3, 4, 6, 3), **_BASIC),
    "resnet50": ResNetConfig((3, 4, 6, 3)),
    "resnet101": ResNetConfig((3, 4, 23, 3)),
    "resnet152": ResNetConfig((3, 8, 36, 3)),
    "resnet50d": ResNetConfig(
        (3, 4, 6, 3), shortcut="pool", stem_channels=(32, 32, 64), stem_kernel=3
    ),
    "seresnet50": ResNetConfig((3, 4, 6, 3), se_ratio=1 / 16),
    "resnext50_32x4d": ResNetConfig(
        (3, 4, 6, 3), bottleneck_ratios=(0.5, 0.5), groups=32
    ),
    # As its authors trained it in Caffe; "legacy_senet154" in timm.
    "senet154": ResNetConfig(
        (3, 8, 36, 3),
        drop_rate=0.2,
        bottleneck_ratios=(0.5, 1.0),
        groups=64,
        se_ratio=1 / 16,
        shortcut="conv3x3",
        stem_channels=(64, 64, 128),
        stem_kernel=3,
        stem_pool="max_caffe",
        zero_last_scale=False,
    ),
    "resnet_rs_50": _rs((3, 4, 6, 3), 160),
    "resnet_rs_101": _rs((3, 4, 23, 3), 160),
    "resnet_rs_152": _rs((3, 8, 36, 3), 192),
    "resnet_rs_200": _rs((3, 24, 36, 3), 256),
    "resnet_rs_270": _rs((4, 29, 53, 4), 256),
    "resnet_rs_350": _rs((4, 36, 72, 4), 256),
    "resnet_rs_420": _rs((4, 44, 87, 4), 320),
}


# What images of about 32 x 32 pixels need: a stem that does not shrink them.
SMALL_IMAGES: Mapping[str, Any] = {
    "stem_kernel": 3,
    "stem_stride": 1,
    "stem_pool": None,
}


def blocks(row: ResNetConfig, stochastic_depth_rate: float) -> tuple[BlockSpec, ...]:
    """The blocks of a variant, in order."""
    specs: list[BlockSpec] = []
    in_channels = row.stem_channels[-1]
    num_stages, num_blocks = len(row.depths), sum(row.depths)
    stages = zip(row.depths, row.widths, row.strides, strict=True)
    for number, (depth, channels, stride) in enumerate(stages, start=1):
        for j in range(depth):
            if row.stochastic_depth_growth == "stage":
                part = (number + 1) / (num_stages + 1)
            else:
                part = len(specs) / max(1, num_blocks - 1)
            strided = j == 0 and stride > 1
            wide_shortcut = strided and row.shortcut == "conv3x3"
            specs.append(
                BlockSpec(
                    name=f"stage{number}_block{j}",
                    in_channels=in_channels,
                    convs=_convs(row, channels, stride if j == 0 else 1),
                    stride=stride if j == 0 else 1,
                    shortcut_kernel=3 if wide_shortcut else 1,
                    shortcut_pool=row.shortcut == "pool",
                    se_channels=_se_channels(row, channels),
                    zero_last_scale=row.zero_last_scale,
                    stochastic_depth_rate=stochastic_depth_rate * part,
                )
            )
            in_channels = channels
    return tuple(specs)


def _convs(row: ResNetConfig, channels: int, stride: int) -> tuple[ConvSpec, ...]:
    """The branch of a block with that many output channels."""
    if row.block == "basic":
        return (ConvSpec(channels, 3, stride), ConvSpec(channels, 3))
    first, second = (int(channels * ratio) for ratio in row.bottleneck_ratios)
    middle = ConvSpec(second, 3, stride, row.groups)
    return (ConvSpec(first), middle, ConvSpec(channels))


def _se_channels(row: ResNetConfig, channels: int) -> int | None:
    return None if row.se_ratio is None else max(1, int(channels * row.se_ratio))


class ResNet(nn.Module):
    """Stem, stages of `ResidualBlock`, a linear head.

    Parameters and batch statistics are float32, whatever ``dtype`` is.

    Differs: so are pooling and the head, officially in ``dtype``.
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

        Training needs ``mutable=["batch_stats"]`` and the rng streams ``dropout`` and
        ``stochastic_depth`` (where the rates are not 0). With ``mutable=["signal"]``
        the moments of every block come back; ``capture`` gives features instead of the
        logits (`nfnets.features`).
        """
        row = self.variant
        make_norm = functools.partial(
            BatchNorm,
            momentum=row.bn_momentum,
            epsilon=1e-5,
            unbiased=row.bn_unbiased,
            dtype=self.dtype,
        )
        initial = INITIAL_VALUES[row.init]
        x = self._stem(images, make_norm, train)
        sow_moments(self, 0, x)
        maps: dict[str, Array] = {}
        for i, spec in enumerate(blocks(row, self.stochastic_depth_rate)):
            block = ResidualBlock(spec, make_norm, initial, self.dtype, name=spec.name)
            x, residual = call_block(block, x, train=train, remat=self.remat)
            sow_residual_variance(self, i, residual)
            sow_moments(self, i + 1, x)
            maps[stage_of(spec.name)] = x  # the last block's, in the end
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        pool = jnp.mean(x, axis=(1, 2))  # [N, C]
        pool = nn.Dropout(self.drop_rate, name="dropout")(pool, deterministic=not train)
        head = nn.Dense(
            self.num_classes,
            kernel_init=initial.head,
            bias_init=initial.bias(pool.shape[-1]),
            name="head",
        )
        return captured(maps | {"pooled": pool, "logits": head(pool)}, capture)

    def _stem(self, images: Array, make_norm: Any, train: bool) -> Array:
        """[N, H, W, channels] -> [N, H / 4, W / 4, C] at the variants' strides."""
        row = self.variant
        convs = [ConvSpec(c, row.stem_kernel) for c in row.stem_channels]
        convs[0] = convs[0]._replace(stride=row.stem_stride)
        if row.stem_pool == "conv":
            convs.append(ConvSpec(row.stem_channels[-1], 3, 2))
        norm = named_norm(make_norm, train=train)
        init = INITIAL_VALUES[row.init].kernel
        x = images
        for i, spec in enumerate(convs):
            conv = Conv(*spec, kernel_init=init, dtype=self.dtype, name=f"stem_conv{i}")
            x = nn.relu(norm(f"stem_bn{i}")(conv(x)))
        if row.stem_pool == "max":
            return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        if row.stem_pool == "max_caffe":
            # As Caffe, which rounds sizes up: the last window may stick out by a pixel.
            return nn.max_pool(x, (3, 3), (2, 2), [(0, 1), (0, 1)])
        return x


_CHOICES: Mapping[str, Sequence[str | None]] = {
    "stochastic_depth_growth": ("block", "stage"),
    "block": ("bottleneck", "basic"),
    "shortcut": ("conv1x1", "conv3x3", "pool"),
    "stem_pool": ("max", "max_caffe", "conv", None),
    "init": tuple(INITIAL_VALUES),
}


def build(
    variant: ResNetConfig, *, num_classes: int, dtype: DTypeLike = jnp.float32
) -> ResNet:
    """The network of a row of `VARIANTS`; raises where the row is impossible."""
    for field, choices in _CHOICES.items():
        value = getattr(variant, field)
        if value not in choices:
            names = [name for name in choices if name is not None]
            raise UserError(f"unknown {field} {value!r}; {did_you_mean(value, names)}")
    _check_numbers(variant)
    return ResNet(
        variant=variant,
        num_classes=num_classes,
        dtype=dtype,
        drop_rate=variant.drop_rate,
        stochastic_depth_rate=variant.stochastic_depth_rate,
    )


def _check_numbers(row: ResNetConfig) -> None:
    for field in ("depths", "widths", "strides", "stem_channels", "bottleneck_ratios"):
        if not all(value > 0 for value in getattr(row, field)):
            raise UserError(f"{field} {getattr(row, field)} should all be positive")
    for field in ("groups", "stem_kernel", "stem_stride", "se_ratio"):
        if getattr(row, field) is not None and not getattr(row, field) > 0:
            raise UserError(f"{field} {getattr(row, field)} should be positive")
    if not len(row.depths) == len(row.widths) == len(row.strides) > 0:
        raise UserError(
            f"depths {row.depths}, widths {row.widths} and strides {row.strides} must "
            "have one number per stage each"
        )
    if not row.stem_channels:
        raise UserError("stem_channels () should have one number per convolution")
    if len(row.bottleneck_ratios) != 2:
        raise UserError(
            f"bottleneck_ratios {row.bottleneck_ratios} should be two numbers, of the "
            "first and of the second convolution"
        )
    if row.stem_kernel % 2 == 0:
        raise UserError(f"stem_kernel {row.stem_kernel} should be odd")
    for conv in (c for spec in blocks(row, 0.0) for c in spec.convs):
        if conv.features < 1 or conv.features % conv.groups:
            raise UserError(
                f"a convolution of {conv.features} channels cannot have "
                f"groups={conv.groups}; take larger widths or fewer groups"
            )
    if not 0 <= row.bn_momentum < 1:
        raise UserError(f"bn_momentum {row.bn_momentum} should be in [0, 1)")

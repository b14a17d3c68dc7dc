"""RegNetY (Radosavovic et al. 2020, 2003.13678), which ResNet strikes back trains too.

Widths and depths of the stages follow from four numbers by the paper's quantised linear
rule; the rows are its RegNetY-4.0GF, 8.0GF, 16GF and 32GF, built as timm builds them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from nfnets.batch_norm import BatchNorm, named_norm
from nfnets.conv import conv2d
from nfnets.errors import UserError
from nfnets.features import Capture, Output, captured, stage_of
from nfnets.layers import SqueezeExcite, StochasticDepth, call_block, in_float32
from nfnets.nf_layers import sow_moments, sow_residual_variance


@dataclasses.dataclass(frozen=True)
class RegNetConfig:
    """One RegNetY: the parameters of its design, sizes, regularisation."""

    w0: int  # initial width, a multiple of 8
    wa: float  # slope: width added per block
    wm: float  # ratio of successive quantised widths
    depth: int  # blocks in all
    group_width: int  # channels per group of the 3x3 convolutions
    se_ratio: float = 0.25  # SE's hidden channels, of a block's input channels
    train_size: int = 224  # pixels
    eval_size: int = 224
    drop_rate: float = 0.0  # dropout before the classifier
    stochastic_depth_rate: float = 0.0
    stem_channels: int = 32
    stem_stride: int = 2
    bn_momentum: float = 0.9  # of the running averages' old value
    bn_unbiased: bool = True  # whether the averaged variance is the unbiased estimate


# 2003.13678, Fig. 16.
VARIANTS: Mapping[str, RegNetConfig] = {
    "regnety_4gf": RegNetConfig(w0=96, wa=31.41, wm=2.24, depth=22, group_width=64),
    "regnety_8gf": RegNetConfig(w0=192, wa=76.82, wm=2.19, depth=17, group_width=56),
    "regnety_16gf": RegNetConfig(w0=200, wa=106.23, wm=2.48, depth=18, group_width=112),
    "regnety_32gf": RegNetConfig(w0=232, wa=115.89, wm=2.53, depth=20, group_width=232),
}


# What images of about 32 x 32 pixels need: a stem that does not shrink them.
SMALL_IMAGES: Mapping[str, Any] = {"stem_stride": 1}


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One block of a network as built; all of them are `blocks`."""

    name: str
    in_channels: int
    out_channels: int
    groups: int  # of the 3x3 convolution
    stride: int
    se_channels: int  # hidden in squeeze-excite
    stochastic_depth_rate: float

    @property
    def has_projection(self) -> bool:
        """Whether the shortcut is a convolution: the shape changes."""
        return self.stride > 1 or self.in_channels != self.out_channels


def block_widths(row: RegNetConfig) -> list[int]:
    """The width of every block before groups are heeded (2003.13678, Eq. 2 to 4).

    u_j = w0 + wa * j is quantised to w_j = w0 * wm^round(s_j), where
    u_j = w0 * wm^(s_j), and that to a multiple of 8.
    """
    widths = []
    for j in range(row.depth):
        exponent = round(math.log((row.w0 + row.wa * j) / row.w0) / math.log(row.wm))
        widths.append(8 * round(row.w0 * row.wm**exponent / 8))
    return widths


def stages(row: RegNetConfig) -> list[tuple[int, int, int]]:
    """(blocks, width, groups) of each stage: the runs of equal `block_widths`.

    Widths are rounded to whole groups, and a group is never wider than its stage.
    """
    found = []
    widths = block_widths(row)
    for width in sorted(set(widths)):
        group_width = min(row.group_width, width)
        groups = round(width / group_width)
        found.append((widths.count(width), groups * group_width, groups))
    return found


def blocks(row: RegNetConfig, stochastic_depth_rate: float) -> tuple[BlockSpec, ...]:
    """The blocks of a variant, in order; block i of n has the rate times i / (n - 1).

    Every stage halves the image in its first block.
    """
    specs: list[BlockSpec] = []
    in_channels = row.stem_channels
    for number, (depth, width, groups) in enumerate(stages(row), start=1):
        for j in range(depth):
            rate = stochastic_depth_rate * len(specs) / max(1, row.depth - 1)
            specs.append(
                BlockSpec(
                    name=f"stage{number}_block{j}",
                    in_channels=in_channels,
                    out_channels=width,
                    groups=groups,
                    stride=2 if j == 0 else 1,
                    se_channels=max(1, round(in_channels * row.se_ratio)),
                    stochastic_depth_rate=rate,
                )
            )
            in_channels = width
    return tuple(specs)


def _normal(key: Array, shape: Sequence[int], std: float) -> Array:
    # Drawn flat: XLA takes three times as long to compile draws of more dimensions.
    return std * jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)


def _conv_init(groups: int) -> Callable[..., Array]:
    """Normal with variance 2 / fan_out, where fan_out is k * k * out / groups.

    Also of SE's matrices [in, out], which are 1 x 1 convolutions in timm.
    """

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        del dtype
        fan_out = math.prod(shape[:-2]) * shape[-1] // groups
        return _normal(key, shape, math.sqrt(2 / fan_out))

    return init


def _head_init(key: Array, shape: Sequence[int], dtype: DTypeLike) -> Array:
    del dtype
    return _normal(key, shape, 0.01)


class Conv(nn.Module):
    """Convolution without bias, padded by (kernel_size - 1) / 2 on every side.

    Parameter, float32: ``kernel`` [k, k, C / groups, features]. [N, H, W, C] ->
    [N, ceil(H / strides), ceil(W / strides), features] of ``dtype``.
    """

    features: int
    kernel_size: int = 1
    strides: int = 1
    groups: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Convolves ``x``."""
        k = self.kernel_size
        shape = (k, k, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", _conv_init(self.groups), shape)
        return conv2d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding="VALID" if k == 1 else ((k // 2, k // 2),) * 2,
            groups=self.groups,
        )


class YBlock(nn.Module):
    """1x1, grouped 3x3, SE and 1x1 convolution; as wide inside as outside.

    BatchNorm after every convolution, its scale 0 at first after the last one; ReLU
    after the first two and after the sum. The stride is on the 3x3.
    """

    spec: BlockSpec
    make_norm: Callable[..., nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """[N, H, W, in] -> the output [N, H', W', out], and the residual of its shape.

        The residual is that before stochastic depth, for the probes.
        """
        spec, width = self.spec, self.spec.out_channels
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = named_norm(self.make_norm, train=train)
        h = nn.relu(norm("bn1")(conv(width, name="conv1")(x)))
        grouped = conv(width, 3, spec.stride, spec.groups, name="conv2")
        h = nn.relu(norm("bn2")(grouped(h)))
        gate = SqueezeExcite(
            spec.se_channels,
            width,
            self.dtype,
            kernel_init=_conv_init(1),
            name="squeeze_excite",
        )
        h = conv(width, name="conv3")(in_float32(jnp.multiply, h, gate(h)))
        zeros = nn.initializers.zeros
        last = self.make_norm(scale_init=zeros, name="bn3")
        r = last(h, train=train)
        if spec.has_projection:
            project = conv(width, strides=spec.stride, name="shortcut_conv")
            x = norm("shortcut_bn")(project(x))
        rate = spec.stochastic_depth_rate
        drop = StochasticDepth(rate, rescale=True, name="stochastic_depth")
        return nn.relu(x + drop(r, train=train)), r


class RegNet(nn.Module):
    """3x3 stem, stages of `YBlock`, a linear head; ReLU and BatchNorm.

    Parameters and batch statistics are float32, whatever ``dtype`` is.
    """

    variant: RegNetConfig
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
        stem = Conv(
            row.stem_channels, 3, row.stem_stride, dtype=self.dtype, name="stem_conv"
        )
        x = nn.relu(named_norm(make_norm, train=train)("stem_bn")(stem(images)))
        sow_moments(self, 0, x)
        maps: dict[str, Array] = {}
        for i, spec in enumerate(blocks(row, self.stochastic_depth_rate)):
            block = YBlock(spec, make_norm, self.dtype, name=spec.name)
            x, residual = call_block(block, x, train=train, remat=self.remat)
            sow_residual_variance(self, i, residual)
            sow_moments(self, i + 1, x)
            maps[stage_of(spec.name)] = x  # the last block's, in the end
        pool = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # [N, C]
        pool = nn.Dropout(self.drop_rate, name="dropout")(pool, deterministic=not train)
        head = nn.Dense(self.num_classes, kernel_init=_head_init, name="head")
        return captured(maps | {"pooled": pool, "logits": head(pool)}, capture)


def build(
    variant: RegNetConfig, *, num_classes: int, dtype: DTypeLike = jnp.float32
) -> RegNet:
    """The network of a row of `VARIANTS`; raises where the row is impossible."""
    if variant.w0 <= 0 or variant.w0 % 8:
        raise UserError(f"w0 {variant.w0} should be a positive multiple of 8")
    if variant.wm <= 1:
        raise UserError(f"wm {variant.wm} should be more than 1")
    if variant.wa < 0:
        raise UserError(f"wa {variant.wa} should be at least 0")
    for field in ("depth", "group_width", "se_ratio", "stem_channels", "stem_stride"):
        value = getattr(variant, field)
        if value <= 0:
            raise UserError(f"{field} {value} should be more than 0")
    if not 0 <= variant.bn_momentum < 1:
        raise UserError(f"bn_momentum {variant.bn_momentum} should be in [0, 1)")
    return RegNet(
        variant=variant,
        num_classes=num_classes,
        dtype=dtype,
        drop_rate=variant.drop_rate,
        stochastic_depth_rate=variant.stochastic_depth_rate,
    )

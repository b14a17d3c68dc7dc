"""From one network to larger ones: compound scaling as EfficientNetV2 does it.

EfficientNetV2, Sec. 3.3: compound scaling as in EfficientNet, but (1) inference at 480
pixels at most, and (2) more layers in late stages. The paper gives neither coefficients
nor layers; those here were derived from the released networks, and give them but for
a few channels and the last group of M and L (docs/search.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from effnetv2.block_strings import StageSpec, format_stage, parse_stages
from effnetv2.blocks import round_filters, round_repeats
from nfnets.errors import UserError

MAX_EVAL_SIZE = 480


@dataclasses.dataclass(frozen=True)
class Scale:
    """How a base of B0's size becomes a larger network.

    Attributes:
      width: of channels.
      depth: of layers.
      resolution: EfficientNet's own pixels for these coefficients (B4, B5, B7).
      late_layers: added to the last group of stride 1.
    """

    width: float
    depth: float
    resolution: int
    late_layers: int


SCALES: Mapping[str, Scale] = {
    "s": Scale(width=1.4, depth=1.8, resolution=380, late_layers=0),
    "m": Scale(width=1.6, depth=2.2, resolution=456, late_layers=3),
    "l": Scale(width=2.0, depth=3.1, resolution=600, late_layers=3),
}


def scale_stages(
    stages: Sequence[str],
    width: float,
    depth: float,
    *,
    late_layers: int = 0,
    scale_stem: bool = False,
    upper_limit: bool = False,
) -> tuple[str, ...]:
    """Block strings with scaled channels and layers.

    Args:
      stages: block strings of the base.
      width: of channels, with EfficientNet's rounding to multiples of 8.
      depth: of layers, rounded up.
      late_layers: added after scaling to the last group of stride 1 (stage 5 of
        EfficientNetV2); where there is none, to the last group.
      scale_stem: whether the stem is scaled too, as in EfficientNet; otherwise it has
        as many channels as the first group gives, as in V2-S, M and L.
      upper_limit: EfficientNet's original rounding (`round_filters`).
    """
    if not (width > 0 and depth > 0):
        raise UserError(f"width {width} and depth {depth} must be positive")
    specs = parse_stages(stages)

    def channels(number: int) -> int:
        return round_filters(number, width, upper_limit=upper_limit)

    late = _late_group(specs)
    before = channels(specs[0].in_channels if scale_stem else specs[0].out_channels)
    scaled = []
    for index, spec in enumerate(specs):
        out_channels = channels(spec.out_channels)
        repeats = round_repeats(spec.repeats, depth)
        repeats += late_layers if index == late else 0
        scaled.append(
            dataclasses.replace(
                spec, repeats=repeats, in_channels=before, out_channels=out_channels
            )
        )
        before = out_channels
    return tuple(format_stage(spec) for spec in scaled)


def _late_group(specs: Sequence[StageSpec]) -> int:
    """Index of the last group of stride 1 but the first, or else of the last group."""
    of_stride_1 = [i for i, spec in enumerate(specs) if spec.stride == 1 and i > 0]
    return of_stride_1[-1] if of_stride_1 else len(specs) - 1


def scale_found(found: Sequence[str], target: str) -> tuple[str, ...]:
    """An M- or L-like network from one that was found at the size of S.

    The search runs at the size of EfficientNet-B4, whose coefficients are those of S;
    so a found network is S-like as it is, and larger ones take the ratio.
    """
    small, scale = SCALES["s"], SCALES[target]
    return scale_stages(
        found,
        scale.width / small.width,
        scale.depth / small.depth,
        late_layers=scale.late_layers - small.late_layers,
        scale_stem=True,
    )


def eval_size(resolution: int) -> int:
    """EfficientNet's pixels as a multiple of 32, at most 480: 384, 480, 480."""
    return min(MAX_EVAL_SIZE, math.ceil(resolution / 32) * 32)


def train_size(resolution: int) -> int:
    """0.8 of the pixels at inference, rounded down to a multiple of 4: 304, 384, 384.

    V2-S was released with 300.
    """
    return int(0.8 * eval_size(resolution)) // 4 * 4

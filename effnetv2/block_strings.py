"""Groups of blocks as the strings of Google's released code, and as typed rows.

``r4_k3_s2_e4_i24_o48_c1``: 4 repeats of a block with a 3x3 kernel, of which the first
has stride 2, expansion 4, 24 to 48 channels, Fused-MBConv (EfficientNetV2, Sec. 3.2).
``c0``, or no ``c``, is MBConv; ``se0.25`` adds squeeze-excite.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from nfnets.errors import UserError

EXAMPLE = "r2_k3_s2_e4_i16_o32_se0.25_c1"

_STAGE = re.compile(
    r"r(\d{1,4})_k(\d{1,3})_s(\d)_e(\d{1,3})_i(\d{1,6})_o(\d{1,6})"
    r"(?:_se(\d{1,3}\.?\d{0,20}))?(?:_c([01]))?",
    re.ASCII,
)


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One group of equal blocks, before width and depth are scaled."""

    repeats: int
    kernel: int  # pixels; of the depthwise convolution, or of the fused one
    stride: int  # of the first block; the others have 1
    expansion: int  # of the input's channels inside a block
    in_channels: int
    out_channels: int
    se_ratio: float | None  # of the input's channels, hidden in SE; None: no SE
    fused: bool  # Fused-MBConv instead of MBConv


def parse_stage(text: str) -> StageSpec:
    """The row that a block string stands for; see the module for the notation.

    Raises:
      UserError: it is no block string, or a number in it makes no network.
    """
    match = _STAGE.fullmatch(text)
    if match is None:
        raise UserError(
            f"{text[:80]!r} is not a group of blocks; expected rN_kN_sN_eN_iN_oN, then "
            f"perhaps _seX and _c0 (MBConv) or _c1 (Fused-MBConv), like {EXAMPLE!r}"
        )
    *numbers, se_ratio, conv = match.groups()
    repeats, kernel, stride, expansion, in_channels, out_channels = map(int, numbers)
    spec = StageSpec(
        repeats=repeats,
        kernel=kernel,
        stride=stride,
        expansion=expansion,
        in_channels=in_channels,
        out_channels=out_channels,
        se_ratio=None if se_ratio is None else float(se_ratio),
        fused=conv == "1",
    )
    _check(spec, text)
    return spec


def format_stage(spec: StageSpec) -> str:
    """The block string of a row: ``parse_stage(format_stage(spec)) == spec``.

    Raises:
      UserError: a number of the row makes no network.
    """
    text = (
        f"r{spec.repeats}_k{spec.kernel}_s{spec.stride}_e{spec.expansion}"
        f"_i{spec.in_channels}_o{spec.out_channels}"
    )
    text += "" if spec.se_ratio is None else f"_se{spec.se_ratio}"
    text += "_c1" if spec.fused else ""
    _check(spec, text)
    return text


def parse_stages(texts: Sequence[str]) -> tuple[StageSpec, ...]:
    """The groups of a network, in order; channels must fit from each to the next.

    Raises:
      UserError: there is none, one of them is bad, or two do not fit.
    """
    if not texts:
        raise UserError(
            f"a network needs at least one group of blocks, like {EXAMPLE!r}"
        )
    specs = tuple(parse_stage(text) for text in texts)
    for before, after, text in zip(specs, specs[1:], texts[1:], strict=False):
        if after.in_channels != before.out_channels:
            raise UserError(
                f"{text!r} takes {after.in_channels} channels, but the group before it "
                f"gives {before.out_channels}; write i{before.out_channels}"
            )
    return specs


def _check(spec: StageSpec, text: str) -> None:
    """Raises UserError unless every number is one that a block can have."""
    numbers = {
        "r": spec.repeats,
        "k": spec.kernel,
        "s": spec.stride,
        "e": spec.expansion,
        "i": spec.in_channels,
        "o": spec.out_channels,
    }
    for letter, value in numbers.items():
        if value < 1:
            raise UserError(f"{text!r}: {letter}{value} should be at least {letter}1")
    if spec.se_ratio is not None and not 0.001 <= spec.se_ratio <= 1:
        raise UserError(
            f"{text!r}: se{spec.se_ratio} should be from 0.001 to 1; leave it out for "
            "a group without squeeze-excite"
        )

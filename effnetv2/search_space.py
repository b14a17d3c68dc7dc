"""The space of training-aware NAS (EfficientNetV2, Sec. 3.2): choices per stage.

A backbone fixes strides and channels; each of its stages is MBConv or Fused-MBConv,
with a kernel of 3 or 5, an expansion of 1, 4 or 6, and a number of layers. Genotypes
are tuples of these choices, one per stage of the backbone; everything here is a pure
function of its arguments, the random generator included.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from effnetv2.block_strings import StageSpec, format_stage, parse_stages
from nfnets.errors import UserError

KERNELS = (3, 5)
EXPANSIONS = (1, 4, 6)
# Open in the paper: which blocks have SE. Here as in its networks: every MBConv, with
# a quarter of the block's input channels, and no Fused-MBConv.
SE_RATIO = 0.25

DECISIONS = ("fused", "kernel", "expansion", "layers")


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the search decides for one stage.

    A stage of no layers is not there, and its other decisions are the backbone's: so a
    network has one genotype only.
    """

    fused: bool
    kernel: int
    expansion: int
    layers: int

    def __str__(self) -> str:
        """As in ``r3_k3_e4_c1``; c0 is MBConv, and r0 a stage that is left out."""
        return f"r{self.layers}_k{self.kernel}_e{self.expansion}_c{int(self.fused)}"


Genotype = tuple[Choice, ...]


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """All networks that can be made of a backbone.

    Attributes:
      backbone: its stages; strides and channels are theirs in every network.
      layers: allowed numbers of layers per stage, ascending.
    """

    backbone: tuple[StageSpec, ...]
    layers: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Number of different networks."""
        return math.prod(len(list(choices)) for choices in self._choices())

    def _choices(self) -> list[list[Choice]]:
        return [stage_choices(self, stage) for stage in range(len(self.backbone))]


def make_space(backbone: Sequence[str]) -> SearchSpace:
    """The space around a backbone.

    Args:
      backbone: block strings, scaled already, as ``r2_k3_s2_e4_i16_o32_se0.25``.

    Raises:
      UserError: a string is bad, or the backbone is not in its own space.
    """
    stages = parse_stages(backbone)
    space = SearchSpace(stages, tuple(allowed_layers(s, stages) for s in stages))
    for text, stage in zip(backbone, stages, strict=True):
        _check_stage(text, stage)
    return space


def allowed_layers(stage: StageSpec, stages: Sequence[StageSpec]) -> tuple[int, ...]:
    """One layer fewer, as many, or one more than the backbone has, as in MnasNet.

    A stage of stride 1 that is not the first may also vanish, as the last one did in
    EfficientNetV2: the resolution of what comes after it stays the same.
    """
    # Open in the paper: how many layers; here MnasNet's -1, 0, +1 (arXiv 1807.11626,
    # Sec. 4.1), with 0 where it leaves a valid network.
    near = {n for n in (stage.repeats - 1, stage.repeats, stage.repeats + 1) if n > 0}
    vanishes = stage.stride == 1 and stage is not stages[0]
    return tuple(sorted(near | ({0} if vanishes else set())))


def _check_stage(text: str, stage: StageSpec) -> None:
    """Raises UserError unless the backbone's own stage can be chosen."""
    if stage.kernel not in KERNELS:
        raise UserError(f"{text!r}: the space has kernels {KERNELS}; write one")
    if stage.expansion not in EXPANSIONS:
        raise UserError(f"{text!r}: the space has expansions {EXPANSIONS}; write one")
    if stage.se_ratio != (None if stage.fused else SE_RATIO):
        raise UserError(
            f"{text!r}: the space has se{SE_RATIO} in MBConv and none in Fused-MBConv; "
            "write the stage so"
        )


def backbone_genotype(space: SearchSpace) -> Genotype:
    """The backbone itself, as a member of its space."""
    return tuple(
        Choice(s.fused, s.kernel, s.expansion, s.repeats) for s in space.backbone
    )


def stage_choices(space: SearchSpace, stage: int) -> list[Choice]:
    """All choices for one stage, each a different one."""
    absent = [_absent(space, stage)] if 0 in space.layers[stage] else []
    present = [n for n in space.layers[stage] if n > 0]
    return absent + [
        Choice(fused, kernel, expansion, layers)
        for fused, kernel, expansion, layers in itertools.product(
            (False, True), KERNELS, EXPANSIONS, present
        )
    ]


def _absent(space: SearchSpace, stage: int) -> Choice:
    return dataclasses.replace(backbone_genotype(space)[stage], layers=0)


def sample(space: SearchSpace, rng: np.random.Generator) -> Genotype:
    """A random genotype: every decision of every stage drawn uniformly by itself."""
    return tuple(_sample_stage(space, i, rng) for i in range(len(space.backbone)))


def _sample_stage(space: SearchSpace, stage: int, rng: np.random.Generator) -> Choice:
    layers = _draw(space.layers[stage], rng)
    choice = Choice(
        fused=_draw((False, True), rng),
        kernel=_draw(KERNELS, rng),
        expansion=_draw(EXPANSIONS, rng),
        layers=layers,
    )
    return choice if layers else _absent(space, stage)


def mutate(
    space: SearchSpace, genotype: Genotype, rng: np.random.Generator
) -> Genotype:
    """A neighbour: one decision, drawn uniformly, gets another value.

    A stage that is not there has only its number of layers to decide.
    """
    stage, decision = _draw(list(_open_decisions(space, genotype)), rng)
    old = getattr(genotype[stage], decision)
    others = [v for v in _values(space, stage, decision) if v != old]
    changed = dataclasses.replace(genotype[stage], **{decision: _draw(others, rng)})
    changed = changed if changed.layers else _absent(space, stage)
    return (*genotype[:stage], changed, *genotype[stage + 1 :])


def _draw(options: Sequence[Any], rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]


def _open_decisions(
    space: SearchSpace, genotype: Genotype
) -> Iterator[tuple[int, str]]:
    """(stage, decision) pairs that have another value to take."""
    for stage, choice in enumerate(genotype):
        for decision in DECISIONS if choice.layers else ("layers",):
            if len(_values(space, stage, decision)) > 1:
                yield stage, decision


def _values(space: SearchSpace, stage: int, decision: str) -> tuple:
    values = {
        "fused": (False, True),
        "kernel": KERNELS,
        "expansion": EXPANSIONS,
        "layers": space.layers[stage],
    }
    return values[decision]


def encode(space: SearchSpace, genotype: Genotype) -> tuple[str, ...]:
    """The network's block strings, as ``create_model(..., stages=...)`` takes them.

    Where a stage is left out, the next one's input is what the stage before it gives.
    """
    strings: list[str] = []
    channels = space.backbone[0].in_channels
    for choice, spec in zip(genotype, space.backbone, strict=True):
        if choice.layers == 0:
            continue
        stage = StageSpec(
            repeats=choice.layers,
            kernel=choice.kernel,
            stride=spec.stride,
            expansion=choice.expansion,
            in_channels=channels,
            out_channels=spec.out_channels,
            se_ratio=None if choice.fused else SE_RATIO,
            fused=choice.fused,
        )
        channels = spec.out_channels
        strings.append(format_stage(stage))
    return tuple(strings)


def parse_genotype(space: SearchSpace, texts: Sequence[str]) -> Genotype:
    """Reads back what ``str`` made of the choices.

    Raises:
      UserError: it is no genotype of this space.
    """
    if len(texts) != len(space.backbone):
        raise UserError(
            f"a genotype of {len(texts)} choices; the backbone has "
            f"{len(space.backbone)} stages; restore the file"
        )
    genotype = []
    for stage, text in enumerate(texts):
        known = {str(choice): choice for choice in stage_choices(space, stage)}
        if text not in known:
            raise UserError(
                f"{text!r} is no choice for stage {stage + 1}; restore the file"
            )
        genotype.append(known[text])
    return tuple(genotype)

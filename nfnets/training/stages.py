"""Stages of training: what stays the same for a run of steps, and how it changes.

Progressive learning (EfficientNetV2, Algorithm 1) is a list of stages, made here from
the recipe's ``ProgressiveConfig``; the train loop does not know of it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from nfnets.data.augment_config import AugmentConfig
from nfnets.errors import UserError
from nfnets.training.recipe_parts import ProgressiveConfig


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run of steps under constant settings; a constant recipe is one Stage.

    Attributes:
      steps: number of optimizer steps.
      image_size: training pixels.
      augment: host and device augmentation, with nothing left to resolve.
      drop_rate: dropout before the classifier.
    """

    steps: int
    image_size: int
    augment: AugmentConfig
    drop_rate: float


def make_stages(
    progressive: ProgressiveConfig,
    constant: Stage,
    *,
    steps_per_epoch: float,
    seed: int,
) -> tuple[Stage, ...]:
    """The stages of a run, in order; their steps sum to those of ``constant``.

    Args:
      progressive: how many, in what order, and the first stage's values.
      constant: the whole run without progression; its values are the last setting's.
      steps_per_epoch: for the length of randomly ordered stages.
      seed: of the random order.
    """
    settings = make_settings(progressive, constant)
    total_steps = constant.steps
    if progressive.order == "random":
        assert progressive.random_epochs is not None  # Recipe.from_config has checked
        length = progressive.random_epochs * steps_per_epoch
        count = math.ceil(total_steps / length)
        draws = np.random.default_rng(seed).integers(len(settings), size=count)
        settings = [settings[draw] for draw in draws]
        ends = [min(total_steps, int(length * (i + 1))) for i in range(count)]
    else:
        count = len(settings)
        ends = [total_steps * (i + 1) // count for i in range(count)]
    starts = [0, *ends[:-1]]
    return tuple(
        dataclasses.replace(setting, steps=end - start)
        for start, end, setting in zip(starts, ends, settings, strict=True)
        if end > start  # a run of fewer steps than stages leaves some out
    )


def make_settings(progressive: ProgressiveConfig, constant: Stage) -> list[Stage]:
    """The M settings of progressive learning, from weak to strong (Algorithm 1).

    Their ``steps`` are still those of ``constant``.
    """
    count = progressive.stages
    augment = constant.augment
    sizes = image_sizes(
        progressive.image_size, constant.image_size, count, progressive.skip_first_size
    )
    magnitudes = interpolate(
        progressive.randaugment_magnitude, augment.randaugment_magnitude or 0.0, count
    )
    mixups = interpolate(progressive.mixup_alpha, augment.mixup_alpha, count)
    cutmixes = interpolate(progressive.cutmix_alpha, augment.cutmix_alpha, count)
    drop_rates = interpolate(progressive.drop_rate, constant.drop_rate, count)
    return [
        dataclasses.replace(
            constant,
            image_size=sizes[i],
            augment=dataclasses.replace(
                augment,
                randaugment_magnitude=magnitudes[i],
                mixup_alpha=mixups[i],
                cutmix_alpha=cutmixes[i],
            ),
            drop_rate=drop_rates[i],
        )
        for i in range(count)
    ]


def interpolate(first: float | None, last: float, count: int) -> list[float]:
    """phi_i = phi_0 + (phi_e - phi_0) i / (M - 1) (Algorithm 1).

    ``first`` None is ``last``; a single value is the last.
    """
    if first is None or count == 1:
        return [last] * count
    values = [first + (last - first) * i / (count - 1) for i in range(count - 1)]
    return [*values, last]


def image_sizes(
    first: int | None, last: int, count: int, skip_first: bool
) -> list[int]:
    """S_i of the stages, whole pixels, rounded down as in the released code.

    The paper's S_i = S_0 + (S_e - S_0) i / (M - 1); with ``skip_first`` the code's
    S_i = S_0 + (S_e - S_0) (i + 1) / M.
    """
    if skip_first:
        return [int(size) for size in interpolate(first, last, count + 1)[1:]]
    return [int(size) for size in interpolate(first, last, count)]


def stage_ends(stages: Iterable[Stage]) -> Iterator[tuple[Stage, int]]:
    """Each stage with the step at which it ends, counted over the whole run."""
    stages = list(stages)
    ends = itertools.accumulate(stage.steps for stage in stages)
    return zip(stages, ends, strict=True)


def stages_after(stages: Iterable[Stage], step: int) -> list[tuple[Stage, int]]:
    """What `stage_ends` gives of the stages that are not over after ``step`` steps."""
    return [(stage, end) for stage, end in stage_ends(stages) if end > step]


def describe_stages(stages: Sequence[Stage]) -> list[str]:
    """The stage table in words, a line per stage; nothing for a constant recipe."""
    if len(stages) == 1:
        return []
    lines, first = [], 1
    for stage, end in stage_ends(stages):
        augment = stage.augment
        policy = f"RandAugment {augment.randaugment_magnitude or 0:.4g}"
        if augment.autoaugment is not None:
            policy = f"AutoAugment {augment.autoaugment}"
        lines.append(
            f"steps {first} to {end}: {stage.image_size} px, {policy}, "
            f"mixup {augment.mixup_alpha:.4g}, cutmix {augment.cutmix_alpha:.4g}, "
            f"dropout {stage.drop_rate:.4g}"
        )
        first = end + 1
    return lines


def check_progressive(progressive: ProgressiveConfig, constant: Stage) -> None:
    """Refuses what is no progression.

    Raises:
      UserError: it names the first field whose value cannot work.
    """
    name = "config.progressive"
    if progressive.stages < 1:
        raise UserError(f"{name}.stages is {progressive.stages}, expected 1 or more")
    given = {field: getattr(progressive, field) for field in _FIRST_VALUES}
    given = {field: value for field, value in given.items() if value is not None}
    if progressive.stages == 1 and (given or progressive.order == "random"):
        field = next(iter(given), "order")
        raise UserError(
            f"{name}.stages is 1, which is no progressive learning, but {name}.{field} "
            f"is {getattr(progressive, field)}: raise stages (4 in the paper), or set "
            f"{field} to {'None' if given else 'increasing'}"
        )
    if progressive.stages > 1 and not given:
        raise UserError(
            f"{name}.stages is {progressive.stages}, but no value of the first stage "
            f"is given: set {name}.image_size (128 in the paper) or one of "
            f"{', '.join(_FIRST_VALUES[1:])}"
        )
    if (progressive.random_epochs is None) == (progressive.order == "random"):
        raise UserError(
            f"{name}.random_epochs is {progressive.random_epochs} with {name}.order "
            f"{progressive.order}: it goes with random (8 in the paper), and only so"
        )
    if progressive.random_epochs is not None and not progressive.random_epochs > 0:
        raise UserError(
            f"{name}.random_epochs is {progressive.random_epochs}, it must be positive"
        )
    _check_first_values(given, constant)
    if progressive.skip_first_size and progressive.image_size is None:
        raise UserError(
            f"{name}.skip_first_size is True without {name}.image_size: set both, or "
            f"skip_first_size to False"
        )


# Fields of a ProgressiveConfig that are values of the first stage.
_FIRST_VALUES = (
    "image_size",
    "randaugment_magnitude",
    "mixup_alpha",
    "cutmix_alpha",
    "drop_rate",
)


def _check_first_values(given: dict[str, float], constant: Stage) -> None:
    for field, value in given.items():
        lowest, beyond = (1, math.inf) if field == "image_size" else (0, math.inf)
        beyond = 1 if field == "drop_rate" else beyond
        if not lowest <= value < beyond:
            raise UserError(
                f"config.progressive.{field} is {value}, expected {lowest} or more"
                f"{', below 1' if beyond == 1 else ''}"
            )
    if "randaugment_magnitude" in given and constant.augment.randaugment_layers == 0:
        raise UserError(
            f"config.progressive.randaugment_magnitude is "
            f"{given['randaugment_magnitude']}, but the recipe has no RandAugment "
            f"(config.augment.randaugment_layers is 0): set it to None"
        )

"""Train steps of several networks or recipes, timed in turns with the first one's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from nfnets import flops
from nfnets.errors import UserError
from nfnets.training import parallel
from nfnets.training.recipe import Recipe
from nfnets.training.recipe_parts import CONSTANT
from nfnets.training.step_time import compare, make_timer


@dataclasses.dataclass(frozen=True)
class StepRow:
    """What the step of one recipe costs.

    Attributes:
      name: of config and model.
      params: number of parameters.
      macs: multiply-adds of the forward pass, for one image of the size trained on.
      image_size: that size, pixels.
      batch_size: images per step.
      milliseconds: per step, median.
      speed: steps per second over the first recipe's, from neighbours in time.
      spread: standard deviation of that ratio over it; 0 for the first.
    """

    name: str
    params: int
    macs: int
    image_size: int
    batch_size: int
    milliseconds: float
    speed: float
    spread: float


def benchmark_recipes(
    configs: Sequence[Any],
    models: Sequence[str],
    *,
    image_size: int | None,
    batch_size: int | None,
) -> list[Recipe]:
    """The recipes to time, without progressive learning: at their last stage.

    Args:
      configs: one or more; several only without ``models``.
      models: networks under the one config; none takes each config's own.
      image_size: pixels, None the recipe's.
      batch_size: images per step, None the recipe's.

    Raises:
      UserError: models for several configs, or a value that a recipe cannot have.
    """
    if len(configs) > 1 and models:
        raise UserError(
            f"--models {', '.join(models)} goes with one --config, not {len(configs)}"
        )
    recipes = []
    for config in configs:
        for model in models or [config.model]:
            recipe = Recipe.from_config(config)
            changed = dataclasses.replace(
                recipe,
                model=model,
                progressive=CONSTANT,
                image_size=image_size or recipe.image_size,
                batch_size=batch_size or recipe.batch_size,
            )
            recipes.append(Recipe.from_config(changed.to_dict()))
    return recipes


def compare_steps(
    recipes: Sequence[Recipe], log: Callable[[str], None]
) -> list[StepRow]:
    """Times every recipe's step in turns with the first one's.

    Args:
      recipes: the first is the reference.
      log: is told what is compiled.
    """
    timers = []
    for recipe in recipes:
        parallel.check_divisible(recipe.batch_size, recipe.accumulation_steps)
        log(f"{recipe.name}: {recipe.model}")
        timers.append(make_timer(recipe, log))
    rows = []
    for recipe, timer in zip(recipes, timers, strict=True):
        timed = compare(timer, timers[0])
        model = recipe.create_model()
        counts = flops.count(model, recipe.train_image_size)
        is_first = timer is timers[0]
        rows.append(
            StepRow(
                name=f"{recipe.name}: {recipe.model}",
                params=counts.params,
                macs=counts.macs,
                image_size=recipe.train_image_size,
                batch_size=recipe.batch_size,
                milliseconds=1000 * timed.seconds,
                speed=1.0 if is_first else 1 / timed.ratio,
                spread=0.0 if is_first else timed.spread,
            )
        )
    return rows


def format_steps(rows: Sequence[StepRow]) -> str:
    """The rows as a Markdown table, under a line that names the devices."""
    header = (
        "| recipe: model | parameters (M) | GMACs | px | batch | ms | images/s "
        "| x the first | spread |"
    )
    lines = [f"Devices: {parallel.describe()}.", "", header, f"|{'---|' * 9}"]
    for row in rows:
        cells = (
            row.name,
            f"{row.params / 1e6:.2f}",
            f"{row.macs / 1e9:.3f}",
            f"{row.image_size}",
            f"{row.batch_size}",
            f"{row.milliseconds:.1f}",
            f"{1000 * row.batch_size / row.milliseconds:.1f}",
            f"{row.speed:.2f}",
            f"{row.spread:.0%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

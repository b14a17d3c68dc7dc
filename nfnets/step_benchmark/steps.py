"""Steps of several networks or recipes, timed in turns with the first one's.

Model FLOPs are counted as in PaLM (2204.02311, Appendix B): what is computed again, or
beside convolutions and matrix products, is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from nfnets import flops
from nfnets.errors import UserError
from nfnets.step_benchmark import trace
from nfnets.step_benchmark.inference import prepare_inference
from nfnets.step_benchmark.job import TRACED_STEPS
from nfnets.step_benchmark.peak import DevicePeak, measure_peak
from nfnets.training import parallel
from nfnets.training.compiled_steps import memory_of, traffic_of
from nfnets.training.recipe import Recipe
from nfnets.training.recipe_parts import CONSTANT
from nfnets.training.step_time import (
    PreparedStep,
    StepTime,
    compare,
    make_timer,
    prepare_step,
)


@dataclasses.dataclass(frozen=True)
class StepRow:
    """What the step of one recipe costs.

    Attributes:
      name: of config and model.
      params: number of parameters.
      macs: multiply-adds of the forward pass, for one image of the size below.
      image_size: pixels, trained on or tested with.
      batch_size: images per step.
      milliseconds: per step, median.
      speed: steps per second over the first recipe's, from neighbours in time.
      spread: standard deviation of that ratio over it; 0 for the first.
      compile_seconds: of the step, tracing included; 0 where its first call compiles.
      memory_bytes: that the step needs on each device; None where that is not known.
      model_flops: of a step, over those that the devices could do in that time as
        matrix products.
      traffic: bytes that the step reads and writes, as XLA counts them, over those that
        the devices could copy in that time; None where that is not known.
    """

    name: str
    params: int
    macs: int
    image_size: int
    batch_size: int
    milliseconds: float
    speed: float
    spread: float
    compile_seconds: float
    memory_bytes: int | None
    model_flops: float
    traffic: float | None


def benchmark_recipes(
    configs: Sequence[Any],
    models: Sequence[str],
    *,
    image_size: int | None,
    batch_size: int | None,
    dtype: str | None = None,
) -> list[Recipe]:
    """The recipes to time, without progressive learning: at their last stage.

    Args:
      configs: one or more; several only without ``models``.
      models: networks under the one config; none takes each config's own.
      image_size: pixels, trained on and tested with; None the recipe's.
      batch_size: images per step, None the recipe's.
      dtype: of convolutions and activations, None the recipe's.

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
            tested = image_size or recipe.eval.image_size
            changed = dataclasses.replace(
                recipe,
                model=model,
                image_size=image_size or recipe.image_size,
                eval=dataclasses.replace(recipe.eval, image_size=tested),
                batch_size=batch_size or recipe.batch_size,
                progressive=CONSTANT,
            )
            values = changed.to_dict() | {"dtype": dtype or recipe.dtype}
            recipes.append(Recipe.from_config(values))
    return recipes


def compare_steps(
    recipes: Sequence[Recipe],
    log: Callable[[str], None],
    profile: str | None = None,
    *,
    inference: bool = False,
) -> list[StepRow]:
    """Times every recipe's step in turns with the first one's.

    Args:
      recipes: the first is the reference.
      log: is told what is compiled.
      inference: whether the forward pass at the test size is timed, not the train step.
      profile: directory for a trace of some steps of each recipe, for TensorBoard,
        XProf or Perfetto; None traces nothing.
    """
    prepared = []
    for recipe in recipes:
        parallel.check_divisible(recipe.batch_size, recipe.accumulation_steps)
        log(f"{recipe.name}: {recipe.model}")
        prepare = prepare_inference if inference else prepare_step
        prepared.append(prepare(recipe, log))
    peaks = {dtype: measure_peak(dtype) for dtype in {r.dtype for r in recipes}}
    timers = [make_timer(each) for each in prepared]
    rows = []
    for number, (recipe, step) in enumerate(zip(recipes, prepared, strict=True)):
        timed = compare(timers[number], timers[0])
        rows.append(make_row(recipe, step, timed, peaks[recipe.dtype], number == 0))
        if profile is not None:
            directory = f"{profile}/{number}_{recipe.model}"
            with trace.record(directory):
                timers[number](TRACED_STEPS)
            trace.write_program(directory, step.step)
            for line in trace.describe_device_time(directory):
                log(line)
    return rows


def make_row(
    recipe: Recipe,
    step: PreparedStep,
    timed: StepTime,
    peak: DevicePeak,
    is_first: bool,
) -> StepRow:
    """What is known of a step, put together."""
    counts = flops.count(recipe.create_model(), step.image_size)
    images = recipe.batch_size / parallel.num_devices()
    model_flops = step.flops_per_mac * counts.macs * images
    traffic = traffic_of(step.step)
    return StepRow(
        name=f"{recipe.name}: {recipe.model}",
        params=counts.params,
        macs=counts.macs,
        image_size=step.image_size,
        batch_size=recipe.batch_size,
        milliseconds=1000 * timed.seconds,
        speed=1.0 if is_first else 1 / timed.ratio,
        spread=0.0 if is_first else timed.spread,
        compile_seconds=step.compile_seconds,
        memory_bytes=memory_of(step.step),
        model_flops=model_flops / timed.seconds / peak.flops,
        traffic=None if traffic is None else traffic / timed.seconds / peak.bytes,
    )


def format_steps(rows: Sequence[StepRow]) -> str:
    """The rows as a Markdown table, under a line that names the devices."""
    header = (
        "| recipe: model | parameters (M) | GMACs | px | batch | ms | images/s "
        "| x the first | spread | compile, s | memory, GB | model FLOPs, of the peak "
        "| traffic, of the peak | bound by |"
    )
    lines = [f"Devices: {parallel.describe()}.", "", header, f"|{'---|' * 14}"]
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
            f"{row.compile_seconds:.1f}",
            "?" if row.memory_bytes is None else f"{row.memory_bytes / 1e9:.2f}",
            f"{row.model_flops:.1%}",
            "?" if row.traffic is None else f"{row.traffic:.1%}",
            bound_by(row),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def bound_by(row: StepRow) -> str:
    """What takes the larger share of its peak; a guess, which a profile can settle."""
    if row.traffic is None:
        return "?"
    return "arithmetic" if row.model_flops > row.traffic else "memory traffic"

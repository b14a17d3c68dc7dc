"""Our train steps beside timm's, on one device: each form in a process of its own.

PyTorch runs eager and compiled, with both layouts of memory, and its best form counts.
The forms of a network are measured one after the other, in reversed order in every
second round, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nfnets import flops
from nfnets.benchmark.runner import MeasurementFailed, run_process
from nfnets.errors import UserError
from nfnets.step_benchmark.forms import TIMM_FORMS, check_form, is_ours, parse_our_form
from nfnets.step_benchmark.job import StepJob, StepResult
from nfnets.training.recipe import Recipe

# Fields of a model's row that timm's side takes from the recipe, or does not feel.
_NOT_THE_NETWORK = {
    "bn_momentum",
    "bn_unbiased",
    "drop_rate",
    "stochastic_depth_rate",
    "train_size",
    "eval_size",
    "weight_decay",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One form of one recipe's step, and its results, one a round.

    Attributes:
      recipe: whose step it is.
      form: of the step (`forms`).
      results: none where it failed or there was no time.
      failure: why there are no results; empty otherwise.
    """

    recipe: Recipe
    form: str
    results: tuple[StepResult, ...] = ()
    failure: str = ""

    @property
    def seconds(self) -> float:
        """Per step, the median over rounds."""
        return statistics.median(result.seconds for result in self.results)

    @property
    def cpu_seconds(self) -> float:
        """Per step, the median over rounds."""
        return statistics.median(result.cpu_seconds for result in self.results)


def measure_side_by_side(
    recipes: Sequence[Recipe],
    forms: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    budget_s: float,
    log: Callable[[str], None],
    profile: str | None = None,
) -> list[Case]:
    """All forms of all recipes, as far as the time goes.

    Args:
      recipes: with one micro-batch a step.
      forms: of the step (`forms`); the first ones are measured first.
      rounds: how often each is measured.
      seconds: for how long each is timed in a round, beside making and compiling it.
      budget_s: after which nothing more is begun, and what runs is ended.
      log: is told of each measurement.
      profile: folder for a profile of each; None makes none.

    Raises:
      UserError: an unknown form, or a recipe that accumulates gradients.
    """
    _check(recipes, forms)
    end = time.monotonic() + budget_s
    results: dict[tuple[int, str], list[StepResult]] = {}
    failures: dict[tuple[int, str], str] = {}
    for case in _order(len(recipes), forms, rounds):
        number, form = case
        if case in failures:
            continue
        folder = f"{number}_{recipes[number].model}_{form}".replace(" ", "_")
        traced = None if profile is None else f"{profile}/{folder}"
        job = StepJob(recipes[number].to_dict(), form, seconds, traced)
        try:
            result = _run(job, end - time.monotonic())
            results.setdefault(case, []).append(result)
            said = _in_words(result)
        except MeasurementFailed as error:
            failures[case] = str(error)
            said = f"failed: {error}"
        log(f"{recipes[number].model}, {form}: {said}")
    return [
        Case(recipe, form, tuple(found), "" if found else failures[number, form])
        for number, recipe in enumerate(recipes)
        for form in forms
        for found in [results.get((number, form), [])]
    ]


def _check(recipes: Sequence[Recipe], forms: Sequence[str]) -> None:
    for form in forms:
        check_form(form)
    if not all(map(is_ours, forms)):
        _check_timm(recipes)
    for recipe in recipes:
        if recipe.accumulation_steps > 1:
            raise UserError(
                f"{recipe.name} accumulates gradients, which timm's side does not do; "
                f"choose a --batch_size, and a config, with one micro-batch"
            )


def _check_timm(recipes: Sequence[Recipe]) -> None:
    """That PyTorch and timm are there, and the networks are timm's."""
    for package in ("torch", "timm"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"timm's forms of a step need {package}, which is not installed; run: "
                f"pip install 'nfnets-flax[train,bench]'"
            )
    for recipe in recipes:
        changed = sorted(set(recipe.overrides) - _NOT_THE_NETWORK)
        if changed:
            raise UserError(
                f"{recipe.name} changes {', '.join(changed)} of {recipe.model}, which "
                f"timm's network keeps; choose another config, or --forms=ours"
            )


def _order(
    num_recipes: int, forms: Sequence[str], rounds: int
) -> Iterator[tuple[int, str]]:
    """(recipe, form) in the order of measuring: first one round of everything."""
    for number in range(rounds):
        for recipe in range(num_recipes):
            for form in forms[::-1] if number % 2 else forms:
                yield recipe, form


def _in_words(result: StepResult) -> str:
    milliseconds, first = 1000 * result.seconds, result.first_seconds
    times = f"{milliseconds:.1f} ms a step, the first one after {first:.0f} s"
    return f"{times}; {result.note}"


def _run(job: StepJob, timeout_s: float) -> StepResult:
    if timeout_s <= 0:
        raise MeasurementFailed("no time was left")
    side, environment = "timm_side", {}
    if is_ours(job.form):
        flags = (os.environ.get("XLA_FLAGS", ""), *parse_our_form(job.form).xla_flags)
        side = "ours"
        environment = {
            "XLA_FLAGS": " ".join(flags).strip(),
            # Several processes share the device's memory while they compile.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
    result = run_process(
        f"nfnets.step_benchmark.{side}",
        dataclasses.asdict(job),
        sorted(os.sched_getaffinity(0)),
        timeout_s,
        environment,
    )
    return StepResult(**result)


def format_cases(cases: Sequence[Case], peak_flops: float) -> str:
    """A Markdown table: each form, and timm's best form over it.

    Args:
      cases: as measured.
      peak_flops: of the device in a matrix product, per second.
    """
    header = (
        "| model | px | batch | form | images/s | ms | spread | CPU ms | first step, s "
        "| memory, GB | model FLOPs, of the peak | x timm's best | x, CPU time |"
    )
    lines = [header, f"|{'---|' * 13}"]
    for case in cases:
        recipe = case.recipe
        cells: list[Any] = [recipe.model, recipe.train_image_size, recipe.batch_size]
        cells.append(case.form)
        cells += _numbers(case, cases, peak_flops) if case.results else [case.failure]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _numbers(case: Case, cases: Sequence[Case], peak_flops: float) -> list[str]:
    """What was measured of a case."""
    recipe, results = case.recipe, case.results
    model_flops = 6 * recipe.batch_size * _macs(recipe) / case.seconds / peak_flops
    rivals = [
        other
        for other in cases
        if other.recipe is recipe and other.form in TIMM_FORMS and other.results
    ]
    ratios = ["", ""]
    if rivals:
        best = min(rival.seconds for rival in rivals) / case.seconds
        cpu = min(rival.cpu_seconds for rival in rivals) / case.cpu_seconds
        ratios = [f"{best:.2f}", f"{cpu:.2f}"]
    return [
        f"{recipe.batch_size / case.seconds:.1f}",
        f"{1000 * case.seconds:.1f}",
        f"{max(result.spread for result in results):.0%}",
        f"{1000 * case.cpu_seconds:.0f}",
        f"{min(result.first_seconds for result in results):.1f}",
        f"{max(result.memory_bytes for result in results) / 1e9:.2f}",
        f"{model_flops:.1%}",
        *ratios,
    ]


def _macs(recipe: Recipe) -> int:
    return flops.count(recipe.create_model(), recipe.train_image_size).macs

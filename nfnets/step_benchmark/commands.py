"""The commands ``step`` and ``both`` of experiments/benchmark.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from nfnets.benchmark.report import say, surroundings, write_json
from nfnets.errors import UserError
from nfnets.step_benchmark import turns
from nfnets.step_benchmark.forms import TIMM_FORMS
from nfnets.step_benchmark.loop import format_loop, measure_loop
from nfnets.step_benchmark.peak import measure_peak
from nfnets.step_benchmark.side_by_side import format_cases, measure_side_by_side
from nfnets.step_benchmark.steps import benchmark_recipes, compare_steps, format_steps
from nfnets.training.recipe import Recipe

LoadConfig = Callable[[str], Any]

# What the flags that go with --compare are when they are not given.
BESIDE_TIMM = {
    "forms": ",".join(["ours", *TIMM_FORMS]),
    "rounds": 1,
    "seconds": 4.0,
    "budget_s": 3600.0,
}


def run_step(args: argparse.Namespace, load_config: LoadConfig) -> int:
    """Compares steps, with the first one's or timm's; gives the exit status."""
    check_step(args)
    recipes = benchmark_recipes(
        [load_config(name) for name in args.config.split(",")],
        [name for name in args.models.split(",") if name],
        image_size=args.size,
        batch_size=args.batch_size,
        dtype=args.dtype,
    )
    if args.compare is not None:
        return _run_beside_timm(args, recipes)
    with turns.timing():
        rows = compare_steps(recipes, say, args.profile, inference=args.inference)
    print(f"\n{format_steps(rows)}")
    content = {**surroundings(vars(args)), "rows": [asdict(row) for row in rows]}
    write_json(args.json, content)
    return 0


def check_step(args: argparse.Namespace) -> None:
    """Refuses flags of ``step`` that the others would have ignored."""
    if args.compare is not None:
        if args.inference:
            raise UserError(
                "--inference is given with --compare=timm, where train steps are "
                "timed; leave one of them out"
            )
        return
    for name in BESIDE_TIMM:
        if vars(args)[name] is not None:
            raise UserError(
                f"--{name} is {vars(args)[name]}, which goes with --compare=timm only; "
                "leave it out, or give that too"
            )


def _run_beside_timm(args: argparse.Namespace, recipes: Sequence[Recipe]) -> int:
    given = {name: value for name, value in vars(args).items() if value is not None}
    settings = {**vars(args), **BESIDE_TIMM, **given}
    cases = measure_side_by_side(
        recipes,
        settings["forms"].split(","),
        rounds=settings["rounds"],
        seconds=settings["seconds"],
        budget_s=settings["budget_s"],
        log=say,
        profile=args.profile,
    )
    with turns.timing():
        peak = measure_peak(recipes[0].dtype)
    print(f"\n{format_cases(cases, peak.flops)}")
    content = {**surroundings(settings), "peak": asdict(peak)}
    write_json(args.json, {**content, "cases": [asdict(case) for case in cases]})
    return int(any(case.failure for case in cases))


def run_both(args: argparse.Namespace, load_config: LoadConfig) -> int:
    """Measures a recipe's loader, step and loop; gives the exit status."""
    config = load_config(args.config)
    config.data.source = args.source or config.data.source
    config.data.data_dir = args.data_dir or config.data.data_dir
    recipe, *others = benchmark_recipes(
        [config],
        [name for name in args.models.split(",") if name],
        image_size=args.size,
        batch_size=args.batch_size,
    )
    if others:
        raise UserError(f"--models is {args.models}; expected one network")
    with turns.timing():
        speed = measure_loop(recipe, args.seconds, say, args.profile)
    print(f"\n{format_loop(f'{recipe.name}: {recipe.model}', speed)}")
    write_json(args.json, {**surroundings(vars(args)), **asdict(speed)})
    return 0

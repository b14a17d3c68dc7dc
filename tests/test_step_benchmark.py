"""Timing of train steps: what is compared, and that the program runs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from helpers import CONFIG_DIR, ROOT

from nfnets.errors import UserError
from nfnets.training.config_files import load_config
from nfnets.training.step_benchmark import StepRow, benchmark_recipes, format_steps


def configs(*names):
    return [load_config(name, CONFIG_DIR) for name in names]


def recipes(names, models=(), image_size=None, batch_size=None):
    return benchmark_recipes(
        configs(*names), models, image_size=image_size, batch_size=batch_size
    )


def test_recipes_are_at_their_last_stage():
    (recipe,) = recipes(["effnetv2_m"])
    assert len(recipe.stages) == 1
    stage = recipe.stages[0]
    assert (stage.image_size, stage.augment.mixup_alpha) == (384, 0.2)


def test_models_under_one_recipe_or_several_recipes():
    models = ["effnet_b4", "effnet_b4_fused_1_3"]
    pair = recipes(["effnet_b4"], models, image_size=64, batch_size=8)
    assert [recipe.model for recipe in pair] == models
    assert {recipe.stages[0].image_size for recipe in pair} == {64}
    assert {recipe.batch_size for recipe in pair} == {8}
    pair = recipes(["cifar10_v2", "cifar10_v2_unfused"])
    assert [recipe.name for recipe in pair] == ["cifar10_v2", "cifar10_v2_unfused"]
    with pytest.raises(UserError, match="nfnet_f0 goes with one --config, not 2"):
        recipes(["digits", "cifar10_v2"], ["nfnet_f0"])


def test_the_tables_numbers_by_hand():
    row = StepRow("a: b", 1_250_000, 20_500_000, 32, 64, 160.0, 1.25, 0.031)
    line = format_steps([row]).splitlines()[-1]
    assert line == "| a: b | 1.25 | 0.021 | 32 | 64 | 160.0 | 400.0 | 1.25 | 3% |"


def test_the_program_prints_a_row_for_each():
    command = [sys.executable, ROOT / "experiments" / "benchmark.py", "step"]
    flags = ["--size=8", "--batch_size=8"]
    result = subprocess.run(
        [*command, "--config=digits,cifar10_v2", *flags],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    first, second = re.findall(r"^\| (digits|cifar10_v2): .*", result.stdout, re.M)
    assert (first, second) == ("digits", "cifar10_v2")
    assert "| 1.00 | 0% |" in result.stdout
    refused = subprocess.run(
        [*command, "--config=digitz", *flags], capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: unknown config 'digitz'; did you mean")
    assert refused.stderr.count("\n") == 1

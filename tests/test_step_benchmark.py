"""Timing of train steps: what is compared, and that the program runs."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys

import jax
import pytest
from helpers import CONFIG_DIR, ROOT

from nfnets import flops
from nfnets.errors import UserError
from nfnets.step_benchmark.commands import BESIDE_TIMM, check_step
from nfnets.step_benchmark.loop import LoopSpeed, format_loop
from nfnets.step_benchmark.peak import DevicePeak
from nfnets.step_benchmark.steps import (
    StepRow,
    benchmark_recipes,
    bound_by,
    compare_steps,
    format_steps,
    make_row,
)
from nfnets.training.config_files import load_config
from nfnets.training.step_time import PreparedStep, StepTime


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
    counts = ("a: b", 1_250_000, 20_500_000, 32, 64)
    row = StepRow(*counts, 160.0, 1.25, 0.031, 7.25, 3_000_000_000, 0.123, 0.456)
    line = format_steps([row]).splitlines()[-1]
    speed = "| a: b | 1.25 | 0.021 | 32 | 64 | 160.0 | 400.0 | 1.25 | 3% "
    assert line == f"{speed}| 7.2 | 3.00 | 12.3% | 45.6% | memory traffic |"


def test_model_flops_by_hand():
    (recipe,) = recipes(["digits"], image_size=8, batch_size=48)
    macs = flops.count(recipe.create_model(), 8).macs
    # 2 operations a multiply-add forward, 4 backward.
    step = PreparedStep(None, None, {}, 1.5, image_size=8, flops_per_mac=6)
    timed = StepTime(seconds=0.5, reference_seconds=1.0, ratio=0.5, spread=0.1)
    peak = DevicePeak(flops=1e9, bytes=1e9)
    row = make_row(recipe, step, timed, peak, is_first=False)
    assert row.speed == 2.0
    num_devices = jax.device_count()
    # The peak is 5e8 in half a second.
    assert row.model_flops == 6 * macs * 48 / num_devices / 5e8
    assert (row.memory_bytes, row.traffic) == (None, None)
    assert bound_by(row) == "?"


def test_the_loop_is_bound_by_the_slower():
    assert LoopSpeed(900.0, 1000.0, 850.0, 0.1).bottleneck == "input"
    assert LoopSpeed(1100.0, 1000.0, 980.0, 0.0).bottleneck == "step"
    line = format_loop("a: b", LoopSpeed(1100.0, 1000.0, 980.0, 0.0)).splitlines()[-1]
    assert line == "| a: b | 1100.0 | 1000.0 | 980.0 | 98% | 0.0% | step |"


def test_the_program_measures_loader_and_step_together(tmp_path):
    out, trace = tmp_path / "both.json", tmp_path / "trace"
    command = [sys.executable, ROOT / "experiments" / "benchmark.py", "both"]
    flags = ["--config=digits", "--seconds=0.2", "--batch_size=16"]
    files = [f"--json={out}", f"--profile={trace}"]
    result = subprocess.run([*command, *flags, *files], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(out.read_text())
    assert min(found["input"], found["step"], found["both"]) > 0
    assert 0 <= found["waiting"] < 1
    assert list(trace.rglob("*.xplane.pb"))


def test_inference_is_timed_at_the_test_size():
    (recipe,) = recipes(["nfnet_f0"])
    assert recipe.eval_image_size == 256  # NFNets, Table 1
    (recipe,) = recipes(["digits"], image_size=12, batch_size=8)
    (row,) = compare_steps([recipe], print, inference=True)
    assert row.image_size == 12
    assert row.macs == flops.count(recipe.create_model(), 12).macs
    assert row.milliseconds > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 2}, "--rounds is 2, which goes with --compare=timm only"),
        ({"seconds": 0.5}, "--seconds is 0.5, which goes with"),
        ({"budget_s": 9.0}, "--budget_s is 9.0, which goes with"),
        ({"forms": "ours"}, "--forms is ours, which goes with"),
        ({"compare": "timm", "inference": True}, "--inference is given with --compare"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(given, message):
    nothing = dict.fromkeys(("compare", *BESIDE_TIMM)) | {"inference": False}
    check_step(argparse.Namespace(**nothing))
    with pytest.raises(UserError, match=message):
        check_step(argparse.Namespace(**(nothing | given)))


def test_the_program_prints_a_row_for_each():
    command = [sys.executable, ROOT / "experiments" / "benchmark.py", "step"]
    flags = ["--size=8", "--batch_size=8"]
    result = subprocess.run(
        [*command, "--config=digits,digits", *flags],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^\| digits: nfnet_f0 \|", result.stdout, re.M)) == 2
    assert re.search(r"\| 1\.00 \| 0% \| [\d.]+ \| [\d.]+ \| [\d.]+% \|", result.stdout)
    refused = subprocess.run(
        [*command, "--config=digitz", *flags], capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: unknown config 'digitz'; did you mean")
    assert refused.stderr.count("\n") == 1

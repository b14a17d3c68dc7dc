"""Train steps beside timm's: what is compared, the table, and both sides run."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
import weakref

import pytest
from helpers import ROOT, tiny_recipe

from nfnets import flops
from nfnets.conv import NATIVE, ConvForms
from nfnets.errors import UserError
from nfnets.step_benchmark import timm_side
from nfnets.step_benchmark.forms import OurForm, parse_our_form
from nfnets.step_benchmark.job import StepResult, time_steps
from nfnets.step_benchmark.side_by_side import (
    Case,
    format_cases,
    measure_side_by_side,
)
from nfnets.step_benchmark.timm_side import timm_name

RESULT = StepResult(
    seconds=0.5,
    spread=0.02,
    cpu_seconds=0.8,
    first_seconds=7.0,
    memory_bytes=2_000_000_000,
    loss=2.3,
    params=10,
)


def test_ratios_are_to_timms_best_form():
    recipe = tiny_recipe()
    faster = dataclasses.replace(RESULT, seconds=0.25, cpu_seconds=0.2)
    cases = [
        Case(recipe, "ours", (RESULT,)),
        Case(recipe, "timm eager NHWC", (faster,)),
        Case(recipe, "timm eager NCHW", (RESULT,)),
        Case(recipe, "timm compile NHWC", failure="no compiler"),
    ]
    macs = flops.count(recipe.create_model(), recipe.train_image_size).macs
    peak = 6 * macs * recipe.batch_size / 0.5  # all of it
    lines = format_cases(cases, peak).splitlines()[2:]
    ours, nhwc, nchw, failed = ([c.strip() for c in x.split("|")] for x in lines)
    assert ours[5] == f"{recipe.batch_size / 0.5:.1f}"
    assert ours[6:11] == ["500.0", "2%", "800", "7.0", "2.00"]
    assert ours[11:-1] == ["100.0%", "0.50", "0.25"]
    assert nhwc[-3:-1] == ["1.00", "1.00"]
    assert nchw[-3:-1] == ["0.50", "0.25"]
    assert failed[5] == "no compiler"


def test_steps_are_timed_in_whole_blocks():
    calls = []
    seconds, spread, cpu = time_steps(lambda: calls.append(1), lambda: None, 1e-9)
    assert len(calls) == 3 + 1 + 5  # warm-up, the one that is looked at, five blocks
    assert min(seconds, spread, cpu) >= 0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("nfnet_f1", "dm_nfnet_f1"),
        ("effnetv2_s", "tf_efficientnetv2_s"),
        ("resnet_rs_50", "resnetrs50"),
        ("resnet50", "resnet50"),
    ],
)
def test_names_in_timm(ours, theirs):
    assert timm_name(ours) == theirs


def test_our_forms():
    assert parse_our_form("ours") == OurForm(None, ())
    assert parse_our_form("ours native") == OurForm(NATIVE, ())
    flag = "--xla_gpu_force_conv_nchw=true"
    both = ConvForms(pointwise="matmul", grouped="split")
    assert parse_our_form(f"ours matmul+split {flag}") == OurForm(both, (flag,))
    assert parse_our_form("ours shifted").conv == ConvForms(depthwise="shifted")


def test_mistakes_are_said_before_anything_runs():
    def measure(recipe, forms):
        measure_side_by_side(
            [recipe], forms, rounds=1, seconds=1, budget_s=1, log=print
        )

    with pytest.raises(UserError, match="no form 'ours fast' of our step; expected"):
        measure(tiny_recipe(), ["ours fast"])
    with pytest.raises(UserError, match="names two forms of one kind"):
        measure(tiny_recipe(), ["ours split+dense"])
    with pytest.raises(UserError, match="no form 'theirs' of a step; expected ours"):
        measure(tiny_recipe(), ["theirs"])
    with pytest.raises(UserError, match="accumulates gradients"):
        measure(tiny_recipe(accumulation_steps=2), ["ours"])


def test_timm_is_asked_only_for_what_it_has(monkeypatch):
    def measure():
        forms = ["ours", "timm eager NHWC"]
        measure_side_by_side(
            [tiny_recipe()], forms, rounds=1, seconds=1, budget_s=1, log=print
        )

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need torch, .*nfnets-flax\[train,bench\]"):
        measure()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UserError, match=r"changes .*depths.* of nfnet_f0, which timm"):
        measure()


def test_one_optimizer_is_alive_at_a_time(monkeypatch):
    """The other's state would be counted as memory of the one that is chosen."""
    monkeypatch.setattr(timm_side, "TRIAL_SECONDS", 1e-9)
    alive = weakref.WeakSet()
    most = []

    class Optimizer:
        def step(self):
            most.append(len(alive))

    def make(name):
        optimizer = Optimizer()
        alive.add(optimizer)
        return lambda: optimizer.step()

    names = ["foreach", "fused"]
    assert timm_side.fastest(names, make, lambda: None) in names
    assert set(most) == {1}
    assert not alive


def test_without_time_nothing_is_begun():
    (case,) = measure_side_by_side(
        [tiny_recipe()], ["ours"], rounds=1, seconds=1, budget_s=0, log=print
    )
    assert (case.results, case.failure) == ((), "no time was left")


def test_the_program_runs_both_sides(tmp_path):
    out = tmp_path / "steps.json"
    has_timm = importlib.util.find_spec("timm") is not None
    forms = ["ours"] + ["timm eager NHWC"] * has_timm
    command = [sys.executable, ROOT / "experiments" / "benchmark.py", "step"]
    flags = ["--config=rsb_pytorch", "--models=resnet18", "--size=32", "--batch_size=4"]
    compared = ["--compare=timm", f"--forms={','.join(forms)}", "--seconds=0.1"]
    result = subprocess.run(
        [*command, *flags, *compared, f"--json={out}"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    cases = json.loads(out.read_text())["cases"]
    assert [case["form"] for case in cases] == forms
    params = {case["results"][0]["params"] for case in cases}
    assert params == {11_689_512}  # PyTorch's resnet18, on both sides

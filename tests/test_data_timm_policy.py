"""timm's policies: tables and arguments against timm, and the laws of the draws."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfnets.data import timm_tables as tables
from nfnets.data.operation import Operation
from nfnets.data.timm_policy import draw_autoaugment, draw_randaugment
from nfnets.errors import UserError

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "timm_randaugment.json").read_text("utf-8")
)
# A2 of ResNet strikes back, without noise.
RAND: dict[str, Any] = {
    "layers": 2,
    "magnitude": 7.0,
    "rate": 0.5,
    "noise": 0.0,
    "increasing": True,
    "kernel": "bicubic",
}


def test_randaugment_draws_from_the_operations_of_timm():
    assert list(tables.RANDAUGMENT) == GOLDEN["randaugment"]
    assert list(tables.RANDAUGMENT_INCREASING) == GOLDEN["randaugment_increasing"]
    assert len(tables.RANDAUGMENT) == 15


@pytest.mark.parametrize("name", GOLDEN["policies"])
def test_policies_are_those_of_timm(name):
    ours = [[list(op) for op in sub_policy] for sub_policy in tables.POLICIES[name]]
    assert ours == GOLDEN["policies"][name]
    assert set(tables.POLICIES) == set(GOLDEN["policies"])


@pytest.mark.parametrize("name", GOLDEN["arguments"])
def test_arguments_are_those_of_timm(name):
    for magnitude, expected in GOLDEN["arguments"][name].items():
        for draw, value in zip((0.25, 0.75), expected, strict=True):
            ours = tables.make_operation(name, float(magnitude), draw, "bicubic")
            assert ours.argument == value, magnitude
            assert name.startswith(ours.name)


def test_the_table_of_the_facts_at_magnitude_seven():
    """ResNet strikes back, rand-m7-...-inc1; L = 0.7."""
    positive = {
        name: tables.make_operation(name, 7.0, 0.0, "bicubic").argument
        for name in tables.RANDAUGMENT_INCREASING
    }
    assert positive == pytest.approx(
        {
            "AutoContrast": 0,
            "Equalize": 0,
            "Invert": 0,
            "Rotate": 21,
            "PosterizeIncreasing": 2,
            "SolarizeIncreasing": 77,
            "SolarizeAdd": 77,
            "ColorIncreasing": 1.63,
            "ContrastIncreasing": 1.63,
            "BrightnessIncreasing": 1.63,
            "SharpnessIncreasing": 1.63,
            "ShearX": 0.21,
            "ShearY": 0.21,
            "TranslateXRel": 0.315,
            "TranslateYRel": 0.315,
        }
    )


def many(count: int, **changes: Any) -> list[tuple[Operation, ...]]:
    rng = np.random.default_rng(0)
    return [draw_randaugment(rng, **RAND | changes) for _ in range(count)]


def test_operations_are_uniform_and_applied_at_the_rate():
    count = 30_000
    drawn = many(count)
    lengths = np.bincount([len(operations) for operations in drawn], minlength=3)
    # Binomial (2, 0.5); chi-squared with 2 degrees of freedom, 99.9 % is 13.8.
    expected = np.array([0.25, 0.5, 0.25]) * count
    assert ((lengths - expected) ** 2 / expected).sum() < 13.8
    names = [operation.name for operations in drawn for operation in operations]
    counts = np.unique(names, return_counts=True)[1]
    assert len(counts) == 15
    # With replacement: chi-squared with 14 degrees of freedom, 99.9 % is 36.1.
    assert ((counts - len(names) / 15) ** 2 / (len(names) / 15)).sum() < 36.1
    pairs = [operations for operations in drawn if len(operations) == 2]
    same = np.mean([first.name == second.name for first, second in pairs])
    assert same == pytest.approx(1 / 15, abs=0.012)  # four standard deviations


@pytest.mark.parametrize(("rate", "applied"), [(0.0, 0), (1.0, 3)])
def test_rates_of_none_and_all(rate, applied):
    drawn = many(500, rate=rate, layers=3)
    assert {len(operations) for operations in drawn} == {applied}


@pytest.mark.parametrize("increasing", [False, True])
def test_signs_are_even_and_belong_to_some(increasing):
    drawn = many(20_000, rate=1.0, increasing=increasing)
    by_name: dict[str, list[float]] = {}
    for operation in (operation for operations in drawn for operation in operations):
        by_name.setdefault(operation.name, []).append(operation.argument)
    signed = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}
    blends = {"Color", "Contrast", "Brightness", "Sharpness"}
    for name, arguments in by_name.items():
        middle = 1.0 if name in blends else 0.0
        high = np.mean(np.array(arguments) > middle)
        if name in signed or (increasing and name in blends):
            # About 2,700 draws each: four standard deviations are 0.04.
            assert high == pytest.approx(0.5, abs=0.04), name
            assert len(set(arguments)) == 2
        else:
            assert len(set(arguments)) == 1, name


def magnitudes(**changes: Any) -> np.ndarray:
    """Magnitudes that the operations were made with, read off the rotations."""
    drawn = many(20_000, rate=1.0, layers=4, **changes)
    rotations = [op.argument for ops in drawn for op in ops if op.name == "Rotate"]
    return np.abs(rotations) / 3


def test_noise_is_normal():
    found = magnitudes(noise=0.5)
    assert found.size > 5000
    # Standard errors are about 0.007 and 0.005; tails by the normal distribution.
    assert found.mean() == pytest.approx(7.0, abs=0.03)
    assert found.std() == pytest.approx(0.5, abs=0.02)
    for sigmas, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        inside = np.mean(np.abs(found - 7) < sigmas * 0.5)
        assert inside == pytest.approx(share, abs=0.026 if sigmas == 1 else 0.012)


@pytest.mark.parametrize("noise", [0.5, 101.0])
def test_sign_magnitude_and_kernel_are_independent(noise):
    drawn = many(20_000, layers=4, noise=noise, kernel="random")
    rotations = [op for ops in drawn for op in ops if op.name == "Rotate"]
    sizes = np.abs([op.argument for op in rotations])
    events = {
        "positive": np.array([op.argument > 0 for op in rotations]),
        "strong": sizes > (21 if noise < 100 else 10.5),
        "bicubic": np.array([op.kernel == "bicubic" for op in rotations]),
    }
    assert len(rotations) > 2500
    for name, event in events.items():
        assert event.mean() == pytest.approx(0.5, abs=0.04), name
    # Four standard errors of a correlation are 0.08.
    correlation = np.corrcoef(list(events.values()))
    np.testing.assert_allclose(correlation, np.eye(3), atol=0.08)


def test_magnitudes_stay_between_none_and_ten():
    found = magnitudes(magnitude=9.0, noise=2.0)
    assert found.max() == pytest.approx(10)
    # Beyond half a standard deviation: 30.85 % of a normal distribution.
    assert np.mean(found > 10 - 1e-9) == pytest.approx(0.3085, abs=0.026)
    low = magnitudes(magnitude=1.0, noise=2.0)
    assert np.mean(low == 0) == pytest.approx(0.3085, abs=0.026)
    assert set(magnitudes(magnitude=15.0)) == {10}


@pytest.mark.parametrize("noise", [101.0, math.inf])
def test_much_noise_is_a_uniform_magnitude(noise):
    found = magnitudes(noise=noise)
    assert found.max() < 7
    counts = np.histogram(found, bins=10, range=(0, 7))[0]
    # Chi-squared with 9 degrees of freedom, 99.9 % is 27.9.
    assert ((counts - found.size / 10) ** 2 / (found.size / 10)).sum() < 27.9


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "random"])
def test_kernels(kernel):
    kernels = [op.kernel for ops in many(4000, kernel=kernel) for op in ops]
    if kernel != "random":
        assert set(kernels) == {kernel}
        return
    assert set(kernels) == {"bilinear", "bicubic"}
    assert np.mean([k == "bicubic" for k in kernels]) == pytest.approx(0.5, abs=0.04)
    pairs = [ops for ops in many(4000, kernel=kernel) if len(ops) == 2]
    mixed = np.mean([first.kernel != second.kernel for first, second in pairs])
    assert mixed == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(
    "changes",
    [{}, {"rate": 0.0}, {"noise": 0.5, "rate": 1.0}, {"noise": 101.0}, {"layers": 5}],
)
def test_randaugment_uses_six_draws_per_layer(changes):
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(20):
        draw_randaugment(rng, **RAND | {"kernel": "random"} | changes)
        same.random(6 * changes.get("layers", 2))
        assert rng.random() == same.random()


@pytest.mark.parametrize("policy", GOLDEN["policies"])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_autoaugment_uses_the_same_number_of_draws(policy, noise):
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(50):
        draw_autoaugment(rng, policy, noise=noise, kernel="random")
        same.random(6 if policy == "3a" else 11)
        assert rng.random() == same.random()


@pytest.mark.parametrize("policy", ["v0", "v0r", "original", "originalr"])
def test_autoaugment_applies_sub_policies_with_their_probabilities(policy):
    count = 20_000
    rng = np.random.default_rng(0)
    drawn = [
        draw_autoaugment(rng, policy, noise=0.0, kernel="bicubic") for _ in range(count)
    ]
    expected: dict[tuple[str, float], float] = {}
    for name, rate, magnitude in (
        op for pair in GOLDEN["policies"][policy] for op in pair
    ):
        operation = tables.make_operation(name, magnitude, 0.0, "bicubic")
        key = operation.name, operation.argument
        expected[key] = expected.get(key, 0.0) + rate * count / 25
    found: dict[tuple[str, float], int] = {}
    for operation in (op for ops in drawn for op in ops):
        # Without increasing forms, the sign is the argument's.
        key = operation.name, abs(operation.argument)
        found[key] = found.get(key, 0) + 1
    assert set(found) == {key for key, number in expected.items() if number}
    for key, number in found.items():
        # Four and a half standard deviations of a Poisson number.
        assert abs(number - expected[key]) < 4.5 * math.sqrt(expected[key]), key


def test_autoaugment_keeps_the_order_of_a_sub_policy():
    pairs = {
        tuple(tables.make_operation(*op[::2], 0.0, "").name for op in pair)
        for pair in GOLDEN["policies"]["original"]
    }
    rng = np.random.default_rng(0)
    for _ in range(500):
        drawn = draw_autoaugment(rng, "original", noise=0.0, kernel="bicubic")
        names = tuple(operation.name for operation in drawn)
        assert len(names) < 2 or names in pairs


def test_autoaugment_with_noise():
    rng = np.random.default_rng(0)
    drawn = [
        draw_autoaugment(rng, "3a", noise=1.0, kernel="bicubic") for _ in range(6000)
    ]
    thresholds = [ops[0].argument for ops in drawn if ops[0].name == "Solarize"]
    # 25.6 per unit of magnitude, around 128; truncated to whole numbers.
    assert np.mean(thresholds) == pytest.approx(127.5, abs=2.5)
    assert np.std(thresholds) == pytest.approx(25.6, abs=2)


def test_three_augment_is_one_of_three():
    rng = np.random.default_rng(0)
    drawn = [
        draw_autoaugment(rng, "3a", noise=0.0, kernel="bicubic") for _ in range(6000)
    ]
    assert {len(operations) for operations in drawn} == {1}
    names = [operations[0].name for operations in drawn]
    for name in ("Solarize", "Color", "GaussianBlur"):
        assert names.count(name) == pytest.approx(2000, abs=150)
    assert {ops[0].argument for ops in drawn if ops[0].name == "Solarize"} == {128}
    assert {ops[0].argument for ops in drawn if ops[0].name == "Color"} == {0}
    radii = [ops[0].argument for ops in drawn if ops[0].name == "GaussianBlur"]
    # Uniform on 0.1..2: mean 1.05 and deviation 1.9 / sqrt(12).
    assert 0.1 <= min(radii) < 0.11
    assert 1.99 < max(radii) < 2
    assert np.mean(radii) == pytest.approx(1.05, abs=0.05)
    assert np.std(radii) == pytest.approx(0.548, abs=0.03)


def test_an_unknown_policy_is_refused():
    with pytest.raises(UserError, match="policy is 'v1'; expected v0, v0r, original"):
        draw_autoaugment(np.random.default_rng(0), "v1", noise=0.0, kernel="bicubic")

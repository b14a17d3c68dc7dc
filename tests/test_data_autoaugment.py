"""AutoAugment's policy v0: its table, its arguments and the law of its draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import plain_augment

from nfnets.data import tf_operations as ops
from nfnets.data.augment_config import check_augment
from nfnets.data.autoaugment import POLICY_V0, REACH, draw_autoaugment
from nfnets.data.plan import draw_operations

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "nfnet_autoaugment.json").read_text("utf-8")
)


def test_policy_is_the_official_one():
    ours = [[list(op) for op in sub_policy] for sub_policy in POLICY_V0]
    assert ours == GOLDEN["policy"]
    assert len(ours) == 25


@pytest.mark.parametrize("level", GOLDEN["arguments"])
def test_arguments_are_official(level):
    for name, expected in GOLDEN["arguments"][level].items():
        ours = ops.operation_argument(name, float(level), REACH)
        assert ours == pytest.approx(expected, rel=1e-6), name


def draw(count: int) -> list[list[tuple[str, float]]]:
    """The operations of ``count`` images and their arguments."""
    rng = np.random.default_rng(0)
    return [
        [(op.name, op.argument) for op in draw_autoaugment(rng)] for _ in range(count)
    ]


def test_operations_are_drawn_with_their_probability():
    count = 20_000
    images = draw(count)
    # Expected number of each operation: 1/25 of the images times its probability.
    expected = dict.fromkeys(ops.OPERATIONS, 0.0)
    for name, probability, _ in (op for pair in GOLDEN["policy"] for op in pair):
        expected[name] += probability * count / 25
    counts = dict.fromkeys(ops.OPERATIONS, 0)
    for name, _ in (op for image in images for op in image):
        counts[name] += 1
    for name, number in expected.items():
        # Poisson's deviation bounds the sum's; 4 of them.
        assert abs(counts[name] - number) <= 4 * np.sqrt(number), name
    # Both, one or none, independently: the sub-policies' means of p q, and so on.
    p, q = np.array([[a[1], b[1]] for a, b in GOLDEN["policy"]]).T
    lengths = np.bincount([len(image) for image in images], minlength=3) / count
    shares = [(1 - p) * (1 - q), p * (1 - q) + q * (1 - p), p * q]
    np.testing.assert_allclose(lengths, np.mean(shares, axis=1), atol=0.015)


def test_sub_policies_are_uniform_and_signs_even():
    images = draw(20_000)
    # Only sub-policy 15 translates, and always rotates before: 21 degrees, 225 pixels.
    rotated = [image for image in images if image and abs(image[0][1]) == 21]
    assert len(rotated) == pytest.approx(800, abs=115)  # 4 deviations of 28
    moved = [image[1][1] for image in rotated if len(image) == 2]
    assert len(moved) / len(rotated) == pytest.approx(0.8, abs=0.06)
    assert {abs(pixels) for pixels in moved} == {225.0}
    assert np.mean(np.sign(moved)) == pytest.approx(0, abs=0.16)
    # Signs of the two operations of an image are drawn apart.
    signs = {(np.sign(a[1]), np.sign(b[1])) for a, b in (i for i in rotated if i[1:])}
    assert len(signs) == 4


CONFIG = plain_augment(autoaugment="v0")


def test_a_recipe_draws_it():
    check_augment(CONFIG)
    for seed in range(20):
        rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
        assert draw_operations(rng, CONFIG) == draw_autoaugment(same)

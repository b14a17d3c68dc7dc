"""Losses and targets by hand and against timm's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import recipe_of, with_changes

from nfnets.errors import UserError
from nfnets.training import losses
from nfnets.training.gradients import training_loss
from nfnets.training.recipe import Recipe

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "timm_losses.json").read_text("utf-8")
)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_losses_are_timm_s(case):
    labels, logits = np.array(GOLDEN["labels"]), jnp.array(GOLDEN["logits"])
    share = np.full(4, case["share"], np.float32)
    targets = losses.soft_targets(
        labels, labels[::-1], share, GOLDEN["num_classes"], case["label_smoothing"]
    )
    if case["threshold"] is not None:
        targets = losses.threshold_targets(targets, case["threshold"])
    recipe = with_changes(
        recipe_of("digits"),
        loss=case["loss_name"],
        bce_sum_classes=case["sum_classes"],
        bce_pos_weight=case.get("pos_weight"),
    )
    loss_of = training_loss(recipe)
    loss, grad = jax.value_and_grad(lambda x: jnp.mean(loss_of(x, targets)))(logits)
    np.testing.assert_allclose(loss, case["loss"], rtol=1e-6)
    np.testing.assert_allclose(grad, case["grad"], rtol=1e-5, atol=1e-7)


def test_soft_targets_by_hand():
    targets = losses.soft_targets(
        jnp.array([0]), jnp.array([2]), jnp.array([0.75]), 4, label_smoothing=0.2
    )
    np.testing.assert_allclose(targets, [[0.65, 0.05, 0.25, 0.05]], rtol=1e-6)


def test_smoothed_loss_is_effnetv2_s(golden):
    want = golden("effnetv2_recipe")["softmax_smooth"]
    hard = np.array(want["labels"])  # all their mass on at most two classes
    first, second = hard.argmax(axis=1), np.where(hard.max(axis=1) < 1, 0, -1)
    second = np.where(second < 0, first, second)
    ratio = jnp.array(hard.max(axis=1), jnp.float32)
    targets = losses.soft_targets(
        jnp.array(first), jnp.array(second), ratio, 5, want["ls"]
    )
    loss = losses.softmax_cross_entropy(jnp.array(want["logits"]), targets)
    np.testing.assert_allclose(jnp.mean(loss), want["loss"], rtol=1e-6)


def test_cross_entropy_by_hand():
    """Uniform logits over 8 classes cost log 8, whatever the target."""
    loss = losses.softmax_cross_entropy(
        jnp.zeros((1, 8), jnp.bfloat16), jnp.full((1, 8), 0.125)
    )
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, [np.log(8)], rtol=1e-6)


def test_binary_cross_entropy_by_hand():
    """At logit 0 every class costs log 2; saturated logits stay finite."""
    bce = losses.binary_cross_entropy
    zeros, targets = jnp.zeros((1, 8), jnp.bfloat16), jnp.full((1, 8), 0.3)
    assert bce(zeros, targets, sum_classes=False).dtype == jnp.float32
    np.testing.assert_allclose(
        bce(zeros, targets, sum_classes=True), [8 * np.log(2)], rtol=1e-6
    )
    far = jnp.array([[200.0, -200.0]])
    np.testing.assert_allclose(
        bce(far, jnp.array([[0.0, 0.0]]), sum_classes=False), [100.0]
    )


def test_targets_above_a_threshold_by_hand():
    """Weights 0.75 and 0.25: both positive at 0.2; shared mass; smoothing after it."""
    mixed = losses.soft_targets(
        jnp.array([0]), jnp.array([2]), jnp.array([0.75]), 4, label_smoothing=0.0
    )
    targets = losses.threshold_targets
    assert targets(mixed, 0.2).tolist() == [[1, 0, 1, 0]]
    assert targets(mixed, 0.2, sum_to_one=True).tolist() == [[0.5, 0, 0.5, 0]]
    np.testing.assert_allclose(
        targets(mixed, 0.2, label_smoothing=0.2), [[0.85, 0.05, 0.85, 0.05]], rtol=1e-6
    )
    assert targets(mixed, 0.3, sum_to_one=True).tolist() == [[1, 0, 0, 0]]
    assert targets(mixed, 0.8, sum_to_one=True).tolist() == [[0, 0, 0, 0]]


def test_threshold_is_strict():
    targets = losses.threshold_targets(jnp.array([[0.25, 0.5, 0.75, 0.0]]), 0.5)
    assert targets.tolist() == [[0.0, 0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "bce", "bce_target_threshold": 1.0}, r"threshold is 1\.0.*\[0, 1\)"),
        ({"bce_target_threshold": 0.2}, r"config\.loss is softmax.*0\.2"),
        ({"bce_sum_classes": True}, r"config\.loss is softmax.*True"),
        # 0.1 of smoothing over 10 classes gives each 0.01.
        ({"loss": "bce", "bce_target_threshold": 0.005}, r"0\.005.*0\.01.*every class"),
        ({"loss": "hinge"}, r"config\.loss is 'hinge'"),
        ({"bce_pos_weight": 2.0}, r"config\.loss is softmax.*bce_pos_weight"),
        ({"loss": "bce", "bce_smoothing": "after"}, r"bce_target_threshold is None"),
        ({"loss": "bce", "bce_sum_to_one": True}, r"bce_target_threshold is None"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    config = recipe_of("digits").to_dict()
    with pytest.raises(UserError, match=message):
        Recipe.from_config(config | changes)


def test_settings_of_rsb_are_accepted():
    config = recipe_of("digits").to_dict()
    changes = {"loss": "bce", "bce_target_threshold": 0.2, "bce_sum_classes": True}
    assert Recipe.from_config(config | changes).bce_target_threshold == 0.2

"""Learning rate and averaging against the official code's numbers."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import recipe_of

from nfnets.training.optimizer import learning_rate
from nfnets.training.schedules import ema_ramp, warmup_cosine, warmup_exponential


def test_nfnet_schedule_through_the_recipe(golden):
    """The nfnet_f0 config alone gives the official 112,602 steps and rates."""
    want, recipe = golden("nfnet_schedules")["nfnet"], recipe_of("nfnet_f0")
    assert recipe.total_steps == want["num_steps"]
    assert recipe.peak_lr == want["max_lr"]
    np.testing.assert_allclose(recipe.warmup_steps, want["warmup_steps"], rtol=1e-7)
    np.testing.assert_allclose(
        recipe.steps_per_epoch, want["steps_per_epoch"], rtol=1e-7
    )
    schedule = learning_rate(recipe)
    for step, value in want["values_float64"].items():
        np.testing.assert_allclose(schedule(int(step)), value, rtol=2e-6, atol=2e-7)


def test_nf_regnet_schedule_through_the_recipe(golden):
    want, recipe = golden("nfnet_schedules")["nf_regnet"], recipe_of("nf_regnet_b0")
    assert recipe.total_steps == want["num_steps"]
    schedule = learning_rate(recipe)
    for step, value in want["values_float64"].items():
        np.testing.assert_allclose(schedule(int(step)), value, rtol=2e-6, atol=1e-7)


def test_base_resnet_schedule_through_the_recipe(golden):
    want, recipe = golden("nfnet_schedules")["base_resnet"], recipe_of("dm_resnet_50")
    assert recipe.total_steps == want["num_steps"]
    schedule = learning_rate(recipe)
    for step, value in want["values_float64"].items():
        np.testing.assert_allclose(schedule(int(step)), value, rtol=2e-6, atol=1e-7)


def test_cosine_without_warmup(golden):
    want = golden("nfnet_schedules")["cosine_decay_min0_max1_n100"]
    schedule = warmup_cosine(1.0, 0.0, 0.0, 100)
    for step, value in want.items():
        np.testing.assert_allclose(schedule(int(step)), value, atol=3e-7)


def test_exponential_after_warmup(golden):
    want = golden("nfnet_schedules")["warmup_exp_start0_max1_w10_f0.97_i20"]
    schedule = warmup_exponential(1.0, 0.97, warmup_steps=10.0, decay_steps=20.0)
    for step, value in want.items():
        np.testing.assert_allclose(schedule(int(step)), value, rtol=1e-6)


def test_exponential_through_the_recipe():
    """Peak 1.6 after 5 epochs of 312.78 steps, then 0.97 per 2.4 epochs of them."""
    recipe = recipe_of(
        "nfnet_f0",
        optim__schedule="exponential",
        optim__decay_rate=0.97,
        optim__decay_epochs=2.4,
    )
    schedule, per_epoch = learning_rate(recipe), 1281167 / 4096
    for epochs, power in ((5.01, 0), (7.39, 0), (7.41, 1), (29.1, 10)):
        step = int(epochs * per_epoch)
        np.testing.assert_allclose(schedule(step), 1.6 * 0.97**power, rtol=1e-5)


# EfficientNetV2's recipes, as far as their learning rates go.
EFFNETV2 = {
    "lr_imagenet_exponential": dict(
        data__num_train=1256144,
        batch_size=4096,
        num_epochs=350.0,
        optim__schedule="exponential",
        optim__lr_per_256=0.016,
        optim__decay_rate=0.97,
        optim__decay_epochs=2.4,
        optim__warmup_epochs=5.0,
    ),
    "lr_imagenet21k_cosine": dict(
        data__num_train=12720275,
        batch_size=4096,
        num_epochs=60.0,
        optim__lr_per_256=0.008,
        optim__warmup_epochs=1.0,
    ),
    "lr_cifar_ft_constant": dict(
        data__num_train=50000,
        batch_size=512,
        num_epochs=15.0,
        min_steps=10000,
        optim__schedule="constant",
        optim__lr_per_256=0.0005,
        optim__warmup_epochs=1.0,
    ),
}


@pytest.mark.parametrize("name", EFFNETV2)
def test_effnetv2_schedules_through_the_recipe(golden, name):
    """The clock starts at step 0, and the warmup hides the schedule's beginning."""
    want = golden("effnetv2_recipe")[name]
    recipe = recipe_of("nfnet_f0", optim__decay_clock="start", **EFFNETV2[name])
    assert recipe.total_steps == want.get("total_steps", 10000)
    if "steps_per_epoch" in want:
        np.testing.assert_allclose(
            recipe.steps_per_epoch, want["steps_per_epoch"], rtol=1e-7
        )
    schedule = learning_rate(recipe)
    for step, value in want["values"].items():
        np.testing.assert_allclose(
            schedule(int(step)), value, rtol=2e-6, atol=1e-8, err_msg=f"step {step}"
        )


def test_constant_after_warmup():
    """The warmup of NFNet's clock is 1563.92 steps, not rounded."""
    schedule = learning_rate(recipe_of("nfnet_f0", optim__schedule="constant"))
    np.testing.assert_allclose(schedule(1563), 1.6 * 1563 / 1563.924561, rtol=1e-6)
    assert float(schedule(1564)) == float(schedule(112601)) == np.float32(1.6)


def test_schedule_stays_at_its_end():
    schedule = warmup_cosine(1.0, 0.25, 2.0, 10)
    assert float(schedule(10)) == float(schedule(1000)) == 0.25


def test_schedule_follows_overrides():
    """Twice the batch: twice the rate, half the steps (nothing is frozen early)."""
    recipe = recipe_of("nfnet_f0")
    double = dataclasses.replace(recipe, batch_size=8192)
    assert double.peak_lr == 2 * recipe.peak_lr
    assert double.total_steps == recipe.total_steps // 2
    assert double.warmup_steps == recipe.warmup_steps / 2


def test_ema_ramp(golden):
    for case in golden("nfnet_schedules")["tf1_ema"]:
        decay = ema_ramp(case["decay"], case["step"])
        average = optax.incremental_update(
            jnp.float32(case["value"]), jnp.float32(case["ema"]), 1 - decay
        )
        np.testing.assert_allclose(average, case["out"], rtol=1e-6)


def test_effnetv2_ema_counts_updates_from_one(golden):
    """Its code averages after counting the step, so that n of the first is 1."""
    want = golden("effnetv2_recipe")["ema_num_updates"]
    first, average = want["n"][0], jnp.float32(want["init"])
    for step, (value, expected) in enumerate(
        zip(want["values_set"], want["ema"], strict=True)
    ):
        decay = ema_ramp(want["decay"], step + first)
        average = optax.incremental_update(jnp.float32(value), average, 1 - decay)
        np.testing.assert_allclose(average, expected, rtol=1e-6)
    assert first == 1

"""LAMB, RMSProp, AdamW, SGD and their schedules against timm's numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import recipe_of, with_changes

from nfnets.errors import UserError
from nfnets.training.lamb import lamb
from nfnets.training.optimizer import learning_rate, make_optimizer
from nfnets.training.recipe import Recipe
from nfnets.training.rmsprop import rmsprop_tf
from nfnets.training.schedules import by_epoch, warmup_cosine, warmup_exponential

FOLDER = Path(__file__).parent / "golden"
GOLDEN = json.loads((FOLDER / "timm_optimizers.json").read_text("utf-8"))
SCHEDULES = json.loads((FOLDER / "timm_schedules.json").read_text("utf-8"))
RUNS = GOLDEN["runs"]

# Runs that a recipe makes: its fields, where they are not told by the golden's.
ADAM = dict(optim__momentum=0.0, optim__adam_b1=0.9, optim__adam_b2=0.999)
LAMB = dict(ADAM, optim__name="lamb", optim__adam_eps=1e-6, optim__clip_norm=1.0)
RMSPROP = dict(optim__name="rmsprop", optim__rms_decay=0.9, optim__rms_eps=1e-3)
BY_RECIPE = {
    "lamb_rsb_a1": LAMB,
    "lamb_rsb_a2": LAMB,
    "lamb_rsb_a3": LAMB,
    "lamb_small_grads": LAMB,
    "lamb_no_clip": LAMB | {"optim__clip_norm": None},
    "rmsproptf_effnet": RMSPROP | {"optim__momentum": 0.9},
    "rmsproptf_no_momentum": RMSPROP | {"optim__momentum": 0.0},
    "sgd_nesterov": dict(optim__momentum=0.9, optim__nesterov=True),
    "sgd_nesterov_agc": dict(
        optim__momentum=0.9,
        optim__nesterov=True,
        optim__agc_clipping=0.01,
        optim__agc_eps=1e-3,
    ),
    "adamw_deit": ADAM | dict(optim__name="adamw", optim__adam_eps=1e-8),
}


def ours(arrays):
    """Theirs [out, in] as our [in, out] kernel, and the vector as its bias."""
    kernel, bias = jnp.array(arrays["matrix"]).T, jnp.array(arrays["vector"])
    return {"head": {"kernel": kernel, "bias": bias}}


def check(tx, name):
    """Five steps of an optimizer."""
    params, run = ours(GOLDEN["initial"]), RUNS[name]
    scale = run["config"].get("grad_scale", 1.0)
    state = tx.init(params)
    for step, want in enumerate(run["steps"], start=1):
        grads = ours(GOLDEN["gradients"][str(step)])
        grads = jax.tree.map(lambda g: g * scale, grads)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for found, wanted in zip(
            jax.tree.leaves(params), jax.tree.leaves(ours(want)), strict=True
        ):
            np.testing.assert_allclose(found, wanted, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("name", BY_RECIPE)
def test_optimizers_of_recipes_are_timm_s(name):
    recipe = with_changes(
        recipe_of("digits"),
        optim__schedule="constant",
        optim__warmup_epochs=0.0,
        optim__lr_per_256=None,
        optim__lr_peak=RUNS[name]["config"]["lr"],
        optim__weight_decay=RUNS[name]["config"]["weight_decay_matrix"],
        optim__nesterov=False,
        optim__agc_clipping=None,
        optim__no_decay=("bias$",),
        optim__no_clip=(),
    )
    recipe = Recipe.from_config(with_changes(recipe, **BY_RECIPE[name]).to_dict())
    check(make_optimizer(recipe, ours(GOLDEN["initial"])), name)


def changing_rate(name):
    """The learning rate of each step."""
    rates = jnp.array(RUNS[name]["config"]["lr_per_step"])
    return lambda count: rates[count]


DECAYED = {"head": {"kernel": True, "bias": False}}


def test_lamb_takes_the_rate_of_each_step_as_timm_does():
    tx = lamb(changing_rate("lamb_changing_lr"), weight_decay=0.02, mask=DECAYED)
    check(optax.chain(optax.clip_by_global_norm(1.0), tx), "lamb_changing_lr")


def test_rmsprop_takes_the_rate_of_each_step_as_timm_does():
    rate = changing_rate("rmsproptf_changing_lr")
    tx = rmsprop_tf(rate, decay=0.9, eps=1e-3, momentum=0.9)
    decay = optax.add_decayed_weights(1e-5, mask=DECAYED)
    check(optax.chain(decay, tx), "rmsproptf_changing_lr")


def test_all_of_timm_s_runs_are_looked_at():
    looked_at = {*BY_RECIPE, "lamb_changing_lr", "rmsproptf_changing_lr"}
    # Plain momentum is torch's and optax's own, and differs in nothing else.
    assert set(RUNS) - looked_at == {"sgd_momentum_changing_lr"}


def test_lamb_moves_a_decayed_tensor_by_the_rate_times_its_own_norm():
    """Whatever the gradient's size; an undecayed one takes Adam's first step, lr."""
    params = {"w": jnp.array([3.0, 4.0]), "b": jnp.array([3.0, 4.0])}
    grads = jax.tree.map(lambda _: jnp.array([1e-3, -7.0]), params)
    tx = lamb(0.01, weight_decay=1e-9, mask={"w": True, "b": False}, eps=0.0)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(jnp.linalg.norm(updates["w"]), 0.01 * 5, rtol=1e-5)
    np.testing.assert_allclose(updates["b"], [-0.01, 0.01], rtol=1e-5)


def test_lamb_of_zeros_stays_finite():
    params = {"w": jnp.zeros(3)}
    tx = lamb(0.01, weight_decay=0.1)
    updates, state = tx.update({"w": jnp.zeros(3)}, tx.init(params), params)
    assert updates["w"].tolist() == [0, 0, 0]
    updates, _ = tx.update({"w": jnp.ones(3)}, state, params)
    assert np.isfinite(updates["w"]).all()


COSINES = [name for name in SCHEDULES["schedules"] if name.startswith("a")]


@pytest.mark.parametrize("name", COSINES)
def test_cosines_are_timm_s(name):
    """In epochs, or in updates: 625 of them are an epoch."""
    want = SCHEDULES["schedules"][name]
    config = want["config"]
    unit = config["updates_per_epoch"] or 1
    prefix = config["warmup_prefix"]  # timm adds the warmup to the epochs then
    warmup = config["warmup_epochs"] * unit
    schedule = warmup_cosine(
        config["lr"],
        config["min_lr"],
        warmup,
        config["epochs"] * unit + (warmup if prefix else 0),
        start=config["warmup_lr"],
        clock_start=None if prefix else 0.0,
    )
    for epoch, value in want["values"].items():
        np.testing.assert_allclose(
            schedule(int(epoch)), value, rtol=3e-6, atol=2e-9, err_msg=epoch
        )


@pytest.mark.parametrize("prefix", [True, False])
def test_steps_of_the_ra2_recipe_are_timm_s(prefix):
    want = SCHEDULES["schedules"][f"step_effnet_ra2_warmup_prefix_{prefix}".lower()]
    config = want["config"]
    schedule = warmup_exponential(
        config["lr"],
        config["decay_rate"],
        config["warmup_epochs"],
        config["decay_epochs"],
        start=config["warmup_lr"],
        clock_start=None if prefix else 0.0,
    )
    for epoch, value in want["values"].items():
        np.testing.assert_allclose(schedule(int(epoch)), value, rtol=1e-5)


def test_by_epoch_keeps_the_first_step_s_value():
    schedule = by_epoch(lambda step: jnp.asarray(step, jnp.float32), 7)
    found = [float(schedule(step)) for step in (0, 6, 7, 13, 14)]
    assert found == [0, 0, 7, 7, 14]


def test_step_schedule_by_hand():
    """1512.03385: 0.1 at epochs 30 and 60; with a clock after or under the warmup."""
    recipe = recipe_of(
        "nfnet_f0",
        data__num_train=1000,
        batch_size=100,
        num_epochs=90.0,
        optim__schedule="step",
        optim__decay_rate=0.1,
        optim__step_epochs=(30.0, 60.0),
        optim__lr_per_256=None,
        optim__lr_peak=0.1,
        optim__lr_start=0.02,
        optim__warmup_epochs=5.0,
        optim__decay_clock="start",
    )
    schedule = learning_rate(recipe)
    steps = (0, 25, 50, 299, 300, 599, 600, 899)
    want = [0.02, 0.06, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    found = [float(schedule(step)) for step in steps]
    np.testing.assert_allclose(found, want, rtol=1e-5)
    later = learning_rate(with_changes(recipe, optim__decay_clock="after_warmup"))
    np.testing.assert_allclose([later(349), later(350)], [0.1, 0.01], rtol=1e-5)


def test_whole_epochs_and_a_cooldown():
    """A2: 1281167 // 2048 = 625 updates an epoch, 300 of them, then 10 at the end."""
    recipe = recipe_of(
        "nfnet_f0",
        batch_size=2048,
        num_epochs=300.0,
        data__drop_last=True,
        optim__lr_per_256=None,
        optim__lr_peak=5e-3,
        optim__lr_start=1e-4,
        optim__lr_end=1e-6,
        optim__decay_clock="start",
        optim__lr_clock="epoch",
        optim__cooldown_epochs=10.0,
    )
    assert recipe.steps_per_epoch == 625
    assert recipe.schedule_steps == 187_500
    assert recipe.total_steps == 193_750
    schedule = learning_rate(recipe)
    want = SCHEDULES["schedules"]["a2_paper_era_defaults"]["values"]
    for epoch, value in want.items():
        for step in (int(epoch) * 625, int(epoch) * 625 + 624):
            np.testing.assert_allclose(schedule(step), value, rtol=3e-6, atol=2e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr_peak": 0.1}, r"lr_peak is 0\.1.*lr_per_256.*set the other to None"),
        ({"lr_per_256": None}, r"lr_peak is None.*lr_per_256 None"),
        ({"name": "lamb"}, r"adam_b1 is None.*lamb, which needs it"),
        ({"adam_eps": 1e-6}, r"adam_eps is 1e-06, which sgd has not"),
        ({"schedule": "step"}, r"decay_rate is None.*step, which needs it"),
        ({"step_epochs": (3.0,)}, r"step_epochs is \(3\.0,\), which cosine has not"),
        ({"lr_clock": "epoch"}, r"lr_clock is epoch.*drop_last is False"),
        ({"clip_norm": 0.0}, r"config\.optim\.clip_norm is 0\.0.*positive"),
        (
            {"name": "adamw", "adam_b1": 0.9, "adam_b2": 0.999, "adam_eps": 1e-8},
            r"nesterov is True.*adamw",
        ),
        (
            {
                "name": "adamw",
                "nesterov": False,
                "adam_b1": 0.9,
                "adam_b2": 0.999,
                "adam_eps": 1e-8,
            },
            r"momentum is 0\.9.*adamw: set it to 0\.0",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    recipe = recipe_of("nfnet_f0")
    changed = dataclasses.replace(recipe.optim, **changes)
    with pytest.raises(UserError, match=message):
        Recipe.from_config(dataclasses.replace(recipe, optim=changed).to_dict())

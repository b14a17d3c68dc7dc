"""The train step: devices, accumulation, SAM, averaging, precision, skipped updates."""

import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiny_recipe, with_changes
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nfnets.data.erasing import random_erase
from nfnets.data.mixing import mix
from nfnets.data.normalization import normalize
from nfnets.initialize import init_variables
from nfnets.signal_propagation import with_skip_gain
from nfnets.training.losses import soft_targets, softmax_cross_entropy
from nfnets.training.optimizer import make_optimizer
from nfnets.training.schedules import ema_ramp
from nfnets.training.state import init_state
from nfnets.training.steps import make_train_step

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def batch_of(size, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (size, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 10, size, np.int32),
    }


# Compiled steps by recipe and number of devices, for tests that share them.
COMPILED = {}


@functools.cache
def initial_variables():
    return init_variables(tiny_recipe().create_model(), jax.random.key(0), 8)


def start(recipe):
    """Model, optimizer and the state before the first step."""
    variables = initial_variables()
    tx = make_optimizer(recipe, variables["params"])
    state = init_state(variables, tx, keep_ema=recipe.ema_decay is not None)
    return recipe.create_model(), tx, state


def run_steps(recipe, batches, num_devices=1, state=None):
    """Runs the step over the batches on some devices; returns state and metrics."""
    model, tx, first = start(recipe)
    devices = jax.devices()[:num_devices]
    key = (json.dumps(recipe.to_dict()), num_devices)
    if key not in COMPILED:
        COMPILED[key] = jax.pmap(
            make_train_step(model, tx, recipe),
            axis_name="batch",
            in_axes=(None, 0),
            out_axes=(None, None),
            devices=devices,
        )
    step = COMPILED[key]
    replicated = NamedSharding(Mesh(np.array(devices), ("batch",)), PartitionSpec())
    state = jax.device_put(first if state is None else state, replicated)
    metrics = None
    for batch in batches:
        split = {k: v.reshape(num_devices, -1, *v.shape[1:]) for k, v in batch.items()}
        state, metrics = step(state, split)
    return jax.device_get(state), jax.device_get(metrics)


@pytest.fixture(scope="module")
def warm_recipe():
    """The tiny recipe with a rate that is not 0 at the first step."""
    return tiny_recipe(optim__warmup_epochs=0.0)


@pytest.fixture(scope="module")
def one_device(warm_recipe):
    return run_steps(warm_recipe, [batch_of(24, seed) for seed in range(3)])


@pytest.mark.parametrize("num_devices", [2, 3])
def test_devices_do_not_change_the_result(warm_recipe, one_device, num_devices):
    batches = [batch_of(24, seed) for seed in range(3)]
    state, metrics = run_steps(warm_recipe, batches, num_devices)
    chex.assert_trees_all_close(state.params, one_device[0].params, **CLOSE)
    chex.assert_trees_all_close(state.ema_params, one_device[0].ema_params, **CLOSE)
    np.testing.assert_allclose(metrics["loss"], one_device[1]["loss"], rtol=1e-5)


def test_accumulation_equals_the_large_batch(warm_recipe, one_device):
    recipe = dataclasses.replace(warm_recipe, accumulation_steps=4)
    state, metrics = run_steps(recipe, [batch_of(24, seed) for seed in range(3)])
    chex.assert_trees_all_close(state.params, one_device[0].params, **CLOSE)
    for name in ("loss", "top1", "grad_norm"):
        np.testing.assert_allclose(metrics[name], one_device[1][name], rtol=1e-4)


@pytest.mark.parametrize("accumulation_steps", [1, 4])
@pytest.mark.parametrize("num_devices", [1, 2])
def test_sam_equals_two_steps_by_hand(warm_recipe, num_devices, accumulation_steps):
    recipe = dataclasses.replace(
        warm_recipe,
        accumulation_steps=accumulation_steps,
        sam=dataclasses.replace(warm_recipe.sam, rho=0.05, batch_fraction=1 / 3),
    )
    batch = batch_of(24)
    got, _ = run_steps(recipe, [batch], num_devices)

    model, tx, state = start(recipe)
    images = normalize(jnp.asarray(batch["image"]))
    labels = jnp.asarray(batch["label"])
    targets = soft_targets(labels, labels, jnp.ones(24), 10, recipe.label_smoothing)

    @jax.jit
    def loss_grad(params, rows):
        return jax.grad(loss)(params, rows)

    def loss(params, rows):
        logits = model.apply({"params": params}, images[rows], train=False)
        return jnp.mean(softmax_cross_entropy(logits, targets[rows]))

    # Every third image climbs, on each device.
    rows = np.arange(0, 24, 3)
    ascent = loss_grad(state.params, rows)
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(ascent)))
    top = jax.tree.map(lambda p, g: p + 0.05 * g / norm, state.params, ascent)
    grads = loss_grad(top, np.arange(24))
    updates, _ = tx.update(grads, state.opt_state, state.params)
    want = optax.apply_updates(state.params, updates)
    chex.assert_trees_all_close(got.params, want, rtol=2e-5, atol=2e-6)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, want, state.params))
    plain, _ = run_steps(dataclasses.replace(recipe, sam=warm_recipe.sam), [batch])
    difference = jax.tree.map(jnp.subtract, got.params, plain.params)
    assert optax.tree.norm(difference) > 1e-3 * moved  # SAM is not a no-op here


@pytest.mark.parametrize("first", [0, 1])
def test_average_follows_the_official_ramp(warm_recipe, first):
    """NFNet's code counts its updates from 0, EfficientNetV2's from 1."""
    recipe = with_changes(warm_recipe, ema_first_update=first)
    _, _, state = start(recipe)
    average = state.params
    for step in range(3):
        batches = [batch_of(24, seed) for seed in range(step + 1)]
        state, _ = run_steps(recipe, batches)
        n = step + first
        decay = float(ema_ramp(0.99, n))
        assert decay == pytest.approx((1 + n) / (10 + n))
        average = jax.tree.map(
            lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params
        )
    chex.assert_trees_all_close(state.ema_params, average, **CLOSE)


def test_constant_averaging_is_timm_s(warm_recipe):
    """From the start a = 0.9 * a + 0.1 * p after every update."""
    recipe = with_changes(warm_recipe, ema_schedule="constant", ema_decay=0.9)
    _, _, state = start(recipe)
    average = state.params
    for step in range(3):
        batches = [batch_of(24, seed) for seed in range(step + 1)]
        state, _ = run_steps(recipe, batches)
        average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, average, state.params)
    chex.assert_trees_all_close(state.ema_params, average, **CLOSE)


def test_without_average_the_state_keeps_none(warm_recipe):
    recipe = dataclasses.replace(warm_recipe, ema_decay=None)
    state, _ = run_steps(recipe, [batch_of(24)])
    assert state.ema_params == {}


def test_bfloat16_keeps_float32_masters(warm_recipe, one_device):
    recipe = dataclasses.replace(warm_recipe, dtype="bfloat16")
    state, metrics = run_steps(recipe, [batch_of(24, seed) for seed in range(3)])
    for leaf in jax.tree.leaves((state.params, state.opt_state, state.ema_params)):
        assert leaf.dtype in (np.float32, np.int32)
    assert metrics["loss"].dtype == np.float32
    np.testing.assert_allclose(metrics["loss"], one_device[1]["loss"], rtol=0.02)
    assert metrics["loss"] != one_device[1]["loss"]  # it did compute in bfloat16


def test_bfloat16_gradients_reach_the_optimizer_in_float32(warm_recipe):
    model = dataclasses.replace(warm_recipe, dtype="bfloat16").create_model()
    variables = init_variables(model, jax.random.key(0), 8)
    images = normalize(batch_of(4)["image"])
    grads = jax.eval_shape(
        jax.grad(lambda v: jnp.sum(model.apply(v, images, train=False))), variables
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype(np.float32)}


def test_non_finite_update_changes_nothing_but_the_counts(warm_recipe):
    _, _, state = start(warm_recipe)
    kernel = state.params["head"]["kernel"].at[0, 0].set(jnp.inf)
    bad = state.replace(
        params=state.params | {"head": state.params["head"] | {"kernel": kernel}}
    )
    after, metrics = run_steps(warm_recipe, [batch_of(24), batch_of(24)], state=bad)
    for name in ("params", "opt_state", "ema_params", "batch_stats"):
        chex.assert_trees_all_equal(getattr(after, name), getattr(bad, name))
    assert int(after.step) == 2
    assert after.skipped.tolist() == [2, 2]
    assert (metrics["skipped_in_a_row"], metrics["skipped_total"]) == (2, 2)


def test_a_good_update_ends_the_row_of_skipped_ones(warm_recipe):
    _, _, state = start(warm_recipe)
    state = state.replace(skipped=jnp.array([3, 5], jnp.int32))
    after, _ = run_steps(warm_recipe, [batch_of(24)], state=state)
    assert after.skipped.tolist() == [0, 5]


def test_clipped_fraction_is_in_the_metrics_per_group(warm_recipe):
    _, _, state = start(warm_recipe)
    # With skip gains of 1 every parameter has a gradient.
    state = state.replace(params=with_skip_gain(state.params, 1.0))
    tight = dataclasses.replace(warm_recipe.optim, agc_clipping=1e-9)
    loose = dataclasses.replace(warm_recipe.optim, agc_clipping=1e9)
    for optim, want in ((tight, 1.0), (loose, 0.0)):
        recipe = dataclasses.replace(warm_recipe, optim=optim)
        _, metrics = run_steps(recipe, [batch_of(24)], state=state)
        fractions = {k: v for k, v in metrics.items() if k.startswith("agc_clipped")}
        assert set(fractions) == {
            "agc_clipped",
            "agc_clipped/weights",
            "agc_clipped/gains_biases",
        }
        assert {float(value) for value in fractions.values()} == {want}
    off = dataclasses.replace(warm_recipe.optim, agc_clipping=None)
    _, metrics = run_steps(dataclasses.replace(warm_recipe, optim=off), [batch_of(24)])
    assert not [name for name in metrics if name.startswith("agc")]


def test_mixing_halves_the_batch_and_softens_the_targets(warm_recipe):
    """The loss is that of each device's share, mixed with the step's own key."""
    augment = dataclasses.replace(
        warm_recipe.augment, mixup_alpha=0.2, cutmix_alpha=1.0
    )
    recipe = dataclasses.replace(warm_recipe, augment=augment)
    batch = batch_of(48)
    _, metrics = run_steps(recipe, [batch], num_devices=2)
    model, _, state = start(recipe)
    losses = []
    for device in range(2):
        share = slice(24 * device, 24 * device + 24)
        key = jax.random.fold_in(jax.random.key(recipe.seed), 0)
        mix_key, _ = jax.random.split(jax.random.fold_in(key, device))
        images, labels, partners, ratio = mix(
            jnp.asarray(batch["image"][share], jnp.float32),
            jnp.asarray(batch["label"][share]),
            mix_key,
            augment,
        )
        assert images.shape == (12, 8, 8, 3)
        targets = soft_targets(labels, partners, ratio, 10, recipe.label_smoothing)
        logits = model.apply({"params": state.params}, normalize(images), train=False)
        losses.append(softmax_cross_entropy(logits, targets))
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)


def test_rsb_step_mixes_erases_and_has_a_binary_loss(warm_recipe):
    """Each device by its own keys; the loss is that of multi-hot targets."""
    recipe = with_changes(
        warm_recipe,
        loss="bce",
        bce_target_threshold=0.2,
        augment__mixing="timm_batch",
        augment__mixup_alpha=0.2,
        augment__cutmix_alpha=1.0,
        augment__erase_rate=0.5,
        augment__erase_mode="pixel",
    )
    batch = batch_of(24)
    _, metrics = run_steps(recipe, [batch], num_devices=2)
    model, _, state = start(recipe)
    losses, ratios = [], []
    for device in range(2):
        share = slice(12 * device, 12 * device + 12)
        key = jax.random.fold_in(jax.random.key(recipe.seed), 0)
        keys = jax.random.split(jax.random.fold_in(key, device), 3)
        images, labels = jnp.asarray(batch["image"][share]), batch["label"][share]
        mixed = mix(images, jnp.asarray(labels), keys[0], recipe.augment)
        ratios.append(float(mixed[3][0]))
        images = random_erase(normalize(mixed[0]), keys[2], recipe.augment)
        soft = soft_targets(*mixed[1:], 10, recipe.label_smoothing)
        hot = np.asarray(soft) > 0.2
        x = model.apply({"params": state.params}, images, train=False)
        losses.append(np.where(hot, jax.nn.softplus(-x), jax.nn.softplus(x)))
    assert ratios[0] != ratios[1]
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)


def test_batch_that_the_host_has_mixed_is_not_mixed_again(warm_recipe):
    """All the weight on the partners' labels is a batch with those labels."""
    recipe = tiny_recipe(optim__warmup_epochs=0.0, augment__mixup_alpha=0.2)
    batch, partner = batch_of(24), batch_of(24, seed=1)["label"]
    mixed = {**batch, "mix_label": partner, "ratio": np.zeros(24, np.float32)}
    state, metrics = run_steps(recipe, [mixed])
    expected = run_steps(warm_recipe, [{**batch, "label": partner}])
    chex.assert_trees_all_close(state.params, expected[0].params, **CLOSE)
    np.testing.assert_allclose(metrics["loss"], expected[1]["loss"], rtol=1e-5)


def test_dropout_draws_differ_by_step_and_device(warm_recipe):
    """With one image repeated, only the keys can make two steps' losses differ."""
    recipe = dataclasses.replace(
        warm_recipe,
        drop_rate=0.5,
        optim=dataclasses.replace(warm_recipe.optim, lr_per_256=1e-30),
    )
    same = {k: np.repeat(v[:1], 24, axis=0) for k, v in batch_of(24).items()}
    losses = [
        run_steps(recipe, [same] * n, num_devices=d)[1]["loss"]
        for n, d in ((1, 1), (2, 1), (1, 2))
    ]
    assert len({float(loss) for loss in losses}) == 3
    again = run_steps(recipe, [same], num_devices=1)[1]["loss"]
    assert float(again) == float(losses[0])

"""Parameters that are not trained, and rates that fall from the classifier down."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import recipe_of, tiny_recipe

from nfnets.data.normalization import normalize
from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.initialize import init_variables
from nfnets.registry import create_model, get_variant
from nfnets.training.layer_decay import layer_factors
from nfnets.training.losses import soft_targets, softmax_cross_entropy
from nfnets.training.optimizer import count_units, make_optimizer
from nfnets.training.recipe_check import check
from nfnets.training.state import init_state
from nfnets.training.steps import make_train_step

# Only the classifier is trained.
PROBE = ("^(?!head/)",)
SMALL_RESNET = {
    "model": "dm_resnet50",
    "reference_model": "dm_resnet50",
    "model_overrides": {"depths": (1,), "widths": (32,), "strides": (1,)},
    "bn_momentum": 0.9,
}
WARM = {"optim__warmup_epochs": 0.0}
BATCH = {
    "image": np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8),
    "label": np.arange(24, dtype=np.int32) % 10,
}


@functools.cache
def variables_of(name):
    """Of the small network with BatchNorm, or without; nothing in it is 0 or 1."""
    recipe = tiny_recipe(**(SMALL_RESNET if name == "bn" else {}))
    variables = init_variables(recipe.create_model(), jax.random.key(0), 8)
    return jax.tree.map(lambda x: x + 0.123, variables)


def run_steps(recipe, variables, steps):
    """States and metrics by step, on one device; no metrics before the first."""
    tx = make_optimizer(recipe, variables["params"])
    first = init_state(variables, tx, keep_ema=recipe.ema_decay is not None)
    one_device = {"axis_name": "batch", "in_axes": (None, 0), "out_axes": None}
    step = jax.pmap(
        make_train_step(recipe.create_model(), tx, recipe),
        devices=jax.devices()[:1],
        **one_device,
    )
    trace = [(first, {})]
    for _ in range(steps):
        trace.append(step(trace[-1][0], {k: v[None] for k, v in BATCH.items()}))
    return jax.device_get(trace)


def changed(before, after):
    """Top-level modules of which any bit is another one."""
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    pairs = {name: (before[name], after[name]) for name in before}
    return {
        name
        for name, pair in pairs.items()
        if any(
            x.tobytes() != y.tobytes()
            for x, y in zip(*map(jax.tree.leaves, pair), strict=True)
        )
    }


@pytest.fixture(scope="module")
def frozen_stem():
    recipe = tiny_recipe(**WARM, optim__frozen=("^stem_", "^stage1"), ema_decay=0.9)
    return recipe, run_steps(recipe, variables_of("nf"), steps=3)


def test_frozen_parameters_keep_every_bit(frozen_stem):
    _, ((before, _), *_, (after, _)) = frozen_stem
    trained = {"stage2_block0", "final_conv", "head"}
    assert changed(before.params, after.params) == trained
    assert changed(before.ema_params, after.ema_params) == trained


def test_frozen_parameters_have_no_optimizer_state_and_no_units(frozen_stem):
    recipe, ((before, _), *_, (_, metrics)) = frozen_stem
    params = before.params
    trained = {k: v for k, v in params.items() if not k.startswith(("stem", "stage1"))}
    momentum, weights = (
        sorted(x.shape for x in jax.tree.leaves(tree) if x.size > 1)
        for tree in (before.opt_state, trained)
    )
    assert momentum == weights
    unfrozen = tiny_recipe(**WARM)
    assert count_units(params, recipe.optim) == count_units(trained, unfrozen.optim)
    assert 0 < metrics["agc_clipped"] <= 1


def test_the_others_move_as_without_freezing(frozen_stem):
    """One step: their gradients, clipped unit by unit, are the same."""
    _, (_, (some, of_some), *_) = frozen_stem
    whole = tiny_recipe(**WARM, ema_decay=0.9)
    _, (every, of_every) = run_steps(whole, variables_of("nf"), steps=1)
    for name in ("stage2_block0", "final_conv", "head"):
        chex.assert_trees_all_close(some.params[name], every.params[name], rtol=1e-5)
    np.testing.assert_allclose(of_some["loss"], of_every["loss"], rtol=1e-6)
    assert of_some["grad_norm"] < of_every["grad_norm"]  # only of what is trained


def test_a_linear_probe_sees_the_features_of_evaluation():
    """BatchNorm's statistics stay and are used; the loss is that of the evaluation."""
    recipe = tiny_recipe(
        **SMALL_RESNET, **WARM, optim__frozen=PROBE, ema_decay=0.9, label_smoothing=0.0
    )
    start = variables_of("bn")
    (before, _), (after, metrics) = run_steps(recipe, start, steps=1)
    assert changed(before.params, after.params) == {"head"}
    chex.assert_trees_all_equal(before.batch_stats, after.batch_stats)
    chex.assert_trees_all_equal(before.ema_batch_stats, after.ema_batch_stats)
    images = normalize(jnp.asarray(BATCH["image"]), "imagenet")
    logits = recipe.create_model().apply(start, images, train=False)
    labels = jnp.asarray(BATCH["label"])
    targets = soft_targets(labels, labels, jnp.ones(24), 10, label_smoothing=0.0)
    by_hand = jnp.mean(softmax_cross_entropy(logits, targets))
    np.testing.assert_allclose(metrics["loss"], by_hand, rtol=1e-5)


def test_statistics_move_where_a_part_of_the_norm_is_trained():
    recipe = tiny_recipe(**SMALL_RESNET, **WARM, optim__frozen=("scale$", "^stem"))
    (before, _), (after, _) = run_steps(recipe, variables_of("bn"), steps=1)
    assert changed(before.batch_stats, after.batch_stats) == set(before.batch_stats)


@pytest.mark.parametrize("name", ["rmsprop", "adamw", "lamb"])
def test_every_optimizer_freezes(name):
    tx = make_optimizer(optimizer(name, optim__frozen=("^stem_conv0",)), LAYERS)
    updates, state = tx.update(GRADS, tx.init(LAYERS), LAYERS)
    np.testing.assert_array_equal(updates["stem_conv0"]["kernel"], 0)
    assert np.all(np.abs(updates["head"]["kernel"]) > 0)
    assert not any(x.shape == (2, 3) for x in jax.tree.leaves(state))


def test_freezing_everything_or_nothing_is_refused():
    params = abstract_variables(tiny_recipe().create_model(), 8)["params"]
    with pytest.raises(UserError, match=r"frozen is \('kernel', .*nothing to train"):
        make_optimizer(tiny_recipe(optim__frozen=("kernel", "gain|bias")), params)
    with pytest.raises(UserError, match="'classifier' matches no parameter"):
        make_optimizer(tiny_recipe(optim__frozen=("classifier",)), params)


# One parameter in each of four layers, the last of which is the classifier.
LAYERS = {
    "stem_conv0": {"kernel": jnp.linspace(1.0, 2.0, 6).reshape(2, 3)},
    "stage1_block0": {"kernel": jnp.linspace(-2.0, -1.0, 8).reshape(2, 4)},
    "stage1_block1": {"kernel": jnp.linspace(-1.0, 2.0, 8).reshape(4, 2)},
    "head": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.ones(2)},
}
GRADS = jax.tree.map(lambda p: 0.2 + 0.1 * p, LAYERS)
ADAM = {"adam_b1": 0.9, "adam_b2": 0.99, "adam_eps": 1e-6, "momentum": 0.0}
OPTIMIZERS = {
    "sgd": {"nesterov": True},
    "rmsprop": {"rms_decay": 0.9, "rms_eps": 1e-3},
    "adamw": ADAM,
    "lamb": ADAM,
}


def optimizer(name, **changes):
    """A recipe with a constant rate of 0.1 and a decay of 0.5 of the kernels."""
    fields = {"nesterov": False} | OPTIMIZERS[name] | {"name": name}
    plain = {
        "schedule": "constant",
        "lr_per_256": 0.1,
        "warmup_epochs": 0.0,
        "weight_decay": 0.5,
        "no_decay": ("bias$",),
        "agc_clipping": None,
        "no_clip": (),
    }
    changed = {f"optim__{field}": value for field, value in (plain | fields).items()}
    return recipe_of("nfnet_f0", batch_size=256, **(changed | changes))


def test_layer_decay_of_sgd_by_hand():
    """Nesterov: p - 0.1 f (1 + 0.9) (g + 0.5 p), with f = 0.5^3, 0.5^2, 0.5, 1."""
    tx = make_optimizer(optimizer("sgd", optim__layer_decay=0.5), LAYERS)
    updates, _ = tx.update(GRADS, tx.init(LAYERS), LAYERS)
    after = optax.apply_updates(LAYERS, updates)
    for layer, factor in zip(LAYERS, (0.125, 0.25, 0.5, 1.0), strict=True):
        p, g = LAYERS[layer]["kernel"], GRADS[layer]["kernel"]
        want = p - 0.1 * factor * 1.9 * (g + 0.5 * p)
        np.testing.assert_allclose(after[layer]["kernel"], want, rtol=1e-6)
    want = 1 - 0.1 * 1.9 * GRADS["head"]["bias"]
    np.testing.assert_allclose(after["head"]["bias"], want, rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_layer_decay_is_a_rate_of_its_own(name):
    """Two updates of a layer are those of a run whose whole rate is the layer's."""

    def second_update(rate, **changes):
        recipe = optimizer(name, optim__lr_per_256=rate, **changes)
        tx = make_optimizer(recipe, LAYERS)
        _, state = tx.update(GRADS, tx.init(LAYERS), LAYERS)
        return tx.update(jax.tree.map(jnp.negative, GRADS), state, LAYERS)[0]

    layerwise = second_update(0.1, optim__layer_decay=0.5)
    for layer, rate in zip(LAYERS, (0.0125, 0.025, 0.05, 0.1), strict=True):
        whole = second_update(rate)
        chex.assert_trees_all_close(layerwise[layer], whole[layer], rtol=1e-5)


# Number of groups of timm 1.0.31's `param_groups_layer_decay` for dm_nfnet_f0,
# efficientnet_b0, resnet18 and deit_tiny_patch16_224; the others by hand: stem, 16
# blocks, classifier. Other models have modules of these names only.
NUM_LAYERS = {
    "nfnet_f0": 14,
    "effnet_b0": 18,
    "resnet18": 10,
    "deit_ti": 14,
    "dm_resnet50": 18,
    "dm_resnet50_postact": 18,
    "fixup_resnet50": 18,
}


@pytest.mark.parametrize("name", NUM_LAYERS)
def test_layers_are_those_of_timm(name):
    """0.5 to the power of the layers above; the classifier has the whole rate."""
    size = get_variant(name).train_size if name == "deit_ti" else 32
    model = create_model(name, num_classes=10)
    params = abstract_variables(model, size)["params"]
    factors = layer_factors(params, 0.5)
    assert set(jax.tree.leaves(factors["head"])) == {1.0}
    found = {factor for factor in jax.tree.leaves(factors)}
    assert found == {0.5**above for above in range(NUM_LAYERS[name])}
    lowest = {
        m
        for m in params
        if 0.5 ** (NUM_LAYERS[name] - 1) in jax.tree.leaves(factors[m])
    }
    assert all(m.startswith(("stem_", "bias1", "patch", "cls", "pos")) for m in lowest)
    after = {m for m in params if m.startswith(("final_", "bias2"))}
    assert all(set(jax.tree.leaves(factors[m])) == {0.5} for m in after)  # as in timm
    blocks = sorted(
        (m for m in params if "block" in m),
        key=lambda m: [int(part) for part in re.findall(r"\d+", m)],
    )
    in_order = [jax.tree.leaves(factors[m])[0] for m in blocks]
    assert in_order == sorted(set(in_order))


def test_a_layer_that_is_not_known_is_named():
    with pytest.raises(UserError, match="which layer neck/kernel is in"):
        layer_factors({"neck": {"kernel": np.ones(3)}}, 0.5)
    with pytest.raises(UserError, match=r"layer_decay is 1\.5, it must be in"):
        check(tiny_recipe(optim__layer_decay=1.5))

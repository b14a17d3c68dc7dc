"""The official optimizer's numbers on NFNet-F0, and the rules of parameter groups."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_fill import golden_arrays, golden_images
from helpers import recipe_of, with_changes

from nfnets.agc import adaptive_grad_clip, default_unit_axes, unitwise_norm
from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.registry import create_model
from nfnets.training.losses import soft_targets, softmax_cross_entropy
from nfnets.training.optimizer import (
    clipped_fractions,
    count_units,
    make_optimizer,
    param_groups,
)
from nfnets.training.parameter_paths import param_mask
from nfnets.weights.haiku import convert_haiku, export_haiku, official_shapes


def official(tree):
    """A tree of our shape as {official name: array}."""
    arrays = export_haiku("nfnet_f0", {"params": tree})
    return {name: np.asarray(array, np.float64) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def want(golden):
    return golden("nfnet_f0_grad")


@pytest.fixture(scope="module")
def f0(golden):
    """Parameters, loss and gradient of NFNet-F0 at 64 px, labels 3 and 7."""
    shapes = golden("nfnet_param_lists")["nfnet_f0"]
    params = convert_haiku("nfnet_f0", golden_arrays(shapes))["params"]
    model = create_model("nfnet_f0", num_classes=1000)
    labels = jnp.array([3, 7])
    targets = soft_targets(labels, labels, jnp.ones(2), 1000, label_smoothing=0.1)

    def loss_fn(params):
        logits = model.apply({"params": params}, golden_images(64), train=False)
        return jnp.mean(softmax_cross_entropy(logits, targets))

    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(params)
    return params, loss, grads


@pytest.fixture(scope="module")
def constant_rate():
    """The nfnet_f0 recipe with a learning rate of 0.1 that does not move."""
    return recipe_of(
        "nfnet_f0",
        batch_size=256,
        num_epochs=1e5,
        optim__lr_per_256=0.1,
        optim__warmup_epochs=0.0,
    )


def test_loss_and_gradients(f0, want):
    _, loss, grads = f0
    np.testing.assert_allclose(loss, want["loss"], rtol=1e-6)
    np.testing.assert_allclose(
        optax.tree.norm(grads), want["grad_global_norm"], rtol=1e-5
    )
    for name, grad in official(grads).items():
        norm, mean = want["grad"][name]
        np.testing.assert_allclose(np.linalg.norm(grad), norm, rtol=3e-5, err_msg=name)
        if grad.size == 1:  # its norm is its value, but for the sign
            assert np.sign(grad.mean()) == np.sign(mean), name
            continue
        # A mean near zero is a sum of cancelling terms: compare on the norm's scale.
        scale = norm / np.sqrt(grad.size)
        np.testing.assert_allclose(grad.mean(), mean, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("clipping", [0.01, 0.001])
def test_clipped_gradients(f0, want, clipping):
    params, _, grads = f0
    tx = adaptive_grad_clip(clipping)
    clipped, state = jax.jit(tx.update)(grads, tx.init(params), params)
    raw, total_clipped, total_units = official(grads), 0, 0
    for name, grad in official(clipped).items():
        norm, _, fraction = want[f"agc_{clipping}"][name]
        np.testing.assert_allclose(np.linalg.norm(grad), norm, rtol=3e-5, err_msg=name)
        axes = default_unit_axes((), grad)
        changed = np.asarray(
            unitwise_norm(jnp.asarray(grad), axes)
            < unitwise_norm(jnp.asarray(raw[name]), axes) * (1 - 1e-6)
        )
        assert abs(changed.mean() - fraction) <= 1.01 / changed.size, name
        total_clipped += changed.sum()
        total_units += changed.size
    np.testing.assert_allclose(state.clipped, total_clipped / total_units, atol=1e-4)


def check_updated(params, updated, want):
    """Each official array's mean, norm and distance moved; the last one to 1e-3."""
    before, after = official(params), official(updated)
    for name, (mean, norm, moved) in want.items():
        new = after[name]
        np.testing.assert_allclose(new.mean(), mean, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(np.linalg.norm(new), norm, rtol=1e-5, err_msg=name)
        distance = np.linalg.norm(new - before[name])
        np.testing.assert_allclose(distance, moved, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("clipping", [0.01, 0.001])
def test_official_steps(f0, want, constant_rate, clipping):
    """SGD_AGC with its three groups; a second step with the same gradient at 0.01."""
    params, _, grads = f0
    recipe = with_changes(constant_rate, optim__agc_clipping=clipping)
    tx = make_optimizer(recipe, params)
    update, state, current = jax.jit(tx.update), tx.init(params), params
    for step in (1, 2):
        key = f"sgd_agc_{clipping}_step{step}"
        if key in want:
            updates, state = update(grads, state, current)
            current = optax.apply_updates(current, updates)
            check_updated(params, current, want[key])


def test_official_step_without_clipping(f0, want, constant_rate):
    params, _, grads = f0
    recipe = with_changes(
        constant_rate, optim__agc_clipping=None, optim__weight_decay=5e-5
    )
    tx = make_optimizer(recipe, params)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    check_updated(params, optax.apply_updates(params, updates), want["sgd_step1"])


def test_official_groups(f0, want, constant_rate):
    params, _, _ = f0
    groups = param_groups(params, constant_rate.optim)
    as_numbers = {"weights": 0.0, "gains_biases": 1.0, "fc_weights": 2.0}
    filled = jax.tree.map(lambda p, g: np.full(p.shape, as_numbers[g]), params, groups)
    members = {name: set() for name in as_numbers}
    for name, array in official(filled).items():
        members[list(as_numbers)[int(array.flat[0])]].add(name)
    assert {name: len(found) for name, found in members.items()} == want["groups"]
    for group, names in want["groups_members"].items():
        assert members[group] == set(names)


@pytest.mark.parametrize("config", ["dm_resnet_50", "nf_resnet_50"])
@pytest.mark.parametrize(
    "name",
    [
        "dm_resnet50",
        "dm_resnet50_postact",
        "skipinit_resnet50",
        "fixup_resnet50",
        "nf_resnet50",
        "nf_seresnet50",
    ],
)
def test_official_rule_of_what_is_not_decayed(config, name):
    """Parameters called scale, offset or b, or with gain or bias in their name."""
    recipe = dataclasses.replace(recipe_of(config), model=name)
    params = abstract_variables(recipe.create_model(), 32)["params"]
    make_optimizer(recipe, params)
    groups = param_groups(params, recipe.optim)
    for official, _, path in official_shapes(name):
        if path is not None and path[0] == "params":
            parameter = official.rpartition("/")[2]
            plain = parameter in ("scale", "offset", "b")
            undecayed = plain or "gain" in parameter or "bias" in parameter
            group = functools.reduce(lambda tree, key: tree[key], path[1:], groups)
            assert group == ("gains_biases" if undecayed else "weights"), official


@pytest.mark.parametrize("name", ["effnetv2_b0", "effnetv2_s", "effnet_b0"])
def test_effnetv2_decays_all_kernels_and_nothing_else(name, golden):
    """All official variables but those with bias, gamma or beta in their name.

    timm has the same arrays: those of more than one axis are the kernels.
    """
    recipe = recipe_of(name)
    params = abstract_variables(recipe.create_model(), 32)["params"]
    make_optimizer(recipe, params)
    groups = jax.tree.leaves(param_groups(params, recipe.optim))
    leaves = jax.tree.leaves(params)
    decayed = [x.size for x, g in zip(leaves, groups, strict=True) if g == "weights"]
    shapes = [shape for _, shape in golden("effnetv2_param_lists")[name]]
    kernels = [int(np.prod(shape)) for shape in shapes if len(shape) > 1]
    assert sorted(decayed) == sorted(kernels)


def test_units_are_counted_per_group(constant_rate):
    params = {
        "conv": {"kernel": np.ones((3, 3, 8, 16)), "gain": np.ones(16)},
        "head": {"kernel": np.ones((16, 10)), "bias": np.ones(10)},
    }
    assert count_units(params, constant_rate.optim) == {
        "weights": 16,
        "gains_biases": 2,
    }
    unclipped = dataclasses.replace(constant_rate.optim, agc_clipping=None)
    assert count_units(params, unclipped) == {}


def rmsprop(**changes):
    """A recipe of RMSProp at a constant rate of 0.1, for trees of any names."""
    recipe = recipe_of(
        "nfnet_f0",
        batch_size=256,
        optim__name="rmsprop",
        optim__schedule="constant",
        optim__lr_per_256=0.1,
        optim__warmup_epochs=0.0,
        optim__nesterov=False,
        optim__rms_decay=0.9,
        optim__rms_eps=1e-3,
        optim__weight_decay=0.0,
        optim__no_decay=(),
        optim__agc_clipping=None,
        optim__no_clip=(),
    )
    return with_changes(recipe, **changes)


def test_rmsprop_is_tensorflow_1_s(golden):
    want = golden("effnetv2_recipe")["rmsprop_tf1"]
    recipe = rmsprop(
        optim__lr_per_256=want["lr"],
        optim__rms_decay=want["decay"],
        optim__rms_eps=want["eps"],
        optim__momentum=want["momentum"],
    )
    params = {"w": jnp.array(want["init"])}
    tx = make_optimizer(recipe, params)
    state = tx.init(params)
    for grad, after in zip(want["grads"], want["params_after"], strict=True):
        updates, state = tx.update({"w": jnp.array(grad)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"], after, rtol=1e-6)


def test_rmsprop_with_decay_by_hand():
    """One update: g = 0.2 + 0.5 * w of the kernel, and 0.2 of the bias, w = 3.

    s = 0.9 + 0.1 g^2, and w - 0.1 g / sqrt(s + 0.001).
    """
    recipe = rmsprop(optim__weight_decay=0.5, optim__no_decay=("bias$",))
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
    grads = jax.tree.map(lambda p: jnp.full_like(p, 0.2), params)
    tx = make_optimizer(recipe, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    for name, g in (("kernel", 1.7), ("bias", 0.2)):
        moved = 0.1 * g / np.sqrt(0.9 + 0.1 * g**2 + 1e-3)
        np.testing.assert_allclose(updates[name], -moved, rtol=1e-6, err_msg=name)


def test_rmsprop_clips_before_it_decays_and_says_how_much():
    """AGC at 0.01 leaves 0.01 of the norm; the decay of 0.5 w comes on top."""
    recipe = rmsprop(optim__weight_decay=0.5, optim__agc_clipping=0.01)
    params = {"kernel": jnp.full((4, 2), 3.0)}
    tx = make_optimizer(recipe, params)
    grads = {"kernel": jnp.array([[1.0, 1e-4]] * 4)}
    updates, state = tx.update(grads, tx.init(params), params)
    g = np.array([0.03 + 1.5, 1e-4 + 1.5])  # per column, of norm 2 and 6
    moved = 0.1 * g / np.sqrt(0.9 + 0.1 * g**2 + 1e-3)
    np.testing.assert_allclose(updates["kernel"], [-moved] * 4, rtol=1e-5)
    fractions = clipped_fractions(state, count_units(params, recipe.optim))
    assert fractions == {"agc_clipped": 0.5, "agc_clipped/weights": 0.5}


def test_pattern_that_matches_nothing_raises():
    params = {"head": {"kernel": np.ones((2, 2))}}
    assert param_mask(params, exclude=("^head/",)) == {"head": {"kernel": False}}
    with pytest.raises(UserError, match=r"'classifier' matches no parameter"):
        param_mask(params, exclude=("classifier",))
    with pytest.raises(UserError, match=r"the pattern '\(' is none: missing \)"):
        param_mask(params, exclude=("(",))

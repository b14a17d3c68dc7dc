"""Vision transformers against timm's numbers, and the laws of their training."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden_fill import golden_images, timm_arrays

from nfnets.agc import adaptive_grad_clip, default_unit_axes
from nfnets.errors import UserError
from nfnets.flops import abstract_variables, count
from nfnets.initialize import init_variables
from nfnets.registry import create_model, get_variant, small_image_overrides
from nfnets.signal_propagation import signal_propagation
from nfnets.weights import convert_timm
from nfnets.weights.timm import timm_shapes
from resnet_rs.vit import blocks, resize_positions

NAMES = ["deit_ti", "deit_s", "vit_b"]
TINY = {"width": 16, "heads": 2, "depth": 2, "patch": 4, "train_size": 16}


def filled(name, num_classes, overrides):
    """Variables with the goldens' values."""
    shapes = timm_shapes(name, num_classes, overrides=overrides)
    arrays = timm_arrays({a.name: a.shape for a in shapes})
    return convert_timm(name, arrays, overrides=overrides)


@pytest.fixture(scope="module")
def tiny():
    model = create_model("deit_ti", num_classes=10, **TINY)
    return model, filled("deit_ti", 10, TINY)


@functools.partial(jax.jit, static_argnums=0)
def train_step(model, variables, images, seed):
    """Logits and everything captured of a forward pass in training."""
    keys = jax.random.split(jax.random.key(seed))
    return model.apply(
        variables,
        images,
        train=True,
        rngs=dict(zip(("dropout", "stochastic_depth"), keys, strict=True)),
        mutable=["intermediates"],
        capture_intermediates=True,
    )


@pytest.mark.parametrize(
    ("key", "name", "overrides"),
    [
        ("deit_ti", "deit_ti", {}),
        ("deit_s", "deit_s", {}),
        ("vit_b_depth2", "vit_b", {"depth": 2}),
        # 160 and 288 px, with the position embedding of 224.
        ("deit_ti_depth2_resampled", "deit_ti", {"depth": 2}),
    ],
)
def test_logits_equal_timm(key, name, overrides, golden):
    model = create_model(name, num_classes=1000, **overrides)
    variables = filled(name, 1000, overrides)
    forward = jax.jit(functools.partial(model.apply, train=False))
    for size, expected in golden("timm_regnet_vit")["logits"][key].items():
        logits = np.asarray(forward(variables, golden_images(int(size))))
        tolerance = 1e-5 * expected["max_abs"]
        first = np.array(expected["logits16"])
        np.testing.assert_allclose(logits[:, :16], first, rtol=0, atol=tolerance)
        assert abs(logits.sum() - expected["sum"]) < tolerance * logits.size**0.5
        assert logits.std() == pytest.approx(expected["std"], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_macs(name, golden):
    expected, row = golden("timm_regnet_vit")["counts"][name], get_variant(name)
    assert (row.train_size, row.eval_size, row.patch) == (224, 224, 16)
    counts = count(create_model(name, num_classes=1000), 224)
    assert counts[:2] == (expected["params"], expected["macs_224"])
    rates = blocks(row, expected["drop_path_rate"])
    np.testing.assert_allclose(rates, expected["drop_path"], rtol=1e-6)


def test_position_embedding_is_resized_as_timm_does(golden):
    positions = np.random.RandomState(0).standard_normal((17, 8)).astype(np.float32)
    for grid, expected in golden("timm_regnet_vit")["resample"].items():
        height, width = map(int, grid.split("x"))
        resized = np.asarray(resize_positions(jnp.asarray(positions), (height, width)))
        assert resized.shape == (1 + height * width, 8)
        np.testing.assert_allclose(resized.ravel(), expected, rtol=0, atol=2e-6)
        np.testing.assert_array_equal(resized[0], positions[0])
    same = resize_positions(jnp.asarray(positions), (4, 4))
    np.testing.assert_array_equal(same, positions)


def test_images_of_any_sides_that_the_patch_divides(tiny):
    model, variables = tiny
    images = jnp.asarray(golden_images(24))
    wide = jax.eval_shape(
        functools.partial(model.apply, train=False), variables, images[:, :12]
    )
    assert wide.shape == (2, 10)
    with pytest.raises(UserError, match=r"24 x 22 pixels.*multiples of the patch, 4"):
        model.apply(variables, images[:, :, :22], train=False)


def test_only_the_position_embedding_knows_where_a_patch_is(tiny):
    """Attention, norms and MLPs treat all patches alike."""
    model, variables = tiny
    images = golden_images(16)
    swapped = images.copy()
    swapped[:, :4], swapped[:, 12:] = images[:, 12:], images[:, :4]
    forward = jax.jit(functools.partial(model.apply, train=False))
    different = forward(variables, images) - forward(variables, swapped)
    assert jnp.abs(different).max() > 1e-3
    params = variables["params"]
    flat = {"params": params | {"pos_embed": jnp.ones_like(params["pos_embed"])}}
    np.testing.assert_allclose(
        forward(flat, images), forward(flat, swapped), rtol=0, atol=1e-5
    )


def test_initial_values():
    overrides = {"width": 64, "heads": 2, "depth": 1}
    model = create_model("vit_b", num_classes=1000, **overrides)
    params = init_variables(model, jax.random.key(1))["params"]
    flat = traverse_util.flatten_dict(params, sep="/")
    bound = (3 * 16 * 16) ** -0.5
    std = {
        **{f"{name}/kernel": 0.02 for name in ("head", "block0/attention/qkv")},
        **{f"block0/{name}/kernel": 0.02 for name in ("attention/proj", "mlp/fc1")},
        **{"block0/mlp/fc2/kernel": 0.02, "pos_embed": 0.02, "cls_token": 1e-6},
        "patch_embed/kernel": bound / 3**0.5,
    }
    for name, value in std.items():
        size = flat[name].size
        assert flat[name].std() == pytest.approx(value, rel=4 / size**0.5), name
    assert 0.99 < jnp.abs(flat["patch_embed/kernel"]).max() / bound <= 1
    assert 0.5 < jnp.abs(flat["patch_embed/bias"]).max() / bound <= 1
    for name, value in flat.items():
        if name.endswith("bias") and not name.startswith("patch_embed"):
            assert not value.any(), name
        elif name.endswith("scale"):
            assert (value == 1).all(), name


def test_gradients_reach_everything_but_the_biases_of_keys(tiny):
    """Softmax does not see what all scores of a query have in common."""
    model, variables = tiny

    @jax.jit
    def gradients(params, images):
        def loss(params):
            logits = model.apply({"params": params}, images, train=True)
            return jnp.mean(jnp.square(logits - 1))

        return jax.grad(loss)(params)

    grads = gradients(variables["params"], golden_images(16))
    for name, grad in traverse_util.flatten_dict(grads, sep="/").items():
        assert np.isfinite(grad).all(), name
        if name.endswith("qkv/bias"):
            queries, keys, values = np.split(np.abs(grad), 3)
            assert keys.max() < 1e-4 * values.max()
            assert queries.min() > 0
        else:
            assert np.abs(grad).max() > 0, name


def test_stochastic_depth_drops_either_branch_of_single_images(tiny):
    model, variables = tiny
    model = model.clone(stochastic_depth_rate=0.5)
    images = np.random.default_rng(0).normal(size=(16, 16, 16, 3)).astype(np.float32)
    _, state = train_step(model, variables, images, 0)
    kept_by_branch = []
    for number, branch in ((1, "attention"), (2, "mlp")):
        first, last = (state["intermediates"][f"block{i}"] for i in (0, 1))
        (kept,) = last[f"stochastic_depth{number}"]["__call__"]
        (residual,) = last[branch]["__call__"]
        is_kept = np.abs(kept).max(axis=(1, 2)) > 0
        expected = np.where(is_kept[:, None, None], residual / 0.5, 0)
        np.testing.assert_allclose(kept, expected, rtol=1e-5)
        assert 0 < is_kept.sum() < 16
        kept_by_branch.append(is_kept)
        # Block 0 of n has rate 0.
        (kept,) = first[f"stochastic_depth{number}"]["__call__"]
        np.testing.assert_array_equal(kept, first[branch]["__call__"][0])
    assert (kept_by_branch[0] != kept_by_branch[1]).any()


def test_dropout_acts_before_the_classifier_and_only_in_training(tiny):
    model, variables = tiny
    images = golden_images(16)
    half = model.clone(drop_rate=0.5)
    logits = [train_step(half, variables, images, seed)[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert (logits[0] != logits[2]).any()
    evaluated = [m.apply(variables, images, train=False) for m in (model, half)]
    np.testing.assert_array_equal(*evaluated)


def test_bfloat16_keeps_parameters_and_logits_in_float32(tiny):
    model, variables = tiny
    images = golden_images(16)
    half = model.clone(dtype=jnp.bfloat16)
    logits, state = train_step(half, variables, images, 0)
    (tokens, _), *_ = state["intermediates"]["block1"]["__call__"]
    assert tokens.dtype == jnp.bfloat16
    kept = (logits, init_variables(half, jax.random.key(0)))
    assert {x.dtype for x in jax.tree.leaves(kept)} == {jnp.dtype("float32")}
    exact, _ = train_step(model, variables, images, 0)
    assert jnp.abs(logits - exact).max() < 0.1 * exact.std()
    assert (logits != exact).any()


def test_probes_of_signal_propagation(tiny):
    """With all projections and biases 0 the branches add nothing."""
    model, variables = tiny
    signal = signal_propagation(model, variables, golden_images(16))
    assert signal.avg_var.shape == (3,)
    assert (signal.res_avg_var > 0).all()

    def silence(path, leaf):
        names = [part.key for part in path]
        return leaf * 0 if {"proj", "fc2"} & set(names) else leaf

    silent = jax.tree_util.tree_map_with_path(silence, variables)
    signal = signal_propagation(model, silent, golden_images(16))
    np.testing.assert_array_equal(signal.res_avg_var, np.zeros(2))
    assert signal.avg_var[0] == signal.avg_var[1] == signal.avg_var[2]


def test_small_images_have_small_patches():
    overrides = small_image_overrides("deit_ti")
    model = create_model("deit_ti", num_classes=10, **overrides)
    params = abstract_variables(model, 32)["params"]
    assert params["pos_embed"].shape == (65, 192)
    assert params["patch_embed"]["kernel"].shape == (4, 4, 3, 192)


def test_parameters_fit_the_rules_of_optimizers():
    """RSB decays no vector and neither of the embeddings; a unit is a column in AGC."""
    model = create_model("deit_ti", num_classes=10)
    params = abstract_variables(model, 224)["params"]
    undecayed = re.compile(r"(scale|gain|bias\w*|pos_embed|cls_token)$")
    for name, leaf in traverse_util.flatten_dict(params, sep="/").items():
        is_undecayed = leaf.ndim <= 1 or name == "pos_embed"
        assert bool(undecayed.search(name)) == is_undecayed, name
    assert "kernel" in params["head"]
    for name in ("pos_embed", "cls_token"):
        assert default_unit_axes((name,), params[name]) == (0,)
    jax.eval_shape(adaptive_grad_clip(0.01).init, params)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"heads": 5}, "width 192 should be a multiple of heads 5"),
        ({"patch": 15}, "train_size 224 should be a multiple of patch 15"),
        ({"depth": 0}, "depth 0 should be more than 0"),
        ({"mlp_ratio": 0}, "mlp_ratio 0"),
    ],
)
def test_impossible_rows_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        create_model("deit_ti", num_classes=10, **overrides)
